/// CudaBackend: every operation on a plain path for sm_80 and later, on one stream of one GPU. Activations are f32.
/// Steps of a key are captured as CUDA graphs. Indices that lie outside of their tensors are found on the device and thrown by the next copy to the host.
#pragma once
#include <map>

#include "backend/backend.hpp"
#include "backend/cuda/device.hpp"
#include "backend/cuda/step_graphs.hpp"
#include "backend/operands.hpp"

namespace dsinfer {

class CudaBackend final : public Backend {
 public:
  CudaBackend(int device, const BackendOptions& options);

  const char* name() const override { return "cuda"; }
  Buffer allocate(size_t bytes) override;
  /// Host memory may be read or written at once on return, on both sides.
  void copy(TensorView dst, TensorView src) override;
  Buffer staging(size_t bytes) override;
  /// From pinned memory on a stream of its own, which all other operations but copies from the host wait for.
  uint64_t upload(TensorView dst, TensorView src) override;
  bool uploaded(uint64_t number) override;
  void await_upload(uint64_t number) override;
  void zero(TensorView x) override;
  Stream stream() const override { return {device_.stream()}; }
  size_t available_bytes() const override;
  bool supports(Format) const override { return true; }
  void run(const StepKey& key, const std::function<void()>& step) override;
  /// 1, 2, 4, 8, 12, 16, 24, 32, 48, …
  int64_t padded_rows(int64_t rows) const override;
  /// On Hopper, in w8a8, at DeepSeek-V3's dimensions (hopper_blocks.cpp).
  std::unique_ptr<Blocks> make_blocks(const BlockDims& dims) override;

  void embed(TensorView out, const Weight& table, TensorView tokens, int64_t first_row) override;
  void rms_norm(TensorView out, TensorView x, TensorView w, float eps) override;
  void add_rms_norm(TensorView out, TensorView residual, TensorView x, TensorView w, float eps) override;
  void add(TensorView x, TensorView y) override;
  void rope(TensorView x, TensorView positions, TensorView table, bool interleave) override;
  void silu_mul(TensorView out, TensorView gate_up) override;

  void linear(TensorView out, TensorView x, const Weight& w) override;
  void linear_per_head(TensorView out, TensorView x, const Weight& w) override;
  void grouped_linear(TensorView out, TensorView x, std::span<const Weight> experts, std::span<const int64_t> offsets) override;

  void mla_append(const CacheView& cache, TensorView latent, TensorView key_rope, const AttentionBatch& rows) override;
  void mla_attend(TensorView out, TensorView q_latent, TensorView q_rope, const CacheView& cache, const AttentionBatch& rows, float scale) override;
  void mla_gather(TensorView out, const CacheView& cache, TensorView pages, int64_t first) override;
  void attend_expanded(TensorView out, TensorView lse, TensorView q, TensorView kv, TensorView key_rope, int64_t q_first, int64_t k_first, float scale) override;
  void merge_attention(TensorView out, TensorView lse, TensorView part, TensorView part_lse) override;

  void route(TensorView experts, TensorView weights, TensorView logits, TensorView bias, const GateOptions& gate) override;
  void gather_rows(TensorView out, TensorView x, TensorView rows) override;
  void scatter_add(TensorView out, TensorView x, TensorView rows, TensorView scale) override;
  bool routed_experts(TensorView out, TensorView x, TensorView experts, TensorView weights, int64_t first_expert, std::span<const Weight> gate_up, std::span<const Weight> down,
                      const PairRoom& pairs) override;
  bool survey_logits(TensorView out, TensorView logits, TensorView asks, int64_t id_limit) override;

 private:
  static constexpr size_t kTileBytes = size_t{1} << 20;  ///< of tiles: 87 thousand, the pairs of a step of 10,000 rows in the worst case

  /// Where the experts of one layer and product lie, in device memory.
  struct ExpertTable {
    std::vector<cuda::LinearWeight> host;
    Buffer device;
  };
  TensorView activations(TensorView x, const Weight& w);
  void reserve_quantised(const BlockDims& dims);
  const cuda::LinearWeight* table_of(std::span<const Weight> experts);
  void expert_product(TensorView out, TensorView x, std::span<const Weight> experts, const cuda::Pairs& pairs, const int32_t* gather);

  cuda::Device device_;
  Arithmetic arithmetic_;
  bool ue8m0_;
  std::map<const Weight*, ExpertTable> tables_;
  std::vector<Buffer> quantised_;
  Buffer tiles_;             // and the number of pairs, for routed_experts
  Buffer partials_;          // of mla_attend
  Buffer survey_;            // of survey_logits, what the parts of rows gave
  cuda::StepGraphs graphs_;  // goes first: graphs know of all the rest
};

namespace cuda {

/// Throws Error::internal that names the operation and what it was given, unless `fits`.
void expect(bool fits, const char* op, NamedViews views);
/// f32 (or the dtype given), that rank, innermost stride 1 (where there is more than one element), on the device.
bool is(const TensorView& view, int rank, DType dtype = DType::f32);
/// As `is`, for one of the formats, with scales that cover it.
bool is_weight(const Weight& w);
LinearShape shape_of(const Weight& w);
LinearWeight memory_of(const Weight& w);

template <class T = float> Rows<T> rows_of(const TensorView& v) {
  return {reinterpret_cast<T*>(v.data), v.stride[0], v.rank > 2 ? v.stride[1] : 0};
}

}  // namespace cuda
}  // namespace dsinfer
