/// TensorSpec: one entry per tensor of a checkpoint. Written once per family; the planner's bytes, the loader's ranges and the model's views derive from it.
#pragma once
#include <string>
#include <vector>

#include "core/dtype.hpp"
#include "dsinfer/config.hpp"

namespace dsinfer {

/// What a tensor is cut along, and by which group.
enum class Split : uint8_t {
  whole,         ///< every rank of the stage
  vocab_rows,    ///< dim 0 by tp: embedding, head
  head_rows,     ///< dim 0 by tp, whole heads: q_b, q_proj, kv_b
  head_columns,  ///< dim 1 by tp, whole heads: o_proj
  dense_rows, dense_columns,    ///< dense MLP, by tp
  shared_rows, shared_columns,  ///< shared expert, by tp
  expert_rows, expert_columns,  ///< routed expert: held by its ep slice, cut by moe_tp
};

/// Which stage holds it.
enum class Home : uint8_t { layer, first_stage, last_stage };

/// What a stored tensor is to the 4-bit weight that it is a part of.
enum class Int4Part : uint8_t { none, words, zeros, scales };

struct TensorSpec {
  std::string name;            ///< as in the checkpoint
  std::vector<int64_t> shape;  ///< row-major
  DType dtype = DType::bf16;   ///< as a checkpoint of this config stores it
  Split split = Split::whole;
  Home home = Home::layer;
  int64_t layer = -1;          ///< -1: not in a layer
  int64_t expert = -1;         ///< -1: not a routed expert's
  bool is_scale = false;       ///< `<weight>_scale_inv`, [⌈rows/block⌉, ⌈cols/block⌉]
  bool quantisable = false;    ///< stored e4m3 (with a scale) in an FP8 checkpoint
  bool expected = true;        ///< false: a linear layer that the config says is stored in 4 bits; its "….weight" is there where the file left it alone
  Int4Part int4 = Int4Part::none;
  bool transposed = false;     ///< stored [in, out]
  int64_t unit_rows = 1, unit_cols = 1;  ///< rows and columns of the weight that one stored element stands for
  int64_t row_group = 1;       ///< rows (or columns) that belong together under a head split: head width; 1 otherwise
};

/// Every tensor of a real checkpoint of this config, in the order globals, layers, MTP layers. Where linear layers are stored in 4 bits, their "….weight" is
/// listed before the parts, with `expected` false, and so are parts of layers that are not. MTP layers (index num_hidden_layers …)
/// are included when num_nextn_predict_layers > 0. DeepSeek-V3: 91,991 entries, 688,574,839,360 bytes.
DSINFER_INTERNAL std::vector<TensorSpec> tensor_table(const ModelConfig& config);

/// The same table in short, for arithmetic: the globals, the first dense, the first MoE and the first MTP layer, of their experts number 0 alone, no scales.
DSINFER_INTERNAL std::vector<TensorSpec> tensor_outline(const ModelConfig& config);

}  // namespace dsinfer
