#include "storage/http_storage.hpp"

#include <fmt/format.h>

#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

class HttpSource final : public Source {
 public:
  HttpSource(std::shared_ptr<HttpClient> client, HttpRequest request) : client_(std::move(client)), request_(std::move(request)) { request_.stop = &stop_; }
  const std::string& name() const override { return request_.name; }
  int64_t size() const override { return request_.expected.size; }
  std::string version() const override { return request_.expected.etag.empty() ? request_.expected.last_modified : request_.expected.etag; }
  void interrupt() override { stop_ = true; }
  void read(int64_t offset, std::span<std::byte> out) override {
    const auto bytes = static_cast<int64_t>(out.size());
    if (offset < 0 || offset > size() || bytes > size() - offset) {
      throw Error(Error::io, fmt::format("{}: ends at byte {}, expected {} bytes from {} on", name(), size(), bytes, offset));
    }
    if (out.empty()) return;
    HttpRequest request = request_;
    request.first = offset;
    request.bytes = bytes;
    client_->get(request, [&](int64_t at, std::span<const std::byte> got) { std::copy(got.begin(), got.end(), out.begin() + at); });
  }

 private:
  std::shared_ptr<HttpClient> client_;
  HttpRequest request_;
  std::atomic<bool> stop_ = false;
};

}  // namespace

HttpStorage::HttpStorage(std::string name, std::shared_ptr<HttpClient> client, RequestOf request_of)
    : name_(std::move(name)), client_(std::move(client)), request_of_(std::move(request_of)) {}

HttpAnswer HttpStorage::probe(const std::string& file) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto known = known_.find(file); known != known_.end()) return known->second;
  }
  HttpAnswer answer = client_->probe(request_of_(file));
  if (ask_again(answer)) answer = client_->probe(request_of_(file));
  const std::lock_guard lock(mutex_);
  if (answer.status == 200 || answer.status == 206) any_there_ = true;
  known_[file] = answer;
  return answer;
}

bool HttpStorage::exists(const std::string& file) {
  const HttpAnswer answer = probe(file);
  if (answer.status == 200 || answer.status == 206 || answer.status == 416) return true;
  if (answer.status == 404 || answer.status == 410) return false;
  // An object store that may not be listed says 403 of what is not there. Where other files can be read, that is what it means.
  const std::lock_guard lock(mutex_);
  if (answer.status == 403 && any_there_) return false;
  throw HttpClient::refusal(request_of_(file), answer);
}

std::unique_ptr<Source> HttpStorage::open(const std::string& file) {
  HttpRequest request = request_of_(file);
  request.expected = identity_of(request, probe(file));
  return std::make_unique<HttpSource>(client_, std::move(request));
}

HttpIdentity HttpStorage::identity_of(const HttpRequest& request, const HttpAnswer& answer) {
  HttpIdentity identity{-1, answer.etag, answer.last_modified};
  if (answer.status == 206 || answer.status == 416) {
    if (answer.content_range) identity.size = answer.content_range->total;
    if (answer.status == 416 && identity.size != 0) throw HttpClient::refusal(request, answer);
  } else if (answer.status == 200) {
    identity.size = answer.content_length.value_or(-1);
  } else {
    throw HttpClient::refusal(request, answer);
  }
  if (identity.size < 0) throw Error(Error::io, fmt::format("{}: the server does not say how long it is (answered {} without a size)", request.name, answer.status));
  return identity;
}

std::unique_ptr<Storage> open_http(const std::string& model, const StorageOptions& options) {
  Url base = parse_url(model);
  while (base.path.ends_with('/')) base.path.pop_back();
  return std::make_unique<HttpStorage>(base.shown(), std::make_shared<HttpClient>(options), [base](const std::string& file) {
    HttpRequest request;
    request.url = base;
    request.url.path += "/" + percent_encoded(file);
    request.name = request.url.shown();
    request.access_remedy = "put user:password@ before the host, or the signature that the server wants behind \"?\"";
    return request;
  });
}

}  // namespace dsinfer
