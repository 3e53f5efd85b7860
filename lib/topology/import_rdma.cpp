// What the examples of verbs print about devices and ports: ibv_devinfo and ibv_devices (rdma-core, OFED).
#include <algorithm>
#include <array>

#include "topology/importers.hpp"
#include "topology/lines.hpp"

namespace dsinfer::topology {
namespace {

std::string text_of(std::string_view value) { return clean_text(value.substr(0, 128)); }

// The number decides: its word differs between stacks ("eRDMA (0)", "invalid transport (4)").
Hca::NodeType node_type_of_transport(std::string_view value) {
  const auto number = integer_of(in_parentheses(value));
  const std::string word = lower_case(value.substr(0, value.find('(')));
  if (number == 0 || (!number && word.starts_with("infiniband"))) return Hca::NodeType::ca;
  if (number == 1 || (!number && word.starts_with("iwarp"))) return Hca::NodeType::rnic;
  if (number == 2 || number == 3 || (!number && word.starts_with("usnic"))) return Hca::NodeType::usnic;
  if (number == 4 || (!number && word.starts_with("unspecified"))) return Hca::NodeType::unspecified;
  return Hca::NodeType::unknown;
}

// Gb/s of one lane: "25.0 Gbps (32)". Versions that do not know a speed print "invalid speed (128)".
double lane_rate(std::string_view value) {
  if (const double rate = rate_of(value); rate > 0) return rate;
  constexpr std::array<std::pair<int, double>, 9> speeds = {{{1, 2.5}, {2, 5}, {4, 10}, {8, 10}, {16, 14}, {32, 25}, {64, 50}, {128, 100}, {256, 200}}};
  const auto code = integer_of(in_parentheses(value));
  for (const auto& [known, rate] : speeds) {
    if (code == known) return rate;
  }
  return 0;
}

// The line alone: people also write about it.
bool says_none(std::string_view line) { return line == "No IB devices found" || line == "No IB devices found."; }

// The first line of ibv_devinfo -l: "2 HCAs found:".
bool counts_devices(std::string_view line) {
  return (line.ends_with(" HCAs found:") || line.ends_with(" HCA found:")) && line.find_first_not_of("0123456789") == line.find(' ');
}

int lanes_of(std::string_view value) {
  const auto lanes = leading_integer(value);
  return lanes && *lanes >= 1 && *lanes <= 64 ? static_cast<int>(*lanes) : 0;
}

class IbvDevinfo {
 public:
  explicit IbvDevinfo(Capture& capture) : node_(capture.node), devices_(node_), remarks_(capture) {}

  void read(std::string_view text) {
    for (const std::string_view raw : split_lines(text)) line(trim(raw));
    finish_port();
    if (hca_ && !elided_ && hca_->port_count.value_or(0) > 0 && hca_->ports.empty()) remarks_.truncated("hca_id: " + hca_->name);
    for (Hca& hca : node_.hcas) {
      for (HcaPort& port : hca.ports) sort_gids(port);
    }
  }

 private:
  void line(std::string_view line) {
    if (line.empty()) return;
    if (is_ellipsis(line)) {
      elided_ = true;
      after_ellipsis_ = port_ && !port_->gids.empty();
    } else if (line.starts_with("hca_id:")) {
      begin(line);
    } else if (says_something(line)) {
      hca_ = nullptr;
    } else if (begins_something(line)) {
      finish_port();
      hca_ = nullptr;
    } else if (listing_) {
      listed(line);
    } else if (hca_ && line.starts_with("GID[")) {
      gid(line);
    } else if (hca_) {
      field(key_value(line), line);
    }
  }

  void begin(std::string_view line) {
    finish_port();
    listing_ = elided_ = false;
    hca_ = devices_.hca(line.substr(7));
    if (!hca_) return remarks_.garbled(line);
    hca_->openable = true;  // the tool opens a device before it prints anything about it
  }

  bool says_something(std::string_view line) {
    if (says_none(line) || line.starts_with("Failed to get IB devices list")) {
      finish_port();
      node_.hcas_complete = node_.rdma_absent = true;
      return true;
    }
    if (line.starts_with("Failed to open device")) {
      finish_port();
      Hca* named = devices_.hca(line.substr(21));
      if (named) named->openable = false;
      remarks_.add("device-not-openable", Severity::warning, "ibv_devinfo could not open a device.", line,
                   "Pass /dev/infiniband into the container; check the permissions of uverbs devices.");
      return true;
    }
    if (line.find("libibverbs: Warning: couldn't load driver") != line.npos || line.find("no userspace device-specific driver found") != line.npos) {
      remarks_.add("provider-library-missing", Severity::warning, "libibverbs has no driver for a device.", line,
                   "Install the provider library (ibverbs-providers, rdma-core) in this image.");
      return true;
    }
    const bool table = line.starts_with("device") && line.find("node GUID") != line.npos;  // ibv_devices
    if (!table && !counts_devices(line)) return false;
    finish_port();
    listing_ = true;
    names_left_ = table ? 0 : leading_integer(line).value_or(0);
    if (!table && names_left_ == 0) node_.hcas_complete = node_.rdma_absent = true;
    return true;
  }

  void listed(std::string_view line) {
    const auto words = words_of(line);
    if (line.starts_with("---")) return;
    const bool row = words.size() == 2 && words[1].size() == 16, name = words.size() == 1 && names_left_-- > 0;
    if (!row && !name) {
      listing_ = false;
    } else if (Hca* hca = devices_.hca(words[0]); hca && row) {
      hca->node_guid = guid_of(words[1]);
    }
  }

  void field(const KeyValue& field, std::string_view line) {
    const auto [key, value] = field;
    if (key == "port") {
      finish_port();
      const auto number = leading_integer(value);
      port_ = number ? Devices::port(*hca_, *number) : nullptr;
      if (!port_) remarks_.garbled(line);
    } else if (!port_) {
      device_field(key, value, line);
    } else {
      port_field(key, value, line);
    }
  }

  void device_field(std::string_view key, std::string_view value, std::string_view line) {
    const auto number = integer_of(value);
    const auto small = [&](uint32_t& into) { number && *number >= 0 && *number <= 0xffffffffll ? void(into = static_cast<uint32_t>(*number)) : remarks_.garbled(line); };
    if (key == "transport") hca_->node_type = node_type_of_transport(value);
    if (key == "fw_ver") hca_->firmware = text_of(value);
    if (key == "node_guid") hca_->node_guid = guid_of(value);
    if (key == "sys_image_guid") hca_->sys_image_guid = guid_of(value);
    if (key == "vendor_id") small(hca_->vendor_id);
    if (key == "vendor_part_id") small(hca_->part_id);
    if (key == "board_id") hca_->board_id = text_of(value);
    if (key == "phys_port_cnt" && number && *number >= 0 && *number <= 255) hca_->port_count = static_cast<int>(*number);
  }

  void port_field(std::string_view key, std::string_view value, std::string_view line) {
    const auto number = leading_integer(value);
    const auto bounded = [&](int& into, int most) { number && *number >= 0 && *number <= most ? void(into = static_cast<int>(*number)) : remarks_.garbled(line); };
    if (key == "state") {
      port_->state = port_state_of(value).value_or(PortState::unknown);
      if (port_->state == PortState::unknown) remarks_.garbled(line);
    }
    if (key == "phys_state") port_->phys_state = phys_state_of(value);
    if (key == "link_layer") port_->link_layer = stated_link_layer(value);
    if (key == "active_mtu") bounded(port_->active_mtu, 65536);
    if (key == "sm_lid") bounded(port_->sm_lid, 65535);
    if (key == "port_lid") bounded(port_->lid, 65535);
    if (key == "active_width") lanes_ = lanes_of(value);
    if (key == "active_speed") lane_rate_ = lane_rate(value);
    if (lanes_ > 0 && lane_rate_ > 0) port_->rate_gbps = lanes_ * lane_rate_;
  }

  // "GID[  3]:  ::ffff:10.0.0.1, RoCE v2"; before rdma-core 28 without the type.
  void gid(std::string_view line) {
    const size_t close = line.find(']');
    const auto index = close == line.npos ? std::nullopt : integer_of(line.substr(4, close - 4));
    const size_t colon = close == line.npos ? close : line.find(':', close);
    if (!port_ || !index || *index < 0 || *index > 65535 || colon == line.npos) return remarks_.garbled(line);
    const std::string_view rest = line.substr(colon + 1);
    const size_t comma = rest.find(',');
    Gid gid;
    gid.index = static_cast<int>(*index);
    gid.address = address_of(rest.substr(0, comma));
    if (gid.address.empty()) return remarks_.garbled(line);
    const std::string_view type = comma == rest.npos ? "" : rest.substr(comma);
    gid.roce_version = type.find("v2") != type.npos ? 2 : type.find("v1") != type.npos ? 1 : 0;
    if (after_ellipsis_) gaps_ = true;
    port_->gids.push_back(std::move(gid));
  }

  // Only -v prints GIDs, and then all that are not zero: the table is known, unless somebody cut inside it before the entry that decides.
  void finish_port() {
    if (port_) {
      const bool decided = std::any_of(port_->gids.begin(), port_->gids.end(),
                                       [](const Gid& g) { return g.roce_version == 2 && g.address.starts_with("::ffff:"); });
      port_->gid_table = !port_->gids.empty() && !gaps_ && (!after_ellipsis_ || decided);
    }
    port_ = nullptr;
    lanes_ = 0;
    lane_rate_ = 0;
    after_ellipsis_ = gaps_ = false;
  }

  Node& node_;
  Devices devices_;
  Remarks remarks_;
  Hca* hca_ = nullptr;
  HcaPort* port_ = nullptr;
  int lanes_ = 0;
  double lane_rate_ = 0;
  int64_t names_left_ = 0;  // of ibv_devinfo -l
  bool listing_ = false, elided_ = false, after_ellipsis_ = false, gaps_ = false;
};

bool is_ibv_devinfo(std::string_view text) {
  return any_line(text, [](std::string_view line) {
    return line.starts_with("hca_id:") || says_none(line) || line.starts_with("Failed to get IB devices list") ||
           (line.starts_with("device") && line.ends_with("node GUID")) || counts_devices(line);
  });
}

void read_ibv_devinfo(Capture& capture) { IbvDevinfo(capture).read(capture.text); }

}  // namespace

const Importer kIbvDevinfo{"ibv_devinfo", is_ibv_devinfo, read_ibv_devinfo};

}  // namespace dsinfer::topology
