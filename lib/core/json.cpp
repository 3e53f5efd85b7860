#include "core/json.hpp"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

// No file of ours nests deeper; nlohmann copies, compares and prints values recursively, which a hostile file could turn into a stack overflow.
constexpr int kMaxDepth = 200;
constexpr size_t kMaxText = size_t{1} << 30;  // the longest tokenizers take some ten MB, lists of hashes a hundred

bool opens(Json::parse_event_t event) { return event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start; }

struct Shallow {
  std::string origin;
  bool operator()(int depth, Json::parse_event_t event, Json&) const {
    if (depth > kMaxDepth && opens(event)) throw Error(Error::bad_format, origin + ": JSON nested deeper than " + std::to_string(kMaxDepth));
    return true;
  }
};

// Refuses an object that has one key twice; nlohmann keeps the last one silently.
struct UniqueKeys {
  Shallow shallow;
  std::vector<std::set<std::string>> open;
  std::string twice;
  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    shallow(depth, event, parsed);
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key && !open.back().insert(parsed.get<std::string>()).second && twice.empty()) twice = parsed.get<std::string>();
    return true;
  }
};

// As it may stand in a message: a file's keys and values are as long as it likes, and may hold what a terminal obeys.
std::string clipped(std::string text) {
  constexpr size_t kShown = 300;
  if (text.size() > kShown) text = text.substr(0, kShown) + "...";
  for (char& c : text) c = static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return text;
}

}  // namespace

Json parse_json(std::string_view text, const std::string& origin, bool unique_keys) {
  try {
    if (!unique_keys) return Json::parse(text, Shallow{origin});
    UniqueKeys keys{{origin}, {}, {}};
    Json parsed = Json::parse(text, std::ref(keys));
    if (!keys.twice.empty()) throw Error(Error::bad_format, origin + ": key \"" + clipped(keys.twice) + "\" appears twice");
    return parsed;
  } catch (const Json::exception& e) {
    throw Error(Error::bad_format, origin + ": not valid JSON: " + clipped(e.what()));
  }
}

std::string read_text_file(const std::string& path) {
  // A named pipe would wait for whoever writes to it, for ever; those of a shell's <(…) have their writer.
  std::error_code code;
  const std::filesystem::file_status status = std::filesystem::status(path, code);
  const bool pipe = std::filesystem::is_fifo(status) && (path.starts_with("/dev/fd/") || path.starts_with("/proc/self/fd/"));
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status) && !pipe) throw Error(Error::io, path + ": not a regular file");
  const auto longer = [&] { return Error(Error::bad_format, path + ": longer than " + std::to_string(kMaxText) + " bytes, which no text that is read here is"); };
  if (std::filesystem::is_regular_file(status) && std::filesystem::file_size(path, code) > kMaxText && !code) throw longer();
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    const int reason = errno;
    if (reason == 0 || reason == ENOENT) throw Error(Error::not_found, path + ": no such file");
    throw Error(Error::io, path + ": cannot be opened: " + std::strerror(reason));
  }
  std::string text;
  std::vector<char> piece(64 << 10);
  while (in.read(piece.data(), static_cast<std::streamsize>(piece.size())) || in.gcount() > 0) {
    text.append(piece.data(), static_cast<size_t>(in.gcount()));
    if (text.size() > kMaxText) throw longer();
  }
  if (in.bad()) throw Error(Error::io, path + ": cannot be read");
  return text;
}

JsonObject::JsonObject(const Json& object, std::string origin) : object_(&object), origin_(std::move(origin)) {
  if (!object.is_object()) throw Error(Error::bad_format, origin_ + ": expected an object, found " + object.type_name());
}

bool JsonObject::has(const char* key) const {
  const auto it = object_->find(key);
  return it != object_->end() && !it->is_null();
}

const Json& JsonObject::at(const char* key) const {
  const auto it = object_->find(key);
  if (it == object_->end()) throw Error(Error::bad_format, origin_ + ": key \"" + key + "\" is missing");
  return *it;
}

namespace {

[[noreturn]] void wrong_type(const std::string& origin, const char* key, const char* expected, const Json& found) {
  std::string shown = found.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (shown.size() > 60) shown = shown.substr(0, 57) + "...";
  throw Error(Error::bad_format, origin + ": key \"" + key + "\" should be " + expected + ", found " + shown);
}

int64_t to_integer(const std::string& origin, const char* key, const Json& value) {
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) wrong_type(origin, key, "a 64-bit integer", value);
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (std::nearbyint(number) == number && std::fabs(number) < 9e15) return static_cast<int64_t>(number);
  }
  wrong_type(origin, key, "an integer", value);
}

}  // namespace

int64_t JsonObject::integer(const char* key) const { return to_integer(origin_, key, at(key)); }
int64_t JsonObject::integer(const char* key, int64_t fallback) const { return has(key) ? integer(key) : fallback; }

double JsonObject::number(const char* key) const {
  const Json& value = at(key);
  if (!value.is_number()) wrong_type(origin_, key, "a number", value);
  return value.get<double>();
}
double JsonObject::number(const char* key, double fallback) const { return has(key) ? number(key) : fallback; }

bool JsonObject::boolean(const char* key, bool fallback) const {
  if (!has(key)) return fallback;
  const Json& value = at(key);
  if (!value.is_boolean()) wrong_type(origin_, key, "true or false", value);
  return value.get<bool>();
}

std::string JsonObject::string(const char* key) const {
  const Json& value = at(key);
  if (!value.is_string()) wrong_type(origin_, key, "a string", value);
  return value.get<std::string>();
}
std::string JsonObject::string(const char* key, const std::string& fallback) const { return has(key) ? string(key) : fallback; }

std::vector<int64_t> JsonObject::integers(const char* key) const {
  if (!has(key)) return {};
  const Json& value = at(key);
  if (!value.is_array()) return {integer(key)};
  std::vector<int64_t> result;
  for (const Json& element : value) result.push_back(to_integer(origin_, key, element));
  return result;
}

JsonObject JsonObject::object(const char* key) const { return JsonObject(at(key), origin_ + "." + key); }

}  // namespace dsinfer
