// What all trees share: names in natural order, links followed without leaving the tree, values of one line.
#include "topology/tree.hpp"

#include <cctype>
#include <charconv>
#include <deque>

namespace dsinfer::topology {
namespace {

constexpr int kMaxLinks = 40;         // as the kernel's own limit (ELOOP)
constexpr size_t kMaxParts = 4096;    // of one path while its links unfold

bool digit(char c) { return c >= '0' && c <= '9'; }

std::string joined(const std::vector<std::string>& parts) {
  std::string path;
  for (const std::string& part : parts) path += (path.empty() ? "" : "/") + part;
  return path;
}

std::vector<std::string> split(std::string_view path) {
  std::vector<std::string> parts;
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (!part.empty() && part != ".") parts.emplace_back(part);
    path = slash == path.npos ? std::string_view() : path.substr(slash + 1);
  }
  return parts;
}

class SubTree : public Tree {
 public:
  SubTree(std::shared_ptr<const Tree> tree, std::string folder) : tree_(std::move(tree)), folder_(std::move(folder)) {}

  std::optional<std::string> read(std::string_view path, size_t limit, size_t offset) const override {
    const auto place = walk(path, true);
    return place ? tree_->read(below(*place), limit, offset) : std::nullopt;
  }
  std::vector<std::string> list(std::string_view path) const override {
    const auto place = walk(path, true);
    return place ? tree_->list(below(*place)) : std::vector<std::string>();
  }
  bool exists(std::string_view path) const override {
    const auto place = walk(path, true);
    return place && tree_->exists(below(*place));
  }
  std::optional<std::string> resolve(std::string_view path) const override {
    auto place = walk(path, true);
    return place && tree_->exists(below(*place)) ? place : std::nullopt;
  }
  std::optional<std::string> link(std::string_view path) const override {
    const auto place = walk(path, false);
    return place ? tree_->link(below(*place)) : std::nullopt;
  }
  bool unreadable(std::string_view path) const override {
    const auto place = walk(path, true);
    return place && tree_->unreadable(below(*place));
  }
  std::string damage() const override { return tree_->damage(); }

 private:
  std::string below(const std::string& path) const { return path.empty() ? folder_ : folder_.empty() ? path : folder_ + "/" + path; }
  std::optional<std::string> walk(std::string_view path, bool follow_last) const {
    return walk_links(path, follow_last, [this](const std::string& p) { return tree_->link(below(p)); });
  }

  std::shared_ptr<const Tree> tree_;
  std::string folder_;
};

}  // namespace

bool natural_less(std::string_view a, std::string_view b) {
  size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (!digit(a[i]) || !digit(b[j])) {
      if (a[i] != b[j]) return static_cast<unsigned char>(a[i]) < static_cast<unsigned char>(b[j]);
      ++i, ++j;
      continue;
    }
    const auto number = [](std::string_view text, size_t& at) {  // digits without leading zeros
      while (at < text.size() && text[at] == '0') ++at;
      const size_t begin = at;
      while (at < text.size() && digit(text[at])) ++at;
      return text.substr(begin, at - begin);
    };
    const std::string_view x = number(a, i), y = number(b, j);
    if (x.size() != y.size()) return x.size() < y.size();
    if (x != y) return x < y;
  }
  if ((i < a.size()) != (j < b.size())) return j < b.size();
  return a < b;  // only leading zeros differ
}

std::optional<std::string> walk_links(std::string_view path, bool follow_last,
                                      const std::function<std::optional<std::string>(const std::string&)>& link_of) {
  const std::vector<std::string> given = split(path);
  std::deque<std::string> pending(given.begin(), given.end());
  std::vector<std::string> done;
  int links = 0;
  while (!pending.empty()) {
    const std::string part = std::move(pending.front());
    pending.pop_front();
    if (part == "..") {
      if (done.empty()) return std::nullopt;
      done.pop_back();
      continue;
    }
    done.push_back(part);
    if (pending.empty() && !follow_last) break;
    const auto target = link_of(joined(done));
    if (!target) continue;
    if (++links > kMaxLinks) return std::nullopt;
    done.pop_back();
    if (!target->empty() && target->front() == '/') done.clear();  // from the tree's own root, as after chroot
    const std::vector<std::string> parts = split(*target);
    if (parts.size() + pending.size() > kMaxParts) return std::nullopt;
    pending.insert(pending.begin(), parts.begin(), parts.end());
  }
  return joined(done);
}

std::optional<std::string> Tree::line(std::string_view path) const {
  const auto content = read(path, 64 << 10);
  if (!content) return std::nullopt;
  std::string_view text = *content;
  text = text.substr(0, text.find('\n'));
  const auto blank = [](char c) { return std::isspace(static_cast<unsigned char>(c)) || c == '\0'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text.empty() ? std::nullopt : std::optional<std::string>(text);
}

std::optional<long long> Tree::number(std::string_view path) const {
  const auto text = line(path);
  if (!text) return std::nullopt;
  std::string_view digits = *text;
  const bool negative = digits.front() == '-';
  if (negative) digits.remove_prefix(1);
  const bool hexadecimal = digits.size() > 2 && digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X');
  if (hexadecimal) digits.remove_prefix(2);
  if (digits.empty() || digits.front() == '-') return std::nullopt;
  long long value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, hexadecimal ? 16 : 10);
  if (error != std::errc() || end == digits.data()) return std::nullopt;
  if (end != digits.data() + digits.size() && !std::isspace(static_cast<unsigned char>(*end))) return std::nullopt;
  return negative ? -value : value;
}

std::unique_ptr<Tree> sub_tree(std::shared_ptr<const Tree> tree, std::string folder) {
  while (!folder.empty() && folder.back() == '/') folder.pop_back();
  return std::make_unique<SubTree>(std::move(tree), std::move(folder));
}

}  // namespace dsinfer::topology
