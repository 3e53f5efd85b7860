#include "topology/page.hpp"

#include <algorithm>

#include "topology/names.hpp"
#include "topology/wording.hpp"

namespace dsinfer::topology {
namespace {

constexpr size_t kColumns = 100, kNameColumns = 12;
constexpr char kMark = '\x01';  // before a letter that names the style; clean_text() lets no such character in

const char* escape(char style) {
  switch (static_cast<Style>(style - 'A')) {
    case Style::strong: return "\x1b[1m";
    case Style::dim: return "\x1b[2m";
    case Style::good: return "\x1b[32m";
    case Style::warning: return "\x1b[33m";
    case Style::bad: return "\x1b[1;31m";
    case Style::plain: break;
  }
  return "\x1b[0m";
}

std::string painted(std::string_view text, bool color) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != kMark) {
      out += text[i];
    } else if (++i < text.size() && color) {
      out += escape(text[i]);
    }
  }
  return out;
}

size_t shown_width(std::string_view text) { return width_of(text) - 2 * static_cast<size_t>(std::count(text.begin(), text.end(), kMark)); }

// Lines of `text` of at most `first`, then `rest` columns, cut between words; a word that is longer is cut where it has to be. A style that is on
// at the end of a line ends there and begins again on the next.
std::vector<std::string> folded(const std::string& text, size_t first, size_t rest) {
  std::vector<std::string> lines;
  std::string line, word, style;
  size_t columns = 0, room = first;
  const auto flush_line = [&] {
    while (!line.empty() && line.back() == ' ') line.pop_back();
    if (!style.empty()) line += std::string{kMark, 'A'};
    lines.push_back(line);
    line = style, columns = 0, room = rest;
  };
  std::string pending;  // the style as it is after `word`
  const auto flush_word = [&](bool space) {
    const size_t width = shown_width(word);
    if (columns && columns + width > room) flush_line();
    line += word, columns += width, style = pending;
    if (space && columns < room) line += ' ', ++columns;
    word.clear();
  };
  // A list that is longer than a line is cut behind a comma.
  const auto cut_word = [&] {
    const size_t comma = word.rfind(',');
    const std::string rest_of_word = comma == word.npos || comma + 1 < word.size() / 2 ? "" : word.substr(comma + 1);
    if (rest_of_word.find(kMark) == rest_of_word.npos) word.resize(word.size() - rest_of_word.size());
    const std::string left = word.size() == comma + 1 ? rest_of_word : "";
    flush_word(false), flush_line();
    word = left;
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == kMark && i + 1 < text.size()) {
      word += c, word += text[++i];
      pending = text[i] == 'A' ? "" : word.substr(word.size() - 2);
    } else if (c == ' ') {
      flush_word(true);
    } else {
      if ((static_cast<unsigned char>(c) & 0xc0) != 0x80 && shown_width(word) >= rest) cut_word();
      word += c;
    }
  }
  flush_word(false);
  flush_line();
  return lines;
}

}  // namespace

std::string styled(std::string_view text, Style style) {
  std::string clean = clean_text(text);
  std::replace_if(clean.begin(), clean.end(), [](char c) { return c == '\n' || c == '\t'; }, ' ');
  if (style == Style::plain || clean.empty()) return clean;
  return std::string{kMark, static_cast<char>('A' + static_cast<int>(style))} + clean + std::string{kMark, 'A'};
}

void Page::heading(const std::string& text) { lines_.push_back({Line::heading, "", text, 2}); }
void Page::section(const std::string& name, const std::string& text) { lines_.push_back({Line::section, name, text, kNameColumns}); }
void Page::row(const std::string& text, size_t hang) { lines_.push_back({Line::row, "", text, hang}); }

void Page::table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], shown_width(row[i]));
  }
  for (const auto& cells : rows) {
    std::string text;
    size_t before_last = 0;
    for (size_t i = 0; i < cells.size(); ++i) {
      if (widths[i] == 0) continue;  // nobody has this one
      const size_t pad = i + 1 < cells.size() ? widths[i] - shown_width(cells[i]) + 2 : 0;
      if (i + 1 == cells.size()) before_last = shown_width(text);
      text += cells[i] + std::string(pad, ' ');
    }
    row(text, before_last ? std::min<size_t>(before_last, 50) : 2);
  }
}

std::string Page::text() const {
  std::string out;
  for (size_t i = 0; i < lines_.size(); ++i) {
    const Line& line = lines_[i];
    const bool last = std::none_of(lines_.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                                   std::find_if(lines_.begin() + static_cast<std::ptrdiff_t>(i) + 1, lines_.end(), [](const Line& l) { return l.kind == Line::heading; }),
                                   [](const Line& l) { return l.kind == Line::section; });
    std::string first, rest;
    if (line.kind == Line::section) first = last ? "└─ " : "├─ ", rest = last ? "   " : "│  ";
    if (line.kind == Line::row) first = rest = last ? "     " : "│    ";
    std::string name = line.name;
    if (line.kind == Line::section) name = styled(name, Style::strong) + std::string(kNameColumns - std::min(kNameColumns, width_of(name)), ' ');
    const size_t indent = width_of(rest);
    const auto pieces = folded(name + line.text, kColumns - indent, kColumns - indent - line.hang);
    for (size_t k = 0; k < pieces.size(); ++k) {
      std::string printed = styled(k ? rest : first, Style::dim) + (k ? std::string(line.hang, ' ') : "") + pieces[k];
      printed = painted(printed, color_);
      while (!printed.empty() && printed.back() == ' ') printed.pop_back();
      out += printed + "\n";
    }
  }
  return out;
}

}  // namespace dsinfer::topology
