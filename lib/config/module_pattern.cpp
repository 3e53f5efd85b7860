#include "config/module_pattern.hpp"

#include <bitset>
#include <cctype>
#include <optional>
#include <string>
#include <vector>

namespace dsinfer {
namespace {

constexpr size_t kMostAlternatives = 256, kMostLength = 4096;

// One character's worth of a pattern, and how often it may come.
struct Atom {
  std::bitset<256> set;
  bool none = false, many = false;  // "?" or "*", "*" or "+"
  bool end = false;                 // "$"
};

// Groups are multiplied out before: "a(b|c)d" is "abd" and "acd". Nothing for what this reader does not know.
std::optional<std::vector<std::string>> without_groups(const std::string& pattern) {
  std::vector<std::string> todo = {pattern}, flat;
  while (!todo.empty()) {
    const std::string text = todo.back();
    todo.pop_back();
    size_t open = std::string::npos, depth = 0, close = std::string::npos;
    std::vector<size_t> bars;  // of the first group, or of the whole pattern
    bool in_set = false;
    for (size_t i = 0; i < text.size() && close == std::string::npos; ++i) {
      const char c = text[i];
      if (c == '\\') { ++i; continue; }
      if (in_set) { in_set = c != ']'; continue; }
      if (c == '[') in_set = true;
      if (c == '(' && depth++ == 0) open = i, bars.clear();
      if (c == '|' && depth == (open == std::string::npos ? 0u : 1u)) bars.push_back(i);
      if (c == ')' && (depth == 0 || --depth == 0)) close = i;
    }
    if (depth > 0 || (close != std::string::npos && open == std::string::npos) || in_set) return {};
    if (open == std::string::npos && bars.empty()) { flat.push_back(text); continue; }
    const bool group = open != std::string::npos;
    if (group && close + 1 < text.size() && std::string_view("*+?{").find(text[close + 1]) != std::string_view::npos) return {};
    size_t begin = group ? open + 1 : 0;
    if (group && text.compare(begin, 2, "?:") == 0) begin += 2;
    bars.push_back(group ? close : text.size());
    for (const size_t bar : bars) {
      todo.push_back(group ? text.substr(0, open) + text.substr(begin, bar - begin) + text.substr(close + 1) : text.substr(begin, bar - begin));
      begin = bar + 1;
    }
    if (todo.size() + flat.size() > kMostAlternatives) return {};
  }
  return flat;
}

std::optional<std::bitset<256>> escaped(char c) {
  std::bitset<256> set;
  if (c == 'd') for (int i = '0'; i <= '9'; ++i) set.set(static_cast<size_t>(i));
  else if (c == 'w') for (int i = 0; i < 128; ++i) { if (std::isalnum(i) || i == '_') set.set(static_cast<size_t>(i)); }
  else if (std::isalnum(static_cast<unsigned char>(c))) return {};
  else set.set(static_cast<unsigned char>(c));
  return set;
}

// "[…]" from `at`, which is left behind it.
std::optional<std::bitset<256>> bracketed(std::string_view text, size_t& at) {
  std::bitset<256> set;
  const bool negated = at + 1 < text.size() && text[at + 1] == '^';
  size_t i = at + (negated ? 2 : 1);
  for (; i < text.size() && text[i] != ']'; ++i) {
    if (text[i] == '\\') {
      if (++i >= text.size()) return {};
      const auto some = escaped(text[i]);
      if (!some) return {};
      set |= *some;
    } else if (i + 2 < text.size() && text[i + 1] == '-' && text[i + 2] != ']') {
      for (int c = static_cast<unsigned char>(text[i]); c <= static_cast<unsigned char>(text[i + 2]); ++c) set.set(static_cast<size_t>(c));
      i += 2;
    } else {
      set.set(static_cast<unsigned char>(text[i]));
    }
  }
  if (i >= text.size()) return {};
  at = i + 1;
  return negated ? ~set : set;
}

std::optional<std::vector<Atom>> atoms(std::string_view text) {
  std::vector<Atom> out;
  for (size_t i = 0; i < text.size();) {
    Atom atom;
    const char c = text[i];
    if (c == '^' && i == 0) { ++i; continue; }
    if (c == '$' && i + 1 == text.size()) {
      atom.end = true;
      ++i;
    } else if (c == '[') {
      const auto set = bracketed(text, i);
      if (!set) return {};
      atom.set = *set;
    } else if (c == '\\') {
      const auto set = i + 1 < text.size() ? escaped(text[i + 1]) : std::nullopt;
      if (!set) return {};
      atom.set = *set;
      i += 2;
    } else if (std::string_view("*+?{}^$").find(c) != std::string_view::npos) {
      return {};
    } else {
      if (c == '.') atom.set.set(); else atom.set.set(static_cast<unsigned char>(c));
      ++i;
    }
    if (i < text.size() && !atom.end && std::string_view("*+?").find(text[i]) != std::string_view::npos) {
      atom.none = text[i] != '+';
      atom.many = text[i] != '?';
      if (++i < text.size() && text[i] == '?') ++i;  // shortest first: the same matches
    }
    out.push_back(atom);
  }
  return out;
}

// States: how many atoms are behind us; all that can be are followed at once.
bool matches(const std::vector<Atom>& atoms, std::string_view name) {
  std::vector<char> now(atoms.size() + 1), next;
  now[0] = 1;
  for (size_t at = 0;; ++at) {
    for (size_t s = 0; s < atoms.size(); ++s)
      if (now[s] && (atoms[s].none || (atoms[s].end && at == name.size()))) now[s + 1] = 1;
    if (now[atoms.size()]) return true;
    if (at == name.size()) return false;
    next.assign(now.size(), 0);
    for (size_t s = 0; s < atoms.size(); ++s) {
      if (!now[s] || !atoms[s].set[static_cast<unsigned char>(name[at])]) continue;
      next[s + 1] = 1;
      if (atoms[s].many) next[s] = 1;
    }
    now.swap(next);
  }
}

}  // namespace

bool matches_pattern(std::string_view pattern, std::string_view name) {
  if (pattern.size() > kMostLength) return false;
  const auto flat = without_groups(std::string(pattern));
  if (!flat) return false;
  for (const std::string& one : *flat)
    if (const auto list = atoms(one); list && matches(*list, name)) return true;
  return false;
}

}  // namespace dsinfer
