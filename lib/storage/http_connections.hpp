/// HttpConnections: one request and its answer at a time for each thread over libcurl, with connections kept for the next. What an answer means is HttpClient's.
#pragma once
#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "storage/http_answer.hpp"
#include "storage/storage.hpp"
#include "storage/url.hpp"

namespace dsinfer {

/// Looks at one exchange while it runs. What its functions throw ends the exchange and is kept in `error`.
struct HttpWatch {
  std::function<bool(const HttpAnswer&)> begin;           ///< the headers of a good answer; false = no more is wanted
  std::function<void(std::span<const std::byte>)> bytes;  ///< of its body
  const std::atomic<bool>* stop = nullptr;

  HttpAnswer answer;
  std::string body;          ///< the beginning of a refusal's
  std::exception_ptr error;
  bool began = false, enough = false;
  int64_t moved_bytes = 0;   ///< headers and body
  std::chrono::steady_clock::time_point moved = std::chrono::steady_clock::now();

  bool stopped() const { return stop && stop->load(std::memory_order_relaxed); }
  bool good() const { return answer.status >= 200 && answer.status < 300; }
  void start();              ///< the headers are whole
};

/// What came of one exchange.
struct HttpOutcome {
  HttpAnswer answer;
  bool whole = false;       ///< the answer came to its end, or to where it was told to end
  bool retry = false;       ///< otherwise: it may go better the next time
  std::string text;         ///< what went wrong
  std::string body;         ///< the beginning of a refusal's
};

/// Any number of threads.
class HttpConnections {
 public:
  explicit HttpConnections(const StorageOptions& options);
  HttpConnections(const HttpConnections&) = delete;
  HttpConnections& operator=(const HttpConnections&) = delete;
  ~HttpConnections();
  /// GET without redirects. Ends early where watch.stop becomes true, and with watch.error = cancelled where options.keep_going says so.
  HttpOutcome exchange(const Url& url, const std::vector<std::string>& headers, HttpWatch& watch);
  /// Asks options.keep_going, on the thread that made this. Throws cancelled.
  void check_going() const;

 private:
  struct Handle;
  class Lease;
  void set_up(Handle& handle, const Url& url, const std::string& address, HttpWatch& watch) const;

  StorageOptions options_;
  std::thread::id owner_ = std::this_thread::get_id();
  std::mutex mutex_;
  std::vector<std::unique_ptr<Handle>> idle_;
};

/// How soon an interrupt is seen.
inline constexpr std::chrono::milliseconds kHttpTick{100};

}  // namespace dsinfer
