#include "storage/http_client.hpp"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <random>
#include <thread>

namespace dsinfer {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxRedirects = 10;
constexpr int64_t kMaxRetryAfter = 60;    // seconds
constexpr int64_t kProgress = 64 * 1024;  // bytes after which a cut transfer counts as a new one

bool may_pass(int status) { return status == 408 || status == 425 || status == 429 || status == 500 || status == 502 || status == 503 || status == 504; }

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

HttpClient::HttpClient(const StorageOptions& options) : options_(options), connections_(options) {}

// Redirects, with credentials for the first origin alone.
HttpOutcome HttpClient::follow(const HttpRequest& request, const std::string& range, HttpWatch& watch) {
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
    HttpOutcome result = connections_.exchange(url, headers, watch);
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

void HttpClient::pause(const HttpRequest& request, int failures, const HttpOutcome& last) {
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
    connections_.check_going();
    std::this_thread::sleep_for(std::min<Clock::duration>(kHttpTick, end - Clock::now()));
  }
}

void HttpClient::give_up(const HttpRequest& request, int attempts, Clock::time_point since, const HttpOutcome& last) {
  const std::string what = last.text.empty() ? fmt::format("answered {} {}", last.answer.status, last.answer.reason) : last.text;
  const std::string body = shown(without_secrets(last.body, request));
  throw Error(Error::io, fmt::format("{}: {}{}{} ({} attempts in {:.1f} s)", request.name, without_secrets(what, request), body.empty() ? "" : ": ", body, attempts,
                                     std::chrono::duration<double>(Clock::now() - since).count()));
}

Error HttpClient::refusal(const HttpRequest& request, const HttpAnswer& answer) {
  const std::string what = fmt::format("{}: answered {} {}{}{}", request.name, answer.status, answer.reason, answer.error_message.empty() ? "" : ": ", shown(without_secrets(answer.error_message, request)));
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
    HttpWatch watch;
    watch.stop = request.stop;
    watch.begin = [](const HttpAnswer& answer) { return answer.status == 206; };  // the first byte; of a whole file nothing is taken
    watch.bytes = [](std::span<const std::byte>) {};
    HttpOutcome last = follow(request, by_range ? range_text(0, 1) : std::string(), watch);
    if (watch.stopped()) throw Error(Error::cancelled, request.name + ": interrupted");
    if (watch.error) {
      try {
        std::rethrow_exception(watch.error);
      } catch (const Error& error) {
        if (error.rank() >= 0) throw;  // another rank's
        throw Error(error.code(), fmt::format("{}: {}", request.name, error.what()));
      }
    }
    if (by_range && last.answer.status == 416 && !last.answer.content_range) {  // an empty file, most likely; then its length comes without a range
      by_range = false;
      continue;
    }
    if (last.whole && !may_pass(last.answer.status)) {
      if (last.answer.error_message.empty()) last.answer.error_message = last.body;
      return last.answer;
    }
    if ((!last.whole && !last.retry) || failures == options_.retries) give_up(request, failures + 1, since, last);
    pause(request, ++failures, last);
  }
}

HttpAnswer HttpClient::get(const HttpRequest& request, const HttpSink& sink) {
  const auto since = Clock::now();
  int64_t got = 0, got_at_failure = 0;
  int failures = 0;
  for (int attempts = 1;; ++attempts) {
    const int64_t wanted = request.bytes < 0 ? -1 : request.bytes - got;
    HttpWatch watch;
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
    HttpOutcome last = follow(request, range_text(request.first + got, wanted), watch);
    if (watch.stopped()) throw Error(Error::cancelled, request.name + ": interrupted");
    if (watch.error) {
      try {
        std::rethrow_exception(watch.error);
      } catch (const Error& error) {
        if (error.rank() >= 0) throw;  // another rank's
        const std::string text = error.what();
        throw Error(error.code(), text.starts_with(request.name) ? text : fmt::format("{}: {}", request.name, text));
      }
    }
    const bool good = last.answer.status >= 200 && last.answer.status < 300;
    if (last.whole && good && (expected < 0 || got - before == expected)) return last.answer;
    if (last.whole && !good && !may_pass(last.answer.status)) {
      if (last.answer.error_message.empty()) last.answer.error_message = last.body;
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
