/// What the environment and the files in ~/.aws say of an S3 store.
#pragma once
#include <functional>
#include <optional>
#include <string>

#include "storage/sigv4.hpp"

namespace dsinfer {

struct AwsSettings {
  AwsCredentials credentials;   ///< none: requests are not signed
  std::string credentials_from; ///< "AWS_ACCESS_KEY_ID", "profile x of /…/credentials"; empty = none found
  std::string region;           ///< "us-east-1" where nobody says another
  std::string endpoint;         ///< of a store that is not AWS; empty = AWS
};

/// Environment variables; nullptr where unset.
using Environment = std::function<const char*(const char* name)>;

/// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, else AWS_PROFILE (or "default") of AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE; region
/// and endpoint likewise. Throws not_found for a profile that was asked for and is nowhere, invalid_argument for half a pair of keys.
DSINFER_INTERNAL AwsSettings aws_settings(const Environment& environment);

/// The value of `key` in section [section] of an INI file's text, as the AWS tools read it.
DSINFER_INTERNAL std::optional<std::string> ini_value(const std::string& text, const std::string& section, const std::string& key);

}  // namespace dsinfer
