// `nvidia-smi topo -m`: the matrix of GPUs and NICs, with tabs or spaces, with NICn and a legend or with verbs names as columns.
#include <algorithm>
#include <cctype>
#include <map>

#include "topology/lines.hpp"

namespace dsinfer::topology {
namespace {

constexpr size_t kMaxDevices = 512;

struct Cell {
  PathKind kind = PathKind::unknown;
  int nvlinks = 0;
};

bool digit(char c) { return c >= '0' && c <= '9'; }

// The value at the start of `text`, which loses it. Values may be run together: "NV12SYS". nullopt: what follows is no value.
std::optional<Cell> take_cell(std::string_view& text) {
  constexpr struct { std::string_view word; PathKind kind; } kWords[] = {
      {"PIX", PathKind::pix}, {"PXB", PathKind::pxb}, {"PHB", PathKind::phb}, {"NODE", PathKind::node}, {"SYS", PathKind::sys},
      {"SOC", PathKind::sys},  // across sockets, before driver 384
      {"C2C", PathKind::c2c}, {"X", PathKind::self}};
  std::string_view rest = text;
  while (!rest.empty() && (rest[0] == ' ' || rest[0] == '\t')) rest.remove_prefix(1);
  const auto take = [&](size_t size) {
    rest.remove_prefix(size);
    text = rest;
  };
  if (rest.starts_with("NV") && rest.size() > 2 && digit(rest[2])) {
    size_t end = 2;
    while (end < rest.size() && digit(rest[end]) && end < 4) ++end;
    Cell cell{PathKind::nvlink, static_cast<int>(leading_integer(rest.substr(2, end - 2)).value_or(0))};
    take(end);
    return cell;
  }
  for (const auto& w : kWords) {
    if (!rest.starts_with(w.word)) continue;
    take(w.word.size());
    return Cell{w.kind, 0};
  }
  return std::nullopt;
}

bool is_numbered(std::string_view word, std::string_view prefix) {
  return word.size() > prefix.size() && word.starts_with(prefix) && std::all_of(word.begin() + static_cast<std::ptrdiff_t>(prefix.size()), word.end(), digit);
}

// A row "GPU0  X  NV12 … 0-31 0 N/A".
struct Row {
  std::string label;
  std::vector<Cell> cells;
  std::string_view rest;
  size_t self = std::string_view::npos;  // column of X
};

std::optional<Row> row_of(std::string_view line) {
  line = trim(line);
  size_t end = line.find_first_of(" \t");
  if (is_numbered(line.substr(0, 4), "GPU") || is_numbered(line.substr(0, 4), "NIC")) {  // "GPU0X" lost its tab
    end = 3;
    while (end < line.size() && digit(line[end])) ++end;
  }
  if (end == line.npos || end == 0 || end > 64) return std::nullopt;
  Row row;
  row.label = clean_text(line.substr(0, end));
  row.rest = line.substr(end);
  while (const auto cell = take_cell(row.rest)) {
    if (cell->kind == PathKind::self && row.self == row.rest.npos) row.self = row.cells.size();
    row.cells.push_back(*cell);
    if (row.cells.size() > kMaxDevices) return std::nullopt;
  }
  if (row.self == row.rest.npos) return std::nullopt;
  return row;
}

// Column names of the heading: "GPU0 GPU1 NIC0 mlx5_0 CPU Affinity …"; run together they are told apart by their digits.
std::vector<std::string> header_of(std::string_view line) {
  std::vector<std::string> names;
  for (std::string_view word : words_of(line)) {
    if (word.starts_with("CPU") || word.starts_with("NUMA")) break;
    while (!word.empty()) {
      size_t end = word.size();
      if (word.starts_with("GPU") || word.starts_with("NIC")) {
        end = 3;
        while (end < word.size() && digit(word[end])) ++end;
        if (end == 3) return {};
      }
      if (word.substr(0, end) == "X" || names.size() > kMaxDevices) return {};
      names.push_back(clean_text(word.substr(0, end)));
      word.remove_prefix(end);
      if (word.starts_with("CPU")) break;
    }
  }
  return names;
}
bool is_header(std::string_view line) {
  line = trim(line);
  if (!line.starts_with("GPU0")) return false;
  const std::vector<std::string> names = header_of(line);
  return !names.empty() && !row_of(line) && (names.size() > 1 || line.find("CPU") != line.npos);
}

class Matrix {
 public:
  Matrix(Capture& capture, Remarks& remarks) : node_(capture.node), remarks_(remarks) {}

  void read(std::string_view text) {
    for (const std::string_view line : split_lines(text)) {
      if (is_header(line)) {
        if (!rows_.empty()) {
          if (!foreign_) ended_ = true;  // a second matrix, of another machine or another question
          else rows_.clear();
        }
        if (ended_) continue;
        header_ = header_of(line);
        numa_column_ = line.find("NUMA Affinity") != line.npos || line.find("NUMA affinity") != line.npos;
        foreign_ = false;
      } else if (auto row = row_of(line); row && !ended_) {
        add(std::move(*row));
      }
      read_legend(line);
    }
    if (foreign_) rows_.clear();
  }

  void fill() {
    if (rows_.empty()) return;
    name_columns();
    for (const Row& row : rows_) add_device(row);
    for (const std::string& column : columns_) add_hca(column);
    bool gpu_links = false;
    std::map<std::pair<std::string, std::string>, Cell> pairs;
    for (const Row& row : rows_) {
      for (size_t i = 0; i < row.cells.size() && i < columns_.size(); ++i) {
        if (i == row.self || columns_[i].empty() || columns_[i] == row.label) continue;
        const auto key = std::minmax(row.label, columns_[i], natural_less);
        if (!pairs.emplace(std::pair(key.first, key.second), row.cells[i]).second) continue;
        add_path(row.label, columns_[i], row.cells[i]);
        gpu_links = gpu_links || (row.cells[i].kind == PathKind::nvlink && is_gpu(row.label) && is_gpu(columns_[i]));
      }
    }
    const bool whole = is_whole();
    node_.gpus_complete = whole;
    if (gpu_links) node_.nvlink = true;
    else if (whole) node_.nvlink = false;
    if (!whole) remarks_.truncated(header_.empty() ? rows_.back().label : "columns: " + std::to_string(columns_.size()) + ", rows: " + std::to_string(rows_.size()));
  }

 private:
  static bool is_gpu(std::string_view label) { return is_numbered(label, "GPU"); }
  static bool is_numbered_nic(std::string_view label) { return is_numbered(label, "NIC"); }

  void add(Row row) {
    const std::string_view rest = trim(row.rest);
    // "GPU0 X OK NS": `topo -p2p`, the same form for another question
    if (rest.starts_with("OK") || rest.starts_with("NS") || rest.starts_with("CNS") || rest.starts_with("GNS") || rest.starts_with("TNS")) foreign_ = true;
    if (rows_.size() >= kMaxDevices) return;
    if (std::any_of(rows_.begin(), rows_.end(), [&](const Row& r) { return r.label == row.label; })) return;
    rows_.push_back(std::move(row));
  }

  // "NIC0: mlx5_0", one or several on a line.
  void read_legend(std::string_view line) {
    const std::vector<std::string_view> words = words_of(line);
    for (size_t i = 0; i + 1 < words.size() && i < 64; ++i) {
      if (!words[i].ends_with(":") || !is_numbered_nic(words[i].substr(0, words[i].size() - 1))) continue;
      if (legend_.size() < kMaxDevices) legend_.emplace(words[i].substr(0, words[i].size() - 1), clean_text(words[i + 1]));
    }
  }

  // A column is named by the row whose X stands in it; the heading names columns without a row. NICn become verbs names.
  void name_columns() {
    columns_ = header_;
    for (const Row& row : rows_) {
      columns_.resize(std::max(columns_.size(), std::min(row.cells.size(), kMaxDevices)));
      if (row.self < columns_.size() && (header_.empty() || columns_[row.self].empty())) columns_[row.self] = row.label;
    }
    for (std::string& column : columns_) column = real_name(column);
    for (Row& row : rows_) row.label = real_name(row.label);
  }

  std::string real_name(const std::string& label) {
    if (!is_numbered_nic(label)) return label;
    const auto named = legend_.find(label);
    if (named != legend_.end()) return named->second;
    remarks_.add("truncated", Severity::warning, "the legend does not name every NIC of the matrix", label, "Copy the lines below \"NIC Legend:\" too.");
    return "";
  }

  void add_device(const Row& row) {
    if (!is_gpu(row.label)) return add_hca(row.label);
    Gpu gpu;
    gpu.label = row.label;
    gpu.index = static_cast<int>(std::min<int64_t>(leading_integer(std::string_view(row.label).substr(3)).value_or(-1), 65535));
    const std::vector<std::string_view> words = words_of(row.rest);  // CPU affinity, NUMA affinity
    const bool has_numa = (numa_column_ || header_.empty()) && words.size() > 1;
    const auto numa = has_numa ? integer_of(words[1]) : std::nullopt;
    if (numa && *numa >= 0 && *numa < 65536) gpu.numa = static_cast<int>(*numa);
    node_.gpus.push_back(std::move(gpu));
  }

  void add_hca(const std::string& name) {
    if (name.empty() || is_gpu(name) || node_.hcas.size() >= kMaxDevices) return;
    if (std::any_of(node_.hcas.begin(), node_.hcas.end(), [&](const Hca& h) { return h.name == name; })) return;
    node_.hcas.emplace_back().name = name;
  }

  void add_path(const std::string& a, const std::string& b, const Cell& cell) {
    if (a.empty() || b.empty()) return;
    Path path;
    const bool turned = !is_gpu(a) && is_gpu(b);
    path.a = turned ? b : a;
    path.b = turned ? a : b;
    path.kind = cell.kind;
    path.nvlinks = cell.nvlinks;
    node_.paths.push_back(std::move(path));
  }

  bool is_whole() const {
    const auto gpu_rows = static_cast<size_t>(std::count_if(rows_.begin(), rows_.end(), [](const Row& r) { return is_gpu(r.label); }));
    const auto gpu_columns = static_cast<size_t>(std::count_if(columns_.begin(), columns_.end(), [](const std::string& c) { return is_gpu(c); }));
    return gpu_rows > 0 && gpu_rows == gpu_columns &&
           std::all_of(rows_.begin(), rows_.end(), [&](const Row& r) { return !is_gpu(r.label) || r.cells.size() == columns_.size(); });
  }

  Node& node_;
  Remarks& remarks_;
  std::vector<std::string> header_, columns_;
  std::vector<Row> rows_;
  std::map<std::string, std::string, std::less<>> legend_;
  bool numa_column_ = false, foreign_ = false, ended_ = false;
};

bool is_topo(std::string_view text) {
  return any_line(text, [](std::string_view line) {
    if (!line.starts_with("GPU")) return false;
    const auto row = row_of(line);
    return row && is_numbered(row->label, "GPU");
  });
}

void read_topo(Capture& capture) {
  Remarks remarks(capture);
  Matrix matrix(capture, remarks);
  matrix.read(capture.text);
  matrix.fill();
}

}  // namespace

const Importer kSmiTopo{"nvidia-smi topo -m", is_topo, read_topo};

}  // namespace dsinfer::topology
