#include "storage/http_answer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
  }
  return out;
}

int64_t length_of(std::string_view name, std::string_view value) {
  const auto count = parse_count(value);
  if (!count) throw Error(Error::bad_format, fmt::format("{}: {}, expected a number of bytes", shown(name), shown(value)));
  return *count;
}

}  // namespace

std::optional<int64_t> parse_count(std::string_view text, int64_t max) {
  int64_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || text[0] == '-' || code != std::errc() || end != text.data() + text.size() || value > max) return std::nullopt;
  return value;
}

std::optional<ContentRange> parse_content_range(std::string_view text) {
  text = trimmed(text);
  if (lower(text.substr(0, 6)) != "bytes ") return std::nullopt;
  text = trimmed(text.substr(6));
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  const std::string_view range = text.substr(0, slash), total = text.substr(slash + 1);
  ContentRange found;
  if (total != "*") {
    const auto count = parse_count(total);
    if (!count) return std::nullopt;
    found.total = *count;
  }
  if (range == "*") return found;
  const size_t dash = range.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const auto first = parse_count(range.substr(0, dash)), last = parse_count(range.substr(dash + 1));
  if (!first || !last || *last < *first || (found.total >= 0 && *last >= found.total)) return std::nullopt;
  found.first = *first;
  found.last = *last;
  return found;
}

std::string shown(std::string_view text, size_t limit) {
  std::string out;
  for (const char c : trimmed(text).substr(0, limit)) out += c >= 0x20 && c < 0x7f ? c : (c == '\n' || c == '\r' || c == '\t') ? ' ' : '?';
  if (trimmed(text).size() > limit) out += "...";
  return out;
}

void HttpAnswer::add_line(std::string_view line) {
  header_bytes_ += line.size();
  if (header_bytes_ > kMaxHeaderBytes) throw Error(Error::bad_format, fmt::format("headers of more than {} KiB", kMaxHeaderBytes / 1024));
  line = trimmed(line);
  if (line.substr(0, 5) == "HTTP/") {
    const size_t bytes = header_bytes_;
    *this = {};
    header_bytes_ = bytes;
    const size_t space = line.find(' ');
    const std::string_view rest = space == std::string_view::npos ? std::string_view{} : trimmed(line.substr(space));
    const auto code = parse_count(rest.substr(0, 3), 999);
    if (!code || *code < 100 || (rest.size() > 3 && rest[3] != ' ')) throw Error(Error::bad_format, fmt::format("status line: {}", shown(line)));
    status = static_cast<int>(*code);
    reason = shown(rest.substr(3));
    return;
  }
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return;
  const std::string name = lower(trimmed(line.substr(0, colon)));
  const std::string_view value = trimmed(line.substr(colon + 1));
  if (name == "content-length") {
    const int64_t length = length_of(name, value);
    if (content_length && *content_length != length) throw Error(Error::bad_format, fmt::format("Content-Length twice: {} and {}", *content_length, length));
    content_length = length;
  } else if (name == "content-range") {
    content_range = parse_content_range(value);
    if (!content_range) throw Error(Error::bad_format, fmt::format("Content-Range: {}", shown(value)));
  } else if (name == "x-linked-size") {
    linked_size = length_of(name, value);
  } else {
    struct Field {
      std::string_view name;
      std::string* value;
    };
    for (const auto& [known, field] : {Field{"etag", &etag}, Field{"last-modified", &last_modified}, Field{"location", &location}, Field{"content-encoding", &content_encoding},
                                       Field{"transfer-encoding", &transfer_encoding}, Field{"retry-after", &retry_after}, Field{"date", &date},
                                       Field{"x-repo-commit", &repo_commit}, Field{"x-linked-etag", &linked_etag}, Field{"x-error-code", &error_code},
                                       Field{"x-error-message", &error_message}, Field{"x-amz-bucket-region", &bucket_region}}) {
      if (name == known) *field = value;
    }
  }
}

}  // namespace dsinfer
