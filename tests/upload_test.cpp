// Staging that a device still reads from: blocks come back when their uploads have ended, and not before.
#include <gtest/gtest.h>

#include "checkpoint_writer.hpp"
#include "landed.hpp"
#include "ranks.hpp"
#include "scratch_folder.hpp"
#include "spoilt_backend.hpp"
#include "weights/loader.hpp"
#include "weights/staging.hpp"

namespace dsinfer {
namespace {

using testing_support::fp8_change;
using testing_support::SpoiltBackend;
using testing_support::tiny_config_json;

constexpr int64_t kMiB = int64_t{1} << 20;

class Uploads : public testing::Test {
 protected:
  std::unique_ptr<Backend> cpu_ = make_backend("cpu", {.threads = 1});
  SpoiltBackend device_{*cpu_};
};

TEST_F(Uploads, ABlockIsFreeWhenItsUploadHasEnded) {
  device_.patience = 3;
  std::vector<std::byte> there(kMiB), here(kMiB, std::byte{7});
  Staging staging(device_, 2 * kMiB, kMiB);
  auto first = staging.take(1), second = staging.take(kMiB);
  ASSERT_TRUE(first && second);
  EXPECT_FALSE(staging.take(1)) << "the limit is reached";
  std::byte* const memory = first->data();
  std::copy(here.begin(), here.end(), memory);
  const TensorView target(there.data(), DType::u8, {kMiB}, Place::device), source(memory, DType::u8, {kMiB});
  const uint64_t upload = device_.upload(target, source);
  staging.give_back(std::move(first), upload);
  EXPECT_FALSE(staging.take(1)) << "an upload still reads from the first";
  int asked = 1;
  while (!staging.reclaim() && asked < 100) ++asked;
  EXPECT_EQ(asked, 2) << "it was asked for once when the block was given back";
  EXPECT_EQ(there, here);
  EXPECT_FALSE(staging.uploading());
  const auto again = staging.take(kMiB);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->data(), memory);
  EXPECT_EQ(staging.peak(), 2 * kMiB);
}

TEST_F(Uploads, WhoeverGivesTheirStagingUpWaitsForThem) {
  device_.patience = 1000;
  std::vector<std::byte> there(64);
  {
    Staging staging(device_, kMiB, 0);
    auto block = staging.take(64);
    std::fill_n(block->data(), 64, std::byte{9});
    const uint64_t upload = device_.upload(TensorView(there.data(), DType::u8, {64}, Place::device), TensorView(block->data(), DType::u8, {64}));
    staging.give_back(std::move(block), upload);
  }
  EXPECT_EQ(there, std::vector<std::byte>(64, std::byte{9}));
}

TEST_F(Uploads, OfMemoryThatIsNotStagingAreCopiesAtOnce) {
  device_.patience = 1000;
  std::vector<std::byte> there(64), here(64, std::byte{3});
  EXPECT_EQ(device_.upload(TensorView(there.data(), DType::u8, {64}, Place::device), TensorView(here.data(), DType::u8, {64})), 0u);
  EXPECT_EQ(there, here);
}

// Formats that are copied, widened, decoded and quantised; parts that ranks hand on, and columns cut out; staging of one block and of many.
TEST_F(Uploads, ALoadToADeviceThatReadsLateGivesTheSameWeights) {
  struct Case {
    const char* name;
    nlohmann::json changes;
    WeightFormat format;
    const char* spec;
    int ranks;
  };
  const std::vector<Case> cases = {{"as stored", nlohmann::json::object(), WeightFormat::as_stored, "", 1},
                                   {"fp8", fp8_change(16), WeightFormat::as_stored, "", 1},
                                   {"decoded", fp8_change(16), WeightFormat::bf16, "", 1},
                                   {"fp8 of two ranks", fp8_change(16), WeightFormat::as_stored, "tp=2,ep=2", 2}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "uploads";
    nlohmann::json smaller = {{"num_hidden_layers", 2}, {"n_routed_experts", 8}};
    smaller.merge_patch(c.changes);
    const ModelConfig config = testing_support::write_checkpoint(folder, tiny_config_json(smaller), {});
    const Plan plan = solve(config, PlanRequest::parse(c.spec, c.ranks));
    for (const int64_t staging : {8 * kMiB, 192 * kMiB}) {
      for (const int patience : {0, 1, 7}) {
        test::on_threads(c.ranks, [&](World& world) {
          const auto cpu = make_backend("cpu", {.threads = 1});
          SpoiltBackend device(*cpu);
          device.place = Place::device;
          device.patience = patience;
          LoadOptions options;
          options.weights = c.format;
          options.host_bytes = staging;
          const RankWeights there = load_rank(world, Checkpoint(folder), plan, device, options), here = load_rank(world, Checkpoint(folder), plan, *cpu, options);
          test::expect_same_weights(there.weights, here.weights, config);
          EXPECT_EQ(device.uploaded_late > 0, patience > 0);
          EXPECT_LE(there.report.host_peak_bytes, staging);
        });
      }
    }
    std::filesystem::remove_all(folder);
  }
}

TEST_F(Uploads, ShardsReadBackToADeviceThatReadsLateAreTheSame) {
  const ScratchFolder scratch;
  const std::filesystem::path folder = scratch.path("model"), shards = scratch.path("shards");
  nlohmann::json smaller = {{"num_hidden_layers", 2}, {"n_routed_experts", 64}, {"moe_intermediate_size", 1280}};
  const ModelConfig config = testing_support::write_checkpoint(folder, tiny_config_json(smaller), {});
  const Plan plan = solve(config, PlanRequest::parse("", 1));
  const auto world = single_world();
  ASSERT_GT(save_shards(*world, folder, plan, shards).bytes_held, 24 * kMiB) << "several blocks of 8 MiB";
  LoadOptions options;
  const RankWeights here = load_rank(*world, Checkpoint(folder), plan, *cpu_, options);
  options.shard_cache = shards;
  device_.place = Place::device;
  for (const int64_t staging : {8 * kMiB, 40 * kMiB}) {
    for (const int patience : {0, 1, 7}) {
      options.host_bytes = staging;
      device_.patience = patience;
      device_.uploaded_late = 0;
      const RankWeights there = load_rank(*world, Checkpoint(folder), plan, device_, options);
      EXPECT_TRUE(there.report.from_shard_cache);
      EXPECT_GE(device_.uploaded_late, patience > 0 ? there.weights.bytes() : 0);
      test::expect_same_weights(there.weights, here.weights, config);
    }
  }
}

}  // namespace
}  // namespace dsinfer
