// The planner's bound of what the blocks for Hopper hold, against the room that they lay out. The room counts without a GPU; with one it counts partial sums of attention, too.
#include "backend/cuda/hopper_room.hpp"

#include <gtest/gtest.h>

#include "dsinfer/forward.hpp"
#include "model/block_layers.hpp"
#include "plan/memory.hpp"
#include "solver_shapes.hpp"

namespace dsinfer {
namespace {

using namespace test;

TEST(BlockScratch, IsNeverMoreThanThePlannerCounts) {
  constexpr int64_t kPartials = int64_t{4096} * 64 * 513 * 4;  // counted whatever the GPU makes of them
  for (const char* model : {"deepseek-v3", "deepseek-r1", "kimi-k2-instruct", "deepseek-v2"}) {
    const ModelConfig config = real_config(model);
    for (const int64_t tp : {1, 2, 4, 8}) {
      for (const int64_t max_tokens : {1, 8, 64, 128, 300, 512, 2048, 4096, 8192}) {
        for (const int64_t max_len : {64, 1000, 4096, 32768, 163840}) {
          SCOPED_TRACE(std::string(model) + ": tp " + std::to_string(tp) + ", rows " + std::to_string(max_tokens) + ", length " + std::to_string(max_len));
          const RankPlan rank = any_rank(config, shape_of(tp, 1, 1, 1));
          ForwardOptions options;
          options.max_tokens = max_tokens;
          options.max_len = max_len;
          Arena counting = Arena::counting();
          cuda::HopperRoom room(counting, block_dims(config, rank, options));
          const auto held = static_cast<int64_t>(counting.peak());
          StepLimits limits;
          limits.max_tokens = max_tokens;
          limits.max_len = max_len;
          const int64_t counted = block_scratch_bytes(config, rank, limits);
          EXPECT_LE(held, counted);
          EXPECT_LE(counted, held + held / 50 + kPartials);
          EXPECT_LT(counted, block_activation_bytes(config, rank, limits));
        }
      }
    }
  }
}

}  // namespace
}  // namespace dsinfer
