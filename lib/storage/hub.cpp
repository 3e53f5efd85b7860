#include "storage/hub.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/json.hpp"
#include "dsinfer/error.hpp"
#include "storage/http_answer.hpp"

namespace dsinfer {
namespace {

bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool is_name(std::string_view text) {
  const auto plain = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.'; };
  return !text.empty() && text.size() <= 96 && text[0] != '.' && std::all_of(text.begin(), text.end(), plain);
}

}  // namespace

HubName parse_hub_name(const std::string& model) {
  std::string rest = model.substr(std::min(model.size(), model.find("://") + 3));
  while (rest.ends_with('/')) rest.pop_back();
  HubName name;
  const size_t at = rest.find('@');
  name.repo = rest.substr(0, at);
  name.revision = at == std::string::npos ? "main" : rest.substr(at + 1);
  const size_t slash = name.repo.find('/');
  const bool good = slash == std::string::npos ? is_name(name.repo) : is_name(std::string_view(name.repo).substr(0, slash)) && is_name(std::string_view(name.repo).substr(slash + 1));
  const bool good_revision = !name.revision.empty() && name.revision.size() <= 200 && shown(name.revision) == name.revision;
  if (!good || !good_revision) throw Error(Error::invalid_argument, fmt::format("{}: expected hf://org/repo or hf://org/repo@revision", shown(model)));
  return name;
}

bool is_commit(std::string_view text) { return text.size() >= 40 && text.size() <= 64 && is_hex(text); }

std::string commit_of_json(std::string_view text, const std::string& origin) {
  const Json json = parse_json(text, origin);
  const std::string commit = JsonObject(json, origin).string("sha");
  if (!is_commit(commit)) throw Error(Error::bad_format, fmt::format("{}: sha is {}, expected the 40 hex digits of a commit", origin, shown(commit)));
  return commit;
}

std::optional<std::string> sha256_of_etag(std::string_view etag) {
  if (etag.starts_with("W/")) etag.remove_prefix(2);
  if (etag.size() >= 2 && etag.front() == '"' && etag.back() == '"') etag = etag.substr(1, etag.size() - 2);
  return etag.size() == 64 && is_hex(etag) ? std::optional<std::string>(etag) : std::nullopt;
}

}  // namespace dsinfer
