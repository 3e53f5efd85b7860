/// What the Hopper kernels take: DeepSeek-V3's dimensions, and weights in FP8 blocks of 128x128.
#pragma once
#include "backend/blocks.hpp"

namespace dsinfer::cuda {

inline constexpr int64_t kHidden = 7168, kQRank = 1536, kLatent = 512, kRope = 64, kNope = 128, kValue = 128, kExperts = 256, kGroups = 8, kBlock = 128;

/// What the kernels are made for, all of it.
bool fits_hopper(const BlockDims& d);
/// The current device is one of compute capability 9.0.
bool is_hopper();

/// As Blocks::check.
void check_for_hopper(const AttentionWeights& w, const BlockDims& d);
void check_for_hopper(const MlpWeights& w, const BlockDims& d);
void check_for_hopper(const MoeWeights& w, const BlockDims& d);

}  // namespace dsinfer::cuda
