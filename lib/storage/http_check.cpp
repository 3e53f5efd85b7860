// What an answer must be, and what of it may stand in a message.
#include <fmt/format.h>

#include "storage/http_client.hpp"

namespace dsinfer {
namespace {

// As HTTP's Basic authorization writes a name and a password. RFC 4648.
std::string base64(std::string_view text) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t at = 0; at < text.size(); at += 3) {
    uint32_t bits = 0;
    for (size_t i = 0; i < 3; ++i) bits = bits << 8 | (at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u);
    for (size_t i = 0; i < 4; ++i) out += at + i > text.size() ? '=' : kDigits[bits >> (18 - 6 * i) & 63];
  }
  return out;
}

// What was sent to the server to prove who asks.
std::vector<std::string> secrets_of(const HttpRequest& request) {
  std::vector<std::string> secrets{request.url.query};
  if (const std::string& user = request.url.user; !user.empty()) secrets.insert(secrets.end(), {base64(user), user, user.substr(user.find(':') + 1)});
  if (request.sign)
    for (const std::string& header : request.sign(request.url, ""))
      for (const std::string_view name : {"Authorization: Bearer ", "x-amz-security-token: "})
        if (header.starts_with(name)) secrets.push_back(header.substr(name.size()));
  std::erase_if(secrets, [](const std::string& secret) { return secret.size() < 4; });  // would tear words apart
  return secrets;
}

}  // namespace

std::string without_secrets(std::string text, const HttpRequest& request) {
  for (const std::string& secret : secrets_of(request))
    for (size_t at = text.find(secret); at != text.npos; at = text.find(secret, at + 3)) text.replace(at, secret.size(), "***");
  return text;
}

void check_answer(const HttpRequest& request, int64_t got, const HttpAnswer& answer) {
  const auto refuse = [&](const std::string& why) { throw Error(Error::io, fmt::format("{}: {} (asked for bytes from {} on)", request.name, why, request.first + got)); };
  if (!answer.content_encoding.empty() && answer.content_encoding != "identity") {
    refuse(fmt::format("answered with Content-Encoding {}, which was not asked for", shown(answer.content_encoding)));
  }
  const HttpIdentity& expected = request.expected;
  if (!expected.etag.empty() && !answer.etag.empty() && answer.etag != expected.etag) {
    refuse(fmt::format("changed since it was opened: ETag {}, was {}; load again", shown(answer.etag), shown(expected.etag)));
  }
  if (!expected.last_modified.empty() && !answer.last_modified.empty() && answer.last_modified != expected.last_modified) {
    refuse(fmt::format("changed since it was opened: Last-Modified {}, was {}; load again", shown(answer.last_modified), shown(expected.last_modified)));
  }
  const int64_t first = request.first + got, last = request.bytes < 0 ? -1 : request.first + request.bytes - 1;
  if (answer.status == 206) {
    const auto& range = answer.content_range;
    if (!range || range->first != first || (last >= 0 && range->last != last)) {
      refuse(range ? fmt::format("answered with bytes {} to {}", range->first, range->last) : "answered 206 without Content-Range");
    }
    if (expected.size >= 0 && range->total >= 0 && range->total != expected.size) {
      refuse(fmt::format("changed since it was opened: {} bytes long, was {}; load again", range->total, expected.size));
    }
    if (last < 0 && range->total >= 0 && range->last != range->total - 1) refuse(fmt::format("answered with bytes {} to {} of {}", range->first, range->last, range->total));
    return;
  }
  if (answer.status != 200) refuse(fmt::format("answered {} {}", answer.status, answer.reason));
  if (first > 0) refuse("answered with the whole file: the server does not do range requests, which reading models needs");
  const int64_t whole = expected.size >= 0 ? expected.size : request.bytes;
  if (request.bytes >= 0 && (whole != request.bytes || (answer.content_length && *answer.content_length != request.bytes))) {
    refuse("answered with the whole file: the server does not do range requests, which reading models needs");
  }
}

}  // namespace dsinfer
