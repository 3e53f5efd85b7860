// ibstat and ibstatus of infiniband-diags.
#include "topology/importers.hpp"
#include "topology/lines.hpp"

namespace dsinfer::topology {
namespace {

constexpr uint32_t kMellanox = 0x02c9;

std::string_view quoted_name(std::string_view line) {
  const size_t open = line.find('\'');
  const size_t close = open == line.npos ? open : line.find('\'', open + 1);
  return close == line.npos ? "" : line.substr(open + 1, close - open - 1);
}

std::string text_of(std::string_view value) { return clean_text(value.substr(0, 128)); }

// ibstat -----------------------------------------------------------------------------------------------------------------------------------

bool is_ca_line(std::string_view line) {
  for (const std::string_view start : {"CA '", "CA: '", "iWARP RNIC '", "iWARP RNIC: '", "??? '"}) {
    if (line.starts_with(start)) return !quoted_name(line).empty();
  }
  return false;
}

class Ibstat {
 public:
  explicit Ibstat(Capture& capture) : node_(capture.node), devices_(node_), remarks_(capture) {}

  void read(std::string_view text) {
    for (const std::string_view raw : split_lines(text)) line(trim(raw));
    if (hca_ && !elided_ && hca_->port_count.value_or(0) > static_cast<int>(hca_->ports.size())) remarks_.truncated("CA '" + hca_->name + "'");
    if (hca_ && !elided_ && !hca_->ports.empty() && hca_->ports.back().state == PortState::unknown) remarks_.truncated("CA '" + hca_->name + "'");
  }

 private:
  void line(std::string_view line) {
    if (is_ca_line(line)) {
      hca_ = devices_.hca(quoted_name(line));
      port_ = nullptr;
      if (hca_) hca_->node_type = line.starts_with("CA") ? Hca::NodeType::ca : line.starts_with("iWARP") ? Hca::NodeType::rnic : Hca::NodeType::unknown;
    } else if (line.find("ibpanic:") != line.npos) {
      panic(line);
    } else if (begins_something(line)) {
      hca_ = nullptr;
    } else if (is_ellipsis(line)) {
      elided_ = true;
    } else if (hca_ && line.starts_with("Port ") && line.ends_with(":")) {
      const auto number = integer_of(line.substr(5, line.size() - 6));
      if (number) port_ = Devices::port(*hca_, *number);
    } else if (hca_) {
      const auto [key, value] = key_value(line);
      port_ ? port_field(key, value, line) : device_field(key, value);
    }
  }

  void panic(std::string_view line) {
    hca_ = nullptr;
    if (line.find("stat of IB device") != line.npos) {
      Hca* hca = devices_.hca(quoted_name(line.substr(line.find("stat of IB device"))));
      if (hca) hca->sysfs_missing = true;
      remarks_.add("sysfs-missing", Severity::warning, "A verbs device is listed but its sysfs folder is gone.", line,
                   "Give the container the device's sysfs folder, or leave the device out.");
    } else if (line.find("can't list IB device names") != line.npos) {
      node_.hcas_complete = node_.rdma_absent = true;  // there is no /sys/class/infiniband
    } else {
      remarks_.add("tool-failed", Severity::info, "ibstat stopped with an error.", line);
    }
  }

  void device_field(std::string_view key, std::string_view value) {
    if (key == "CA type" || key == "iWARP RNIC type") model(value);
    if (key == "Number of ports") {
      const auto number = integer_of(value);
      if (number && *number >= 0 && *number <= 255) hca_->port_count = static_cast<int>(*number);
    }
    if (key == "Firmware version") hca_->firmware = text_of(value);
    if (key == "Node GUID") hca_->node_guid = guid_of(value);
    if (key == "System image GUID") hca_->sys_image_guid = guid_of(value);
  }

  // "MT4129": MT is Mellanox's, the number the part.
  void model(std::string_view value) {
    const auto part = value.starts_with("MT") ? leading_integer(value.substr(2)) : std::nullopt;
    if (!part || *part <= 0 || *part > 0xffffff) return;
    hca_->vendor_id = kMellanox;
    hca_->part_id = static_cast<uint32_t>(*part);
  }

  void port_field(std::string_view key, std::string_view value, std::string_view line) {
    const auto lid = [&](int& into) {
      const auto number = integer_of(value);
      number && *number >= 0 && *number <= 0xffffff ? void(into = static_cast<int>(*number)) : remarks_.garbled(line);
    };
    if (key == "State") {
      port_->state = port_state_of(value).value_or(PortState::unknown);
      if (port_->state == PortState::unknown) remarks_.garbled(line);
    }
    if (key == "Physical state") port_->phys_state = phys_state_of(value);
    if (key == "Rate") port_->rate_gbps = rate_of(value);
    if (key == "Base lid") lid(port_->lid);
    if (key == "SM lid") lid(port_->sm_lid);
    if (key == "Link layer") port_->link_layer = stated_link_layer(value);
  }

  Node& node_;
  Devices devices_;
  Remarks remarks_;
  Hca* hca_ = nullptr;
  HcaPort* port_ = nullptr;
  bool elided_ = false;
};

bool is_ibstat(std::string_view text) {
  return any_line(text, [](std::string_view line) { return is_ca_line(line) || line.starts_with("ibpanic:"); });
}

void read_ibstat(Capture& capture) { Ibstat(capture).read(capture.text); }

// ibstatus ---------------------------------------------------------------------------------------------------------------------------------

void ibstatus_field(HcaPort& port, std::string_view key, std::string_view value, std::string_view line, Remarks& remarks) {
  const auto lid = [&](int& into) {
    const auto number = integer_of(value);
    number && *number >= 0 && *number <= 0xffffff ? void(into = static_cast<int>(*number)) : remarks.garbled(line);
  };
  if (key == "default gid") {  // entry 0; no table follows from it
    const std::string address = address_of(value);
    if (!address.empty() && address != "::" && port.gids.empty()) port.gids.push_back(Gid{0, address, 0, "", true});
  }
  if (key == "base lid") lid(port.lid);
  if (key == "sm lid") lid(port.sm_lid);
  if (key == "state") {
    port.state = port_state_of(value).value_or(PortState::unknown);
    if (port.state == PortState::unknown) remarks.garbled(line);
  }
  if (key == "phys state") port.phys_state = phys_state_of(value);
  if (key == "rate") port.rate_gbps = rate_of(value);
  if (key == "link_layer") port.link_layer = stated_link_layer(value);
}

bool is_ibstatus(std::string_view text) {
  return any_line(text, [](std::string_view line) { return line.starts_with("Infiniband device '") || (line.starts_with("Fatal error:") && line.find("sys files not found") != line.npos); });
}

void read_ibstatus(Capture& capture) {
  Devices devices(capture.node);
  Remarks remarks(capture);
  HcaPort* port = nullptr;
  std::string_view head;
  for (const std::string_view raw : split_lines(capture.text)) {
    const std::string_view line = trim(raw);
    if (line.starts_with("Infiniband device '")) {
      const auto words = words_of(line);
      Hca* hca = devices.hca(quoted_name(line));
      const auto number = integer_of(value_after(words, "port"));
      port = hca && number ? Devices::port(*hca, *number) : nullptr;
      head = line;
      if (!port) remarks.garbled(line);
    } else if (line.starts_with("Fatal error:") && line.find("sys files not found") != line.npos) {
      const std::string_view name = quoted_name(line);
      Hca* hca = name == "*" ? nullptr : devices.hca(name);
      if (hca) hca->sysfs_missing = true;
      if (name == "*") capture.node.hcas_complete = capture.node.rdma_absent = true;
      port = nullptr;
    } else if (begins_something(line)) {
      port = nullptr;
    } else if (port) {
      const auto [key, value] = key_value(line);
      ibstatus_field(*port, key, value, line, remarks);
    }
  }
  if (port && port->state == PortState::unknown) remarks.truncated(head);
}

}  // namespace

const Importer kIbstat{"ibstat", is_ibstat, read_ibstat};
const Importer kIbstatus{"ibstatus", is_ibstatus, read_ibstatus};

}  // namespace dsinfer::topology
