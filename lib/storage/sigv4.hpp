/// AWS Signature Version 4, as S3-compatible stores want it. Pure.
/// Source: "Create a signed AWS API request", AWS IAM user guide.
#pragma once
#include <ctime>
#include <string>
#include <utility>
#include <vector>

#include "dsinfer/export.hpp"

namespace dsinfer {

struct AwsCredentials {
  std::string key, secret, token;  ///< token: of temporary credentials; may be empty
  bool none() const { return key.empty(); }
};

struct SigV4Request {
  std::string method = "GET";
  std::string host;                ///< as the Host header has it: with the port unless it is the scheme's own
  std::string path;                ///< percent-encoded once, as it is asked for
  std::string query;               ///< as it is asked for, without "?"
  std::vector<std::pair<std::string, std::string>> headers;  ///< further ones to sign
  std::string payload = "UNSIGNED-PAYLOAD";                  ///< or the SHA-256 of the body, hex
};

/// Header lines to send: x-amz-content-sha256, x-amz-date, x-amz-security-token where there is a token, Authorization.
DSINFER_INTERNAL std::vector<std::string> sign_v4(const SigV4Request& request, const AwsCredentials& credentials, const std::string& region, const std::string& service,
                                                  std::time_t now);

}  // namespace dsinfer
