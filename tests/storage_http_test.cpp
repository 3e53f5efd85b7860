// Models behind URLs, against servers of Python's: what is read is what lies there, or the error says what was wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>

#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include "core/json.hpp"
#include "dsinfer/error.hpp"
#include "python_server.hpp"
#include "scratch_folder.hpp"
#include "storage/read_queue.hpp"
#include "storage/storage.hpp"

namespace dsinfer {
namespace {

using namespace std::chrono_literals;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

StorageOptions quick() {
  StorageOptions options;
  options.retries = 3;
  options.backoff_milliseconds = 10;
  options.stall_seconds = 1;
  return options;
}

template <typename Body>
std::string error_of(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return std::string(code_name(error.code())) + ": " + error.what();
  }
  return "no error";
}

class StorageHttp : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    files_ = new ScratchFolder;
    server_ = new PythonServer(DSINFER_TEST_SERVER, files_->path());
    content_ = new std::string(server_->port() ? read_text_file(files_->path("model.bin")) : "");
  }
  static void TearDownTestSuite() {
    delete server_;
    delete files_;
    delete content_;
  }
  void SetUp() override {
    ASSERT_GT(server_->port(), 0) << "the server did not start";
    for (const char* name : {"http_proxy", "https_proxy", "all_proxy", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "HF_HUB_CACHE"}) ::unsetenv(name);
    ::setenv("HOME", home_.path().c_str(), 1);
    ::setenv("HF_HOME", home_.path("hf").c_str(), 1);
    ::setenv("HF_ENDPOINT", url("hub").c_str(), 1);
    ::setenv("AWS_ENDPOINT_URL", url("").substr(0, url("").size() - 1).c_str(), 1);
    ::setenv("AWS_CONFIG_FILE", "/dev/null", 1);
    ::setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null", 1);
    ::setenv("AWS_REGION", "eu-west-1", 1);
    ::setenv("DSINFER_CACHE", home_.path("cache").c_str(), 1);
  }
  static std::string url(const std::string& fault) { return "http://127.0.0.1:" + std::to_string(server_->port()) + "/" + fault; }
  static const std::string& content() { return *content_; }
  // All of model.bin, by ranges of `bytes`.
  static std::string read_all(Source& source, size_t bytes = 700'000) {
    std::string text(static_cast<size_t>(source.size()), '\0');
    for (size_t at = 0; at < text.size(); at += bytes) {
      source.read(static_cast<int64_t>(at), std::as_writable_bytes(std::span(text)).subspan(at, std::min(bytes, text.size() - at)));
    }
    return text;
  }
  static std::string read_error(const std::string& fault) {
    return error_of([&] {
      const auto source = open_storage(url(fault), quick())->open("model.bin");
      EXPECT_EQ(source->size(), static_cast<int64_t>(content().size()));
      std::string text(100'000, '\0');
      source->read(50'000, std::as_writable_bytes(std::span(text)));
      source->read(1'000'000, std::as_writable_bytes(std::span(text)));
    });
  }
  // What the server was asked since the last call.
  static Json requests() {
    const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(server_->port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    std::string text;
    if (::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) {
      const std::string asked = "GET /log HTTP/1.0\r\n\r\n";
      EXPECT_EQ(::write(socket, asked.data(), asked.size()), static_cast<ssize_t>(asked.size()));
      char part[4096];
      for (ssize_t got; (got = ::read(socket, part, sizeof part)) > 0;) text.append(part, static_cast<size_t>(got));
    }
    ::close(socket);
    return Json::parse(text.substr(text.find("\r\n\r\n") + 4));
  }
  ScratchFolder home_;
  static inline ScratchFolder* files_ = nullptr;
  static inline PythonServer* server_ = nullptr;
  static inline std::string* content_ = nullptr;
};

TEST_F(StorageHttp, ReadsRangesOfAFile) {
  const auto storage = open_storage(url("good/") + "/", quick());
  EXPECT_EQ(storage->name(), url("good"));
  EXPECT_TRUE(storage->exists("model.bin"));
  EXPECT_FALSE(storage->exists("absent.bin"));
  EXPECT_EQ(storage->folder(), nullptr);
  EXPECT_FALSE(storage->fetch("model.bin"));
  const auto source = storage->open("model.bin");
  EXPECT_EQ(source->name(), url("good/model.bin"));
  EXPECT_EQ(source->path(), nullptr);
  EXPECT_EQ(source->version().size(), 34u);
  EXPECT_EQ(read_all(*source), content());
  EXPECT_EQ(read_text(*storage, "config.json"), "{\"model_type\": \"deepseek_v3\"}");
  EXPECT_EQ(read_text(*storage, "empty.txt"), "");
  EXPECT_THAT(error_of([&] { storage->open("absent.bin"); }), AllOf(HasSubstr("not_found: "), HasSubstr("absent.bin")));
  std::byte one[2];
  EXPECT_THAT(error_of([&] { source->read(source->size() - 1, one); }), HasSubstr("ends at byte 3146049"));
}

TEST_F(StorageHttp, ReadsThroughAQueueWithManyInFlight) {
  const auto source = open_storage(url("good"), quick())->open("model.bin");
  const auto queue = make_read_queue(IoEngine::automatic, 0, true);
  std::string text(content().size(), '\0');
  constexpr size_t kPart = 100'000;
  size_t parts = 0, ended = 0;
  for (size_t at = 0; at < text.size(); at += kPart, ++parts) {
    queue->submit({source.get(), static_cast<int64_t>(at), std::as_writable_bytes(std::span(text)).subspan(at, std::min(kPart, text.size() - at)), at, nullptr});
  }
  while (ended < parts) {
    queue->wait(1'000'000);
    while (const auto done = queue->poll()) {
      EXPECT_FALSE(done->error);
      ++ended;
    }
  }
  EXPECT_EQ(text, content());
  EXPECT_EQ(queue->text(), "http, 16 connections");
}

TEST_F(StorageHttp, GoesOnAfterRefusalsThatPassCutsAndResets) {
  for (const char* fault : {"flaky", "reset", "cut", "slow", "relative", "elsewhere", "stallonce"}) {
    const auto source = open_storage(url(fault), quick())->open("model.bin");
    EXPECT_EQ(read_all(*source, 3'000'000) == content(), true) << fault;
  }
}

TEST_F(StorageHttp, ResumesACutTransferWhereItBroke) {
  const auto source = open_storage(url("cut"), quick())->open("model.bin");
  requests();
  std::string text(1'000'000, '\0');
  source->read(5, std::as_writable_bytes(std::span(text)));
  EXPECT_EQ(text, content().substr(5, text.size()));
  const Json asked = requests();
  ASSERT_GE(asked.size(), 3u);
  EXPECT_EQ(asked[0]["range"], "bytes=5-1000004");
  EXPECT_EQ(asked[1]["range"], "bytes=500006-1000004");
}

TEST_F(StorageHttp, WaitsAsLongAsTheServerAsks) {
  const auto before = std::chrono::steady_clock::now();
  open_storage(url("busy"), quick())->open("model.bin");
  EXPECT_GE(std::chrono::steady_clock::now() - before, 900ms);
}

TEST_F(StorageHttp, GivesUpNamingTheFileAndWhatTheServerSaid) {
  EXPECT_THAT(read_error("always500"), AllOf(HasSubstr("io: " + url("always500/model.bin")), HasSubstr("500"), HasSubstr("out of order"), HasSubstr("4 attempts")));
  EXPECT_THAT(read_error("stall"), AllOf(HasSubstr("io: "), HasSubstr("nothing came for 1 s"), HasSubstr("at byte ")));
  EXPECT_THAT(read_error("private"), AllOf(HasSubstr("io: "), HasSubstr("403"), HasSubstr("user:password@")));
  EXPECT_THAT(read_error("gone"), HasSubstr("not_found: "));
  const int nobody = [] {  // a port that nobody listens on
    const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    ::bind(socket, reinterpret_cast<sockaddr*>(&address), size);
    ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
    ::close(socket);
    return ntohs(address.sin_port);
  }();
  EXPECT_THAT(error_of([&] { open_storage("http://127.0.0.1:" + std::to_string(nobody) + "/x", quick())->open("a"); }), AllOf(HasSubstr("io: "), HasSubstr("4 attempts")));
}

TEST_F(StorageHttp, RefusesAnswersThatAreNotWhatWasAskedFor) {
  EXPECT_THAT(read_error("wrongrange"), AllOf(HasSubstr("io: " + url("wrongrange/model.bin")), HasSubstr("answered with bytes 50001 to 150000")));
  EXPECT_THAT(read_error("othersize"), HasSubstr("3146050 bytes long, was 3146049"));
  EXPECT_THAT(read_error("changed"), HasSubstr("changed since it was opened: ETag"));
  EXPECT_THAT(read_error("whole"), HasSubstr("does not do range requests"));
  EXPECT_THAT(read_error("norange"), HasSubstr("does not do range requests"));
  EXPECT_THAT(read_error("zipped"), HasSubstr("Content-Encoding gzip"));
  EXPECT_THAT(read_error("nocontentrange"), HasSubstr("206 without Content-Range"));
  EXPECT_THAT(read_error("toolong"), HasSubstr("sent more than the 100000 bytes"));
  EXPECT_THAT(read_error("nolength"), HasSubstr("does not say how long it is"));
  EXPECT_THAT(read_error("garbage"), HasSubstr("io: "));
  EXPECT_THAT(read_error("hugeheader"), testing::AnyOf(HasSubstr("bad_format: "), HasSubstr("io: ")));
  EXPECT_THAT(read_error("loop"), HasSubstr("redirected more than 10 times"));
  EXPECT_THAT(read_error("ftp"), testing::AnyOf(HasSubstr("neither http nor https"), HasSubstr("no URL")));
}

TEST_F(StorageHttp, ReadsWholeFilesFromServersWithoutRanges) {
  EXPECT_EQ(read_text(*open_storage(url("norange"), quick()), "model.bin") == content(), true);
}

TEST_F(StorageHttp, KeepsCredentialsToTheHostTheyAreFor) {
  const std::string with_password = "http://me:pass@" + url("login").substr(7);
  EXPECT_EQ(read_text(*open_storage(with_password, quick()), "config.json").size(), 29u);
  EXPECT_THAT(error_of([&] { open_storage(url("login"), quick())->open("config.json"); }), HasSubstr("401"));
  EXPECT_THAT(open_storage(with_password, quick())->name(), Not(HasSubstr("pass")));
  requests();
  read_text(*open_storage("http://me:pass@" + url("elsewhere").substr(7) + "?token=x", quick()), "config.json");
  for (const Json& request : requests()) {
    if (request["path"] == "/log") continue;
    const bool home = request["host"].get<std::string>().find("127.0.0.1") == 0;
    EXPECT_EQ(request["authorization"].is_null(), !home) << request.dump();
  }
}

TEST_F(StorageHttp, DoesNotRepeatCredentialsThatAServerSendsBack) {
  EXPECT_THAT(error_of([&] { open_storage("http://me:passport@" + url("echo").substr(7), quick())->open("config.json"); }),
              AllOf(HasSubstr("you sent Basic ***"), Not(HasSubstr("passport")), Not(HasSubstr("bWU6cGFzc3BvcnQ")), Not(HasSubstr("\x1b"))));
  ::setenv("HF_TOKEN", "hf_very_secret", 1);
  ::setenv("HF_ENDPOINT", url("echo").c_str(), 1);
  EXPECT_THAT(error_of([&] { open_storage("hf://org/model@0123456789abcdef0123456789abcdef01234567", quick())->open("config.json"); }), AllOf(HasSubstr("you sent Bearer ***"), Not(HasSubstr("very_secret"))));
}

TEST_F(StorageHttp, EndsSoonWhenItIsInterrupted) {
  StorageOptions patient;
  const auto source = open_storage(url("stall"), patient)->open("model.bin");
  std::thread interrupter([&] {
    std::this_thread::sleep_for(300ms);
    source->interrupt();
  });
  std::string text(100'000, '\0');
  const auto before = std::chrono::steady_clock::now();
  EXPECT_THAT(error_of([&] { source->read(7, std::as_writable_bytes(std::span(text))); }), HasSubstr("cancelled: "));
  EXPECT_LT(std::chrono::steady_clock::now() - before, 5s);
  interrupter.join();
}

TEST_F(StorageHttp, TakesADripForALostTransfer) {
  StorageOptions options = quick();
  options.retries = 0;
  const auto source = open_storage(url("drip"), options)->open("model.bin");
  std::string text(100'000, '\0');
  EXPECT_THAT(error_of([&] { source->read(7, std::as_writable_bytes(std::span(text))); }), AllOf(HasSubstr("io: "), HasSubstr("bytes came in 1 s"), HasSubstr("at byte ")));
}

TEST_F(StorageHttp, AsksWhetherToGoOnWhileAServerIsSilent) {
  StorageOptions options;
  int asked = 0;
  options.keep_going = [&] { return ++asked < 5; };
  const auto before = std::chrono::steady_clock::now();
  EXPECT_THAT(error_of([&] { open_storage(url("silent"), options)->exists("config.json"); }), AllOf(HasSubstr("cancelled: "), HasSubstr("config.json")));
  EXPECT_LT(std::chrono::steady_clock::now() - before, 10s);
  asked = -1000;
  std::thread([&] {  // other threads are not asked: a callback is for one
    EXPECT_EQ(open_storage(url("good"), quick())->open("model.bin")->size(), static_cast<int64_t>(content().size()));
  }).join();
}

TEST_F(StorageHttp, NamesAUrlWithoutAModel) {
  EXPECT_THAT(error_of([&] { local_words(*open_storage(url("empty"), quick())); }), AllOf(HasSubstr("not_found: " + url("empty")), HasSubstr("no config.json"), Not(HasSubstr("cache"))));
}

TEST_F(StorageHttp, BringsTheWordsOfAModelUpToDate) {
  const auto storage = open_storage(url("good"), quick());
  const auto folder = local_words(*storage);
  EXPECT_EQ(read_text_file(folder / "config.json"), "{\"model_type\": \"deepseek_v3\"}");
  EXPECT_FALSE(std::filesystem::exists(folder / "chat_template.jinja"));
  std::ofstream(folder / "config.json") << "spoilt";
  EXPECT_EQ(local_words(*open_storage(url("good"), quick())), folder);
  EXPECT_EQ(read_text_file(folder / "config.json"), "{\"model_type\": \"deepseek_v3\"}");
}

TEST_F(StorageHttp, SignsForS3) {
  ::setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE", 1);
  ::setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", 1);
  for (const char* token : {"", "a/session+token=="}) {
    ::setenv("AWS_SESSION_TOKEN", token, 1);
    const auto storage = open_storage("s3://bucket/a model/v1+/", quick());
    EXPECT_EQ(storage->name(), "s3://bucket/a model/v1+");
    EXPECT_FALSE(storage->exists("absent.bin"));
    const auto source = storage->open("model.bin");
    EXPECT_EQ(source->name(), "s3://bucket/a model/v1+/model.bin");
    EXPECT_EQ(read_all(*source) == content(), true);
  }
  ::setenv("AWS_ACCESS_KEY_ID", "AKIDOTHER", 1);
  EXPECT_THAT(error_of([&] { open_storage("s3://bucket/a model/v1+", quick())->open("model.bin"); }),
              AllOf(HasSubstr("SignatureDoesNotMatch"), HasSubstr("key ...THER"), HasSubstr("clock"), Not(HasSubstr("wJalr"))));
  ::unsetenv("AWS_ACCESS_KEY_ID");
  ::unsetenv("AWS_SECRET_ACCESS_KEY");
  EXPECT_THAT(error_of([&] { open_storage("s3://bucket/a model/v1+", quick())->exists("model.bin"); }), AllOf(HasSubstr("no credentials were found"), HasSubstr("instance metadata")));
  EXPECT_THAT(error_of([&] { open_storage("s3://b!/x", quick()); }), HasSubstr("invalid_argument: "));
}

TEST_F(StorageHttp, ReadsFromMoto) {
  const PythonServer moto(DSINFER_TEST_MOTO, files_->path());
  if (!moto.port()) GTEST_SKIP() << "Python has no moto here";
  ::setenv("AWS_ENDPOINT_URL", ("http://127.0.0.1:" + std::to_string(moto.port())).c_str(), 1);
  ::setenv("AWS_ACCESS_KEY_ID", "testing", 1);
  ::setenv("AWS_SECRET_ACCESS_KEY", "testing", 1);
  const auto storage = open_storage("s3://bucket/a model/v1+", quick());
  EXPECT_EQ(read_all(*storage->open("model.bin")) == content(), true);
  EXPECT_EQ(read_text(*storage, "empty.txt"), "");
  EXPECT_FALSE(storage->exists("absent.bin"));
}

TEST_F(StorageHttp, ReadsFromAHubAndKeepsACopy) {
  const auto storage = open_storage("hf://org/model", quick());
  EXPECT_EQ(storage->name(), "hf://org/model@main");
  EXPECT_TRUE(storage->exists("config.json"));
  EXPECT_FALSE(storage->exists("absent.bin"));
  const auto remote = storage->open("model.bin");
  EXPECT_EQ(remote->path(), nullptr);
  EXPECT_EQ(read_all(*remote) == content(), true);
  int64_t last = 0;
  EXPECT_TRUE(storage->fetch("model.bin", [&](int64_t done, int64_t total) {
    EXPECT_GE(done, last);
    EXPECT_EQ(total, static_cast<int64_t>(content().size()));
    last = done;
    return true;
  }));
  const auto local = storage->open("model.bin");
  ASSERT_NE(local->path(), nullptr);
  EXPECT_THAT(local->name(), AllOf(HasSubstr("org--model/0123456789abcdef0123456789abcdef01234567/model.bin"), HasSubstr(home_.path("cache"))));
  EXPECT_EQ(read_all(*local) == content(), true);
  EXPECT_THAT(error_of([&] { storage->fetch("absent.bin"); }), AllOf(HasSubstr("not_found: hf://org/model@main/absent.bin"), HasSubstr("Entry not found")));
  EXPECT_THAT(error_of([&] { storage->fetch("../config.json"); }), HasSubstr("bad_format: "));
  const auto words = local_words(*storage);
  EXPECT_EQ(words, local->path()->parent_path());
  EXPECT_EQ(read_text_file(words / "config.json"), "{\"model_type\": \"deepseek_v3\"}");
}

TEST_F(StorageHttp, AsksAHubForTheCommitOfARevision) {
  for (const char* name : {"hf://org/oldhub", "hf://org/model@refs/pr/1", "hf://org/model@0123456789abcdef0123456789abcdef01234567"}) {
    EXPECT_EQ(read_text(*open_storage(name, quick()), "config.json").size(), 29u) << name;
  }
  EXPECT_THAT(error_of([&] { open_storage("hf://org/model@absent", quick())->open("config.json"); }), testing::AnyOf(HasSubstr("not_found: "), HasSubstr("Invalid rev")));
}

TEST_F(StorageHttp, ShowsItsTokenToTheHubAlone) {
  EXPECT_THAT(error_of([&] { open_storage("hf://org/gated", quick())->open("model.bin"); }), AllOf(HasSubstr("HF_TOKEN"), HasSubstr("no token was found")));
  home_.file("hf/token", "hf_secret\n");
  requests();
  const auto storage = open_storage("hf://org/gated", quick());
  EXPECT_EQ(read_all(*storage->open("model.bin")) == content(), true);
  EXPECT_TRUE(storage->fetch("model.bin"));
  int to_hub = 0;
  for (const Json& request : requests()) {
    const std::string path = request["path"];
    to_hub += path.find("/hub/org/gated/resolve/") == 0;
    EXPECT_EQ(request["authorization"].is_null(), path.find("/hub/cdn/") == 0 || path == "/log") << request.dump();
  }
  EXPECT_LE(to_hub, 5);  // five ranges and a copy: the redirect is remembered
  ::setenv("HF_TOKEN", "two words", 1);
  EXPECT_THAT(error_of([&] { open_storage("hf://org/gated", quick()); }), AllOf(HasSubstr("HF_TOKEN"), Not(HasSubstr("two words"))));
}

TEST_F(StorageHttp, TakesCopiesOfTheHubsOwnTools) {
  home_.file("hf/hub/models--org--model/snapshots/0123456789abcdef0123456789abcdef01234567/model.bin", "theirs");
  const auto storage = open_storage("hf://org/model", quick());
  EXPECT_EQ(read_text(*storage, "model.bin"), "theirs");
  EXPECT_TRUE(storage->fetch("model.bin"));
  EXPECT_EQ(read_text(*storage, "model.bin"), "theirs");
}

TEST_F(StorageHttp, DropsWhatTheHubsHashDoesNotFit) {
  const auto storage = open_storage("hf://org/spoilt", quick());
  EXPECT_THAT(error_of([&] { storage->fetch("model.bin"); }), AllOf(HasSubstr("io: "), HasSubstr("SHA-256")));
  EXPECT_EQ(storage->open("model.bin")->path(), nullptr);
}

TEST_F(StorageHttp, SharesADownloadBetweenProcessesOfWhichSomeDie) {
  requests();
  std::vector<pid_t> children;
  for (int i = 0; i < 8; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      int code = 1;
      try {
        const auto storage = open_storage("hf://org/slow", quick());
        storage->fetch("model.bin");
        code = read_all(*storage->open("model.bin")) == content() ? 0 : 2;
      } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
      }
      ::_exit(code);
    }
    children.push_back(child);
  }
  std::minstd_rand random(8);
  for (size_t i = 0; i < 4; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50 + random() % 250));
    ::kill(children[i], SIGKILL);
  }
  for (size_t i = 0; i < children.size(); ++i) {
    int status = 0;
    ::waitpid(children[i], &status, 0);
    if (i >= 4) { EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << i << ": " << status; }
  }
  const auto storage = open_storage("hf://org/slow", quick());
  const auto source = storage->open("model.bin");
  ASSERT_NE(source->path(), nullptr);
  EXPECT_EQ(read_all(*source) == content(), true);
}

}  // namespace
}  // namespace dsinfer
