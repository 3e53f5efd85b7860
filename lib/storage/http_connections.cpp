#include "storage/http_connections.hpp"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>

#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxErrorBody = 4096;  // what an error message may be taken from
constexpr int64_t kLeastBytes = 1024;   // of one stall limit's time: who drips would never end, and never be silent

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

// Runs inside of libcurl, which knows no exceptions. The count given back, if another, ends the exchange.
template <typename Body>
size_t guarded(HttpWatch& watch, size_t size, Body body_of) {
  watch.moved = Clock::now();
  watch.moved_bytes += static_cast<int64_t>(size);
  try {
    body_of();
    return watch.enough ? 0 : size;
  } catch (...) {
    watch.error = std::current_exception();
    return 0;
  }
}

size_t on_header(char* data, size_t, size_t size, void* self) {
  auto& watch = *static_cast<HttpWatch*>(self);
  return guarded(watch, size, [&] { watch.answer.add_line({data, size}); });
}

size_t on_body(char* data, size_t, size_t size, void* self) {
  auto& watch = *static_cast<HttpWatch*>(self);
  return guarded(watch, size, [&] {
    watch.start();
    if (watch.enough) return;
    if (watch.good()) return watch.bytes({reinterpret_cast<const std::byte*>(data), size});
    watch.body.append(data, std::min(size, kMaxErrorBody - watch.body.size()));
    if (watch.body.size() == kMaxErrorBody) watch.enough = true;
  });
}

// Silence, or a drip.
class Stall {
 public:
  Stall(const HttpWatch& watch, std::chrono::milliseconds limit) : watch_(watch), limit_(limit), bytes_(watch.moved_bytes) {}
  bool seen() {
    const auto now = Clock::now();
    if (now - watch_.moved > limit_) return true;
    if (watch_.moved_bytes == bytes_) return false;  // silent since the last window
    if (!counting_) counting_ = true, since_ = now, bytes_ = watch_.moved_bytes;
    if (now - since_ <= limit_) return false;
    dripped_ = watch_.moved_bytes - bytes_;
    if (dripped_ < kLeastBytes) return true;
    since_ = now, bytes_ = watch_.moved_bytes;
    return false;
  }
  std::string text() const {
    const auto seconds = limit_.count() / 1000;
    return dripped_ >= 0 && dripped_ < kLeastBytes ? fmt::format("{} bytes came in {} s", dripped_, seconds) : fmt::format("nothing came for {} s", seconds);
  }

 private:
  const HttpWatch& watch_;
  std::chrono::milliseconds limit_;
  Clock::time_point since_;
  bool counting_ = false;
  int64_t bytes_, dripped_ = -1;
};

}  // namespace

void HttpWatch::start() {
  if (began || !good()) return;
  began = true;
  enough = !begin(answer);
}

struct HttpConnections::Handle {
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

class HttpConnections::Lease {
 public:
  explicit Lease(HttpConnections& client) : client_(client) {
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
  Handle& operator*() { return *handle_; }

 private:
  HttpConnections& client_;
  std::unique_ptr<Handle> handle_;
};

HttpConnections::HttpConnections(const StorageOptions& options) : options_(options) {
  static std::once_flag once;  // curl_global_init is for one thread; never undone, since the program may use libcurl too
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
}

HttpConnections::~HttpConnections() = default;

void HttpConnections::check_going() const {
  if (options_.keep_going && std::this_thread::get_id() == owner_ && !options_.keep_going()) throw Error(Error::cancelled, "cancelled while waiting for a server");
}

void HttpConnections::set_up(Handle& handle, const Url& url, const std::string& address, HttpWatch& watch) const {
  CURL* easy = handle.easy;
  curl_easy_reset(easy);
  const long stall_ms = std::max(1, options_.stall_seconds) * 1000L;
  curl_easy_setopt(easy, CURLOPT_URL, address.c_str());
  curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));  // a connection a thread: one stream each
  curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);                                      // follow() does, with an eye on credentials
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
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
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, &on_header);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, &watch);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &on_body);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &watch);
}

HttpOutcome HttpConnections::exchange(const Url& url, const std::vector<std::string>& headers, HttpWatch& watch) {
  const PipeSignalBlocked blocked;
  Lease lease(*this);
  Handle& handle = *lease;
  char detail[CURL_ERROR_SIZE] = "";
  const std::string address = url.request();
  set_up(handle, url, address, watch);
  curl_slist* list = nullptr;
  for (const std::string& header : headers) list = curl_slist_append(list, header.c_str());
  const std::unique_ptr<curl_slist, void (*)(curl_slist*)> owned(list, curl_slist_free_all);
  curl_easy_setopt(handle.easy, CURLOPT_HTTPHEADER, list);
  curl_easy_setopt(handle.easy, CURLOPT_ERRORBUFFER, detail);

  CURLcode code = CURLE_OK;
  bool ended = false, stalled = false;
  watch.moved = Clock::now();
  Stall stall(watch, std::chrono::seconds(std::max(1, options_.stall_seconds)));
  if (curl_multi_add_handle(handle.multi, handle.easy) != CURLM_OK) throw Error(Error::internal, "libcurl refuses a request");
  while (!ended && !stalled && !watch.stopped() && !watch.error) {
    int running = 0, left = 0;
    if (curl_multi_perform(handle.multi, &running) != CURLM_OK) break;
    while (const CURLMsg* message = curl_multi_info_read(handle.multi, &left)) {
      if (message->msg == CURLMSG_DONE) ended = true, code = message->data.result;
    }
    if (ended) break;
    curl_multi_poll(handle.multi, nullptr, 0, static_cast<int>(kHttpTick.count()), nullptr);
    stalled = stall.seen();
    try {
      check_going();
    } catch (...) {
      watch.error = std::current_exception();
    }
  }
  curl_multi_remove_handle(handle.multi, handle.easy);
  if (ended && code == CURLE_OK && !watch.error) {
    try {
      watch.start();  // an answer without a body
    } catch (...) {
      watch.error = std::current_exception();
    }
  }

  HttpOutcome outcome;
  outcome.answer = watch.answer;
  outcome.body = watch.body;
  if (watch.error || watch.stopped()) return outcome;
  outcome.whole = watch.enough || (ended && code == CURLE_OK && watch.answer.status >= 200);
  if (outcome.whole) return outcome;
  outcome.retry = stalled || !ended || may_pass(code);
  outcome.text = stalled ? stall.text() : shown(*detail ? detail : curl_easy_strerror(code));
  if (code == CURLE_PEER_FAILED_VERIFICATION) outcome.text += "; its certificate is not trusted here: name the right authorities in SSL_CERT_FILE";
  return outcome;
}

}  // namespace dsinfer
