/// What fp8_gemm_kernel is asked, its shapes, and the order of its tiles.
#pragma once
#include "device.cuh"
#include "run.cuh"
#include "tma.cuh"

namespace dsinfer::hopper {

struct GemmArgs {
  CUtensorMap x, w, shared_w;  // boxes of kTokenBox and of 64 rows; w: [experts · N, K]
  CUtensorMap y;               // of `out`: boxes of 64 columns by 16 rows
  bf16* out;                   // plain: [positions, N]; gated: [positions, N/2] = silu(gate) · up
  const float* x_scale;        // [rows, K/128]
  const float* w_scale;        // [experts, ceil(N/128), K/128]
  const float* shared_scale;
  const ExpertRun* runs;  // grouped: [*num_runs], of at most kGemmRunTokens positions
  const int* num_runs;
  int shared_first;  // grouped: first position of the shared expert
  int tokens, n, k, experts;
  int tile_rows;  // not grouped: rows of a tile, a multiple of 64 up to kRows
};

/// kConsumers warpgroups, each with kGroups groups of 64 tokens; kCluster blocks take neighbouring columns and bring the tokens for each
/// other.
template <bool kGrouped_, bool kGated_, int kConsumers_, int kGroups_, int kCluster_>
struct GemmShape {
  static constexpr bool kGrouped = kGrouped_, kGated = kGated_;
  static constexpr int kConsumers = kConsumers_, kGroups = kGroups_, kCluster = kCluster_, kThreads = kConsumers * 128 + 128;
  static constexpr int kRows = kGrouped ? kGemmRunTokens : kConsumers * kGroups * 64, kColumns = kGated ? 64 : 128;  // of the output
  static constexpr int kTokenBox = kGrouped ? 32 : 64, kTokenBytes = kRows * 128, kWeightBytes = 128 * 128,
                       kStageBytes = kTokenBytes + kWeightBytes;
  // What a warp stores at a time: boxes of 64 columns by 16 rows. Experts wait for weights from memory: a deeper ring instead.
  static constexpr int kOutBoxes = kGrouped ? 1 : kColumns / 64;
  static constexpr int kOutBoxBytes = 16 * 128, kOutBytes = kConsumers * 4 * kOutBoxes * kOutBoxBytes;
  static constexpr int kStages = int((227 * 1024 - 1024 - kOutBytes) / (kStageBytes + 16));  // what a block's shared memory holds
  static constexpr size_t kSharedBytes = 1024 + kOutBytes + kStages * (kStageBytes + 16);
  // 65536 registers among consumers and the warpgroup that fills the ring.
  static constexpr int kConsumerRegisters = kConsumers == 2 ? 232 : 160, kFillerRegisters = kConsumers == 2 ? 40 : 32;
  static constexpr int kBand = 16;  // row tiles that are neighbours in the order of tiles: they share weights in L2
  static constexpr int kPatch = 6;  // runs of the shared expert that do
  static_assert((kConsumers == 2 || kConsumers == 3) && kGroups * kConsumers * 64 >= kRows && kStages >= 4);
};

/// Tile number to place. A tile: up to kRows tokens by kColumns of the output.
template <class Shape>
struct TileOrder {
  struct Place {
    int first, count, column, expert;
  };
  int across, row_tiles, num_tiles, rank;  // across: groups of kCluster column tiles

  __device__ TileOrder(const GemmArgs& a, int width, int rank_of_block) : rank(rank_of_block) {
    constexpr int kColumns = Shape::kColumns * Shape::kCluster;
    across = (width + kColumns - 1) / kColumns;
    row_tiles = Shape::kGrouped ? *a.num_runs : (a.tokens + a.tile_rows - 1) / a.tile_rows;
    num_tiles = row_tiles * across;
  }

  __device__ Place operator()(const GemmArgs& a, int tile) const {
    Place p;
    if constexpr (Shape::kGrouped)
      p = of_runs(a, tile);
    else
      p = of_rows(a, tile);
    p.column = p.column * Shape::kCluster + rank;
    return p;
  }

  __device__ Place of_rows(const GemmArgs& a, int tile) const {
    const int band = tile / (Shape::kBand * across), in_band = tile % (Shape::kBand * across);
    const int height = min(Shape::kBand, row_tiles - band * Shape::kBand), first = (band * Shape::kBand + in_band % height) * a.tile_rows;
    return {first, min(a.tile_rows, a.tokens - first), in_band / height, 0};
  }

  __device__ Place of_runs(const GemmArgs& a, int tile) const {
    const ExpertRun run = a.runs[tile / across];
    const int column = tile % across;
    if (run.expert != a.experts) return {run.first, run.count, column, run.expert};
    // The shared expert's tiles go by patches of kPatch runs, column after column: tiles of a time then share its weights and tokens in L2,
    // before the experts between its runs push them out. Run by run its weights would come from memory for each.
    const int at = (run.first - a.shared_first) / kGemmRunTokens * across + column;
    const int runs = (a.tokens + kGemmRunTokens - 1) / kGemmRunTokens, patch = at / (Shape::kPatch * across) * Shape::kPatch;
    const int height = min(Shape::kPatch, runs - patch), in_patch = at - patch * across;
    const int token = (patch + in_patch % height) * kGemmRunTokens;
    return {a.shared_first + token, min(kGemmRunTokens, a.tokens - token), in_patch / height, run.expert};
  }
};

}  // namespace dsinfer::hopper
