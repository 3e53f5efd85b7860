/// Url: the parts of an http(s) URL. Pure.
#pragma once
#include <string>
#include <string_view>

#include "dsinfer/export.hpp"

namespace dsinfer {

struct Url {
  std::string scheme;    ///< http or https
  std::string user;      ///< "name:password"; empty = none. Stands in no message
  std::string host;      ///< with the port where one was given; lower case
  std::string path;      ///< begins with "/", percent-encoded
  std::string query;     ///< without "?". May hold a signature: stands in no message

  bool same_origin(const Url& other) const { return scheme == other.scheme && host == other.host; }
  std::string origin() const { return scheme + "://" + host; }
  /// As messages shall name it.
  std::string shown() const { return origin() + path; }
  /// As it is asked for.
  std::string request() const { return origin() + path + (query.empty() ? "" : "?" + query); }
};

/// Throws invalid_argument naming `text` (without its secrets) where it is no http(s) URL. A fragment is dropped.
DSINFER_INTERNAL Url parse_url(std::string_view text);

/// RFC 3986: all but A-Z a-z 0-9 - . _ ~ becomes %XX, "/" too unless `keep_slash`.
DSINFER_INTERNAL std::string percent_encoded(std::string_view text, bool keep_slash = false);

}  // namespace dsinfer
