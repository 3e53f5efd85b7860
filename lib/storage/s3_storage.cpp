#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "dsinfer/error.hpp"
#include "storage/aws_settings.hpp"
#include "storage/http_storage.hpp"

namespace dsinfer {
namespace {

// Where a bucket is, which is learnt from its store where the settings are wrong about it.
struct Bucket {
  std::string name, prefix;
  AwsSettings settings;
  mutable std::mutex mutex;
  std::string region;

  std::string current_region() const {
    const std::lock_guard lock(mutex);
    return region;
  }
  Url url(const std::string& file) const;
  std::string remedy() const;
};

Url Bucket::url(const std::string& file) const {
  const std::string key = "/" + percent_encoded(prefix, true) + (prefix.empty() ? "" : "/") + percent_encoded(file);
  if (!settings.endpoint.empty()) {
    Url url = parse_url(settings.endpoint);
    while (url.path.ends_with('/')) url.path.pop_back();
    url.path += "/" + percent_encoded(name) + key;
    url.query.clear();
    return url;
  }
  const std::string where = current_region();
  const std::string host = fmt::format("s3.{}.amazonaws.com{}", where, where.starts_with("cn-") ? ".cn" : "");
  const bool in_path = name.find('.') != std::string::npos;  // certificates are for one name below the host
  return parse_url(in_path ? fmt::format("https://{}/{}{}", host, name, key) : fmt::format("https://{}.{}{}", name, host, key));
}

std::string Bucket::remedy() const {
  if (!settings.credentials.none()) {
    const std::string& key = settings.credentials.key;  // its end tells keys apart
    return fmt::format("the credentials of {} do not open it (key {}, region {}); check them, the bucket's policy, and the clock of this machine",
                       settings.credentials_from, key.size() > 8 ? "..." + key.substr(key.size() - 4) : "...", current_region());
  }
  return "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE with ~/.aws/credentials; those of instance metadata, web "
         "identity and single sign-on are not looked for (\"aws configure export-credentials --format env\" prints them)";
}

class S3Storage final : public HttpStorage {
 public:
  S3Storage(std::string name, std::shared_ptr<HttpClient> client, RequestOf request_of, std::shared_ptr<Bucket> bucket)
      : HttpStorage(std::move(name), std::move(client), std::move(request_of)), bucket_(std::move(bucket)) {}

 private:
  bool ask_again(const HttpAnswer& answer) override {
    if (answer.status < 300 || answer.bucket_region.empty() || !bucket_->settings.endpoint.empty()) return false;
    const bool plausible = std::all_of(answer.bucket_region.begin(), answer.bucket_region.end(), [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
    const std::lock_guard lock(bucket_->mutex);
    if (!plausible || bucket_->region == answer.bucket_region) return false;
    bucket_->region = answer.bucket_region;
    return true;
  }
  std::shared_ptr<Bucket> bucket_;
};

}  // namespace

std::unique_ptr<Storage> open_s3(const std::string& model, const StorageOptions& options) {
  std::string rest = model.substr(model.find("://") + 3);
  while (rest.ends_with('/')) rest.pop_back();
  auto bucket = std::make_shared<Bucket>();
  const size_t slash = rest.find('/');
  bucket->name = rest.substr(0, slash);
  bucket->prefix = slash == std::string::npos ? "" : rest.substr(slash + 1);
  const bool valid = bucket->name.size() >= 3 && bucket->name.size() <= 255 &&
                     bucket->name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == std::string::npos;
  if (!valid) throw Error(Error::invalid_argument, fmt::format("{}: expected s3://bucket/prefix", shown(model)));
  bucket->settings = aws_settings([](const char* name) -> const char* { return std::getenv(name); });
  bucket->region = bucket->settings.region;
  bucket->url("");  // an endpoint that is no URL is told now
  const auto request_of = [bucket](const std::string& file) {
    HttpRequest request;
    request.url = bucket->url(file);
    request.name = fmt::format("s3://{}/{}{}{}", bucket->name, bucket->prefix, bucket->prefix.empty() ? "" : "/", file);
    request.access_remedy = bucket->remedy();
    if (bucket->settings.credentials.none()) return request;
    request.sign = [bucket](const Url& url, const std::string&) {
      SigV4Request to_sign;
      to_sign.host = url.host;
      to_sign.path = url.path;
      to_sign.query = url.query;
      return sign_v4(to_sign, bucket->settings.credentials, bucket->current_region(), "s3", std::time(nullptr));
    };
    return request;
  };
  return std::make_unique<S3Storage>("s3://" + rest, std::make_shared<HttpClient>(options), request_of, bucket);
}

}  // namespace dsinfer
