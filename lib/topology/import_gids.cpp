// Small listings about verbs devices: show_gids and ibdev2netdev (OFED), rdma link (iproute2), /dev/infiniband, fi_info (libfabric).
#include <algorithm>
#include <cctype>

#include "topology/importers.hpp"
#include "topology/lines.hpp"

namespace dsinfer::topology {
namespace {

bool all_digits(std::string_view text) {
  return !text.empty() && text.size() < 10 && std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
}

// show_gids --------------------------------------------------------------------------------------------------------------------------------
// DEV PORT INDEX GID [IPv4] [VER] [DEV]. Columns at the end may be missing or empty; the version is "v2" or "RoCE v2".

bool is_gid_heading(std::string_view line) {
  const auto words = words_of(line);
  return words.size() >= 4 && words[0] == "DEV" && words[1] == "PORT" && words[2] == "INDEX" && words[3] == "GID";
}

bool is_gid_row(const std::vector<std::string_view>& words) {
  return words.size() >= 4 && all_digits(words[1]) && all_digits(words[2]) && words[3].find(':') != words[3].npos && !address_of(words[3]).empty();
}

bool is_show_gids(std::string_view text) {
  return any_line(text, [](std::string_view line) {
    return is_gid_heading(line) || (line.find(':') != line.npos && line.size() < 300 && is_gid_row(words_of(line)));
  });
}

void read_show_gids(Capture& capture) {
  Devices devices(capture.node);
  Remarks remarks(capture);
  bool in_table = false;
  for (const std::string_view line : split_lines(capture.text)) {
    const auto words = words_of(line);
    if (is_gid_heading(line)) {
      in_table = true;
    } else if (is_gid_row(words)) {
      Hca* hca = devices.hca(words[0]);
      HcaPort* port = hca ? Devices::port(*hca, *integer_of(words[1])) : nullptr;
      const int64_t index = *integer_of(words[2]);
      if (!port || index > 65535) {
        remarks.garbled(line);
        continue;
      }
      Gid gid;
      gid.index = static_cast<int>(index);
      gid.address = address_of(words[3]);
      for (size_t i = 4; i < words.size(); ++i) {
        const std::string_view word = words[i];
        if (word == "v1" || word == "v2") {
          gid.roce_version = word == "v1" ? 1 : 2;
        } else if (word != "RoCE" && word != "IB/RoCE" && word != "-" && (i > 4 || address_of(word).empty())) {
          gid.netdev = clean_text(word.substr(0, 64));
        }
      }
      if (!gid.netdev.empty()) add_netdev(*port, gid.netdev);
      port->gid_table = true;  // the tool leaves out zero entries only
      port->gids.push_back(std::move(gid));
    } else if (in_table && words.size() >= 3 && all_digits(words[1]) && all_digits(words[2])) {
      remarks.garbled(line);
    } else if (in_table && begins_something(trim(line))) {
      in_table = false;
    }
  }
  for (Hca& hca : capture.node.hcas) {
    for (HcaPort& port : hca.ports) sort_gids(port);
  }
}

// ibdev2netdev -----------------------------------------------------------------------------------------------------------------------------
// "mlx5_0 port 1 ==> ens1f0 (Up)"; with -v "0000:05:00.0 mlx5_0 (MT4115 - MCX456A) ConnectX-4 … fw 12.28.2006 port 1 (ACTIVE) ==> ens1f0 (Up)".

size_t arrow_in(std::string_view line) {
  const size_t at = line.find("==>");
  if (at == line.npos) return at;
  const std::string_view left = trim(line.substr(0, at));
  const size_t port = left.rfind("port");
  if (port == left.npos || port == 0) return line.npos;
  const auto words = words_of(left.substr(port));
  const bool state = words.size() >= 3 && words[2].front() == '(' && left.back() == ')';  // padded by the tool: "(DOWN  )"
  return (words.size() == 2 || state) && words[0] == "port" && all_digits(words[1]) ? at : line.npos;
}

bool is_ibdev2netdev(std::string_view text) {
  return any_line(text, [](std::string_view line) { return arrow_in(line) != line.npos; });
}

void verbose_device(Hca& hca, const std::string& bus_id, std::string_view left, const std::vector<std::string_view>& words) {
  hca.bus_id = bus_id;
  const std::string_view model = in_parentheses(left);
  const auto part = model.starts_with("MT") ? leading_integer(model.substr(2)) : std::nullopt;
  if (part && *part > 0 && *part <= 0xffffff) {
    hca.vendor_id = 0x02c9;
    hca.part_id = static_cast<uint32_t>(*part);
  }
  hca.firmware = clean_text(value_after(words, "fw").substr(0, 64));
}

void read_ibdev2netdev(Capture& capture) {
  Devices devices(capture.node);
  Remarks remarks(capture);
  for (const std::string_view line : split_lines(capture.text)) {
    const size_t arrow = arrow_in(line);
    if (arrow == line.npos) continue;
    const std::string_view left = trim(line.substr(0, arrow));
    const auto words = words_of(left), right = words_of(line.substr(arrow + 3));
    const std::string bus_id = words.empty() ? "" : bus_id_of(words[0]);
    const size_t name = bus_id.empty() ? 0 : 1;
    // The board's description may hold the word "port" too, so the last one counts.
    size_t at = words.size();
    for (size_t i = name + 1; i + 1 < words.size(); ++i) {
      if (words[i] == "port" && all_digits(words[i + 1])) at = i;
    }
    Hca* hca = at < words.size() && name < words.size() ? devices.hca(words[name]) : nullptr;
    HcaPort* port = hca ? Devices::port(*hca, *integer_of(words[at + 1])) : nullptr;
    if (!port) {
      remarks.garbled(line);
      continue;
    }
    if (!bus_id.empty()) {
      verbose_device(*hca, bus_id, left, words);
      port->state = port_state_of(in_parentheses(left.substr(left.rfind("port")))).value_or(PortState::unknown);
    }
    if (right.empty()) {
      remarks.truncated(line);
      continue;
    }
    if (right[0].front() != '(') add_netdev(*port, right[0]);
    const std::string state = lower_case(in_parentheses(line.substr(arrow)));
    if (state == "up" || state == "down") port->netdev_up = state == "up";
  }
}

// rdma link, rdma dev ----------------------------------------------------------------------------------------------------------------------
// "link mlx5_0/1 state ACTIVE physical_state LINK_UP netdev ens1f0"; older: "1/1: mlx5_0/1: state …"; InfiniBand ports also have subnet_prefix and lids.

// The word "mlx5_0/1" of a line of rdma link; "" if it is none.
std::string_view rdma_link_name(const std::vector<std::string_view>& words) {
  if (words.size() < 3) return "";
  std::string_view name;
  if (words[0] == "link") {
    name = words[1];
  } else if (words[0].find('/') != words[0].npos && words[0].back() == ':' && all_digits(words[0].substr(0, words[0].find('/')))) {
    name = words[1];
  }
  if (!name.empty() && name.back() == ':') name.remove_suffix(1);
  const size_t slash = name.rfind('/');
  if (slash == name.npos || slash == 0 || !all_digits(name.substr(slash + 1))) return "";
  return value_after(words, "state").empty() && value_after(words, "subnet_prefix").empty() ? "" : name;
}

bool is_rdma_dev(const std::vector<std::string_view>& words) {
  return words.size() >= 4 && words[0].back() == ':' && all_digits(words[0].substr(0, words[0].size() - 1)) && words[1].back() == ':' &&
         words[2] == "node_type";
}

bool is_rdma_link(std::string_view text) {
  return any_line(text, [](std::string_view line) {
    if (line.find("state") == line.npos && line.find("node_type") == line.npos && line.find("subnet_prefix") == line.npos) return false;
    const auto words = words_of(line.substr(0, 600));
    return !rdma_link_name(words).empty() || is_rdma_dev(words);
  });
}

void rdma_device(Devices& devices, const std::vector<std::string_view>& words) {
  Hca* hca = devices.hca(words[1].substr(0, words[1].size() - 1));
  if (!hca) return;
  const std::string_view type = words[3];
  hca->node_type = type == "ca" ? Hca::NodeType::ca : type == "rnic" ? Hca::NodeType::rnic : type.starts_with("usnic") ? Hca::NodeType::usnic
                   : type == "unspecified" ? Hca::NodeType::unspecified : Hca::NodeType::unknown;
  hca->firmware = clean_text(value_after(words, "fw").substr(0, 64));
  hca->node_guid = guid_of(value_after(words, "node_guid"));
  hca->sys_image_guid = guid_of(value_after(words, "sys_image_guid"));
}

void read_rdma_link(Capture& capture) {
  Devices devices(capture.node);
  Remarks remarks(capture);
  for (const std::string_view line : split_lines(capture.text)) {
    const auto words = words_of(line.substr(0, 4096));
    if (is_rdma_dev(words)) rdma_device(devices, words);
    const std::string_view name = rdma_link_name(words);
    if (name.empty()) continue;
    const size_t slash = name.rfind('/');
    Hca* hca = devices.hca(name.substr(0, slash));
    HcaPort* port = hca ? Devices::port(*hca, *integer_of(name.substr(slash + 1))) : nullptr;
    if (!port) {
      remarks.garbled(line);
      continue;
    }
    port->state = port_state_of(value_after(words, "state")).value_or(PortState::unknown);
    port->phys_state = phys_state_of(value_after(words, "physical_state"));
    const auto lid = integer_of(value_after(words, "lid")), sm_lid = integer_of(value_after(words, "sm_lid"));
    if (lid && *lid >= 0 && *lid <= 0xffffff) port->lid = static_cast<int>(*lid);
    if (sm_lid && *sm_lid >= 0 && *sm_lid <= 0xffffff) port->sm_lid = static_cast<int>(*sm_lid);
    // The kernel gives a subnet prefix for ports with a subnet manager only.
    if (!value_after(words, "subnet_prefix").empty()) port->link_layer = LinkLayer::infiniband;
    if (const std::string_view netdev = value_after(words, "netdev"); !netdev.empty()) add_netdev(*port, netdev);
    if (port->state == PortState::unknown) remarks.truncated(line);
  }
}

// /dev/infiniband --------------------------------------------------------------------------------------------------------------------------

std::string_view base_name(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == path.npos ? path : path.substr(slash + 1);
}

bool numbered(std::string_view word, std::string_view stem) { return word.starts_with(stem) && all_digits(word.substr(stem.size())); }

bool is_verbs_file(std::string_view word) {
  word = base_name(word);
  return numbered(word, "uverbs") || numbered(word, "umad") || numbered(word, "issm") || numbered(word, "ucm") || word == "rdma_cm" ||
         word == "by-ibdev" || word == "by-path";
}

bool missing_folder(std::string_view line) { return line.find("/dev/infiniband") != line.npos && line.find("No such file or directory") != line.npos; }

// Words of a line of `ls` that name files of that folder; empty if the line is anything else.
std::vector<std::string_view> verbs_files(std::string_view line) {
  const auto words = words_of(line.substr(0, 2000));
  if (words.empty()) return {};
  // `ls -l`: character devices only; links are those of by-ibdev, or of sysfs.
  const bool long_form = words.size() >= 8 && words[0].size() >= 10 && words[0][0] == 'c';
  if (long_form) return is_verbs_file(words.back()) ? std::vector<std::string_view>{base_name(words.back())} : std::vector<std::string_view>{};
  std::vector<std::string_view> files;
  for (const std::string_view word : words) {
    if (static_cast<unsigned char>(word[0]) >= 0x80 || word == "|--" || word == "`--") continue;  // the lines that `tree` draws
    if (!is_verbs_file(word) || word.starts_with("/sys/")) return {};
    files.push_back(base_name(word));
  }
  return files;
}

bool is_uverbs_listing(std::string_view text) {
  return any_line(text, [](std::string_view line) {
    if (missing_folder(line)) return true;
    if (line.find("uverbs") == line.npos && line.find("rdma_cm") == line.npos) return false;
    return !verbs_files(line).empty();
  });
}

void read_uverbs_listing(Capture& capture) {
  Host& host = capture.node.host;
  bool whole = false, sysfs = false;
  for (const std::string_view raw : split_lines(capture.text)) {
    const std::string_view line = trim(raw);
    if (line.starts_with("abi_version")) sysfs = true;  // a listing of /sys/class/infiniband_verbs says nothing of /dev
    if (line.empty() || begins_something(line)) sysfs = false;
    if (sysfs) continue;
    if (missing_folder(line)) {
      if (!host.uverbs) host.uverbs.emplace();
      host.rdma_cm = host.rdma_cm.value_or(false);
    }
    if (line.starts_with("total ") && all_digits(trim(line.substr(6)))) whole = true;  // `ls -l` lists all
    for (const std::string_view file : verbs_files(line)) {
      if (!host.uverbs) host.uverbs.emplace();
      if (file == "rdma_cm") host.rdma_cm = true;
      if (numbered(file, "uverbs") && host.uverbs->size() < 4096) host.uverbs->push_back(std::string(file));
    }
  }
  if (!host.uverbs) return;
  const auto number = [](const std::string& name) { return *integer_of(std::string_view(name).substr(6)); };
  std::sort(host.uverbs->begin(), host.uverbs->end(), [&](const auto& a, const auto& b) { return number(a) < number(b); });
  host.uverbs->erase(std::unique(host.uverbs->begin(), host.uverbs->end()), host.uverbs->end());
  if (whole && !host.rdma_cm) host.rdma_cm = false;
}

// fi_info ----------------------------------------------------------------------------------------------------------------------------------

bool is_fi_info(std::string_view text) {
  return any_line(text, [](std::string_view line) { return line.starts_with("provider: ") || line.starts_with("fi_getinfo: "); });
}

void read_fi_info(Capture& capture) {
  Devices devices(capture.node);
  std::vector<std::string>& providers = capture.node.host.fabric_providers;
  std::string provider;
  for (const std::string_view raw : split_lines(capture.text)) {
    const std::string_view line = trim(raw);
    const auto [key, value] = key_value(line);
    if (key == "provider") {
      provider = clean_text(value.substr(0, value.find(';')).substr(0, 64));  // "verbs;ofi_rxm": the layer above is no fabric
      if (!provider.empty() && providers.size() < 64 && std::find(providers.begin(), providers.end(), provider) == providers.end()) providers.push_back(provider);
    } else if (key == "domain" && (provider == "efa" || provider == "verbs")) {
      // "rdmap16s27-rdm", "mlx5_0-xrc": the endpoint's type behind the device's name
      std::string_view name = value;
      for (const std::string_view end : {"-rdm", "-dgrm", "-dgram", "-xrc"}) {
        if (name.ends_with(end)) name.remove_suffix(end.size());
      }
      Hca* hca = devices.hca(name);
      if (hca && provider == "efa") {
        hca->node_type = Hca::NodeType::unspecified;
        hca->vendor_id = 0x1d0f;  // the provider drives nothing else
      }
    } else if (begins_something(line)) {
      provider.clear();
    }
  }
}

}  // namespace

const Importer kShowGids{"show_gids", is_show_gids, read_show_gids};
const Importer kIbdev2netdev{"ibdev2netdev", is_ibdev2netdev, read_ibdev2netdev};
const Importer kRdmaLink{"rdma link", is_rdma_link, read_rdma_link};
const Importer kUverbsListing{"/dev/infiniband", is_uverbs_listing, read_uverbs_listing};
const Importer kFiInfo{"fi_info", is_fi_info, read_fi_info};

}  // namespace dsinfer::topology
