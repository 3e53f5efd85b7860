#include "storage/http_client.hpp"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <random>
#include <thread>

namespace dsinfer {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxRedirects = 10;
constexpr size_t kMaxErrorBody = 4096;          // what an error message may be taken from
constexpr int64_t kMaxRetryAfter = 60;          // seconds
constexpr int64_t kProgress = 64 * 1024;        // bytes after which a cut transfer counts as a new one
constexpr std::chrono::milliseconds kTick{100}; // how soon an interrupt is seen

// A connection that the other side closed must not end the program by SIGPIPE.
class PipeSignalBlocked {
 public:
  PipeSignalBlocked() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    sigset_t pending;
    ::sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  PipeSignalBlocked(const PipeSignalBlocked&) = delete;
  PipeSignalBlocked& operator=(const PipeSignalBlocked&) = delete;
  ~PipeSignalBlocked() {
    const timespec none{};
    if (!was_pending_) ::sigtimedwait(&pipe_, nullptr, &none);
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  sigset_t pipe_, before_;
  bool was_pending_ = false;
};

bool may_pass(int status) { return status == 408 || status == 425 || status == 429 || status == 500 || status == 502 || status == 503 || status == 504; }

bool may_pass(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST: case CURLE_COULDNT_RESOLVE_PROXY: case CURLE_COULDNT_CONNECT: case CURLE_OPERATION_TIMEDOUT: case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR: case CURLE_GOT_NOTHING: case CURLE_PARTIAL_FILE: case CURLE_SSL_CONNECT_ERROR: case CURLE_HTTP2: case CURLE_HTTP2_STREAM:
      return true;
    default: return false;
  }
}

// Programs name their certificates so; libcurl by itself looks only where it was built to.
const char* certificates() {
  for (const char* name : {"CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}) {
    if (const char* file = std::getenv(name); file && *file) return file;
  }
  return nullptr;
}

constexpr std::chrono::seconds kShortcutAge{240};  // signed links are good for longer: the hub's for an hour

std::optional<Url> shortcut_of(const HttpRequest& request) {
  if (!request.shortcut) return std::nullopt;
  const std::lock_guard lock(request.shortcut->mutex);
  if (Clock::now() - request.shortcut->learnt > kShortcutAge) return std::nullopt;
  return request.shortcut->url;
}

void learn_shortcut(const HttpRequest& request, const std::optional<Url>& url) {
  if (!request.shortcut) return;
  const std::lock_guard lock(request.shortcut->mutex);
  request.shortcut->url = url && !url->same_origin(request.url) ? url : std::nullopt;
  request.shortcut->learnt = Clock::now();
}

// Where a redirect leads, which may be relative.
std::string resolved(const Url& from, const std::string& location) {
  const std::unique_ptr<CURLU, void (*)(CURLU*)> url(curl_url(), curl_url_cleanup);
  char* text = nullptr;
  if (!url || curl_url_set(url.get(), CURLUPART_URL, from.request().c_str(), 0) != CURLUE_OK ||
      curl_url_set(url.get(), CURLUPART_URL, location.c_str(), CURLU_NON_SUPPORT_SCHEME | CURLU_URLENCODE) != CURLUE_OK ||
      curl_url_get(url.get(), CURLUPART_URL, &text, 0) != CURLUE_OK) {
    throw Error(Error::io, fmt::format("{}: redirected to {}, which is no URL", shown(from.shown()), shown(location.substr(0, location.find('?')))));
  }
  const std::unique_ptr<char, void (*)(void*)> owned(text, curl_free);
  return text;
}

std::string range_text(int64_t first, int64_t bytes) {
  if (bytes >= 0) return fmt::format("bytes={}-{}", first, first + bytes - 1);
  return first > 0 ? fmt::format("bytes={}-", first) : std::string();
}

}  // namespace

struct HttpClient::Handle {
  Handle() : easy(curl_easy_init()), multi(curl_multi_init()) {
    if (!easy || !multi) throw Error(Error::out_of_memory, "libcurl gives no handle");
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (multi) curl_multi_cleanup(multi);
    if (easy) curl_easy_cleanup(easy);
  }
  CURL* easy;
  CURLM* multi;  // keeps the connection
};

/// What came of one exchange.
struct HttpClient::Attempt {
  HttpAnswer answer;
  bool whole = false;       // the answer came to its end, or to where it was told to end
  bool retry = false;       // otherwise: it may go better the next time
  std::string text;         // what went wrong
  std::string body;         // the beginning of a refusal's
};

/// Looks at one exchange while it runs.
struct HttpClient::Watch {
  std::function<bool(const HttpAnswer&)> begin;           // the headers of a good answer; false = no more is wanted
  std::function<void(std::span<const std::byte>)> bytes;  // of its body
  const std::atomic<bool>* stop = nullptr;

  HttpAnswer answer;
  std::string body;
  std::exception_ptr error;
  bool began = false, enough = false;
  Clock::time_point moved = Clock::now();

  bool stopped() const { return stop && stop->load(std::memory_order_relaxed); }
  bool good() const { return answer.status >= 200 && answer.status < 300; }
  void start() {
    if (began || !good()) return;
    began = true;
    enough = !begin(answer);
  }
  // Runs inside of libcurl, which knows no exceptions. The count given back, if another, ends the exchange.
  template <typename Body>
  size_t guarded(size_t size, Body body_of) {
    moved = Clock::now();
    try {
      body_of();
      return enough ? 0 : size;
    } catch (...) {
      error = std::current_exception();
      return 0;
    }
  }
  static size_t on_header(char* data, size_t, size_t size, void* self) {
    auto& watch = *static_cast<Watch*>(self);
    return watch.guarded(size, [&] { watch.answer.add_line({data, size}); });
  }
  static size_t on_body(char* data, size_t, size_t size, void* self) {
    auto& watch = *static_cast<Watch*>(self);
    return watch.guarded(size, [&] {
      watch.start();
      if (watch.enough) return;
      if (watch.good()) return watch.bytes({reinterpret_cast<const std::byte*>(data), size});
      watch.body.append(data, std::min(size, kMaxErrorBody - watch.body.size()));
      if (watch.body.size() == kMaxErrorBody) watch.enough = true;
    });
  }
};

class HttpClient::Lease {
 public:
  explicit Lease(HttpClient& client) : client_(client) {
    const std::lock_guard lock(client.mutex_);
    if (client.idle_.empty()) {
      handle_ = std::make_unique<Handle>();
    } else {
      handle_ = std::move(client.idle_.back());
      client.idle_.pop_back();
    }
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease() {
    const std::lock_guard lock(client_.mutex_);
    client_.idle_.push_back(std::move(handle_));
  }
  Handle* operator->() { return handle_.get(); }

 private:
  HttpClient& client_;
  std::unique_ptr<Handle> handle_;
};

HttpClient::HttpClient(const StorageOptions& options) : options_(options) {
  static std::once_flag once;  // curl_global_init is for one thread; never undone, since the program may use libcurl too
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
}

HttpClient::~HttpClient() = default;

HttpClient::Attempt HttpClient::attempt(const Url& url, const std::vector<std::string>& headers, Watch& watch) {
  const PipeSignalBlocked blocked;
  Lease handle(*this);
  CURL* easy = handle->easy;
  curl_easy_reset(easy);
  char detail[CURL_ERROR_SIZE] = "";
  const std::string address = url.request();
  curl_slist* list = nullptr;
  for (const std::string& header : headers) list = curl_slist_append(list, header.c_str());
  const std::unique_ptr<curl_slist, void (*)(curl_slist*)> owned(list, curl_slist_free_all);
  const long stall_ms = std::max(1, options_.stall_seconds) * 1000L;
  curl_easy_setopt(easy, CURLOPT_URL, address.c_str());
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, list);
  curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));  // a connection a thread: one stream each
  curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);                                      // follow() does, with an eye on credentials
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, detail);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, std::min(stall_ms, 30'000L));
  curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, 512 * 1024L);
  curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);  // what was signed is what is asked for
  curl_easy_setopt(easy, CURLOPT_USERAGENT, "libdsinfer");
#if LIBCURL_VERSION_NUM >= 0x075700
  curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);  // a name server that does not answer must not hold up who was interrupted
#endif
#if LIBCURL_VERSION_NUM >= 0x075500
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS, static_cast<long>(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
  if (const char* file = certificates()) curl_easy_setopt(easy, CURLOPT_CAINFO, file);
  if (!url.user.empty()) {
    curl_easy_setopt(easy, CURLOPT_HTTPAUTH, static_cast<long>(CURLAUTH_BASIC));
    curl_easy_setopt(easy, CURLOPT_USERPWD, url.user.c_str());
  }
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, &Watch::on_header);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, &watch);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &Watch::on_body);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &watch);

  Attempt result;
  CURLcode code = CURLE_OK;
  bool ended = false, stalled = false;
  watch.moved = Clock::now();
  if (curl_multi_add_handle(handle->multi, easy) != CURLM_OK) throw Error(Error::internal, "libcurl refuses a request");
  while (!ended && !stalled && !watch.stopped()) {
    int running = 0, left = 0;
    if (curl_multi_perform(handle->multi, &running) != CURLM_OK) break;
    while (const CURLMsg* message = curl_multi_info_read(handle->multi, &left)) {
      if (message->msg == CURLMSG_DONE) ended = true, code = message->data.result;
    }
    if (!ended) curl_multi_poll(handle->multi, nullptr, 0, static_cast<int>(kTick.count()), nullptr);
    stalled = !ended && Clock::now() - watch.moved > std::chrono::milliseconds(stall_ms);
  }
  curl_multi_remove_handle(handle->multi, easy);
  if (ended && code == CURLE_OK && !watch.error) {
    try {
      watch.start();  // an answer without a body
    } catch (...) {
      watch.error = std::current_exception();
    }
  }

  result.answer = watch.answer;
  result.body = watch.body;
  if (watch.error || watch.stopped()) return result;
  result.whole = watch.enough || (ended && code == CURLE_OK && watch.answer.status >= 200);
  if (result.whole) return result;
  result.retry = stalled || !ended || may_pass(code);
  result.text = stalled ? fmt::format("nothing came for {} s", stall_ms / 1000) : shown(*detail ? detail : curl_easy_strerror(code));
  if (code == CURLE_PEER_FAILED_VERIFICATION) result.text += "; its certificate is not trusted here: name the right authorities in SSL_CERT_FILE";
  return result;
}

// Redirects, with credentials for the first origin alone.
HttpClient::Attempt HttpClient::follow(const HttpRequest& request, const std::string& range, Watch& watch) {
  Url url = shortcut_of(request).value_or(request.url);
  bool by_shortcut = !url.same_origin(request.url);
  HttpAnswer carried;
  for (int hop = 0;; ++hop) {
    std::vector<std::string> headers{"Accept-Encoding: identity", "Accept:"};
    if (!range.empty()) headers.push_back("Range: " + range);
    if (!range.empty() && request.expected.etag.starts_with('"')) headers.push_back("If-Range: " + request.expected.etag);
    const bool home = url.same_origin(request.url);
    if (home && request.sign) {
      for (std::string& header : request.sign(url, range)) headers.push_back(std::move(header));
    }
    if (!home) url.user.clear();
    watch.answer = {};
    watch.body.clear();
    watch.began = watch.enough = false;
    Attempt result = attempt(url, headers, watch);
    const int status = result.answer.status;
    if (carried.repo_commit.empty()) carried.repo_commit = result.answer.repo_commit;
    if (carried.linked_etag.empty()) carried.linked_etag = result.answer.linked_etag;
    if (!carried.linked_size) carried.linked_size = result.answer.linked_size;
    if (by_shortcut && (!result.whole || status >= 400)) {  // its signature is too old, or its server is gone
      learn_shortcut(request, std::nullopt);
      by_shortcut = false;
      url = request.url;
      if (watch.error || watch.stopped() || watch.began) return result;
      continue;
    }
    const bool redirected = result.whole && (status == 301 || status == 302 || status == 303 || status == 307 || status == 308) && !result.answer.location.empty();
    if (!redirected) {
      result.answer.repo_commit = carried.repo_commit, result.answer.linked_etag = carried.linked_etag, result.answer.linked_size = carried.linked_size;
      return result;
    }
    if (hop == kMaxRedirects) throw Error(Error::io, fmt::format("{}: redirected more than {} times, last to {}", request.name, kMaxRedirects, shown(url.shown())));
    Url next = parse_url(resolved(url, result.answer.location));
    if (url.scheme == "https" && next.scheme == "http") {
      throw Error(Error::io, fmt::format("{}: redirected from https to {}, which is refused", request.name, shown(next.shown())));
    }
    next.user = next.same_origin(request.url) ? request.url.user : std::string();
    url = std::move(next);
    if (status != 303) learn_shortcut(request, url);
  }
}

void HttpClient::pause(const HttpRequest& request, int failures, const Attempt& last) {
  thread_local std::minstd_rand random(std::random_device{}());
  const double longest = std::min(10.0, options_.backoff_milliseconds / 1000.0 * std::pow(2.0, failures - 1));
  double seconds = std::uniform_real_distribution<double>(longest / 2, longest)(random);  // apart from others that failed at the same moment
  if (!last.answer.retry_after.empty()) {
    int64_t wanted = parse_count(last.answer.retry_after).value_or(-1);
    if (wanted < 0) {
      const time_t date = curl_getdate(last.answer.retry_after.c_str(), nullptr);
      if (date >= 0) wanted = std::max<int64_t>(0, static_cast<int64_t>(date - ::time(nullptr)));
    }
    seconds = std::max(seconds, static_cast<double>(std::clamp<int64_t>(wanted, 0, kMaxRetryAfter)));
  }
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  while (Clock::now() < end && !(request.stop && request.stop->load())) {
    std::this_thread::sleep_for(std::min<Clock::duration>(kTick, end - Clock::now()));
  }
}

void HttpClient::give_up(const HttpRequest& request, int attempts, Clock::time_point since, const Attempt& last) {
  const std::string what = last.text.empty() ? fmt::format("answered {} {}", last.answer.status, last.answer.reason) : last.text;
  const std::string body = shown(last.body);
  throw Error(Error::io, fmt::format("{}: {}{}{} ({} attempts in {:.1f} s)", request.name, what, body.empty() ? "" : ": ", body, attempts,
                                     std::chrono::duration<double>(Clock::now() - since).count()));
}

Error HttpClient::refusal(const HttpRequest& request, const HttpAnswer& answer) {
  const std::string what = fmt::format("{}: answered {} {}{}{}", request.name, answer.status, answer.reason, answer.error_message.empty() ? "" : ": ", shown(answer.error_message));
  switch (answer.status) {
    case 404:
    case 410: return Error(Error::not_found, what);
    case 401:
    case 403: return Error(Error::io, fmt::format("{}; {}", what, request.access_remedy));
    case 412:
    case 416: return Error(Error::io, what + "; it has changed since it was opened, load again");
    default: return Error(Error::io, what);
  }
}

HttpAnswer HttpClient::probe(const HttpRequest& request) {
  const auto since = Clock::now();
  bool by_range = true;
  for (int failures = 0;;) {
    Watch watch;
    watch.stop = request.stop;
    watch.begin = [](const HttpAnswer& answer) { return answer.status == 206; };  // the first byte; of a whole file nothing is taken
    watch.bytes = [](std::span<const std::byte>) {};
    Attempt last = follow(request, by_range ? range_text(0, 1) : std::string(), watch);
    if (watch.stopped()) throw Error(Error::cancelled, request.name + ": interrupted");
    if (watch.error) {
      try {
        std::rethrow_exception(watch.error);
      } catch (const Error& error) {
        throw Error(error.code(), fmt::format("{}: {}", request.name, error.what()));
      }
    }
    if (by_range && last.answer.status == 416 && !last.answer.content_range) {  // an empty file, most likely; then its length comes without a range
      by_range = false;
      continue;
    }
    if (last.whole && !may_pass(last.answer.status)) {
      if (last.answer.error_message.empty()) last.answer.error_message = shown(last.body);
      return last.answer;
    }
    if ((!last.whole && !last.retry) || failures == options_.retries) give_up(request, failures + 1, since, last);
    pause(request, ++failures, last);
  }
}

namespace {

// What an answer to `request`, resumed after `got` bytes, must be.
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

}  // namespace

HttpAnswer HttpClient::get(const HttpRequest& request, const HttpSink& sink) {
  const auto since = Clock::now();
  int64_t got = 0, got_at_failure = 0;
  int failures = 0;
  for (int attempts = 1;; ++attempts) {
    const int64_t wanted = request.bytes < 0 ? -1 : request.bytes - got;
    Watch watch;
    watch.stop = request.stop;
    int64_t expected = wanted;
    watch.begin = [&](const HttpAnswer& answer) {
      check_answer(request, got, answer);
      if (expected < 0 && answer.content_range) expected = answer.content_range->last - answer.content_range->first + 1;
      if (expected < 0 && answer.content_length) expected = *answer.content_length;
      return true;
    };
    const int64_t before = got;
    watch.bytes = [&](std::span<const std::byte> bytes) {
      if (expected >= 0 && static_cast<int64_t>(bytes.size()) > expected - (got - before)) {
        throw Error(Error::io, fmt::format("{}: sent more than the {} bytes from {} on that it was asked for", request.name, expected, request.first + before));
      }
      sink(got, bytes);
      got += static_cast<int64_t>(bytes.size());
    };
    Attempt last = follow(request, range_text(request.first + got, wanted), watch);
    if (watch.stopped()) throw Error(Error::cancelled, request.name + ": interrupted");
    if (watch.error) {
      try {
        std::rethrow_exception(watch.error);
      } catch (const Error& error) {
        const std::string text = error.what();
        throw Error(error.code(), text.starts_with(request.name) ? text : fmt::format("{}: {}", request.name, text));
      }
    }
    const bool good = last.answer.status >= 200 && last.answer.status < 300;
    if (last.whole && good && (expected < 0 || got - before == expected)) return last.answer;
    if (last.whole && !good && !may_pass(last.answer.status)) {
      if (last.answer.error_message.empty()) last.answer.error_message = shown(last.body);
      throw refusal(request, last.answer);
    }
    if (last.whole && good) last.retry = true, last.text = fmt::format("cut short after {} bytes", got);
    if (got - got_at_failure >= kProgress) failures = 0;
    got_at_failure = got;
    if ((!last.whole && !last.retry) || failures == options_.retries) {
      if (!last.text.empty()) last.text += fmt::format(", at byte {}", request.first + got);
      give_up(request, attempts, since, last);
    }
    pause(request, ++failures, last);
  }
}

}  // namespace dsinfer
