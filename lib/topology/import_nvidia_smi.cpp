// The driver's own listings: `nvidia-smi` (the table), `nvidia-smi -q`, `nvidia-smi -L`, `nvidia-smi nvlink --status`.
#include <algorithm>
#include <array>
#include <cctype>

#include "topology/lines.hpp"

namespace dsinfer::topology {
namespace {

constexpr size_t kMaxGpus = 1024;

Gpu* add_gpu(Node& node) { return node.gpus.size() < kMaxGpus ? &node.gpus.emplace_back() : nullptr; }

bool is_unknown(std::string_view value) { return value.empty() || value == "N/A" || value == "[N/A]" || value == "ERR!" || value == "Not Supported"; }
std::string known(std::string_view value) { return is_unknown(value) ? "" : clean_text(value); }

// "81559 MiB", "81559MiB" → bytes.
int64_t memory_of(std::string_view text) {
  const auto mib = leading_integer(trim(text));
  return mib && *mib > 0 && *mib < int64_t{1} << 40 && text.find("MiB") != text.npos ? *mib * (1 << 20) : 0;
}

void number_gpus(Node& node) {
  for (Gpu& gpu : node.gpus) {
    if (gpu.label.empty()) gpu.label = gpu.index >= 0 ? "GPU" + std::to_string(gpu.index) : gpu.bus_id;
  }
  std::erase_if(node.gpus, [](const Gpu& gpu) { return gpu.label.empty(); });
}

bool counts_up(const Node& node) {  // 0, 1, 2 …: nothing is missing
  for (size_t i = 0; i < node.gpus.size(); ++i) {
    if (node.gpus[i].index != static_cast<int>(i)) return false;
  }
  return !node.gpus.empty();
}

// ---- the table ----

std::string word_after(std::string_view line, std::string_view key) {
  const size_t at = line.find(key);
  if (at == line.npos) return "";
  const std::vector<std::string_view> words = words_of(line.substr(at + key.size()));
  return words.empty() || words[0] == "|" ? "" : known(words[0]);
}

std::vector<std::string_view> cells_of_row(std::string_view line) {
  std::vector<std::string_view> cells;
  line = trim(line);
  if (!line.starts_with("|")) return cells;
  line.remove_prefix(1);
  while (!line.empty() && cells.size() < 8) {
    const size_t end = std::min(line.find('|'), line.size());
    cells.push_back(trim(line.substr(0, end)));
    line.remove_prefix(std::min(end + 1, line.size()));
  }
  return cells;
}

class Table {
 public:
  Table(Node& node, Remarks& remarks) : node_(node), remarks_(remarks) {}

  void read(std::string_view text) {
    for (const std::string_view line : split_lines(text)) read_line(trim(line));
    number_gpus(node_);
    node_.gpus_complete = none_ || (!node_.gpus.empty() && closed_ && counts_up(node_));
    if (heading_ && !node_.gpus_complete && !node_.gpus.empty()) remarks_.truncated(node_.gpus.back().label);
  }

 private:
  void read_line(std::string_view line) {
    if (line == "No devices were found") none_ = true;
    if (line.starts_with("NVIDIA-SMI has failed")) {
      remarks_.add("driver-not-working", Severity::warning, "nvidia-smi cannot reach the driver", line, "Load or reinstall the NVIDIA driver.");
    }
    if (line.find("Driver Version:") != line.npos && line.find("NVIDIA-SMI") != line.npos) {
      if (heading_) ended_ = true;  // the table of another run or machine
      heading_ = true;
      if (ended_) return;
      node_.host.driver_version = word_after(line, "Driver Version:");
      node_.host.cuda_driver_version = word_after(line, "CUDA Version:");
    }
    if (!heading_ || ended_) return;
    if (line.starts_with("+")) {
      if (gpu_) closed_ = true;
      gpu_ = nullptr;
      return;
    }
    const std::vector<std::string_view> cells = cells_of_row(line);
    if (cells.size() >= 2 && first_line(cells)) return;
    if (gpu_ && cells.size() >= 2) more(cells);
  }

  // "|   0  NVIDIA H100 80GB HBM3          On  |   00000000:19:00.0 Off |                    0 |"
  bool first_line(const std::vector<std::string_view>& cells) {
    std::vector<std::string_view> words = words_of(cells[0]);
    const std::vector<std::string_view> bus = words_of(cells[1]);
    const std::string id = bus.empty() ? "" : bus_id_of(bus[0]);
    const auto index = words.empty() ? std::nullopt : integer_of(words[0]);
    if (id.empty() || !index || *index < 0 || *index > 65535) return false;
    closed_ = false;
    gpu_ = add_gpu(node_);
    if (!gpu_) return true;
    gpu_->index = static_cast<int>(*index);
    gpu_->bus_id = id;
    constexpr std::array<std::string_view, 6> kModes = {"On", "Off", "N/A", "WDDM", "TCC", "MCDM"};
    while (words.size() > 1 && std::find(kModes.begin(), kModes.end(), words.back()) != kModes.end()) words.pop_back();
    for (size_t i = 1; i < words.size(); ++i) gpu_->name += (i > 1 ? " " : "") + clean_text(words[i]);
    return true;
  }

  // "| N/A 27C P0 72W / 700W | 1MiB / 81559MiB | 0% Default |", then MIG mode in the last cell.
  void more(const std::vector<std::string_view>& cells) {
    if (const size_t slash = cells[1].find('/'); slash != cells[1].npos && cells[1].find("MiB") != cells[1].npos) {
      gpu_->memory_bytes = memory_of(cells[1].substr(slash + 1));
    } else if (cells.size() >= 3 && cells[0].empty() && cells[1].empty()) {
      if (cells[2].starts_with("Enabled")) gpu_->mig = true;
      if (cells[2].starts_with("Disabled")) gpu_->mig = false;
    }
  }

  Node& node_;
  Remarks& remarks_;
  Gpu* gpu_ = nullptr;
  bool heading_ = false, closed_ = false, none_ = false, ended_ = false;
};

bool is_table(std::string_view text) {
  return any_line(text, [](std::string_view line) {
    return (line.starts_with("|") && line.find("NVIDIA-SMI ") != line.npos && line.find("Driver Version:") != line.npos) ||
           line == "No devices were found" || line.starts_with("NVIDIA-SMI has failed because");
  });
}
void read_table(Capture& capture) {
  Remarks remarks(capture);
  Table(capture.node, remarks).read(capture.text);
}

// ---- -q ----

size_t indent_of(std::string_view line) { return std::min(line.find_first_not_of(" \t"), line.size()); }

class Query {
 public:
  Query(Node& node, Remarks& remarks) : node_(node), remarks_(remarks) {}

  void read(std::string_view text) {
    for (const std::string_view line : split_lines(text)) {
      if (trim(line).empty() || ended_) continue;
      read_line(line);
    }
    finish_gpu();
    const bool all = attached_ >= 0 && static_cast<size_t>(attached_) == node_.gpus.size();
    for (size_t i = 0; all && i < node_.gpus.size(); ++i) node_.gpus[i].index = static_cast<int>(i);  // printed in the driver's order
    number_gpus(node_);
    node_.gpus_complete = all;
    if (attached_ >= 0 && !all) {
      remarks_.truncated("Attached GPUs: " + std::to_string(attached_) + ", listed: " + std::to_string(node_.gpus.size()));
    }
  }

 private:
  void read_line(std::string_view line) {
    const size_t indent = indent_of(line);
    const std::string_view bare = trim(line);
    if (indent == 0 && bare.starts_with("GPU ") && !bus_id_of(bare.substr(4)).empty()) {
      finish_gpu();
      gpu_ = add_gpu(node_);
      if (gpu_) gpu_->bus_id = bus_id_of(bare.substr(4));
      sections_.clear();
      return;
    }
    while (!sections_.empty() && sections_.back().indent >= indent) sections_.pop_back();
    const size_t colon = bare.find(" : ");
    if (colon == bare.npos && !bare.ends_with(" :")) {
      if (sections_.size() < 16) sections_.push_back({indent, bare});
      return;
    }
    const std::string_view key = trim(bare.substr(0, colon == bare.npos ? bare.size() - 1 : colon));
    field(key, colon == bare.npos ? "" : trim(bare.substr(colon + 3)));
  }

  bool inside(std::string_view section) const {
    return std::any_of(sections_.begin(), sections_.end(), [&](const Section& s) { return s.name == section; });
  }

  void field(std::string_view key, std::string_view value) {
    if (key == "Attached GPUs") {
      const auto count = integer_of(value);
      if (attached_ >= 0) ended_ = true;  // another machine's listing begins
      else if (count && *count >= 0 && *count < 65536) attached_ = *count;
      return;
    }
    if (key == "Driver Version" && node_.host.driver_version.empty()) node_.host.driver_version = known(value);
    if (key == "CUDA Version" && node_.host.cuda_driver_version.empty()) node_.host.cuda_driver_version = known(value);
    if (!gpu_) return;
    if (key == "Product Name") gpu_->name = known(value);
    if (key == "GPU UUID") gpu_->uuid = known(value);
    if (key == "Bus Id" && gpu_->bus_id.empty()) gpu_->bus_id = bus_id_of(value);
    if (key == "Total" && inside("FB Memory Usage")) gpu_->memory_bytes = memory_of(value);
    if (key == "Current" && inside("MIG Mode") && !is_unknown(value)) gpu_->mig = value == "Enabled";
    if (key == "Virtualization Mode" && value == "Pass-Through") node_.host.virtual_machine = true;
    if (key == "Max" && inside("PCIe Generation")) generation_ = leading_integer(value).value_or(0);
    if (key == "Max" && inside("Link Width")) width_ = leading_integer(value).value_or(0);
    if (key == "State" && inside("Fabric")) state_ = known(value);
    if (key == "Status" && inside("Fabric")) status_ = known(value);
  }

  void finish_gpu() {
    if (gpu_) {
      constexpr std::array kSpeeds = {"", "2.5", "5", "8", "16", "32", "64"};  // GT/s of the generations
      if (generation_ > 0 && generation_ < static_cast<int64_t>(kSpeeds.size()) && width_ > 0 && width_ <= 32) {
        gpu_->pcie_gb_per_s = pcie_gb_per_s(kSpeeds[static_cast<size_t>(generation_)], static_cast<int>(width_));
      }
      if (same_word(state_, "Completed")) gpu_->fabric_state = status_.empty() || same_word(status_, "Success") ? "completed" : "failed: " + status_;
      else if (same_word(state_, "In Progress")) gpu_->fabric_state = "in-progress";
      else if (same_word(state_, "Not Started")) gpu_->fabric_state = "not-started";
      if (gpu_->fabric_state == "completed") node_.host.fabric_manager = true;
    }
    generation_ = width_ = 0;
    state_.clear();
    status_.clear();
    gpu_ = nullptr;
  }

  struct Section {
    size_t indent;
    std::string_view name;
  };
  Node& node_;
  Remarks& remarks_;
  Gpu* gpu_ = nullptr;
  std::vector<Section> sections_;
  int64_t attached_ = -1, generation_ = 0, width_ = 0;
  std::string state_, status_;
  bool ended_ = false;
};

bool is_query(std::string_view text) {
  return any_line(text, [](std::string_view line) {
    if (line.starts_with("Attached GPUs")) return key_value(line).key == "Attached GPUs" && integer_of(key_value(line).value).has_value();
    return line.starts_with("GPU ") && !bus_id_of(line.substr(4)).empty();
  });
}
void read_query(Capture& capture) {
  Remarks remarks(capture);
  Query(capture.node, remarks).read(capture.text);
}

// ---- -L and nvlink --status ----

// "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-…)"
std::optional<Gpu> listed_gpu(std::string_view line) {
  if (!line.starts_with("GPU ")) return std::nullopt;
  const auto index = leading_integer(line.substr(4));
  const size_t colon = line.find(": "), uuid = line.rfind(" (UUID: ");
  if (!index || *index < 0 || *index > 65535 || colon == line.npos || uuid == line.npos || uuid <= colon) return std::nullopt;
  Gpu gpu;
  gpu.index = static_cast<int>(*index);
  gpu.name = clean_text(trim(line.substr(colon + 2, uuid - colon - 2)));
  gpu.uuid = clean_text(line.substr(uuid + 8, std::min(line.find(')', uuid), line.size()) - uuid - 8));
  return gpu;
}

class Links {
 public:
  Links(Capture& capture, Remarks& remarks) : node_(capture.node), remarks_(remarks), by_name_(lower_case(capture.name).find("nvlink") != std::string::npos) {}

  void read(std::string_view text) {
    for (const std::string_view full : split_lines(text)) {
      const std::string_view line = trim(full);
      if (auto gpu = listed_gpu(line)) begin(std::move(*gpu));
      else if (line.starts_with("MIG ") && current()) current()->mig = true;
      else if (line.starts_with("Link ") && current()) link(line);
    }
    number_gpus(node_);
    node_.gpus_complete = counts_up(node_);
    const auto linked = std::count_if(node_.gpus.begin(), node_.gpus.end(), [](const Gpu& g) { return !g.nvlinks.empty(); });
    if (linked > 1 || (linked == 1 && node_.gpus.size() > 1)) node_.nvlink = true;
    else if (linked == 0 && (lines_ > 0 || by_name_) && !node_.gpus.empty()) node_.nvlink = false;
    if (!node_.gpus_complete) remarks_.truncated("GPU numbers do not count up from 0");
  }

 private:
  Gpu* current() { return open_ ? &node_.gpus.back() : nullptr; }

  void begin(Gpu gpu) {
    open_ = std::none_of(node_.gpus.begin(), node_.gpus.end(), [&](const Gpu& g) { return g.index == gpu.index; });  // not the same listing again
    if (!open_) return;
    if (Gpu* place = add_gpu(node_)) *place = std::move(gpu);
    else open_ = false;
  }

  // "Link 3: 25 GB/s", "Link 4: <inactive>"; with --pcibusid "Link 3: 00000000:C5:00.0".
  void link(std::string_view line) {
    const KeyValue pair = key_value(line);
    if (pair.key.size() < 6 || !leading_integer(pair.key.substr(5))) return;  // a line that was cut has no colon, and so no key
    ++lines_;
    const std::string id = bus_id_of(pair.value);
    const bool speed = pair.value.find("GB/s") != pair.value.npos;
    if (!speed && id.empty()) return;
    auto& links = current()->nvlinks;
    auto same = std::find_if(links.begin(), links.end(), [&](const NvLink& l) { return l.remote_bus_id == id; });
    if (same == links.end()) {
      if (links.size() >= 64) return;
      links.emplace_back().remote_bus_id = id;
      same = std::prev(links.end());
    }
    if (same->count >= 1024) return;
    ++same->count;
    if (speed) same->gb_per_s += std::min(rate_of(pair.value), 1e6);
  }

  Node& node_;
  Remarks& remarks_;
  bool by_name_, open_ = false;
  size_t lines_ = 0;
};

bool is_links(std::string_view text) {
  return any_line(text, [](std::string_view line) { return listed_gpu(line).has_value(); });
}
void read_links(Capture& capture) {
  Remarks remarks(capture);
  Links(capture, remarks).read(capture.text);
}

}  // namespace

const Importer kSmiTable{"nvidia-smi", is_table, read_table};
const Importer kSmiQuery{"nvidia-smi -q", is_query, read_query};
const Importer kSmiNvlink{"nvidia-smi nvlink", is_links, read_links};

}  // namespace dsinfer::topology
