/// What a rank holds besides weights and cache: activations, buffers, what driver and graphs take.
#pragma once
#include <cstdint>

#include "dsinfer/plan.hpp"
#include "plan/shape.hpp"

namespace dsinfer {

/// The part that any rank of such a plan holds: all divide evenly, so one speaks for all. It stands on every stage at once.
DSINFER_INTERNAL RankPlan any_rank(const ModelConfig& config, const Shape& shape);

/// Sizes that the activations of one rank's step are made for, as in ForwardOptions.
struct StepLimits {
  int64_t max_tokens = 0;     ///< most rows of a dp rank in one step
  int64_t max_sequences = 0;
  int64_t max_len = 0;        ///< longest sequence
  int64_t page_size = 16;
  int64_t max_pages() const { return (max_len + page_size - 1) / page_size; }
};

/// Bytes of the engine's arena (model/workspace.cpp lays it out; a test holds the two together). `element`: 4 on the CPU, 2 where activations are BF16;
/// router scores, softmax statistics and logits are f32 everywhere. `exchange`: with the rows that experts' ranks send each other.
DSINFER_INTERNAL int64_t arena_bytes(const ModelConfig& config, const RankPlan& rank, const StepLimits& limits, int64_t element, bool exchange);
/// Of that, a batch as it comes in and the rows of logits that come out.
DSINFER_INTERNAL int64_t batch_bytes(const ModelConfig& config, const RankPlan& rank, const StepLimits& limits, int64_t element);
/// The arena and the rotary table.
DSINFER_INTERNAL int64_t activation_bytes(const ModelConfig& config, const RankPlan& rank, const StepLimits& limits, int64_t element, bool exchange);

/// At least what the CUDA backend's blocks for Hopper take of the arena (backend/cuda/hopper_room.cpp lays it out; a test holds the two together), up to 262,144 positions.
DSINFER_INTERNAL int64_t block_scratch_bytes(const ModelConfig& config, const RankPlan& rank, const StepLimits& limits);
/// At least what a rank on those blocks holds beside weights and cache: arena, rotary table and the backend's own.
DSINFER_INTERNAL int64_t block_activation_bytes(const ModelConfig& config, const RankPlan& rank, const StepLimits& limits);
/// Whether ranks may run on them: Hopper, FP8. Their dimensions are the backend's to judge.
DSINFER_INTERNAL bool may_have_blocks(const ModelConfig& config, const Precisions& precisions, const GpuKind& gpu);

/// The sizes for which the memory table counts: the engine's own defaults on the CPU.
DSINFER_INTERNAL StepLimits step_limits(const Fleet& fleet, const SolveRequest& request, int64_t step_tokens);

/// Buffers of collectives and of the experts' exchange.
DSINFER_INTERNAL int64_t communication_bytes(const ModelConfig& config, const Shape& shape, const Fleet& fleet, const StepLimits& limits);
/// CUDA context and captured graphs.
DSINFER_INTERNAL int64_t context_bytes(const Fleet& fleet);
/// What stays free for fragmentation.
DSINFER_INTERNAL int64_t reserve_bytes(const Fleet& fleet);

}  // namespace dsinfer
