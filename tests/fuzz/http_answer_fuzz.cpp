// What servers and users send as text: the first byte says as what the rest is read. Status lines and headers, URLs, the hub's JSON and names, INI files.
#include <algorithm>
#include <cstdint>

#include "dsinfer/error.hpp"
#include "storage/aws_settings.hpp"
#include "storage/http_answer.hpp"
#include "storage/hub.hpp"
#include "storage/url.hpp"

namespace {

using namespace dsinfer;

void must(bool holds) {
  if (!holds) __builtin_trap();
}

bool is_printable(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

void headers(std::string_view text) {
  HttpAnswer answer;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size() - 1) + 1;
    answer.add_line(text.substr(0, end));
    text.remove_prefix(end);
    must(answer.status == 0 || (answer.status >= 100 && answer.status <= 999));
    must(is_printable(answer.reason) && answer.reason.size() <= 203);
    must(!answer.content_length || *answer.content_length >= 0);
    must(!answer.linked_size || *answer.linked_size >= 0);
    if (answer.content_range) {
      const auto& [first, last, total] = *answer.content_range;
      must((first == -1 && last == -1) || (first >= 0 && last >= first && (total == -1 || last < total)));
    }
    for (const std::string* value : {&answer.etag, &answer.location, &answer.retry_after, &answer.repo_commit, &answer.linked_etag}) {
      must(value->size() <= kMaxHeaderBytes && value->find('\n') == std::string::npos);
    }
    if (const auto sha = sha256_of_etag(answer.linked_etag)) must(sha->size() == 64 && is_printable(*sha));
    if (is_commit(answer.repo_commit)) must(answer.repo_commit.find_first_of("./") == std::string::npos);
  }
}

void url(std::string_view text) {
  const Url once = parse_url(text);
  must(once.scheme == "http" || once.scheme == "https");
  must(!once.host.empty() && once.path[0] == '/' && once.host.find_first_of("/?#@") == std::string::npos);
  const Url twice = parse_url(once.request());
  must(twice.request() == once.request() && twice.same_origin(once));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    switch (data[0]) {
      case 'h': headers(text); break;
      case 'r':
        if (const auto range = parse_content_range(text)) must(range->last < INT64_MAX || range->total == -1);
        break;
      case 'u': url(text); break;
      case 'j': must(is_commit(commit_of_json(text, "fuzz"))); break;
      case 'n': must(parse_hub_name("hf://" + std::string(text)).repo.find("..") != 0); break;
      case 'i': ini_value(std::string(text), "default", "region"); break;
      default: must(is_printable(shown(text))); must(is_printable(percent_encoded(text)));
    }
  } catch (const Error& error) {
    if (data[0] == 'u' || data[0] == 'n' || data[0] == 'h') must(is_printable(error.what()));
  }
  return 0;
}
