// Variables that somebody set: nccl.conf and ~/.nccl.conf, env, export lines of shells and Dockerfiles, -e and -x of docker and mpirun,
// Kubernetes manifests; and the limit of locked memory as ulimit and /proc/<pid>/limits print it.
#include <algorithm>
#include <array>
#include <cctype>
#include <unordered_map>

#include "topology/importers.hpp"
#include "topology/lines.hpp"

namespace dsinfer::topology {
namespace {

constexpr size_t kMostSettings = 4096, kLongestValue = 4096;

bool is_variable(std::string_view name) {
  constexpr std::array<std::string_view, 14> prefixes = {"NCCL_", "UCX_", "GLOO_", "OMPI_MCA_", "FI_", "RDMAV_", "NVSHMEM_", "TORCH_NCCL_",
                                                         "IBV_", "MLX5_", "OFI_NCCL_", "PMIX_MCA_", "RCCL_", "TP_SOCKET_"};
  if (name.size() > 128) return false;
  const bool known = std::any_of(prefixes.begin(), prefixes.end(), [&](std::string_view p) { return name.starts_with(p) && name.size() > p.size(); });
  return known && std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) || c == '_'; });
}

// Words as a shell splits them, quotes taken off; a word that begins with # ends the line.
std::vector<std::string> shell_words(std::string_view line) {
  std::vector<std::string> words;
  std::string word;
  bool inside = false;
  char quote = 0;
  for (const char c : line.substr(0, 2 * kLongestValue)) {
    if (quote) {
      if (c == quote) quote = 0;
      else word += c;
    } else if (c == '"' || c == '\'') {
      quote = c;
      inside = true;
    } else if (std::isspace(static_cast<unsigned char>(c)) || c == ';') {
      if (inside) words.push_back(std::move(word));
      word.clear();
      inside = false;
    } else if (c == '#' && !inside) {
      break;
    } else {
      word += c;
      inside = true;
    }
  }
  if (inside) words.push_back(std::move(word));
  return words;
}

bool unexpanded(std::string_view value) {
  return value.find("{{") != value.npos || value.find("${") != value.npos || value.find("$(") != value.npos || value.find('`') != value.npos ||
         value.starts_with("$") || (value.starts_with("<") && value.ends_with(">"));
}

// The part of a line that holds assignments: behind the word that introduces them. Lines of prose and logs have no such part.
enum class Form { none, plain, shell, options };
struct Assignments { Form form = Form::none; std::string_view text; };

Assignments assignments_in(std::string_view line) {
  line = without_prompt(line);
  if (line.empty() || line.front() == '#') return {};
  constexpr std::array<std::string_view, 6> introductions = {"export ", "declare -x ", "ENV ", "env ", "set -x ", "typeset -x "};
  for (const std::string_view word : introductions) {
    if (line.starts_with(word)) return {Form::shell, line.substr(word.size())};
  }
  if (line.starts_with("setenv ")) return {Form::shell, line};
  if (line.starts_with("- ")) line = trim(line.substr(2));  // a list in YAML
  if (!line.empty() && line.front() == '"') line.remove_prefix(1);
  const size_t equal = line.find('=');
  if (equal != line.npos && is_variable(line.substr(0, equal))) return {Form::plain, line};
  constexpr std::array<std::string_view, 6> options = {" -e", " --env", " -x", "-e ", "--env", "-x "};
  for (const std::string_view option : options) {
    if (line.find(option) != line.npos && equal != line.npos) return {Form::options, line};
  }
  return {};
}

class Settings {
 public:
  explicit Settings(Capture& capture) : capture_(capture), remarks_(capture) {}

  void read(std::string_view text) {
    for (const std::string_view raw : split_lines(text)) {
      const std::string_view line = trim(raw);
      if (line.empty()) continue;
      if (memlock(line) || manifest(line)) continue;
      const auto [form, part] = assignments_in(line);
      if (form == Form::plain) plain(part, line);
      if (form == Form::shell) shell(part, line);
      if (form == Form::options) options(part, line);
      if (form == Form::none) odd(line);
    }
  }

 private:
  // NAME=value of a file: NCCL takes the rest of the line. What follows a space is a comment or a command in all that people write.
  void plain(std::string_view part, std::string_view line) {
    const auto words = shell_words(part);
    for (const std::string& word : words) {
      const size_t equal = word.find('=');
      if (equal == word.npos || !is_variable(std::string_view(word).substr(0, equal))) break;
      keep(word.substr(0, equal), std::string_view(word).substr(equal + 1), line, false);
    }
  }

  void shell(std::string_view part, std::string_view line) {
    const auto words = shell_words(part);
    if (words.size() >= 3 && words[0] == "setenv" && is_variable(words[1])) return keep(words[1], words[2], line, true);
    if (words.size() == 2 && is_variable(words[0]) && words[0].find('=') == std::string::npos) return keep(words[0], words[1], line, true);  // ENV NAME value
    for (const std::string& word : words) {
      const size_t equal = word.find('=');
      if (equal != word.npos && is_variable(std::string_view(word).substr(0, equal))) keep(word.substr(0, equal), std::string_view(word).substr(equal + 1), line, true);
    }
  }

  // docker run -e NAME=value --env=NAME=value, mpirun -x NAME=value.
  void options(std::string_view part, std::string_view line) {
    const auto words = shell_words(part);
    for (size_t i = 0; i < words.size(); ++i) {
      std::string_view word = words[i];
      const bool before = i > 0 && (words[i - 1] == "-e" || words[i - 1] == "--env" || words[i - 1] == "-x" || words[i - 1] == "-genv");
      if (word.starts_with("--env=")) word.remove_prefix(6);
      else if (word.starts_with("-e") && word.size() > 2) word.remove_prefix(2);
      else if (!before) continue;
      const size_t equal = word.find('=');
      if (equal != word.npos && is_variable(word.substr(0, equal))) keep(std::string(word.substr(0, equal)), word.substr(equal + 1), line, true);
    }
  }

  // "- name: NCCL_X" and below it "value: y" (Kubernetes); "NCCL_X: y" (compose, config maps).
  bool manifest(std::string_view line) {
    std::string_view bare = line.starts_with("- ") ? trim(line.substr(2)) : line;
    const auto [key, value] = key_value(bare);
    if (key == "name" && is_variable(unquoted(value))) {
      pending_ = std::string(unquoted(value));
      return true;
    }
    if (key == "value" && !pending_.empty()) {
      keep(pending_, unquoted(value), line, true);
      pending_.clear();
      return true;
    }
    pending_.clear();
    const std::string_view name = unquoted(key);
    if (!is_variable(name) || bare.find("::") != bare.npos) return false;
    std::string_view plain_value = value;
    if (!plain_value.empty() && plain_value.back() == ',') plain_value.remove_suffix(1);  // JSON
    if (plain_value.find(' ') != plain_value.npos && plain_value.front() != '"' && plain_value.front() != '\'') return false;  // prose: "NCCL_X: what it does"
    keep(std::string(name), unquoted(plain_value), line, true);
    return true;
  }

  static std::string_view unquoted(std::string_view text) {
    text = trim(text);
    if (text.size() >= 2 && (text.front() == '"' || text.front() == '\'') && text.back() == text.front()) return text.substr(1, text.size() - 2);
    return text;
  }

  // "max locked memory (kbytes, -l) unlimited"; "Max locked memory  65536  65536  bytes" (soft, hard).
  bool memlock(std::string_view line) {
    if (!lower_case(line.substr(0, 17)).starts_with("max locked memory")) return false;
    const auto words = words_of(line);
    const bool process = words.back() == "bytes" && words.size() >= 6;
    const std::string_view value = process ? words[3] : words.back();
    const auto number = integer_of(value);
    if (value == "unlimited") capture_.node.host.memlock_bytes = -1;
    else if (number && *number >= 0 && *number < (int64_t{1} << 50)) capture_.node.host.memlock_bytes = process ? *number : *number * 1024;
    else remarks_.garbled(line);
    return true;
  }

  void odd(std::string_view line) {
    const size_t equal = line.find('=');
    if (equal == line.npos || equal == 0 || line[equal - 1] != ' ' || !is_variable(trim(line.substr(0, equal)))) return;
    remarks_.add("garbled", Severity::warning, "A setting has spaces around '='; NCCL and shells do not take it as that variable.", line, "Write NAME=value.");
  }

  // Of a name set twice a file's first counts (NCCL does not overwrite), a shell's last.
  void keep(const std::string& name, std::string_view given, std::string_view line, bool last_counts) {
    const std::string value = clean_text(given.substr(0, kLongestValue));
    if (unexpanded(value)) {
      return remarks_.add("unexpanded-template", Severity::warning, name + " holds a template that nobody filled in; it is no value.", line,
                          "Fill it in where the file is made, or remove the line.");
    }
    auto& settings = capture_.node.settings;
    const auto known = index_.find(name);
    if (known == index_.end()) {
      if (settings.size() >= kMostSettings) return;
      index_.emplace(name, settings.size());
      settings.push_back({name, value, capture_.name});
    } else if (settings[known->second].value != value) {
      remarks_.add("set-twice", Severity::info, name + " is set twice with different values; " + (last_counts ? "the last" : "the first") + " counts.", line);
      if (last_counts) settings[known->second].value = value;
    }
  }

  Capture& capture_;
  Remarks remarks_;
  std::unordered_map<std::string, size_t> index_;
  std::string pending_;
};

bool is_settings(std::string_view text) {
  return any_line(text, [](std::string_view line) {
    if (line.size() >= 17 && lower_case(line.substr(0, 17)) == "max locked memory") return true;
    if (line.find("_") == line.npos || line.find(" NCCL INFO ") != line.npos) return false;
    const auto [form, part] = assignments_in(line);
    if (form == Form::plain) return true;
    if (form != Form::none) {
      for (const std::string& word : shell_words(part)) {
        std::string_view name = word;
        if (name.starts_with("--env=")) name.remove_prefix(6);
        else if (name.starts_with("-e")) name.remove_prefix(2);
        if (is_variable(name.substr(0, name.find('=')))) return true;
      }
    }
    const std::string_view bare = line.starts_with("- ") ? trim(line.substr(2)) : line;
    const auto [key, value] = key_value(bare);
    const auto strip = [](std::string_view t) { return t.size() > 2 && (t.front() == '"' || t.front() == '\'') ? t.substr(1, t.size() - 2) : t; };
    return is_variable(strip(key)) || (key == "name" && is_variable(strip(value)));
  });
}

void read_settings(Capture& capture) { Settings(capture).read(capture.text); }

}  // namespace

const Importer kSettings{"settings", is_settings, read_settings};

}  // namespace dsinfer::topology
