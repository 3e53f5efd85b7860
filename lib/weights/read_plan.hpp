/// ReadPlan: who reads which bytes, and to whom they are handed. Pure; every rank makes the same one.
///
/// Bytes that one rank of a node needs are read by it. Bytes that several ranks of a node need (replicated tensors), and whole rows of a tensor cut along its
/// columns, are read by one of them, which hands each the part that is its own. Where the columns of a tensor lie on several nodes, these share out the rows.
#pragma once
#include <string>
#include <vector>

#include "dsinfer/loader.hpp"
#include "weights/shard.hpp"

namespace dsinfer {

/// Rows [begin, end) of a stored tensor, all columns.
struct ChunkPart {
  int32_t tensor = 0;   ///< index into ReadPlan::tensors
  int32_t holders = 0;  ///< index into ReadPlan::holder_sets: who needs of these rows
  int64_t begin = 0, end = 0;
};

/// Consecutive bytes of one file, read at once by one rank.
struct Chunk {
  int32_t file = 0, reader = 0;  ///< reader: World rank
  int32_t phase = 0;
  bool shared = false;           ///< some part has a holder other than the reader
  int64_t begin = 0, end = 0;
  int64_t first_part = 0, num_parts = 0;
};

struct ReadPlanOptions {
  int64_t own_block = int64_t{8} << 20;     ///< longest chunk that stays with its reader
  int64_t shared_block = int64_t{2} << 20;  ///< longest one that is handed on
  WeightFormat format = WeightFormat::as_stored;
};

struct ReadPlan {
  std::vector<StoredTensor> tensors;
  std::vector<std::vector<int>> holder_sets;  ///< World ranks, ascending
  std::vector<ChunkPart> parts;
  std::vector<Chunk> chunks;                  ///< in the order of phases, files and offsets
  std::vector<int> node_of;                   ///< World rank → node
  std::vector<RankLoad> ranks;                ///< without ranges and memory
  std::vector<int64_t> node_read, node_needed;
  int phases = 1;

  int64_t row_bytes(const StoredTensor& tensor) const { return (tensor.spec->shape.size() > 1 ? tensor.spec->shape[1] : 1) * dtype_size(tensor.dtype); }
  /// The worst node's bytes read over bytes needed.
  DSINFER_INTERNAL double amplification() const;
  /// Where a part's bytes begin in the file.
  int64_t offset(const ChunkPart& part) const { return tensors[static_cast<size_t>(part.tensor)].at.entry.begin + part.begin * row_bytes(tensors[static_cast<size_t>(part.tensor)]); }
};

/// `config`: of the checkpoint (the plan's may be that of the weights as held); `tensors`: Checkpoint::resolve of it; their specs must outlive the result.
/// `node_of`: of each World rank, numbered from 0.
DSINFER_INTERNAL ReadPlan make_read_plan(std::vector<StoredTensor> tensors, const ModelConfig& config, const Plan& plan, std::vector<int> node_of, const ReadPlanOptions& options = {});

/// What of a part one holder gets: rows and columns of the stored tensor.
DSINFER_INTERNAL Cut part_for(const ReadPlan& reads, const ChunkPart& part, const ModelConfig& config, const RankPlan& rank);

}  // namespace dsinfer
