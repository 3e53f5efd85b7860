// Small tables in CSV: interfaces, rails, versions of several nodes, and GPUs as `nvidia-smi --query-gpu=… --format=csv` prints them.
#include <algorithm>
#include <array>
#include <charconv>

#include "topology/importers.hpp"
#include "topology/interface_text.hpp"
#include "topology/lines.hpp"

namespace dsinfer::topology {
namespace {

constexpr size_t kMostRows = 4096;

// "memory.total [MiB]", "Memory_Total_MiB" → "memory.total" with the unit apart.
std::string column_name(std::string_view cell) {
  std::string name = lower_case(trim(cell.substr(0, cell.find('['))));
  std::replace(name.begin(), name.end(), '_', '.');
  std::replace(name.begin(), name.end(), ' ', '.');
  std::replace(name.begin(), name.end(), '-', '.');
  return name;
}

// The table behind the first line whose columns satisfy a test, up to an empty line or one with a single cell.
class Table {
 public:
  template <class Test>
  Table(std::string_view text, Test is_heading) {
    for (const std::string_view raw : split_lines(text)) {
      const std::string_view line = trim(raw.substr(0, 4000));
      if (line.starts_with("#")) continue;
      if (columns_.empty()) {
        const auto cells = cells_of(line);
        std::vector<std::string> names;
        for (const std::string& cell : cells) names.push_back(column_name(cell));
        if (is_heading(names)) columns_ = std::move(names), heading_ = cells;
      } else if (line.find(',') == line.npos) {
        break;
      } else if (rows_.size() < kMostRows) {
        rows_.push_back(cells_of(line));
        lines_.push_back(line);
      }
    }
  }

  size_t rows() const { return rows_.size(); }
  std::string_view line(size_t row) const { return lines_[row]; }
  bool whole(size_t row) const { return rows_[row].size() >= columns_.size(); }
  /// Cell under the first of these columns that the table has; "" if none or empty.
  std::string cell(size_t row, std::initializer_list<std::string_view> names) const {
    const size_t at = column(names);
    return at < rows_[row].size() ? clean_text(std::string_view(rows_[row][at]).substr(0, 256)) : "";
  }
  /// The heading as it was written: its unit, "[MiB]".
  std::string heading(std::initializer_list<std::string_view> names) const {
    const size_t at = column(names);
    return at < heading_.size() ? heading_[at] : "";
  }

 private:
  size_t column(std::initializer_list<std::string_view> names) const {
    for (const std::string_view name : names) {
      const auto at = std::find(columns_.begin(), columns_.end(), name);
      if (at != columns_.end()) return static_cast<size_t>(at - columns_.begin());
    }
    return std::string::npos;
  }

  std::vector<std::string> columns_, heading_;
  std::vector<std::vector<std::string>> rows_;
  std::vector<std::string_view> lines_;
};

using Names = std::vector<std::string>;
bool has(const Names& names, std::string_view name) { return std::find(names.begin(), names.end(), name) != names.end(); }

template <class Test>
bool has_heading(std::string_view text, Test test) {
  return any_line(text, [&](std::string_view line) {
    if (line.find(',') == line.npos || line.size() > 4000 || line.starts_with("#")) return false;
    Names names;
    for (const std::string& cell : cells_of(line)) names.push_back(column_name(cell));
    return test(names);
  });
}

// interfaces.csv -------------------------------------------------------------------------------------------------------------------------------

bool interfaces_heading(const Names& names) {
  const bool name = names[0] == "name" || names[0] == "interface" || names[0] == "ifname";
  return name && (has(names, "ipv4") || has(names, "ipv6") || has(names, "address") || has(names, "mac"));
}
bool is_interfaces(std::string_view text) { return has_heading(text, interfaces_heading); }

void interface_row(Interface& interface, const Table& table, size_t row, Remarks& remarks) {
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
  const Table table(capture.text, interfaces_heading);
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
bool is_rails(std::string_view text) { return has_heading(text, rails_heading); }

void read_rails(Capture& capture) {
  const Table table(capture.text, rails_heading);
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
bool is_versions(std::string_view text) { return has_heading(text, versions_heading); }

Node version_row(const Table& table, size_t row) {
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

// GPUs -----------------------------------------------------------------------------------------------------------------------------------------

bool gpus_heading(const Names& names) {
  const bool gpu = has(names, "gpu.name") || has(names, "pci.bus.id") || has(names, "gpu.bus.id") || has(names, "bus.id") || has(names, "gpu.uuid") ||
                   has(names, "memory.total") || has(names, "memory.total.mib") || has(names, "compute.cap") || has(names, "driver.version");
  const bool first = has(names, "index") || has(names, "name") || has(names, "uuid") || has(names, "gpu.name") || has(names, "pci.bus.id") || has(names, "gpu.bus.id");
  const bool usual = names.size() >= 2 && names[0] == "index" && names[1] == "name";
  return usual || (gpu && first && names[0] != "node" && names[0] != "hca");
}

bool names_gpu(std::string_view cell) {
  for (const std::string_view brand : {"NVIDIA ", "Tesla ", "GeForce ", "Quadro ", "GRID ", "A100", "H100", "H200", "B200", "GB200"}) {
    if (cell.starts_with(brand)) return true;
  }
  return false;
}

// A line of `--format=csv,noheader`: a model's name and at least one cell that is clearly a GPU's.
bool is_bare_gpu(const std::vector<std::string>& cells) {
  if (cells.size() < 2 || std::none_of(cells.begin(), cells.end(), names_gpu)) return false;
  return std::any_of(cells.begin(), cells.end(), [](const std::string& c) {
    return c.ends_with("MiB") || c.starts_with("GPU-") || !bus_id_of(c).empty() || (c.size() < 4 && integer_of(c));
  });
}

// Lines without a heading: a table whose columns are told by their content.
bool bare_gpu_line(std::string_view line) {
  return line.find(',') != line.npos && line.size() < 1000 && line.find('|') == line.npos && line.find('{') == line.npos && is_bare_gpu(cells_of(line));
}

bool is_gpus(std::string_view text) {
  return has_heading(text, gpus_heading) || any_line(text, bare_gpu_line);
}

bool is_absent(std::string_view cell) { return cell.empty() || cell.front() == '['; }  // "[N/A]", "[Not Supported]"

void set_memory(Gpu& gpu, std::string_view cell) {
  double value = 0;
  const auto [end, error] = std::from_chars(cell.data(), cell.data() + cell.size(), value);
  if (error != std::errc() || !(value > 0) || value > 1e9) return;
  const std::string_view unit = trim(cell.substr(static_cast<size_t>(end - cell.data())));
  const double scale = unit.starts_with("G") ? 1024.0 * 1024 * 1024 : 1024.0 * 1024;
  gpu.memory_bytes = static_cast<int64_t>(value * scale);
}

void set_compute(Gpu& gpu, std::string_view cell) {
  const size_t dot = cell.find('.');
  const auto major = integer_of(cell.substr(0, dot)), minor = dot == cell.npos ? std::nullopt : integer_of(cell.substr(dot + 1));
  if (!major || !minor || *major < 1 || *major > 99 || *minor < 0 || *minor > 99) return;
  gpu.compute_major = static_cast<int>(*major);
  gpu.compute_minor = static_cast<int>(*minor);
}

void set_index(Gpu& gpu, std::string_view cell) {
  const auto index = integer_of(cell);
  if (index && *index >= 0 && *index < 1024) gpu.index = static_cast<int>(*index);
}

void headed_gpu(Node& node, Gpu& gpu, const Table& table, size_t row) {
  set_index(gpu, table.cell(row, {"index"}));
  gpu.name = table.cell(row, {"name", "gpu.name"});
  gpu.uuid = table.cell(row, {"uuid", "gpu.uuid"});
  gpu.bus_id = bus_id_of(table.cell(row, {"pci.bus.id", "gpu.bus.id", "bus.id"}));
  set_memory(gpu, table.cell(row, {"memory.total", "memory.total.mib", "memory"}));
  set_compute(gpu, table.cell(row, {"compute.cap", "compute.capability"}));
  const std::string mig = table.cell(row, {"mig.mode.current", "mig"});
  if (mig == "Enabled" || mig == "Disabled") gpu.mig = mig == "Enabled";
  const auto generation = integer_of(table.cell(row, {"pcie.link.gen.max", "pcie.link.gen.gpumax"})), width = integer_of(table.cell(row, {"pcie.link.width.max"}));
  constexpr std::array<std::string_view, 6> speeds = {"2.5", "5", "8", "16", "32", "64"};
  if (generation && *generation >= 1 && *generation <= 6 && width && *width > 0 && *width <= 32) {
    gpu.pcie_gb_per_s = pcie_gb_per_s(speeds[static_cast<size_t>(*generation - 1)], static_cast<int>(*width));
  }
  const std::string driver = table.cell(row, {"driver.version"});
  if (!is_absent(driver)) node.host.driver_version = driver;
  for (std::string* text : {&gpu.name, &gpu.uuid}) {
    if (is_absent(*text)) text->clear();
  }
}

void bare_gpu(Node& node, Gpu& gpu, const std::vector<std::string>& cells) {
  for (size_t i = 0; i < cells.size(); ++i) {
    const std::string_view cell = cells[i];
    const auto dots = std::count(cell.begin(), cell.end(), '.');
    if (names_gpu(cell) && gpu.name.empty()) gpu.name = clean_text(cell.substr(0, 128));
    else if (cell.starts_with("GPU-")) gpu.uuid = clean_text(cell.substr(0, 64));
    else if (cell.ends_with("MiB") && gpu.memory_bytes == 0) set_memory(gpu, cell);
    else if (const std::string bus_id = bus_id_of(cell); !bus_id.empty() && cell.find(':') != cell.npos) gpu.bus_id = bus_id;
    else if (i == 0 && integer_of(cell)) set_index(gpu, cell);
    else if (dots >= 1 && cell.size() >= 6 && cell.size() < 16 && cell.find_first_not_of("0123456789.") == cell.npos) node.host.driver_version = std::string(cell);
    else if (dots == 1 && cell.size() <= 5) set_compute(gpu, cell);
  }
}

// Labels as a driver's matrix has them; two rows of one number are one GPU's.
void keep_gpu(Node& node, Gpu gpu) {
  if (gpu.index < 0 && gpu.bus_id.empty() && gpu.uuid.empty()) gpu.index = static_cast<int>(node.gpus.size());  // the tool lists them in the driver's order
  gpu.label = gpu.index >= 0 ? "GPU" + std::to_string(gpu.index) : !gpu.bus_id.empty() ? gpu.bus_id : gpu.uuid;
  if (node.gpus.size() >= 1024) return;
  const bool known = std::any_of(node.gpus.begin(), node.gpus.end(), [&](const Gpu& g) { return g.label == gpu.label; });
  if (!known) node.gpus.push_back(std::move(gpu));
}

void read_gpus(Capture& capture) {
  Remarks remarks(capture);
  Node& node = capture.node;
  if (has_heading(capture.text, gpus_heading)) {
    const Table table(capture.text, gpus_heading);
    for (size_t row = 0; row < table.rows(); ++row) {
      if (!table.whole(row)) remarks.truncated(table.line(row));
      Gpu gpu;
      headed_gpu(node, gpu, table, row);
      const bool empty = gpu.index < 0 && gpu.name.empty() && gpu.uuid.empty() && gpu.bus_id.empty();
      if (empty) remarks.garbled(table.line(row));
      else keep_gpu(node, std::move(gpu));
    }
  } else {
    for (const std::string_view line : split_lines(capture.text)) {
      if (!bare_gpu_line(trim(line))) continue;
      Gpu gpu;
      bare_gpu(node, gpu, cells_of(line));
      keep_gpu(node, std::move(gpu));
    }
  }
  node.gpus_complete = remarks.count("truncated") == 0;
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
  const Table table(text, versions_heading);
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
const Importer kGpusCsv{"GPU query", is_gpus, read_gpus};

}  // namespace dsinfer::topology
