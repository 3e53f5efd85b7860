#include "storage/sigv4.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "core/sha256.hpp"

namespace dsinfer {
namespace {

std::string hash(std::string_view text) {
  Sha256 sha;
  sha.add(text);
  return sha.hex();
}

std::string raw(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

// RFC 2104; gives hex.
std::string hmac(std::string key, std::string_view text) {
  if (key.size() > 64) key = raw(hash(key));
  key.resize(64, '\0');
  std::string inner = key, outer = key;
  for (char& c : inner) c = static_cast<char>(c ^ 0x36);
  for (char& c : outer) c = static_cast<char>(c ^ 0x5c);
  return hash(outer + raw(hash(inner + std::string(text))));
}

std::string sorted_query(const std::string& query) {
  std::vector<std::pair<std::string, std::string>> parts;
  for (size_t at = 0; at < query.size();) {
    const size_t end = std::min(query.find('&', at), query.size());
    const std::string part = query.substr(at, end - at);
    const size_t equals = part.find('=');
    parts.emplace_back(part.substr(0, equals), equals == std::string::npos ? "" : part.substr(equals + 1));
    at = end + 1;
  }
  std::sort(parts.begin(), parts.end());
  std::string text;
  for (const auto& [name, value] : parts) text += (text.empty() ? "" : "&") + name + "=" + value;
  return text;
}

std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  return text;
}

// Spaces at the ends go, runs of them become one.
std::string collapsed(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == ' ' && (out.empty() || out.back() == ' ')) continue;
    out += c;
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

}  // namespace

std::vector<std::string> sign_v4(const SigV4Request& request, const AwsCredentials& credentials, const std::string& region, const std::string& service, std::time_t now) {
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char stamp[32];
  std::strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%SZ", &utc);
  const std::string date(stamp, 8);

  std::map<std::string, std::string> headers;
  for (const auto& [name, value] : request.headers) headers[lower(name)] = collapsed(value);
  headers["host"] = request.host;
  headers["x-amz-content-sha256"] = request.payload;
  headers["x-amz-date"] = stamp;
  if (!credentials.token.empty()) headers["x-amz-security-token"] = credentials.token;
  std::string lines, names;
  for (const auto& [name, value] : headers) {
    lines += name + ":" + value + "\n";
    names += (names.empty() ? "" : ";") + name;
  }
  const std::string canonical = fmt::format("{}\n{}\n{}\n{}\n{}\n{}", request.method, request.path, sorted_query(request.query), lines, names, request.payload);
  const std::string scope = fmt::format("{}/{}/{}/aws4_request", date, region, service);
  const std::string to_sign = fmt::format("AWS4-HMAC-SHA256\n{}\n{}\n{}", stamp, scope, hash(canonical));
  std::string key = "AWS4" + credentials.secret;
  for (const std::string& part : {date, region, service, std::string("aws4_request")}) key = raw(hmac(key, part));

  std::vector<std::string> out{"x-amz-content-sha256: " + request.payload, "x-amz-date: " + std::string(stamp)};
  if (!credentials.token.empty()) out.push_back("x-amz-security-token: " + credentials.token);
  out.push_back(fmt::format("Authorization: AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={}, Signature={}", credentials.key, scope, names, hmac(key, to_sign)));
  return out;
}

}  // namespace dsinfer
