#include "storage/url.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "dsinfer/error.hpp"
#include "storage/http_answer.hpp"

namespace dsinfer {

std::string percent_encoded(std::string_view text, bool keep_slash) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' || c == '~';
    if (plain || (keep_slash && c == '/')) {
      out += c;
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

Url parse_url(std::string_view text) {
  Url url;
  const auto refuse = [&](const char* why) {
    // Up to the last "@" may be a name and a password, also where they hold what a URL writes as %XX.
    const size_t at = text.rfind('@'), scheme = text.find("://");
    const std::string_view safe = text.substr(0, std::min(text.find_first_of("?#"), at == std::string_view::npos || scheme == std::string_view::npos ? text.size() : scheme + 3));
    throw Error(Error::invalid_argument, fmt::format("{}: {}; expected http(s)://host[:port]/path", dsinfer::shown(safe), why));
  };
  const size_t scheme = text.find("://");
  if (scheme == std::string_view::npos) refuse("no scheme");
  const auto lower = [](std::string_view part) {
    std::string out(part);
    std::transform(out.begin(), out.end(), out.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    return out;
  };
  url.scheme = lower(text.substr(0, scheme));
  if (url.scheme != "http" && url.scheme != "https") refuse("neither http nor https");
  for (const char c : text) {
    if (c <= ' ' || c == 0x7f) refuse("a character that a URL writes as %XX");
  }
  std::string_view rest = text.substr(scheme + 3);
  rest = rest.substr(0, rest.find('#'));
  if (const size_t mark = rest.find('?'); mark != std::string_view::npos) {
    url.query = rest.substr(mark + 1);
    rest = rest.substr(0, mark);
  }
  const size_t slash = rest.find('/');
  std::string_view authority = rest.substr(0, slash);
  url.path = slash == std::string_view::npos ? "/" : std::string(rest.substr(slash));
  if (const size_t at = authority.rfind('@'); at != std::string_view::npos) {
    url.user = authority.substr(0, at);
    authority = authority.substr(at + 1);
  }
  url.host = lower(authority);
  const size_t colon = url.host.rfind(':');
  const bool has_port = colon != std::string::npos && url.host.find(']', colon) == std::string::npos;
  if (has_port) {
    const auto port = parse_count(std::string_view(url.host).substr(colon + 1), 65535);
    if (!port || *port == 0) refuse("its port is not a number up to 65535");
    if (*port == (url.scheme == "http" ? 80 : 443)) url.host.resize(colon);
  }
  if (url.host.empty() || url.host[0] == ':') refuse("no host");
  return url;
}

}  // namespace dsinfer
