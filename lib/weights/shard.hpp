/// TensorSpec × RankPlan → which bytes of which file a rank reads. Pure.
#pragma once
#include <vector>

#include "plan/cut.hpp"
#include "weights/checkpoint.hpp"

namespace dsinfer {

/// `rows` pieces of `row_bytes`, `stride` bytes apart: a block of rows is one piece, a block of columns is one a row.
struct ShardRange {
  int file = 0;
  int64_t offset = 0, row_bytes = 0, rows = 1, stride = 0;
  int64_t bytes() const { return row_bytes * rows; }
};

/// One tensor's part on this rank.
struct ShardPiece {
  StoredTensor tensor;
  Cut cut;
  ShardRange range;
};

/// In the order of files and offsets: the pieces of every rank then come in order without sorting each time.
DSINFER_INTERNAL void sort_by_place(std::vector<StoredTensor>& tensors);

/// All pieces of a rank in the order of files and offsets.
DSINFER_INTERNAL std::vector<ShardPiece> shard_pieces(const std::vector<StoredTensor>& tensors, const ModelConfig& config, const RankPlan& rank);

}  // namespace dsinfer
