// Small tables in CSV that people write down: interfaces, rails, versions of several nodes.
#include "topology/csv_table.hpp"
#include "topology/importers.hpp"
#include "topology/interface_text.hpp"
#include "topology/lines.hpp"

namespace dsinfer::topology {
namespace {

// interfaces.csv -------------------------------------------------------------------------------------------------------------------------------

bool interfaces_heading(const Names& names) {
  const bool name = names[0] == "name" || names[0] == "interface" || names[0] == "ifname";
  return name && (has(names, "ipv4") || has(names, "ipv6") || has(names, "address") || has(names, "mac"));
}
constexpr CsvHeading kInterfacesHeading{{"ipv4", "ipv6", "address", "mac"}, interfaces_heading};
bool is_interfaces(std::string_view text) { return kInterfacesHeading.stands_in(text); }

void interface_row(Interface& interface, const CsvTable& table, size_t row, Remarks& remarks) {
  const std::string state = lower_case(table.cell(row, {"state", "operstate", "status"}));
  if (state == "up" || state == "unknown" || state == "down") interface.up = state != "down";
  const auto length = integer_of(table.cell(row, {"prefix", "prefix.len", "prefixlen", "prefix.unknown"}));
  for (const std::string_view column : {"ipv4", "ipv6", "address", "ip"}) {
    const std::string cell = table.cell(row, {column});
    for (const std::string_view word : words_of(cell)) {
      auto address = address_with_prefix(word);
      if (!address) {
        if (word != "-") remarks.garbled(table.line(row));
        continue;
      }
      const bool ipv6 = address->ip.find(':') != std::string::npos;
      if (address->prefix_len < 0 && length && *length >= 0 && *length <= (ipv6 ? 128 : 32) && !ipv6) address->prefix_len = static_cast<int>(*length);
      add_address(interface, *address);
    }
  }
  set_mtu(interface, table.cell(row, {"mtu"}));
  const auto speed = leading_integer(table.cell(row, {"speed.mbps", "speed"}));
  if (speed && *speed > 0 && *speed <= 10'000'000) interface.speed_mbps = *speed;
  interface.mac = lower_case(table.cell(row, {"mac"}));
  interface.kind = table.cell(row, {"kind"});
  interface.master = table.cell(row, {"master"});
  const std::string route = lower_case(table.cell(row, {"default.route", "default"}));
  interface.default_route = route == "yes" || route == "true" || route == "1";
  if (interface.name == "lo") interface.type = interface.kind = "loopback";
}

void read_interfaces(Capture& capture) {
  const CsvTable table(capture.text, kInterfacesHeading);
  Devices devices(capture.node);
  Remarks remarks(capture);
  for (size_t row = 0; row < table.rows(); ++row) {
    Interface* interface = devices.interface(table.cell(row, {"name", "interface", "ifname"}));
    if (!interface) remarks.garbled(table.line(row));
    else interface_row(*interface, table, row, remarks);
  }
}

// rails.csv ------------------------------------------------------------------------------------------------------------------------------------

constexpr std::string_view kRailPrefix = "rail:", kOutOfBand = "out-of-band";

bool rails_heading(const Names& names) { return names[0] == "hca" && (has(names, "netdev") || has(names, "role") || has(names, "subnet")); }
constexpr CsvHeading kRailsHeading{{"hca"}, rails_heading};
bool is_rails(std::string_view text) { return kRailsHeading.stands_in(text); }

void read_rails(Capture& capture) {
  const CsvTable table(capture.text, kRailsHeading);
  Devices devices(capture.node);
  Remarks remarks(capture);
  for (size_t row = 0; row < table.rows(); ++row) {
    std::string name = table.cell(row, {"hca"});
    const std::string role = lower_case(table.cell(row, {"role", "rail"})), subnet = table.cell(row, {"subnet"});
    const std::string netdev = table.cell(row, {"netdev", "interface"});
    const std::string routed = lower_case(table.cell(row, {"routed.to.other.rails", "routed"}));
    const size_t colon = name.find(':');
    const int64_t number = colon == name.npos ? 1 : integer_of(std::string_view(name).substr(colon + 1)).value_or(0);
    name = name.substr(0, colon);
    Hca* hca = devices.hca(name);
    HcaPort* port = hca ? Devices::port(*hca, number) : nullptr;
    if (!port || role.find('|') != role.npos || (!subnet.empty() && !address_with_prefix(subnet))) {
      remarks.garbled(table.line(row));
      continue;
    }
    if (!netdev.empty()) add_netdev(*port, netdev);
    Interface* interface = netdev.empty() ? nullptr : devices.interface(netdev);
    if (interface && role == kOutOfBand) interface->out_of_band = true;
    const std::string known = routed == "yes" || routed == "no" ? routed : "";
    capture.node.settings.push_back({std::string(kRailPrefix) + name, role + "|" + subnet + "|" + known, capture.name});
  }
}

// versions.csv ---------------------------------------------------------------------------------------------------------------------------------

bool versions_heading(const Names& names) { return names[0] == "node" || (names[0] == "host" && names.size() > 1) || names[0] == "hostname"; }
constexpr CsvHeading kVersionsHeading{{"node", "host"}, versions_heading};
bool is_versions(std::string_view text) { return kVersionsHeading.stands_in(text); }

Node version_row(const CsvTable& table, size_t row) {
  Node node;
  node.name = table.cell(row, {"node", "host", "hostname"});
  Host& host = node.host;
  host.name = node.name;
  host.os = table.cell(row, {"os"});
  host.kernel = table.cell(row, {"kernel"});
  host.driver_version = table.cell(row, {"nvidia.driver", "driver", "driver.version"});
  host.cuda_driver_version = table.cell(row, {"cuda.driver", "cuda", "cuda.version", "cuda.driver.version"});
  host.nccl_version = table.cell(row, {"nccl", "nccl.version"});
  const std::string peermem = lower_case(table.cell(row, {"peermem", "nvidia.peermem", "peer.memory"}));
  if (peermem == "yes" || peermem == "no") host.peer_memory = peermem == "yes";
  return node;
}

void read_versions(Capture& capture) {
  std::vector<Node> nodes = read_versions_csv(capture.text, capture.name);
  if (nodes.size() == 1) {
    nodes[0].findings = std::move(capture.node.findings);
    capture.node = std::move(nodes[0]);
  } else if (nodes.size() > 1) {
    Remarks(capture).add("several-nodes", Severity::info, "The table is of several nodes; as the facts of one machine it says nothing.", nodes[0].name + ", " + nodes[1].name);
  }
}

}  // namespace

std::vector<RailFact> rail_facts(const Node& node) {
  std::vector<RailFact> facts;
  for (const Setting& setting : node.settings) {
    if (!setting.name.starts_with(kRailPrefix)) continue;
    const auto cells = cells_of(setting.value, '|');
    if (cells.size() != 3) continue;
    RailFact fact{setting.name.substr(kRailPrefix.size()), cells[0], cells[1], std::nullopt};
    if (cells[2] == "yes" || cells[2] == "no") fact.routed = cells[2] == "yes";
    facts.push_back(std::move(fact));
  }
  return facts;
}

std::vector<Node> read_versions_csv(std::string_view text, const std::string& name) {
  const CsvTable table(text, kVersionsHeading);
  std::vector<Node> nodes;
  for (size_t row = 0; row < table.rows(); ++row) {
    Node node = version_row(table, row);
    if (node.name.empty()) continue;
    node.sources = {name + " (versions.csv)"};
    nodes.push_back(std::move(node));
  }
  return nodes;
}

const Importer kInterfacesCsv{"interfaces.csv", is_interfaces, read_interfaces};
const Importer kRailsCsv{"rails.csv", is_rails, read_rails};
const Importer kVersionsCsv{"versions.csv", is_versions, read_versions};

}  // namespace dsinfer::topology
