// Read queues: every way of reading gives the bytes that a plain read gives, whatever happens to the file, and a queue ends in bounded time.
#include "storage/read_queue.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "dsinfer/error.hpp"
#include "scratch_folder.hpp"

namespace dsinfer {
namespace {

using namespace std::chrono_literals;
constexpr int64_t kPage = 4096;

struct AlignedBytes {
  explicit AlignedBytes(size_t bytes) : data(static_cast<std::byte*>(std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage))), size(bytes) {}
  AlignedBytes(const AlignedBytes&) = delete;
  AlignedBytes& operator=(const AlignedBytes&) = delete;
  ~AlignedBytes() { std::free(data); }
  std::span<std::byte> span() const { return {data, size}; }
  std::byte* data;
  size_t size;
};

std::string random_text(size_t bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text(bytes, '\0');
  for (size_t i = 0; i < bytes; i += 8) {
    const uint64_t word = random();
    std::memcpy(text.data() + i, &word, std::min<size_t>(8, bytes - i));
  }
  return text;
}

void forget_cached(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY);
  ::fsync(file);
  ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  ::close(file);
}

// Reads until all tags have ended; their errors' texts, "" for good ones.
std::map<uint64_t, std::string> drain(ReadQueue& queue, size_t count) {
  std::map<uint64_t, std::string> ended;
  const auto limit = std::chrono::steady_clock::now() + 60s;
  while (ended.size() < count && std::chrono::steady_clock::now() < limit) {
    queue.wait(100'000);
    while (const auto done = queue.poll()) {
      EXPECT_FALSE(ended.count(done->tag)) << "tag " << done->tag << " ended twice";
      std::string& text = ended[done->tag];
      if (!done->error) continue;
      try {
        std::rethrow_exception(done->error);
      } catch (const Error& error) {
        text = std::string(code_name(error.code())) + ": " + error.what();
      }
    }
  }
  EXPECT_EQ(ended.size(), count);
  return ended;
}

std::string read_one(ReadQueue& queue, Source& source, int64_t offset, std::span<std::byte> out) {
  queue.submit({&source, offset, out, 7, nullptr});
  return drain(queue, 1)[7];
}

std::unique_ptr<ReadQueue> queue_or_null(IoEngine engine, int depth = 0) {
  try {
    return make_read_queue(engine, depth);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Error::unsupported) << error.what();
    return nullptr;
  }
}

class EveryEngine : public testing::TestWithParam<IoEngine> {
 protected:
  void SetUp() override {
    queue_ = queue_or_null(GetParam());
    if (!queue_) GTEST_SKIP() << "not here";
  }
  ScratchFolder folder_;
  std::unique_ptr<ReadQueue> queue_;
};

std::string engine_name(const testing::TestParamInfo<IoEngine>& engine) {
  constexpr const char* kNames[] = {"Automatic", "Uring", "Direct", "Pread"};
  return kNames[static_cast<size_t>(engine.param)];
}

INSTANTIATE_TEST_SUITE_P(ReadQueue, EveryEngine, testing::Values(IoEngine::automatic, IoEngine::uring, IoEngine::direct, IoEngine::pread), engine_name);

TEST_P(EveryEngine, GivesTheBytesOfAPlainReadWithAThousandRangesInFlight) {
  const std::string text = random_text((3 << 20) + 1234, 1);
  folder_.file("a", text);
  forget_cached(folder_.path("a"));
  const auto source = open_file(folder_.path("a"));
  struct Range {
    int64_t offset;
    size_t bytes, shift;
  };
  std::mt19937_64 random(2);
  std::vector<Range> ranges;
  std::vector<std::unique_ptr<AlignedBytes>> buffers;
  for (int i = 0; i < 1000; ++i) {
    Range range{static_cast<int64_t>(random() % text.size()), 0, random() % 64};
    range.bytes = std::min<size_t>(random() % 100'000, text.size() - static_cast<size_t>(range.offset));
    if (i % 2) {  // aligned in all respects, some of them past the end by less than a page
      range = {range.offset / kPage * kPage, (range.bytes / kPage + 1) * kPage, 0};
      range.bytes = std::min<size_t>(range.bytes, (text.size() - static_cast<size_t>(range.offset) + kPage - 1) / kPage * kPage);
    }
    ranges.push_back(range);
    buffers.push_back(std::make_unique<AlignedBytes>(range.bytes + range.shift));
  }
  for (size_t i = 0; i < ranges.size(); ++i) queue_->submit({source.get(), ranges[i].offset, buffers[i]->span().subspan(ranges[i].shift), i, nullptr});
  for (const auto& [tag, error] : drain(*queue_, ranges.size())) {
    const auto& [offset, bytes, shift] = ranges[tag];
    const size_t there = std::min(bytes, text.size() - static_cast<size_t>(offset));
    EXPECT_EQ(error, "");
    EXPECT_EQ(std::memcmp(buffers[tag]->data + shift, text.data() + offset, there), 0) << "offset " << offset << ", " << bytes << " bytes";
  }
}

TEST_P(EveryEngine, EndsExactlyAtTheEndOfTheFile) {
  const std::string text = random_text(3 * kPage + 100, 3);
  folder_.file("a", text);
  const auto source = open_file(folder_.path("a"));
  AlignedBytes bytes(8 * kPage);
  EXPECT_EQ(read_one(*queue_, *source, 3 * kPage + 50, bytes.span().first(50)), "");
  EXPECT_EQ(std::memcmp(bytes.data, text.data() + 3 * kPage + 50, 50), 0);
  EXPECT_EQ(read_one(*queue_, *source, 3 * kPage + 100, bytes.span().first(0)), "");
  EXPECT_EQ(read_one(*queue_, *source, 2 * kPage, bytes.span().first(2 * kPage)), "");
  EXPECT_EQ(std::memcmp(bytes.data, text.data() + 2 * kPage, kPage + 100), 0);
}

TEST_P(EveryEngine, RefusesWhatLiesPastTheEndNamingFileAndByte) {
  folder_.file("a", random_text(3 * kPage + 100, 3));
  const auto source = open_file(folder_.path("a"));
  AlignedBytes bytes(8 * kPage);
  for (const auto& [offset, count] : std::vector<std::pair<int64_t, size_t>>{{3 * kPage + 50, 51}, {3 * kPage, 2 * kPage}, {4 * kPage, kPage}, {int64_t{1} << 60, kPage}, {-1, 10}}) {
    const std::string error = read_one(*queue_, *source, offset, bytes.span().first(count));
    EXPECT_NE(error.find("io: "), std::string::npos) << offset << ": " << error;
    EXPECT_NE(error.find(folder_.path("a")), std::string::npos) << error;
    EXPECT_NE(error.find("12388"), std::string::npos) << error;
  }
}

TEST_P(EveryEngine, NamesTheFileThatShrankOrChangedUnderIt) {
  folder_.file("a", random_text(4 << 20, 4));
  const auto source = open_file(folder_.path("a"));
  AlignedBytes bytes(1 << 20);
  EXPECT_EQ(read_one(*queue_, *source, 0, bytes.span()), "");
  ASSERT_EQ(::truncate(folder_.path("a").c_str(), 5 * kPage), 0);
  const std::string error = read_one(*queue_, *source, 2 << 20, bytes.span());
  EXPECT_NE(error.find("io: " + folder_.path("a") + ": ends at byte"), std::string::npos) << error;
  const std::string partly = read_one(*queue_, *source, 0, bytes.span());
  EXPECT_NE(partly.find("ends at byte 20480"), std::string::npos) << partly;
  queue_ = queue_or_null(GetParam());
  const std::string anew = read_one(*queue_, *source, 2 << 20, bytes.span());
  EXPECT_NE(anew.find("io: " + folder_.path("a")), std::string::npos) << anew;
}

TEST_P(EveryEngine, DropsWhatIsInFlightWhenItEnds) {
  folder_.file("a", random_text(16 << 20, 5));
  forget_cached(folder_.path("a"));
  const auto source = open_file(folder_.path("a"));
  auto buffer = std::make_shared<AlignedBytes>(16 << 20);
  for (uint64_t i = 0; i < 256; ++i) queue_->submit({source.get(), static_cast<int64_t>(i << 16), buffer->span().subspan(i << 16, 1 << 16), i, buffer});
  queue_.reset();
  EXPECT_EQ(buffer.use_count(), 1);
}

// A Source without a file behind it, whose reads must lie within it.
class StrictSource final : public Source {
 public:
  const std::string& name() const override { return name_; }
  int64_t size() const override { return 5000; }
  void read(int64_t offset, std::span<std::byte> out) override {
    if (offset + static_cast<int64_t>(out.size()) > size()) throw Error(Error::io, "strict: past the end");
    std::fill(out.begin(), out.end(), std::byte{7});
  }

 private:
  std::string name_ = "test://strict";
};

TEST(ReadQueue, AlignedReadsOfASourceWithoutAFileMayReachPastItsEnd) {
  StrictSource source;
  AlignedBytes bytes(2 * kPage);
  auto queue = make_read_queue(IoEngine::automatic, 4, false);
  const auto read = [&](int64_t offset, size_t length) {
    queue->submit({&source, offset, bytes.span().first(length), 1, nullptr});
    for (;;) {
      if (auto done = queue->poll()) return !done->error;
      queue->wait(1000);
    }
  };
  EXPECT_TRUE(read(kPage, kPage));
  EXPECT_EQ(bytes.data[5000 - kPage - 1], std::byte{7});
  EXPECT_TRUE(read(0, 5000));
  EXPECT_FALSE(read(0, 5001));
  EXPECT_FALSE(read(kPage, 2 * kPage));  // a page of it would stay as it was
}

// A Source that does not answer: until told to, or never.
class SilentSource final : public Source {
 public:
  explicit SilentSource(bool listens) : listens_(listens) {}
  const std::string& name() const override { return name_; }
  int64_t size() const override { return 1 << 20; }
  void read(int64_t, std::span<std::byte>) override {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return over_; });
    --waiting_;
    changed_.notify_all();
    throw Error(Error::cancelled, "silent: interrupted");
  }
  void interrupt() override {
    if (listens_) end();
  }
  void end() {
    const std::lock_guard lock(mutex_);
    over_ = true;
    changed_.notify_all();
  }
  void await(int readers) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ == readers; });
  }

 private:
  std::string name_ = "test://silent";
  bool listens_, over_ = false;
  int waiting_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
};

TEST(ReadQueue, InterruptsSourcesThatWaitWhenItEnds) {
  SilentSource source(true);
  AlignedBytes bytes(kPage);
  auto queue = make_read_queue(IoEngine::automatic, 4, true);
  for (uint64_t i = 0; i < 20; ++i) queue->submit({&source, 0, bytes.span(), i, nullptr});
  source.await(4);
  const auto before = std::chrono::steady_clock::now();
  queue.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - before, 2s);  // it does not wait for its patience to end
}

TEST(ReadQueue, LeavesBehindASourceThatNeverAnswersAndKeepsItsMemory) {
  auto source = std::make_shared<SilentSource>(false);
  auto buffer = std::make_shared<AlignedBytes>(kPage);
  struct Kept {
    std::shared_ptr<SilentSource> source;
    std::shared_ptr<AlignedBytes> buffer;
  };
  const std::weak_ptr<AlignedBytes> watched = buffer;
  {
    auto queue = make_read_queue(IoEngine::automatic, 2, true);
    queue->submit({source.get(), 0, buffer->span(), 1, std::make_shared<Kept>(Kept{source, buffer})});
    source->await(1);
    buffer.reset();
    EXPECT_FALSE(queue->poll().has_value());
  }
  EXPECT_FALSE(watched.expired());
  source->end();
  for (int i = 0; i < 1000 && !watched.expired(); ++i) std::this_thread::sleep_for(10ms);
  EXPECT_TRUE(watched.expired());
}

TEST(ReadQueue, ReadsAtTheSameTimeAsDeepAsItWasAsked) {
  SilentSource source(true);
  AlignedBytes bytes(kPage);
  auto queue = make_read_queue(IoEngine::automatic, 12, true);
  EXPECT_EQ(queue->depth(), 12);
  EXPECT_EQ(queue->alignment(), 1);
  for (uint64_t i = 0; i < 12; ++i) queue->submit({&source, 0, bytes.span(), i, nullptr});
  source.await(12);
  source.end();
  for (const auto& [tag, error] : drain(*queue, 12)) EXPECT_EQ(error, "cancelled: silent: interrupted") << tag;
  EXPECT_EQ(queue->text(), "test, 12 connections");
}

TEST(ReadQueue, SleepsWhileNothingEnds) {
  SilentSource source(true);
  AlignedBytes bytes(kPage);
  auto queue = make_read_queue(IoEngine::automatic, 4, true);
  queue->submit({&source, 0, bytes.span(), 1, nullptr});
  timespec before{}, after{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
  for (int i = 0; i < 5; ++i) queue->wait(20'000);
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
  EXPECT_LT((after.tv_sec - before.tv_sec) * 1e3 + static_cast<double>(after.tv_nsec - before.tv_nsec) / 1e6, 60);  // of 100 ms
}

TEST(ReadQueue, ReadsMoreFilesThanItKeepsOpen) {
  ScratchFolder folder;
  std::vector<std::unique_ptr<Source>> sources;
  for (int i = 0; i < 200; ++i) {
    folder.file(std::to_string(i), "file number " + std::to_string(i));
    sources.push_back(open_file(folder.path(std::to_string(i))));
  }
  auto queue = make_read_queue(IoEngine::automatic);
  std::vector<std::string> out(200);
  for (size_t i = 0; i < 200; ++i) {
    out[i].resize(static_cast<size_t>(sources[i]->size()));
    queue->submit({sources[i].get(), 0, std::as_writable_bytes(std::span(out[i])), i, nullptr});
  }
  for (const auto& [tag, error] : drain(*queue, 200)) {
    EXPECT_EQ(error, "");
    EXPECT_EQ(out[tag], "file number " + std::to_string(tag));
  }
}

TEST(ReadQueue, FindsAFileThatWasReplacedUnderItsName) {
  ScratchFolder folder;
  folder.file("a", std::string(100, 'a'));
  const auto source = open_file(folder.path("a"));
  std::filesystem::rename(folder.path("a"), folder.path("old"));
  folder.file("a", std::string(200, 'b'));
  auto queue = make_read_queue(IoEngine::automatic);
  AlignedBytes bytes(100);
  EXPECT_NE(read_one(*queue, *source, 0, bytes.span()).find("changed since it was opened"), std::string::npos);
}

TEST(ReadQueue, ReadsWhereTheProcessHasNoDescriptorLeft) {
  ScratchFolder folder;
  folder.file("a", std::string(100, 'a'));
  const auto source = open_file(folder.path("a"));
  auto queue = make_read_queue(IoEngine::automatic);
  std::vector<int> taken;
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  const int next = ::dup(0);
  const rlimit none{static_cast<rlim_t>(next), before.rlim_max};
  ::close(next);
  ::setrlimit(RLIMIT_NOFILE, &none);
  AlignedBytes bytes(100);
  const std::string error = read_one(*queue, *source, 0, bytes.span());
  ::setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_EQ(error, "");
  EXPECT_EQ(bytes.data[99], std::byte{'a'});
}

TEST(ReadQueue, RefusesADepthThatMakesNoSense) {
  EXPECT_THROW(make_read_queue(IoEngine::automatic, -1), Error);
  EXPECT_THROW(make_read_queue(IoEngine::automatic, 1 << 20), Error);
}

TEST(ReadQueue, KnowsWhatLiesInThePageCache) {
  ScratchFolder folder;
  constexpr int64_t kBytes = 8 << 20;
  folder.file("a", random_text(kBytes, 6));
  const auto source = open_file(folder.path("a"));
  std::string text(kBytes, '\0');
  source->read(0, std::as_writable_bytes(std::span(text)));
  EXPECT_EQ(bytes_in_page_cache(*source, 0, kBytes), kBytes);
  EXPECT_EQ(bytes_in_page_cache(*source, kBytes - 100, 1000), 100);
  EXPECT_EQ(bytes_in_page_cache(*source, kBytes, 1000), 0);
  forget_cached(folder.path("a"));
  const int64_t left = bytes_in_page_cache(*source, 0, kBytes);
  if (left == kBytes) GTEST_SKIP() << "a file system in memory";
  EXPECT_LT(left, kBytes / 2);

  auto queue = make_read_queue(IoEngine::automatic);
  AlignedBytes bytes(kBytes);
  EXPECT_EQ(read_one(*queue, *source, 0, bytes.span()), "");
  if (queue->text().find("O_DIRECT") == std::string::npos) GTEST_SKIP() << "a file system without O_DIRECT";
  EXPECT_LT(bytes_in_page_cache(*source, 0, kBytes), kBytes / 2) << "O_DIRECT left it in the cache";
  source->read(0, std::as_writable_bytes(std::span(text)));
  queue = make_read_queue(IoEngine::automatic);
  EXPECT_EQ(read_one(*queue, *source, 0, bytes.span()), "");
  EXPECT_EQ(queue->text(), "pread");
}

TEST(ReadQueue, SaysThatOtherSourcesAreNotInThePageCache) {
  SilentSource source(true);
  EXPECT_EQ(bytes_in_page_cache(source, 0, 100), 0);
}

TEST(ReadQueue, ReadsAFileSystemInMemory) {
  if (::access("/dev/shm", W_OK) != 0) GTEST_SKIP() << "no /dev/shm";
  const std::string path = "/dev/shm/dsinfer_read_queue_" + std::to_string(getpid());
  const std::string text = random_text(1 << 20, 7);
  std::ofstream(path, std::ios::binary) << text;
  for (const IoEngine engine : {IoEngine::automatic, IoEngine::uring, IoEngine::pread}) {
    const auto queue = queue_or_null(engine);
    if (!queue) continue;
    const auto source = open_file(path);
    AlignedBytes bytes(1 << 20);
    EXPECT_EQ(read_one(*queue, *source, 0, bytes.span()), "");
    EXPECT_EQ(std::memcmp(bytes.data, text.data(), text.size()), 0);
  }
  std::filesystem::remove(path);
}

// Runs `body` in a child; its exit status. 77 = cannot be done here.
int in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    int code = 99;
    try {
      code = body();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
    }
    ::_exit(code);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}

TEST(ReadQueue, GoesOnWithoutDirectReadsWhereTheFileSystemHasNone) {
  ScratchFolder folder;
  const int code = in_child([&] {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return 77;
    if (::mount("none", folder.path().c_str(), "ramfs", 0, nullptr) != 0) return 77;
    const std::string text = random_text(1 << 20, 8);
    folder.file("a", text);
    const auto source = open_file(folder.path("a"));
    AlignedBytes bytes(1 << 20);
    for (const IoEngine engine : {IoEngine::automatic, IoEngine::uring, IoEngine::pread}) {
      const auto queue = queue_or_null(engine);
      if (!queue) continue;
      if (read_one(*queue, *source, 0, bytes.span()) != "" || std::memcmp(bytes.data, text.data(), text.size()) != 0) return 1;
      if (queue->text().find("O_DIRECT") != std::string::npos) return 2;
    }
    const std::string error = read_one(*make_read_queue(IoEngine::direct), *source, 0, bytes.span());
    return error.find("unsupported: " + folder.path("a")) == 0 ? 0 : 3;
  });
  if (code == 77) GTEST_SKIP() << "may not mount here";
  EXPECT_EQ(code, 0);
}

TEST(ReadQueue, GoesOnWithThreadsWhereTheKernelForbidsIoUring) {
#ifdef SYS_io_uring_setup
  ScratchFolder folder;
  const std::string text = random_text(1 << 20, 9);
  folder.file("a", text);
  forget_cached(folder.path("a"));
  for (const int refusal : {EPERM, ENOSYS}) {
    const int code = in_child([&] {
      sock_filter filter[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
                              BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(refusal)), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
      const sock_fprog program{4, filter};
      if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) return 77;
      try {
        make_read_queue(IoEngine::uring);
        return 1;
      } catch (const Error& error) {
        if (error.code() != Error::unsupported || std::string(error.what()).find("io_uring") == std::string::npos) return 2;
      }
      const auto queue = make_read_queue(IoEngine::automatic);
      const auto source = open_file(folder.path("a"));
      AlignedBytes bytes(1 << 20);
      if (read_one(*queue, *source, 0, bytes.span()) != "" || std::memcmp(bytes.data, text.data(), text.size()) != 0) return 3;
      return queue->text().find("io_uring") == std::string::npos ? 0 : 4;
    });
    if (code == 77) GTEST_SKIP() << "may not filter system calls here";
    EXPECT_EQ(code, 0);
  }
#endif
}

TEST(ReadQueue, TakesEmptyReads) {
  ScratchFolder folder;
  folder.file("empty", "");
  const auto source = open_file(folder.path("empty"));
  AlignedBytes bytes(kPage);
  for (const IoEngine engine : {IoEngine::automatic, IoEngine::uring, IoEngine::pread}) {
    const auto queue = queue_or_null(engine);
    if (queue) { EXPECT_EQ(read_one(*queue, *source, 0, bytes.span().first(0)), ""); }
  }
}

}  // namespace
}  // namespace dsinfer
