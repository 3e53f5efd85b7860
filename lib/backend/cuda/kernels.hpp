/// Launch functions of the plain CUDA path: raw device pointers, sizes and a stream. They start work and return; what cannot be started throws.
/// Code for sm_80 and later. Activations are f32, sums f32 in an order that depends on the row alone.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/format.hpp"

namespace dsinfer::cuda {

/// What a kernel met that cannot be: an index outside of its tensor. The first one is kept; the kernel leaves that row out.
struct FaultRecord {
  enum Kind : int32_t { none, embed_token, rope_position, append_page, attend_page, gather_page, gather_row, scatter_row };
  int32_t kind;
  int32_t value;  ///< the index
  int64_t limit;  ///< what it must stay below
};
/// Where kernels report: `elected` in device memory lets one thread through, `record` is mapped host memory.
struct FaultSink {
  int32_t* elected;
  FaultRecord* record;
};

/// Position of a row that is padding: it is rotated nowhere, appended nowhere, and attends to nothing.
inline constexpr int32_t kPadding = -1;

/// A view of up to three dimensions, strides in elements, innermost stride 1.
template <class T> struct Rows {
  T* data;
  int64_t stride;       ///< from row to row
  int64_t inner = 0;    ///< from head to head, where there are heads
};

/// A matrix's memory, by expert.
struct LinearWeight {
  const std::byte* data;
  const std::byte* scale;
  const uint8_t* zeros;
};
/// Rows [row, row + rows) that go through one expert; rows ≤ tile_rows of the call, 0 for none.
struct LinearTile {
  int32_t expert, row, rows;
};
inline constexpr int kTileRows = 8, kWideTileRows = 32;

/// What all weights of a call have in common.
struct LinearShape {
  Format format;
  DType scale_dtype;             ///< of int4_group; f32 else
  int64_t stride;                ///< bytes from row to row of data
  int64_t scale_stride;          ///< elements
  int32_t block_rows, block_cols;
  int32_t n, k;                  ///< outputs, depth
  bool aligned;                  ///< rows may be read 16 bytes at a time: data and strides are multiples of 16, and k and block_cols of what 16 bytes hold
};

/// out[t, :] = x[t, :] · wᵀ.
struct LinearCall {
  Rows<float> out;
  Rows<const float> x;
  LinearShape shape;
  LinearWeight weight;           ///< where tiles is null
  const LinearTile* tiles;       ///< device memory; null: all rows through `weight`
  const LinearWeight* experts;   ///< device memory, by expert; with tiles
  const int32_t* gather;         ///< device memory, or null: row i of the call reads row gather[i] of x
  int32_t rows, num_tiles;       ///< rows without tiles, or how many tiles
  int32_t tile_rows;             ///< with tiles: kTileRows, or kWideTileRows where on_matrix_unit
  int32_t heads;                 ///< 1, or heads whose matrices lie head_stride bytes apart; x.inner and out.inner apply
  int64_t head_stride;
  bool x_aligned;                ///< rows of x may be read 16 bytes at a time
};
void linear(const LinearCall& call, int multiprocessors, cudaStream_t stream);
/// Whether such weights are multiplied on the matrix unit, if rows of x may be read 16 bytes at a time.
bool on_matrix_unit(const LinearShape& shape);

/// out = x as e4m3 and a scale for each row and block of columns make it (w8a8).
void quantise(Rows<float> out, Rows<const float> x, int64_t rows, int64_t width, int64_t block_cols, bool ue8m0, cudaStream_t stream);

void embed(Rows<float> out, LinearWeight table, const LinearShape& shape, const int32_t* tokens, int64_t rows, int64_t first_row, cudaStream_t stream);
/// residual.data null: out = norm(x). Else residual += x first, and out = norm(residual).
void rms_norm(Rows<float> out, Rows<float> residual, Rows<const float> x, const float* w, int64_t rows, int64_t width, float eps, cudaStream_t stream);
void add(Rows<float> x, Rows<const float> y, int64_t rows, int64_t width, cudaStream_t stream);
void rope(Rows<float> x, const int32_t* positions, Rows<const float> table, int64_t table_rows, int64_t rows, int64_t heads, int64_t width, bool interleave, FaultSink fault,
          cudaStream_t stream);
void silu_mul(Rows<float> out, Rows<const float> gate_up, int64_t rows, int64_t width, cudaStream_t stream);

/// One layer's pages: [pages, page_size, width] dense within a page.
struct Pages {
  std::byte* data;
  int64_t page_stride;  ///< elements
  int64_t pages, page_size, width;
  bool bf16;
};
void mla_append(const Pages& pages, Rows<const float> latent, Rows<const float> rope, int64_t rows, int64_t latent_dim, const int32_t* positions, Rows<const int32_t> table, int64_t max_pages,
                FaultSink fault, cudaStream_t stream);
void mla_gather(Rows<float> out, const Pages& pages, const int32_t* table, int64_t max_pages, int64_t first, int64_t rows, FaultSink fault, cudaStream_t stream);
struct MlaAttend {
  Rows<float> out;
  Rows<const float> q_latent, q_rope;
  Pages pages;
  const int32_t* positions;
  Rows<const int32_t> table;
  int64_t max_pages, rows, heads, latent_dim;
  float scale;
  FaultSink fault;
};
/// A row's keys are cut into parts, which share the device where rows and heads alone would not fill it. partial: mla_partial_bytes.
void mla_attend(const MlaAttend& a, float* partial, int multiprocessors, cudaStream_t stream);
size_t mla_partial_bytes(int multiprocessors);
/// Largest key and value widths that the attention kernels take: V3's latent and rope key.
inline constexpr int64_t kMaxKeyDim = 576, kMaxValueDim = 512;
void attend_expanded(Rows<float> out, Rows<float> lse, Rows<const float> q, Rows<const float> kv, Rows<const float> key_rope, int64_t queries, int64_t heads, int64_t keys, int64_t nope,
                     int64_t rope, int64_t value, int64_t q_first, int64_t k_first, float scale, cudaStream_t stream);
void merge_attention(Rows<float> out, Rows<float> lse, Rows<const float> part, Rows<const float> part_lse, int64_t rows, int64_t heads, int64_t width, cudaStream_t stream);

struct Gate {
  int32_t experts, groups, kept_groups, top_k;
  bool sigmoid, top2, normalise;
  float scale;
};
void route(Rows<int32_t> experts, Rows<float> weights, Rows<const float> logits, const float* bias, const Gate& gate, int64_t rows, cudaStream_t stream);
void gather_rows(Rows<float> out, Rows<const float> x, const int32_t* indices, int64_t rows, int64_t width, int64_t limit, FaultSink fault, cudaStream_t stream);
/// count: null, or device memory that says how many of `rows` there are.
void scatter_add(Rows<float> out, int64_t out_rows, Rows<const float> x, const int32_t* indices, const float* scale, int64_t rows, const int32_t* count, int64_t width, FaultSink fault,
                 cudaStream_t stream);

/// From the gate's choice to what products and sums go by. All in device memory.
struct Pairs {
  int32_t* rows;        ///< [pairs] row of x, by expert, then by row
  float* scale;         ///< [pairs]
  int32_t* count;       ///< pairs
  LinearTile* tiles;    ///< [num_tiles]; those beyond the last have no rows
  int32_t num_tiles;
  int32_t tile_rows;    ///< of a tile, at most
};
inline constexpr int64_t kMostPairExperts = 1024;
void pair_up(const Pairs& pairs, Rows<const int32_t> experts, Rows<const float> weights, int64_t rows, int64_t top_k, int64_t first_expert, int64_t own_experts, cudaStream_t stream);

/// Backend::survey_logits of at most kSurveyRows rows; `scratch` holds kSurveyRowBytes for each.
struct Survey {
  Rows<int32_t> out;
  Rows<const float> logits;
  Rows<const int32_t> asks;
  int64_t rows, vocab, ids;  ///< ids: of the candidates and of tempered_mass
  std::byte* scratch;
};
inline constexpr int64_t kSurveyRows = 512, kSurveyRowBytes = 32 * (40 + 96 * 8);
void survey_logits(const Survey& survey, cudaStream_t stream);

/// Strided copy on the device. Strides in elements of `size` bytes (1, 2, 4 or 8).
struct StridedCopy {
  std::byte* to;
  const std::byte* from;
  int64_t shape[4], to_stride[4], from_stride[4];
  int32_t size;
};
void copy_strided(const StridedCopy& copy, cudaStream_t stream);

/// Throws Error::internal or out_of_memory that names `what`, unless it is success.
void check(cudaError_t status, const char* what);
/// After a launch.
void check_launch(const char* op);

}  // namespace dsinfer::cuda
