/// A table in CSV somewhere in a text: found by its heading, read by the names of its columns.
#pragma once
#include <algorithm>
#include <array>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "topology/lines.hpp"

namespace dsinfer::topology {

inline constexpr size_t kMostTableRows = 4096;

/// "memory.total [MiB]", "Memory_Total_MiB" → "memory.total" with the unit apart.
inline std::string column_name(std::string_view cell) {
  std::string name = lower_case(trim(cell.substr(0, cell.find('['))));
  std::replace(name.begin(), name.end(), '_', '.');
  std::replace(name.begin(), name.end(), ' ', '.');
  std::replace(name.begin(), name.end(), '-', '.');
  return name;
}

using Names = std::vector<std::string>;
inline bool has(const Names& names, std::string_view name) { return std::find(names.begin(), names.end(), name) != names.end(); }

inline Names column_names(std::string_view line) {
  Names names;
  for (const std::string& cell : cells_of(line)) names.push_back(column_name(cell));
  return names;
}

/// A heading is told by its columns' names. `marks`: one of these stands in every such line; cheaper to look for than to split all lines.
struct CsvHeading {
  std::array<std::string_view, 5> marks;  // the rest empty
  bool (*test)(const Names& columns);

  bool is(std::string_view line) const {
    if (line.find(',') == line.npos || line.size() > 4000 || line.starts_with("#")) return false;
    const std::string lower = lower_case(line);
    const bool marked = std::any_of(marks.begin(), marks.end(), [&](std::string_view mark) { return !mark.empty() && lower.find(mark) != lower.npos; });
    return marked && test(column_names(line));
  }
  bool stands_in(std::string_view text) const {
    return any_line(text, [this](std::string_view line) { return is(line); });
  }
};

/// The table behind the first line whose columns satisfy a test, up to an empty line or one with a single cell.
class CsvTable {
 public:
  CsvTable(std::string_view text, const CsvHeading& heading) {
    for (const std::string_view raw : split_lines(text)) {
      const std::string_view line = trim(raw.substr(0, 4000));
      if (line.starts_with("#")) continue;
      if (columns_.empty()) {
        if (heading.is(line)) columns_ = column_names(line);
      } else if (line.find(',') == line.npos) {
        break;
      } else if (rows_.size() < kMostTableRows) {
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

 private:
  size_t column(std::initializer_list<std::string_view> names) const {
    for (const std::string_view name : names) {
      const auto at = std::find(columns_.begin(), columns_.end(), name);
      if (at != columns_.end()) return static_cast<size_t>(at - columns_.begin());
    }
    return std::string::npos;
  }

  Names columns_;
  std::vector<std::vector<std::string>> rows_;
  std::vector<std::string_view> lines_;
};

}  // namespace dsinfer::topology
