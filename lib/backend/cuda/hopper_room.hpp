/// HopperRoom: where the activations of one rank's step stand between the Hopper kernels, laid out once. Work of attention, MLP and experts shares memory.
#pragma once
#include "backend/blocks.hpp"
#include "backend/cuda/hopper/hopper.hpp"

namespace dsinfer::cuda {

/// Rows of experts, and of absorbed attention, that go through the kernels together; more go in slices.
inline constexpr int64_t kMoeSlice = 4096, kAttendSlice = 128;
/// Longest sequence whose keys are expanded at once for prefill; longer ones attend in the absorbed form. 65 KB a key at 128 heads.
inline constexpr int64_t kExpandedKeys = 8192;

/// Construct over Arena::counting() to learn the size.
struct HopperRoom {
  HopperRoom(Arena& arena, const BlockDims& d);

  TensorView normed, branch;            // [T, H] bf16
  TensorView q8, q8_scale;              // [T, H] e4m3, [T, H/128] f32
  // Attention.
  TensorView joined;                    // [T, rq + rkv + dr] bf16
  TensorView latent8, latent8_scale;    // [T, rq], [T, rq/128]
  TensorView q_b;                       // [T, heads · (dn + dr)] bf16
  TensorView o8, o8_scale;              // [T, heads · dv], [T, heads]
  TensorView q, u;                      // [slice, heads, rkv + dr], [slice, heads, rkv] bf16
  TensorView attend_work, expand_work;  // bytes
  // MLP, and experts of a slice: [positions, ·], a position being a pair (row, expert) or a row of the shared expert.
  TensorView h, h8, h8_scale;           // [·, I] bf16, e4m3, f32 [·, I/128]
  TensorView sorted, sorted_scale;      // [positions, H] e4m3, [positions, H/128] f32: where y will stand
  TensorView y;                         // [positions, H] bf16
  TensorView logits;                    // [kGateParts, slice, E] f32, more than gate_parts asks for where rows are many
  TensorView experts, weights, slot;    // [slice, k] i32, f32, i32
  TensorView rows;                      // [positions] i32
  TensorView runs;                      // bytes
  TensorView num_runs;                  // [2] i32; shares memory with nothing: it is zero between calls
  // Head.
  TensorView head_in;                   // [kHeadRows, H] bf16

  int64_t moe_rows = 0, attend_rows = 0, expanded_keys = 0;
};
inline constexpr int64_t kHeadRows = 128;

}  // namespace dsinfer::cuda
