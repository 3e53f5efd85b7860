// Loading with trouble: slow, failing and hanging sources, little memory, changed minds.
#include "weights/loader.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "checkpoint_writer.hpp"
#include "dsinfer/error.hpp"
#include "scratch_folder.hpp"

namespace dsinfer {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing_support::tiny_config_json;
using namespace std::chrono_literals;

// What a read does before it is passed on: `before(offset)` may sleep, throw, or wait for interrupt().
class HookedSource final : public Source {
 public:
  using Hook = std::function<void(int64_t offset, const std::atomic<bool>& interrupted)>;
  HookedSource(std::unique_ptr<Source> inner, Hook before) : inner_(std::move(inner)), before_(std::move(before)) {}
  const std::string& name() const override { return inner_->name(); }
  int64_t size() const override { return inner_->size(); }
  void read(int64_t offset, std::span<std::byte> out) override {
    before_(offset, interrupted_);
    inner_->read(offset, out);
  }
  void interrupt() override { interrupted_ = true; }

 private:
  std::unique_ptr<Source> inner_;
  Hook before_;
  std::atomic<bool> interrupted_ = false;
};

class HookedStorage final : public Storage {
 public:
  HookedStorage(const std::filesystem::path& folder, HookedSource::Hook before) : inner_(open_storage(folder.string())), before_(std::move(before)) {}
  const std::string& name() const override { return inner_->name(); }
  bool exists(const std::string& file) override { return inner_->exists(file); }
  std::unique_ptr<Source> open(const std::string& file) override {
    if (!file.ends_with(".safetensors")) return inner_->open(file);
    return std::make_unique<HookedSource>(inner_->open(file), before_);
  }

 private:
  std::unique_ptr<Storage> inner_;
  HookedSource::Hook before_;
};

// A hub's: its files are brought here first, which takes a while.
class FetchingStorage final : public Storage {
 public:
  using Fetch = std::function<void(const std::string& file, const KeepGoing& keep_going)>;
  FetchingStorage(const std::filesystem::path& folder, Fetch fetch) : inner_(open_storage(folder.string())), fetch_(std::move(fetch)) {}
  const std::string& name() const override { return inner_->name(); }
  bool exists(const std::string& file) override { return inner_->exists(file); }
  std::unique_ptr<Source> open(const std::string& file) override { return inner_->open(file); }
  bool keeps_copies() const override { return true; }
  bool fetch(const std::string& file, const KeepGoing& keep_going) override {
    fetch_(file, keep_going);
    return true;
  }

 private:
  std::unique_ptr<Storage> inner_;
  Fetch fetch_;
};

class LoaderTest : public testing::Test {
 protected:
  void SetUp() override { config_ = testing_support::write_checkpoint(folder_.path(), tiny_config_json(), {.shards = 2}); }
  Plan plan(const std::string& spec, int world) const { return solve(config_, PlanRequest::parse(spec, world)); }

  // Each rank's error, empty where all went well. `armed` lets the headers through first.
  std::vector<std::string> load(const Plan& p, const HookedSource::Hook& before, const LoadOptions& options = {}, std::chrono::milliseconds stall = 20s) {
    std::atomic<bool> armed = false;
    const Checkpoint checkpoint(std::make_shared<HookedStorage>(folder_.path(), [&](int64_t offset, const std::atomic<bool>& interrupted) {
      if (armed) before(offset, interrupted);
    }));
    armed = true;
    return load(p, checkpoint, options, stall);
  }
  std::vector<std::string> load(const Plan& p, const Checkpoint& checkpoint, const LoadOptions& options, std::chrono::milliseconds stall) {
    std::vector<std::unique_ptr<World>> worlds = thread_worlds(p.world_size);
    std::vector<std::string> errors(worlds.size());
    std::vector<std::thread> threads;
    for (size_t r = 0; r < worlds.size(); ++r)
      threads.emplace_back([&, r] {
        World& world = *worlds[r];
        world.set_stall_timeout(stall);
        try {
          in_agreement(world, [&] {
            const auto backend = make_backend("cpu", {.threads = 1});
            bytes_[r] = load_rank(world, checkpoint, p, *backend, options).weights.bytes();
          });
        } catch (const Error& e) {
          errors[r] = std::string(code_name(e.code())) + ": " + e.what();
        }
      });
    for (std::thread& thread : threads) thread.join();
    return errors;
  }

  ScratchFolder folder_;
  ModelConfig config_;
  std::array<int64_t, 16> bytes_{};
};

TEST_F(LoaderTest, TellsAllRanksOfAReadThatFails) {
  for (const char* spec : {"tp=4,ep=1", "dp=4,ep=4"}) {
    std::atomic<int> reads = 0;
    const auto errors = load(plan(spec, 4), [&](int64_t offset, const std::atomic<bool>&) {
      if (++reads == 5) throw Error(Error::io, "shard-x.safetensors: reading at " + std::to_string(offset) + ": Input/output error");
    });
    for (const std::string& error : errors) EXPECT_THAT(error, AllOf(HasSubstr("io: rank "), HasSubstr("shard-x.safetensors: reading at "))) << spec;
  }
}

TEST_F(LoaderTest, GivesUpAReadThatHangs) {
  std::atomic<int> reads = 0;
  const auto started = std::chrono::steady_clock::now();
  const auto errors = load(plan("tp=2,ep=1", 2), [&](int64_t, const std::atomic<bool>& interrupted) {
    if (++reads != 5) return;
    while (!interrupted) std::this_thread::sleep_for(1ms);
    throw Error(Error::cancelled, "interrupted");
  }, {}, 500ms);
  for (const std::string& error : errors) EXPECT_THAT(error, AllOf(HasSubstr("rank "), HasSubstr("nothing moved for 0.5 s while reading "), HasSubstr(".safetensors at byte ")));
  EXPECT_LT(std::chrono::steady_clock::now() - started, 10s);
}

TEST_F(LoaderTest, WaitsForAReaderThatIsSlowButMoves) {
  // Rank 0 reads for longer than the stall limit in all, never for as long at once.
  LoadOptions options;
  options.depth = 1;
  std::atomic<int> reads = 0;
  const auto errors = load(plan("dp=2,ep=2", 2), [&](int64_t, const std::atomic<bool>&) {
    if (++reads <= 12) std::this_thread::sleep_for(100ms);
  }, options, 400ms);
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST_F(LoaderTest, WaitsForARankThatFetchesItsFilesAndTellsHowFarItIs) {
  // One file takes three times the stall limit to come, piece by piece; the rank of the other one waits.
  const Checkpoint checkpoint(std::make_shared<FetchingStorage>(folder_.path(), [](const std::string& file, const KeepGoing& keep_going) {
    if (!file.starts_with("model-00001")) return;
    for (int piece = 1; piece <= 24; ++piece) {
      std::this_thread::sleep_for(50ms);
      EXPECT_TRUE(keep_going(piece * 1000, 24'000));
    }
  }));
  LoadOptions options;
  std::mutex mutex;
  std::set<int64_t> seen;
  options.progress = [&](const LoadProgress& progress) {
    const std::lock_guard lock(mutex);
    seen.insert(progress.bytes_done);
    return true;
  };
  for (const char* spec : {"dp=2,ep=2", "tp=2,ep=1"}) {
    seen.clear();
    for (const std::string& error : load(plan(spec, 2), checkpoint, options, 400ms)) EXPECT_EQ(error, "") << spec;
    EXPECT_TRUE(seen.count(1000) || seen.count(2000) || seen.count(3000)) << spec;
  }
}

TEST_F(LoaderTest, CanBeCancelledWhileFilesAreFetched) {
  const Checkpoint checkpoint(std::make_shared<FetchingStorage>(folder_.path(), [](const std::string&, const KeepGoing& keep_going) {
    while (keep_going(1, 2)) std::this_thread::sleep_for(1ms);
  }));
  LoadOptions options;
  std::atomic<int> calls = 0;
  options.progress = [&](const LoadProgress&) { return ++calls < 6; };
  for (const std::string& error : load(plan("tp=2,ep=1", 2), checkpoint, options, 20s)) EXPECT_THAT(error, AllOf(HasSubstr("cancelled: "), HasSubstr("fetching the model's files")));
}

TEST_F(LoaderTest, LoadsWithTheLeastMemory) {
  LoadOptions options;
  options.host_bytes = 8 << 20;
  const Plan p = plan("tp=4,ep=1", 4);
  for (const std::string& error : load(p, [](int64_t, const std::atomic<bool>&) {}, options)) EXPECT_EQ(error, "");
  for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(bytes_[static_cast<size_t>(rank)], rank_memory(folder_.path(), p, rank).weight_bytes);
}

TEST_F(LoaderTest, CanBeCancelledAtAnyMoment) {
  std::mt19937 random(7);
  for (int round = 0; round < 40; ++round) {
    const int world = 1 << random() % 4;
    LoadOptions options;
    const int at = static_cast<int>(random() % 12), culprit = static_cast<int>(random() % static_cast<unsigned>(world));
    std::mutex mutex;
    std::map<std::thread::id, int> calls;
    std::atomic<int> seen = 0;
    options.progress = [&](const LoadProgress& progress) {
      const std::lock_guard lock(mutex);
      (void)progress;
      if (calls.emplace(std::this_thread::get_id(), seen).second) ++seen;
      return calls[std::this_thread::get_id()] != culprit || seen + static_cast<int>(calls.size()) < at;
    };
    const auto errors = load(plan(world == 1 ? "" : round % 2 ? "tp=" + std::to_string(world) + ",ep=1" : "dp=" + std::to_string(world) + ",ep=" + std::to_string(world), world),
                             [](int64_t, const std::atomic<bool>&) {}, options);
    for (const std::string& error : errors) EXPECT_EQ(error.empty(), errors[0].empty()) << error << " / " << errors[0];
    if (!errors[0].empty()) { EXPECT_THAT(errors[0], HasSubstr("cancelled: ")); }
  }
}

TEST(PublicLoad, GivesTensorsByName) {
  ScratchFolder folder;
  const ModelConfig config = testing_support::write_checkpoint(folder.path(), tiny_config_json(testing_support::fp8_change(16)), {});
  const auto world = single_world();
  const LoadedWeights weights = load(*world, folder.path(), solve(config, PlanRequest{}));
  EXPECT_EQ(weights.report().bytes_held, rank_memory(folder.path(), solve(config, PlanRequest{}), 0).weight_bytes);
  std::map<std::string, LoadedTensor> tensors;
  for (const LoadedTensor& tensor : weights.tensors()) tensors[tensor.name] = tensor;
  const LoadedTensor& q = tensors.at("model.layers.0.self_attn.q_a_proj.weight");
  EXPECT_EQ(q.dtype, "F8_E4M3");
  EXPECT_EQ(q.shape, (std::vector<int64_t>{48, 64}));
  EXPECT_EQ(q.stride, (std::vector<int64_t>{64, 1}));
  EXPECT_EQ(tensors.at("model.layers.0.self_attn.q_a_proj.weight_scale_inv").shape, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(tensors.count("model.layers.0.self_attn.kv_b_proj.weight#key_up"), 1u);
}

TEST(PublicLoad, RefusesLimitsThatNoLoadCanKeep) {
  ScratchFolder folder;
  const ModelConfig config = testing_support::write_checkpoint(folder.path(), tiny_config_json(), {});
  const Plan plan = solve(config, PlanRequest{});
  const auto world = single_world();
  for (const auto& [depth, host_bytes] : {std::pair{-1, int64_t{192} << 20}, std::pair{1025, int64_t{192} << 20}, std::pair{0, int64_t{-1}}, std::pair{0, int64_t{8} << 10}}) {
    LoadOptions options;
    options.depth = depth, options.host_bytes = host_bytes;
    for (const auto& begin : {std::function<void()>([&] { load(*world, folder.path(), plan, options); }), std::function<void()>([&] { plan_load(folder.path(), plan, options); })}) {
      try {
        begin();
        ADD_FAILURE() << depth << " " << host_bytes;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), Error::invalid_argument);
      }
    }
  }
}

TEST(PublicLoad, RefusesAFileThatIsWrittenToMeanwhile) {
  ScratchFolder folder;
  const ModelConfig config = testing_support::write_checkpoint(folder.path(), tiny_config_json(), {});
  const auto world = single_world();
  std::filesystem::path file;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) if (entry.path().extension() == ".safetensors") file = entry.path();
  LoadOptions options;
  options.progress = [&](const LoadProgress& progress) {
    if (progress.bytes_done == progress.bytes_total) std::filesystem::last_write_time(file, std::filesystem::file_time_type::clock::now() + 1h);
    return true;
  };
  try {
    load(*world, folder.path(), solve(config, PlanRequest{}), options);
    FAIL() << "loaded";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), AllOf(HasSubstr(file.filename().string()), HasSubstr("written to while it was read")));
  }
}

TEST(PublicLoad, RefusesAPlanForOtherRanks) {
  ScratchFolder folder;
  const ModelConfig config = testing_support::write_checkpoint(folder.path(), tiny_config_json(), {});
  const auto world = single_world();
  EXPECT_THROW(load(*world, folder.path(), solve(config, PlanRequest::parse("tp=2", 2))), Error);
}

}  // namespace
}  // namespace dsinfer
