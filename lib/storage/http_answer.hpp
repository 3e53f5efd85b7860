/// HttpAnswer: status line and headers of an answer, as far as we use them. Pure: fuzzed without a network.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "dsinfer/export.hpp"

namespace dsinfer {

/// "Content-Range: bytes 0-99/1000". total -1: the server does not know it. "bytes */1000", of a refused range, has first = last = -1.
struct ContentRange {
  int64_t first = -1, last = -1, total = -1;
  bool operator==(const ContentRange&) const = default;
};

struct HttpAnswer {
  int status = 0;                       ///< of the last status line; 0 = none came
  std::string reason;
  std::optional<int64_t> content_length;
  std::optional<ContentRange> content_range;
  std::optional<int64_t> linked_size;   ///< X-Linked-Size
  std::string etag, last_modified, location, content_encoding, transfer_encoding, retry_after, date;
  std::string repo_commit, linked_etag, error_code, error_message;  ///< the hub's X-Repo-Commit, X-Linked-Etag, X-Error-Code, X-Error-Message
  std::string bucket_region;            ///< S3's x-amz-bucket-region

  /// One line as it came, with or without its end. A status line begins the answer anew. Throws bad_format for a status line, length or range that makes
  /// no sense, and for headers of more than kMaxHeaderBytes.
  DSINFER_INTERNAL void add_line(std::string_view line);

 private:
  size_t header_bytes_ = 0;
};

inline constexpr size_t kMaxHeaderBytes = 256 * 1024;

/// "bytes 0-99/1000"; nothing where it is not of that form or contradicts itself.
DSINFER_INTERNAL std::optional<ContentRange> parse_content_range(std::string_view text);

/// Text from a server as it may stand in a message: one line, printable, at most `limit` characters.
DSINFER_INTERNAL std::string shown(std::string_view text, size_t limit = 200);

/// Decimal digits alone, not above `max`.
DSINFER_INTERNAL std::optional<int64_t> parse_count(std::string_view text, int64_t max = INT64_MAX);

}  // namespace dsinfer
