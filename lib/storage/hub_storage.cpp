#include <fmt/format.h>

#include <cstdlib>
#include <fstream>

#include "dsinfer/error.hpp"
#include "storage/download_cache.hpp"
#include "storage/http_storage.hpp"
#include "storage/hub.hpp"

namespace dsinfer {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::filesystem::path hub_home() {
  if (const std::string home = variable("HF_HOME"); !home.empty()) return home;
  if (const std::string cache = variable("XDG_CACHE_HOME"); !cache.empty()) return std::filesystem::path(cache) / "huggingface";
  return std::filesystem::path(variable("HOME")) / ".cache/huggingface";
}

// A token that is no single word would end up as a header of its own.
std::string token() {
  std::string found = variable("HF_TOKEN");
  if (found.empty()) found = variable("HUGGING_FACE_HUB_TOKEN");
  if (found.empty()) {
    const std::string path = variable("HF_TOKEN_PATH");
    std::ifstream(path.empty() ? hub_home() / "token" : std::filesystem::path(path)) >> found;
  }
  if (found.find_first_of(" \r\n\t") != std::string::npos) throw Error(Error::invalid_argument, "HF_TOKEN holds spaces or line ends; a token has none");
  return found;
}

/// Where a repository is and how it is asked.
struct Repository {
  HubName name;
  Url endpoint;
  std::string token, commit;

  HttpRequest request(const std::string& path, const std::string& shown_name) const {
    HttpRequest request;
    request.url = endpoint;
    request.url.path += path;
    request.name = shown_name;
    request.shortcut = std::make_shared<HttpShortcut>();
    request.access_remedy = fmt::format("set HF_TOKEN to a token that may read {0}; the terms of gated models are accepted at {1}/{0}{2}", name.repo,
                                        endpoint.origin(), token.empty() ? " (no token was found). A repository that does not exist is answered in the same way" : "");
    if (!token.empty()) {
      request.sign = [bearer = "Authorization: Bearer " + token](const Url&, const std::string&) { return std::vector<std::string>{bearer}; };
    }
    return request;
  }
  HttpRequest file(const std::string& file, const std::string& revision) const {
    return request(fmt::format("/{}/resolve/{}/{}", name.repo, percent_encoded(revision), percent_encoded(file)), fmt::format("hf://{}@{}/{}", name.repo, name.revision, file));
  }
};

// The commit that a revision is now: all files are taken from it, whatever is pushed meanwhile.
std::string find_commit(HttpClient& client, const Repository& repository) {
  if (is_commit(repository.name.revision)) return repository.name.revision;
  const HttpAnswer answer = client.probe(repository.file("config.json", repository.name.revision));
  if (is_commit(answer.repo_commit)) return answer.repo_commit;
  const std::string what = fmt::format("hf://{}@{}", repository.name.repo, repository.name.revision);
  const HttpRequest about = repository.request(fmt::format("/api/models/{}/revision/{}", repository.name.repo, percent_encoded(repository.name.revision)), what);
  std::string text;
  client.get(about, [&](int64_t, std::span<const std::byte> bytes) {
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (text.size() > (64 << 20)) throw Error(Error::bad_format, what + ": the hub's description is longer than 64 MiB");
  });
  return commit_of_json(text, what);
}

class HubStorage final : public HttpStorage {
 public:
  HubStorage(std::string name, std::shared_ptr<HttpClient> client, std::shared_ptr<Repository> repository, std::filesystem::path folder)
      : HttpStorage(std::move(name), std::move(client), [repository](const std::string& file) { return repository->file(file, repository->commit); }),
        folder_(std::move(folder)) {
    std::string repo = "models--" + repository->name.repo;
    if (const size_t slash = repo.find('/'); slash != std::string::npos) repo.replace(slash, 1, "--");
    const std::string hub = variable("HF_HUB_CACHE");
    others_ = (hub.empty() ? hub_home() / "hub" : std::filesystem::path(hub)) / repo / "snapshots" / repository->commit;
  }

  bool exists(const std::string& file) override { return copy_of(file) || HttpStorage::exists(file); }
  std::unique_ptr<Source> open(const std::string& file) override {
    if (const auto copy = copy_of(file)) return open_file(*copy);
    return HttpStorage::open(file);
  }
  bool keeps_copies() const override { return true; }
  bool fetch(const std::string& file, const KeepGoing& keep_going) override;

 private:
  // Files below a commit never change. Those that the hub's own tools have fetched are as good as ours.
  std::optional<std::filesystem::path> copy_of(const std::string& file) const {
    if (!is_plain_name(file)) throw Error(Error::bad_format, fmt::format("\"{}\": not the name of a file in the model's folder", shown(file)));
    std::error_code code;
    for (const std::filesystem::path& folder : {folder_, others_}) {
      if (std::filesystem::is_regular_file(folder / file, code)) return folder / file;
    }
    return std::nullopt;
  }
  std::filesystem::path folder_, others_;
};

// All copies stand in one folder, the hub's own as links.
bool HubStorage::fetch(const std::string& file, const KeepGoing& keep_going) {
  if (const auto copy = copy_of(file)) {
    if (copy->parent_path() != folder_) link_whole(folder_ / file, *copy);
    return true;
  }
  const HttpAnswer answer = probe(file);
  HttpRequest request = request_of(file);
  request.expected = identity_of(request, answer);
  if (answer.linked_size && *answer.linked_size != request.expected.size) {
    throw Error(Error::io, fmt::format("{}: the hub says {} bytes, its store {}; load again", request.name, *answer.linked_size, request.expected.size));
  }
  Download download;
  download.target = folder_ / file;
  download.name = request.name;
  download.size = request.expected.size;
  download.identity = answer.linked_etag.empty() ? answer.etag : answer.linked_etag;
  download.sha256 = sha256_of_etag(download.identity).value_or("");
  download.get = [&](int64_t offset, int64_t bytes, const std::function<void(std::span<const std::byte>)>& sink, const std::atomic<bool>& stop) {
    HttpRequest part = request;
    part.first = offset;
    part.bytes = bytes;
    part.stop = &stop;
    client().get(part, [&](int64_t, std::span<const std::byte> got) { sink(got); });
  };
  fetch_into_cache(download, keep_going);
  return true;
}

}  // namespace

std::unique_ptr<Storage> open_hub(const std::string& model, const StorageOptions& options) {
  auto repository = std::make_shared<Repository>();
  repository->name = parse_hub_name(model);
  const std::string endpoint = variable("HF_ENDPOINT");
  repository->endpoint = parse_url(endpoint.empty() ? "https://huggingface.co" : endpoint);
  while (repository->endpoint.path.ends_with('/')) repository->endpoint.path.pop_back();
  repository->token = token();
  auto client = std::make_shared<HttpClient>(options);
  repository->commit = find_commit(*client, *repository);
  const std::string hub = endpoint.empty() ? "hub" : "hub-" + percent_encoded(repository->endpoint.host);
  std::string repo = repository->name.repo;
  if (const size_t slash = repo.find('/'); slash != std::string::npos) repo.replace(slash, 1, "--");
  return std::make_unique<HubStorage>(fmt::format("hf://{}@{}", repository->name.repo, repository->name.revision), std::move(client), repository,
                                      cache_root(options) / hub / repo / repository->commit);
}

}  // namespace dsinfer
