// What storage reads and writes as text: URLs, headers, signatures, settings, names of the hub. No network.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <functional>
#include <map>
#include <thread>

#include "core/json.hpp"
#include "dsinfer/error.hpp"
#include "scratch_folder.hpp"
#include "storage/aws_settings.hpp"
#include "storage/download_cache.hpp"
#include "storage/http_answer.hpp"
#include "storage/hub.hpp"
#include "storage/storage.hpp"
#include "storage/url.hpp"

namespace dsinfer {
namespace {

using testing::HasSubstr;

template <typename Body>
std::string error_of(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return std::string(code_name(error.code())) + ": " + error.what();
  }
  return "no error";
}

TEST(SigV4, SignsAsBotocoreDoes) {
  const std::string file = std::string(DSINFER_TEST_DATA) + "/sigv4/goldens.json";
  const Json goldens = parse_json(read_text_file(file), file);
  ASSERT_EQ(goldens["cases"].size(), 50u);
  for (const Json& golden : goldens["cases"]) {
    SigV4Request request{golden["method"], golden["host"], golden["path"], golden["query"], {}, golden["payload"]};
    for (const auto& [name, value] : golden["headers"].items()) request.headers.emplace_back(name, value);
    const AwsCredentials credentials{golden["key"], golden["secret"], golden["token"]};
    const auto lines = sign_v4(request, credentials, goldens["region"], golden["service"], golden["time"].get<std::time_t>());
    EXPECT_EQ(lines.back(), "Authorization: " + golden["authorization"].get<std::string>());
    EXPECT_EQ(lines[1], "x-amz-date: " + golden["date"].get<std::string>());
    EXPECT_EQ(lines.size(), credentials.token.empty() ? 3u : 4u);
  }
}

// From "Signature Calculations for the Authorization Header", Amazon S3 API reference: GET Object.
TEST(SigV4, SignsTheExampleOfTheS3Reference) {
  SigV4Request request{"GET", "examplebucket.s3.amazonaws.com", "/test.txt", "", {{"Range", "bytes=0-9"}}, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"};
  const AwsCredentials credentials{"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", ""};
  EXPECT_THAT(sign_v4(request, credentials, "us-east-1", "s3", 1369353600).back(),
              HasSubstr("Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"));
}

TEST(Url, IsSplitAndShownWithoutItsSecrets) {
  const Url url = parse_url("HTTPS://me:pass@Host.Example:443/a%20b/c?sig=secret#part");
  EXPECT_EQ(url.scheme, "https");
  EXPECT_EQ(url.user, "me:pass");
  EXPECT_EQ(url.host, "host.example");
  EXPECT_EQ(url.shown(), "https://host.example/a%20b/c");
  EXPECT_EQ(url.request(), "https://host.example/a%20b/c?sig=secret");
  EXPECT_TRUE(url.same_origin(parse_url("https://host.example/other")));
  EXPECT_FALSE(url.same_origin(parse_url("https://host.example:444/a")));
  EXPECT_FALSE(url.same_origin(parse_url("http://host.example/a")));
  EXPECT_EQ(parse_url("http://[::1]:9000/x").host, "[::1]:9000");
  EXPECT_EQ(parse_url("http://h").path, "/");
}

TEST(Url, RefusesWhatIsNone) {
  for (const char* text : {"", "host/path", "ftp://host/x", "http://", "http:///x", "http://h:99999/", "http://h:/", "http://h/a b", "http://h/\n", "file:///etc/passwd"}) {
    EXPECT_THAT(error_of([&] { parse_url(text); }), HasSubstr("invalid_argument: ")) << text;
  }
  EXPECT_THAT(error_of([] { parse_url("ftp://me:secret@host/x"); }), testing::Not(HasSubstr("secret")));
  for (const char* url : {"http://me:secret@host:99999/x", "https://me:secret@:1/", "http://me:sec?ret@host:0/", "http://me:a b secret@host/"})
    EXPECT_THAT(error_of([&] { parse_url(url); }), testing::AllOf(HasSubstr("http"), testing::Not(HasSubstr("me:")), testing::Not(HasSubstr("ret@")))) << url;
}

TEST(HttpAnswer, ReadsWhatServersSay) {
  HttpAnswer answer;
  for (const char* line : {"HTTP/1.1 100 Continue\r\n", "\r\n", "HTTP/1.1 206 Partial Content\r\n", "content-LENGTH:  10 \r\n", "Content-Range: bytes 5-14/100\r\n", "ETag: \"a b\"\r\n",
                           "X-Linked-Size: 77\r\n", "no colon here\r\n", "\r\n"}) {
    answer.add_line(line);
  }
  EXPECT_EQ(answer.status, 206);
  EXPECT_EQ(answer.reason, "Partial Content");
  EXPECT_EQ(answer.content_length, 10);
  EXPECT_EQ(answer.content_range, (ContentRange{5, 14, 100}));
  EXPECT_EQ(answer.etag, "\"a b\"");
  EXPECT_EQ(answer.linked_size, 77);
}

TEST(HttpAnswer, RefusesLengthsAndRangesThatMakeNoSense) {
  for (const char* line : {"HTTP/1.1 abc", "HTTP/1.1", "HTTP/1.1 2000 OK", "HTTP/1.1 099 x", "Content-Length: -1", "Content-Length: 1x", "Content-Length: 99999999999999999999",
                           "Content-Range: bytes 5-4/10", "Content-Range: bytes 5-10/10", "Content-Range: items 0-1/2", "Content-Range: bytes 0-/2", "X-Linked-Size: many"}) {
    HttpAnswer answer;
    EXPECT_THAT(error_of([&] { answer.add_line(line); }), HasSubstr("bad_format: ")) << line;
  }
  HttpAnswer twice;
  twice.add_line("Content-Length: 5");
  EXPECT_THAT(error_of([&] { twice.add_line("Content-Length: 6"); }), HasSubstr("twice"));
  HttpAnswer flood;
  EXPECT_THAT(error_of([&] { for (int i = 0; i < 1000; ++i) flood.add_line("X: " + std::string(1000, 'x')); }), HasSubstr("256 KiB"));
}

TEST(HttpAnswer, ShowsForeignTextOnOneLine) { EXPECT_EQ(shown(" a\x1b[31m\r\nb\xff "), "a?[31m  b?"); }

class AwsSettingsTest : public testing::Test {
 protected:
  AwsSettings settings() {
    return aws_settings([this](const char* name) -> const char* {
      const auto it = variables_.find(name);
      return it == variables_.end() ? nullptr : it->second.c_str();
    });
  }
  ScratchFolder home_;
  std::map<std::string, std::string> variables_{{"HOME", home_.path()}};
};

TEST_F(AwsSettingsTest, AreNoneWhereNothingIsSet) {
  EXPECT_TRUE(settings().credentials.none());
  EXPECT_EQ(settings().region, "us-east-1");
  EXPECT_EQ(settings().endpoint, "");
}

TEST_F(AwsSettingsTest, ComeFromTheEnvironmentFirst) {
  home_.file(".aws/credentials", "[default]\naws_access_key_id = file\naws_secret_access_key = file\n");
  variables_.insert({{"AWS_ACCESS_KEY_ID", "env"}, {"AWS_SECRET_ACCESS_KEY", "s"}, {"AWS_SESSION_TOKEN", "t"}, {"AWS_DEFAULT_REGION", "eu-west-1"}, {"AWS_ENDPOINT_URL", "http://a"},
                     {"AWS_ENDPOINT_URL_S3", "http://b"}});
  EXPECT_EQ(settings().credentials.key, "env");
  EXPECT_EQ(settings().credentials.token, "t");
  EXPECT_EQ(settings().region, "eu-west-1");
  EXPECT_EQ(settings().endpoint, "http://b");
}

TEST_F(AwsSettingsTest, ComeFromTheProfileThatIsAskedFor) {
  home_.file(".aws/credentials", "# comment\r\n[default]\r\naws_access_key_id=a\r\naws_secret_access_key=b\r\n\r\n[ work ]\naws_access_key_id = w1\naws_secret_access_key = w/2==\n");
  home_.file(".aws/config", "[default]\nregion = eu-central-1\n[profile work]\nregion=ap-south-1\ns3 =\n  addressing_style = path\n  region = wrong\nendpoint_url = https://store\n");
  EXPECT_EQ(settings().credentials.key, "a");
  EXPECT_EQ(settings().region, "eu-central-1");
  variables_["AWS_PROFILE"] = "work";
  EXPECT_EQ(settings().credentials.key, "w1");
  EXPECT_EQ(settings().credentials.secret, "w/2==");
  EXPECT_EQ(settings().region, "ap-south-1");
  EXPECT_EQ(settings().endpoint, "https://store");
  EXPECT_THAT(settings().credentials_from, HasSubstr("profile work of "));
}

TEST_F(AwsSettingsTest, RefuseAProfileThatIsNowhereAndHalfAPair) {
  variables_["AWS_PROFILE"] = "absent";
  EXPECT_THAT(error_of([&] { settings(); }), HasSubstr("not_found: AWS_PROFILE=absent"));
  variables_ = {{"AWS_ACCESS_KEY_ID", "alone"}};
  EXPECT_THAT(error_of([&] { settings(); }), HasSubstr("the second is not set"));
}

TEST(Hub, ReadsNames) {
  EXPECT_EQ(parse_hub_name("hf://deepseek-ai/DeepSeek-R1").repo, "deepseek-ai/DeepSeek-R1");
  EXPECT_EQ(parse_hub_name("hf://deepseek-ai/DeepSeek-R1/").revision, "main");
  EXPECT_EQ(parse_hub_name("hf://gpt2@refs/pr/1").revision, "refs/pr/1");
  for (const char* name : {"hf://", "hf:///", "hf://a/b/c", "hf://../b", "hf://a/..", "hf://a/b@", "hf://a b/c", "hf://a/b@x\ny"}) {
    EXPECT_THAT(error_of([&] { parse_hub_name(name); }), HasSubstr("invalid_argument: ")) << name;
  }
}

TEST(Hub, KnowsCommitsAndHashes) {
  const std::string commit(40, 'a'), sha(64, 'b');
  EXPECT_EQ(commit_of_json("{\"sha\": \"" + commit + "\", \"siblings\": []}", "x"), commit);
  EXPECT_THAT(error_of([] { commit_of_json("{\"sha\": \"../../etc\"}", "x"); }), HasSubstr("bad_format"));
  EXPECT_THAT(error_of([] { commit_of_json("[]", "x"); }), HasSubstr("bad_format"));
  EXPECT_EQ(sha256_of_etag("\"" + sha + "\""), sha);
  EXPECT_EQ(sha256_of_etag("W/\"" + sha + "\""), sha);
  EXPECT_FALSE(sha256_of_etag("\"" + commit + "\""));
}

TEST(OpenStorage, RefusesOtherSchemesAndAbsentFolders) {
  EXPECT_THAT(error_of([] { open_storage("gs://bucket/x"); }), HasSubstr("invalid_argument: gs://"));
  EXPECT_THAT(error_of([] { open_storage("/no/such/folder"); }), HasSubstr("not_found: "));
}

TEST(OpenStorage, RefusesPipesAndFoldersWithoutWaitingForThem) {
  ScratchFolder folder;
  const std::string pipe = folder.path("model.safetensors");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { open_file(pipe); }), testing::AllOf(HasSubstr("io: " + pipe), HasSubstr("not a regular file")));
  EXPECT_THAT(error_of([&] { read_text_file(pipe); }), testing::AllOf(HasSubstr("io: " + pipe), HasSubstr("not a regular file")));
  EXPECT_THAT(error_of([&] { open_file(folder.path()); }), HasSubstr("not a regular file"));
  EXPECT_THAT(error_of([&] { read_text_file(folder.path()); }), HasSubstr("not a regular file"));
  EXPECT_THAT(error_of([&] { read_text_file("/dev/zero"); }), HasSubstr("not a regular file"));
  EXPECT_THAT(error_of([&] { read_text_file(folder.path("nothing")); }), HasSubstr("not_found: "));
  std::filesystem::create_symlink("circle", folder.path("circle"));
  EXPECT_THAT(error_of([&] { open_storage(folder.path())->exists("circle"); }), testing::AllOf(HasSubstr("io: "), HasSubstr("circle: cannot be looked at")));
}

TEST(OpenStorage, RefusesATextOfATerabyte) {
  ScratchFolder folder;
  folder.file("config.json", "{}");
  const std::string path = folder.path("config.json");
  std::filesystem::resize_file(path, uintmax_t{1} << 40);
  EXPECT_THAT(error_of([&] { read_text_file(path); }), testing::AllOf(HasSubstr("bad_format: " + path), HasSubstr("longer than")));
  EXPECT_THAT(error_of([&] { read_text(*open_storage(folder.path()), "config.json"); }), HasSubstr("is 1099511627776 bytes long"));
}

TEST(OpenStorage, TakesNamesOfFilesAlone) {
  for (const std::string& name : {std::string(), std::string("."), std::string(".."), std::string("a/b"), std::string("../x"), std::string(".hidden"), std::string("/etc/passwd"),
                                  std::string("a\\b"), std::string("a\0b", 3), std::string(256, 'a')})
    EXPECT_FALSE(is_plain_name(name)) << name;
  EXPECT_TRUE(is_plain_name("model-00001-of-000163.safetensors"));
}

class CacheTest : public testing::Test {
 protected:
  Download download() {
    Download download;
    download.target = folder_.path("below/model.bin");
    download.name = "test://model.bin";
    download.size = static_cast<int64_t>(content_.size());
    download.identity = "\"v1\"";
    download.chunk_bytes = 1000;
    download.get = [this](int64_t offset, int64_t bytes, const std::function<void(std::span<const std::byte>)>& sink, const std::atomic<bool>&) {
      if (fail_at_ >= 0 && offset >= fail_at_) throw Error(Error::io, "lost");
      fetched_ += bytes;
      sink(std::as_bytes(std::span(content_)).subspan(static_cast<size_t>(offset), static_cast<size_t>(bytes)));
    };
    return download;
  }
  ScratchFolder folder_;
  std::string content_ = [] {
    std::string text;
    for (int i = 0; i < 20'000; ++i) text += static_cast<char>(i * i >> 3);
    return text;
  }();
  int64_t fail_at_ = -1;
  std::atomic<int64_t> fetched_ = 0;
};

TEST_F(CacheTest, FetchesOnceAndLeavesNothingBesides) {
  fetch_into_cache(download(), {});
  EXPECT_EQ(read_text_file(folder_.path("below/model.bin")), content_);
  fetch_into_cache(download(), {});
  EXPECT_EQ(fetched_, 20'000);
  EXPECT_FALSE(std::filesystem::exists(folder_.path("below/.model.bin.part")));
  EXPECT_FALSE(std::filesystem::exists(folder_.path("below/.model.bin.part.note")));
}

TEST_F(CacheTest, GoesOnWhereItWasLostUnlessTheFileIsAnother) {
  fail_at_ = 12'000;
  Download one = download();
  one.connections = 1;
  EXPECT_THAT(error_of([&] { fetch_into_cache(one, {}); }), HasSubstr("lost"));
  EXPECT_FALSE(std::filesystem::exists(folder_.path("below/model.bin")));
  fail_at_ = -1, fetched_ = 0;
  Download other = download();
  other.identity = "\"v2\"";
  other.target = folder_.path("below/other.bin");
  std::filesystem::copy(folder_.path("below/.model.bin.part"), folder_.path("below/.other.bin.part"));
  std::filesystem::copy(folder_.path("below/.model.bin.part.note"), folder_.path("below/.other.bin.part.note"));
  fetch_into_cache(other, {});
  EXPECT_EQ(fetched_, 20'000);
  fetched_ = 0;
  fetch_into_cache(one, {});
  EXPECT_EQ(fetched_, 8'000);
  EXPECT_EQ(read_text_file(folder_.path("below/model.bin")), content_);
}

TEST_F(CacheTest, RefusesContentThatIsNotWhatItsHashSays) {
  Download spoilt = download();
  spoilt.sha256 = std::string(64, '0');
  EXPECT_THAT(error_of([&] { fetch_into_cache(spoilt, {}); }), HasSubstr("expected 0000"));
  EXPECT_FALSE(std::filesystem::exists(folder_.path("below/model.bin")));
  EXPECT_FALSE(std::filesystem::exists(folder_.path("below/.model.bin.part")));
}

TEST_F(CacheTest, EndsWhenItIsToldTo) {
  EXPECT_THAT(error_of([&] { fetch_into_cache(download(), [](int64_t, int64_t) { return false; }); }), testing::AnyOf(HasSubstr("cancelled: "), HasSubstr("no error")));
  fetch_into_cache(download(), {});
  EXPECT_EQ(read_text_file(folder_.path("below/model.bin")), content_);
}

TEST_F(CacheTest, NamesTheFullDisk) {
  Download huge = download();
  huge.size = int64_t{1} << 60;
  EXPECT_THAT(error_of([&] { fetch_into_cache(huge, {}); }), HasSubstr("has room for"));
}

TEST_F(CacheTest, SurvivesAFullDiskWhileWriting) {
  if (::access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full";
  std::filesystem::create_directories(folder_.path("below"));
  std::filesystem::create_symlink("/dev/full", folder_.path("below/.model.bin.part"));
  EXPECT_THAT(error_of([&] { fetch_into_cache(download(), {}); }), testing::AllOf(HasSubstr("No space left"), HasSubstr("DSINFER_CACHE")));
  EXPECT_FALSE(std::filesystem::exists(folder_.path("below/model.bin")));
}

TEST_F(CacheTest, KeepsNothingOfAPartWhoseContentHasNoName) {
  fail_at_ = 12'000;
  Download nameless = download();
  nameless.identity.clear();
  nameless.connections = 1;
  EXPECT_THAT(error_of([&] { fetch_into_cache(nameless, {}); }), HasSubstr("lost"));
  fail_at_ = -1, fetched_ = 0;
  fetch_into_cache(nameless, {});
  EXPECT_EQ(fetched_, 20'000);
  EXPECT_EQ(read_text_file(folder_.path("below/model.bin")), content_);
}

TEST_F(CacheTest, NamesAFolderThatCannotBeWrittenTo) {
  folder_.file("below", "a file");
  EXPECT_THAT(error_of([&] { fetch_into_cache(download(), {}); }), testing::AllOf(HasSubstr("io: "), HasSubstr("below"), HasSubstr("DSINFER_CACHE")));
  for (const auto& write : {std::function<void()>([&] { write_whole(folder_.path("below/x/config.json"), "{}"); }), std::function<void()>([&] { link_whole(folder_.path("below/x/link"), "y"); })})
    EXPECT_THAT(error_of(write), testing::AllOf(HasSubstr("io: "), HasSubstr("creating the folder"), HasSubstr("DSINFER_CACHE")));
}

TEST_F(CacheTest, LinksFromManyThreadsAtOnce) {
  folder_.file("blob", "{}");
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      for (int j = 0; j < 50; ++j) EXPECT_EQ(error_of([&] { link_whole(folder_.path("links/config.json"), folder_.path("blob")); }), "no error");
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(read_text_file(folder_.path("links/config.json")), "{}");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path("links")), {}), 1);
}

TEST_F(CacheTest, WritesSmallFilesWhole) {
  write_whole(folder_.path("x/config.json"), "{}");
  EXPECT_EQ(read_text_file(folder_.path("x/config.json")), "{}");
  link_whole(folder_.path("y/link"), folder_.path("x/config.json"));
  link_whole(folder_.path("y/link"), folder_.path("x/config.json"));
  EXPECT_EQ(read_text_file(folder_.path("y/link")), "{}");
}

}  // namespace
}  // namespace dsinfer
