/// HttpStorage: a folder of files behind http(s), and what S3 and the hub build on.
#pragma once
#include <mutex>
#include <unordered_map>

#include "storage/http_client.hpp"
#include "storage/schemes.hpp"

namespace dsinfer {

class HttpStorage : public Storage {
 public:
  using RequestOf = std::function<HttpRequest(const std::string& file)>;
  HttpStorage(std::string name, std::shared_ptr<HttpClient> client, RequestOf request_of);
  const std::string& name() const override { return name_; }
  bool exists(const std::string& file) override;
  std::unique_ptr<Source> open(const std::string& file) override;

  /// Asked once for each file.
  HttpAnswer probe(const std::string& file);
  HttpClient& client() { return *client_; }
  HttpRequest request_of(const std::string& file) const { return request_of_(file); }
  /// What the answer of probe() says of the file. Throws what it says instead.
  static HttpIdentity identity_of(const HttpRequest& request, const HttpAnswer& answer);

 protected:
  /// An answer has taught where the file really is.
  virtual bool ask_again(const HttpAnswer&) { return false; }

 private:
  std::string name_;
  std::shared_ptr<HttpClient> client_;
  RequestOf request_of_;
  std::mutex mutex_;
  std::unordered_map<std::string, HttpAnswer> known_;
  bool any_there_ = false;
};

}  // namespace dsinfer
