#include "storage/aws_settings.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r");
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

std::string text_of(const std::filesystem::path& path) {
  std::error_code code;
  if (!std::filesystem::is_regular_file(path, code) || std::filesystem::file_size(path, code) > (1 << 20)) return {};
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Calls visit(section, key, value); keys that are indented belong to a nested setting and are left out.
template <typename Visit>
void for_each_setting(const std::string& text, Visit visit) {
  std::string section;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string whole = text.substr(at, end - at), line = trimmed(whole);
    at = end + 1;
    if (line.empty() || line[0] == '#' || line[0] == ';') continue;
    if (line[0] == '[') {
      section = trimmed(line.substr(1, line.find(']') - 1));
    } else if (const size_t equals = line.find('='); equals != std::string::npos && whole[0] != ' ' && whole[0] != '\t') {
      visit(section, trimmed(line.substr(0, equals)), trimmed(line.substr(equals + 1)));
    }
  }
}

bool has_section(const std::string& text, const std::string& section) {
  for (size_t at = text.find('['); at != std::string::npos; at = text.find('[', at + 1)) {
    if (at > 0 && text[at - 1] != '\n') continue;
    if (trimmed(text.substr(at + 1, text.find(']', at) - at - 1)) == section) return true;
  }
  return false;
}

}  // namespace

std::optional<std::string> ini_value(const std::string& text, const std::string& section, const std::string& key) {
  std::optional<std::string> found;
  for_each_setting(text, [&](const std::string& in, const std::string& name, const std::string& value) {
    if (in == section && name == key) found = value;
  });
  return found;
}

AwsSettings aws_settings(const Environment& environment) {
  const auto variable = [&](const char* name) {
    const char* value = environment(name);
    return std::string(value ? value : "");
  };
  const auto first_of = [](std::initializer_list<std::string> values) {
    for (const std::string& value : values) {
      if (!value.empty()) return value;
    }
    return std::string();
  };
  const std::string home = variable("HOME");
  const std::filesystem::path credentials_file = first_of({variable("AWS_SHARED_CREDENTIALS_FILE"), home + "/.aws/credentials"});
  const std::filesystem::path config_file = first_of({variable("AWS_CONFIG_FILE"), home + "/.aws/config"});
  const std::string asked = first_of({variable("AWS_PROFILE"), variable("AWS_DEFAULT_PROFILE")});
  const std::string profile = first_of({asked, "default"});
  const std::string in_config = profile == "default" ? profile : "profile " + profile;
  const std::string credentials_text = text_of(credentials_file), config_text = text_of(config_file);

  AwsSettings settings;
  settings.region = first_of({variable("AWS_REGION"), variable("AWS_DEFAULT_REGION"), ini_value(config_text, in_config, "region").value_or(""),
                              ini_value(credentials_text, profile, "region").value_or(""), "us-east-1"});
  settings.endpoint = first_of({variable("AWS_ENDPOINT_URL_S3"), variable("AWS_ENDPOINT_URL"), ini_value(config_text, in_config, "endpoint_url").value_or("")});
  const std::string key = variable("AWS_ACCESS_KEY_ID"), secret = variable("AWS_SECRET_ACCESS_KEY");
  if (key.empty() != secret.empty()) {
    throw Error(Error::invalid_argument, fmt::format("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together: {} is not set", key.empty() ? "the first" : "the second"));
  }
  if (!key.empty()) {
    settings.credentials = {key, secret, variable("AWS_SESSION_TOKEN")};
    settings.credentials_from = "AWS_ACCESS_KEY_ID";
    return settings;
  }
  if (!asked.empty() && !has_section(credentials_text, profile) && !has_section(config_text, in_config)) {
    throw Error(Error::not_found, fmt::format("AWS_PROFILE={}: no such profile in {} or {}", asked, credentials_file.string(), config_file.string()));
  }
  for (const auto& [text, section, file] : {std::tuple{&credentials_text, profile, credentials_file}, std::tuple{&config_text, in_config, config_file}}) {
    const auto id = ini_value(*text, section, "aws_access_key_id"), hidden = ini_value(*text, section, "aws_secret_access_key");
    if (!id || !hidden || id->empty() || hidden->empty()) continue;
    settings.credentials = {*id, *hidden, ini_value(*text, section, "aws_session_token").value_or("")};
    settings.credentials_from = fmt::format("profile {} of {}", profile, file.string());
    break;
  }
  return settings;
}

}  // namespace dsinfer
