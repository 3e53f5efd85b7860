/// HeldLayout: what a rank will hold in memory of the pieces it reads, and where in its one buffer. Pure; planner, loader and model share it.
#pragma once
#include <string>
#include <vector>

#include "core/format.hpp"
#include "dsinfer/loader.hpp"
#include "weights/shard.hpp"

namespace dsinfer {

/// One tensor of the model as held: a vector, or a matrix [rows, cols] = this rank's part of [out, in], with what its format needs beside it.
/// Offsets are bytes into the rank's buffer; -1 where there is nothing.
struct HeldTensor {
  std::string name;            ///< "….weight" of the checkpoint's model, whatever the stored parts are called
  bool vector = false;         ///< 1-D, always f32
  bool absorbed = false;       ///< kv_b_proj
  int64_t layer = -1, expert = -1;
  Format format = Format::f32;
  int64_t rows = 0, cols = 0;
  int64_t block_rows = 0, block_cols = 0;        ///< what one scale stands for: an FP8 block, or 1 × group of int4
  DType scale_dtype = DType::f32;
  int64_t data_at = -1, data_bytes = 0;
  int64_t scale_at = -1, scale_bytes = 0;
  int64_t zero_at = -1, zero_bytes = 0;          ///< int4 with zero points; in core/format.hpp's layout, as all of it
  DType absorbed_dtype = DType::f32;             ///< f32 or bf16, of the absorbed copies of kv_b_proj:
  int64_t key_up_at = -1, key_up_bytes = 0;
  int64_t value_up_at = -1, value_up_bytes = 0;
  int fused_with = -1;         ///< the tensor whose data, scales and zero points begin where these end
  bool in_file = false;        ///< the data stays in the mapped file, none of it in the buffer; where, Landing says:
  std::byte* mapped = nullptr;
  int64_t mapped_stride = 0;   ///< elements from row to row
  std::vector<int> pieces;     ///< its stored parts, indices into the pieces
};

struct HeldLayout {
  std::vector<HeldTensor> tensors;
  std::vector<int> tensor_of;  ///< piece → index into tensors
  int64_t buffer_bytes = 0;    ///< with alignment
  int64_t held_bytes = 0;      ///< without: RankMemory::weight_bytes
  int64_t mapped_bytes = 0;    ///< of matrices that stay in their files, in neither
};

/// Blocks that `size` rows or columns lie in, the last one perhaps in part; 0 where there are no blocks.
inline int64_t blocks(int64_t size, int64_t block) { return block > 0 ? (size + block - 1) / block : 0; }

/// Element type of a format's data: u8 for pairs of 4-bit numbers.
DSINFER_INTERNAL DType element_of(Format format);

/// Name in the model of the tensor that a stored one is a part of: "….weight" for its scales.
DSINFER_INTERNAL std::string held_name(const TensorSpec& spec);

/// What a matrix stored as `stored` is held as.
DSINFER_INTERNAL Format held_format(const TensorSpec& spec, DType stored, WeightFormat format);

/// Whether the data of a stored tensor can be used where it lies in its file: a matrix that is held as it is stored, its elements aligned.
DSINFER_INTERNAL bool lies_as_held(const StoredTensor& tensor, WeightFormat format);

/// gate_proj and up_proj of one MLP, and q_a_proj and kv_a_proj_with_mqa, lie back to back (data, and scales likewise) where both have one format and the
/// first ends on a block edge: WeightSet::fused() gives them as one matrix. Of a layer's routed experts, gate_up of each lies behind that of the one before, and
/// likewise their scales, down, and its scales. `in_files`: what lies_as_held() stays in its file. `absorbed`: of the absorbed copies.
DSINFER_INTERNAL HeldLayout held_layout(const std::vector<ShardPiece>& pieces, const ModelConfig& config, WeightFormat format, bool in_files = false, DType absorbed = DType::f32);

/// Of the options' absorbed copies.
inline DType absorbed_dtype(const LoadOptions& options) { return options.absorbed_bf16 ? DType::bf16 : DType::f32; }

}  // namespace dsinfer
