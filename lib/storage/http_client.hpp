/// HttpClient: GET of whole files and ranges with retries, resumption and checks, over libcurl. Any number of threads.
#pragma once
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dsinfer/error.hpp"
#include "storage/http_connections.hpp"

namespace dsinfer {

/// A file as its server described it. Empty and -1: not known.
struct HttpIdentity {
  int64_t size = -1;
  std::string etag, last_modified;
};

/// Where a file's last redirect led: hubs count the requests that they redirect, and a model is read in thousands.
struct HttpShortcut {
  std::mutex mutex;
  std::optional<Url> url;
  std::chrono::steady_clock::time_point learnt;
};

struct HttpRequest {
  Url url;
  std::string name;                  ///< for errors
  int64_t first = 0, bytes = -1;     ///< the range; bytes -1: all from `first` on
  HttpIdentity expected;             ///< what the answer must agree with
  /// Headers with credentials, made anew for each attempt; sent to url's origin alone. `range`: the value of the Range header, may be empty.
  std::function<std::vector<std::string>(const Url& url, const std::string& range)> sign;
  std::shared_ptr<HttpShortcut> shortcut;  ///< redirects are remembered in it; may be null
  std::string access_remedy;         ///< said where the server answers 401 or 403
  const std::atomic<bool>* stop = nullptr;  ///< ends it soon with Error::cancelled
};

/// Bytes as they come, in order: `at` counts from 0 = the first byte asked for. May throw, which ends the request.
using HttpSink = std::function<void(int64_t at, std::span<const std::byte> bytes)>;

class DSINFER_INTERNAL HttpClient {
 public:
  explicit HttpClient(const StorageOptions& options);

  /// All bytes of the range, and no other. Throws io, not_found, cancelled.
  HttpAnswer get(const HttpRequest& request, const HttpSink& sink);
  /// Asks for the first byte alone: status 206, or 200 from servers without ranges, 416 for empty files; every refusal that will not pass is given back.
  HttpAnswer probe(const HttpRequest& request);
  /// What a refused answer means, for `request`.
  static Error refusal(const HttpRequest& request, const HttpAnswer& answer);

 private:
  HttpOutcome follow(const HttpRequest& request, const std::string& range, HttpWatch& watch);
  void pause(const HttpRequest& request, int failures, const HttpOutcome& last);
  [[noreturn]] void give_up(const HttpRequest& request, int attempts, std::chrono::steady_clock::time_point since, const HttpOutcome& last);

  StorageOptions options_;
  HttpConnections connections_;
};

/// `text` of a server, in which it may have sent back the credentials that it got, without them.
DSINFER_INTERNAL std::string without_secrets(std::string text, const HttpRequest& request);

/// Throws io unless `answer` is what `request`, resumed after `got` bytes, asked for: that range, of that content, not encoded.
DSINFER_INTERNAL void check_answer(const HttpRequest& request, int64_t got, const HttpAnswer& answer);

}  // namespace dsinfer
