// GPUs as `nvidia-smi --query-gpu=… --format=csv` prints them: any subset of columns, with and without heading and units.
#include <algorithm>
#include <array>
#include <charconv>

#include "topology/csv_table.hpp"
#include "topology/importers.hpp"

namespace dsinfer::topology {
namespace {

bool gpus_heading(const Names& names) {
  const bool gpu = has(names, "gpu.name") || has(names, "pci.bus.id") || has(names, "gpu.bus.id") || has(names, "bus.id") || has(names, "gpu.uuid") ||
                   has(names, "memory.total") || has(names, "memory.total.mib") || has(names, "compute.cap") || has(names, "driver.version");
  const bool first = has(names, "index") || has(names, "name") || has(names, "uuid") || has(names, "gpu.name") || has(names, "pci.bus.id") || has(names, "gpu.bus.id");
  const bool usual = names.size() >= 2 && names[0] == "index" && names[1] == "name";
  return usual || (gpu && first && names[0] != "node" && names[0] != "hca");
}

constexpr CsvHeading kGpusHeading{{"name", "uuid", "bus", "index"}, gpus_heading};

constexpr std::array<std::string_view, 10> kBrands = {"NVIDIA ", "Tesla ", "GeForce ", "Quadro ", "GRID ", "A100", "H100", "H200", "B200", "GB200"};
bool names_gpu(std::string_view cell) {
  return std::any_of(kBrands.begin(), kBrands.end(), [&](std::string_view brand) { return cell.starts_with(brand); });
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
  if (line.find(',') == line.npos || line.size() > 1000 || line.find_first_of("|{") != line.npos) return false;
  const bool brand = std::any_of(kBrands.begin(), kBrands.end(), [&](std::string_view b) { return line.find(b) != line.npos; });
  return brand && is_bare_gpu(cells_of(line));
}

bool is_gpus(std::string_view text) {
  return kGpusHeading.stands_in(text) || any_line(text, bare_gpu_line);
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

void headed_gpu(Node& node, Gpu& gpu, const CsvTable& table, size_t row) {
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
  if (kGpusHeading.stands_in(capture.text)) {
    const CsvTable table(capture.text, kGpusHeading);
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

const Importer kGpusCsv{"GPU query", is_gpus, read_gpus};

}  // namespace dsinfer::topology
