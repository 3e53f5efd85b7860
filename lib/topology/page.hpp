/// A tree of text for a terminal: sections below a heading, rows below a section, folded at 100 columns, in colour or without.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "dsinfer/export.hpp"

namespace dsinfer::topology {

enum class Style { plain, strong, dim, good, warning, bad };

/// Text that may come from anywhere, made harmless, with its style. Page knows the marks; nothing else may print it.
DSINFER_INTERNAL std::string styled(std::string_view text, Style style);

class DSINFER_INTERNAL Page {
 public:
  explicit Page(bool color) : color_(color) {}
  /// Begins a tree.
  void heading(const std::string& text);
  /// A branch of it: its name in a column of its own.
  void section(const std::string& name, const std::string& text);
  /// A line below the last section; what does not fit goes on `hang` columns further in.
  void row(const std::string& text, size_t hang = 2);
  /// Rows in columns as wide as they need; the last may fold.
  void table(const std::vector<std::vector<std::string>>& rows);
  std::string text() const;

 private:
  struct Line {
    enum Kind { heading, section, row } kind;
    std::string name, text;
    size_t hang;
  };
  std::vector<Line> lines_;
  bool color_;
};

}  // namespace dsinfer::topology
