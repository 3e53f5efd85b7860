/// CpuBackend: the reference form of every operation, on a pool of threads with f32 sums of fixed order (see kernels.hpp).
#pragma once
#include <string>
#include <vector>

#include "backend/backend.hpp"
#include "backend/cpu/kernels.hpp"
#include "backend/thread_pool.hpp"
#include "backend/operands.hpp"

namespace dsinfer {

class DSINFER_INTERNAL CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const BackendOptions& options, const cpu::Kernels& kernels = cpu::best_kernels());

  const char* name() const override { return "cpu"; }
  Buffer allocate(size_t bytes) override;
  void copy(TensorView dst, TensorView src) override;
  void zero(TensorView x) override;
  Stream stream() const override { return {}; }
  size_t available_bytes() const override;
  bool supports(Format) const override { return true; }
  void run(const StepKey&, const std::function<void()>& step) override { step(); }

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
  void attend_expanded(TensorView out, TensorView lse, TensorView q, TensorView kv, TensorView key_rope, int64_t q_first, int64_t k_first,
                       float scale) override;
  void merge_attention(TensorView out, TensorView lse, TensorView part, TensorView part_lse) override;

  void route(TensorView experts, TensorView weights, TensorView logits, TensorView bias, const GateOptions& gate) override;
  void gather_rows(TensorView out, TensorView x, TensorView rows) override;
  void scatter_add(TensorView out, TensorView x, TensorView rows, TensorView scale) override;
  bool survey_logits(TensorView out, TensorView logits, TensorView asks, int64_t id_limit) override;

 private:
  /// Rows of activations as the products take them: as they are, or quantised for w8a8 (values, and a scale per row and column block).
  struct Activations {
    const float* x;
    int64_t ld, rows;
    const float* scale = nullptr;  // [rows, blocks]
    int64_t blocks = 0, block_cols = 0;
    Activations slice(int64_t begin, int64_t end) const;
  };
  Activations activations(const float* x, int64_t ld, int64_t rows, const Weight& w);
  void product(float* out, int64_t ldo, const Activations& x, const Weight& w, int64_t first, int64_t last, int part);
  void product_w8a8(float* out, int64_t ldo, const Activations& x, const Weight& w, int64_t first, int64_t last, int part);
  /// f32 scratch of one part of a loop; what it held before is lost. Grows to the largest ever asked for.
  float* scratch(int part, int64_t floats);

  const cpu::Kernels& kernels_;
  Arithmetic arithmetic_;
  bool ue8m0_;
  cpu::ThreadPool pool_;
  struct alignas(64) Scratch { Buffer memory; };
  std::vector<Scratch> scratch_;
  Scratch quantised_, scales_;
};

namespace cpu {

/// Throws Error::internal that names the operation and what it was given, unless `fits`.
void expect(bool fits, const char* op, NamedViews views);
/// f32 (or the dtype given), that rank, innermost stride 1 (where there is more than one element), on the host.
bool is(const TensorView& view, int rank, DType dtype = DType::f32);
/// As `is`, for one of the formats, with scales that cover it.
bool is_weight(const Weight& w);
DSINFER_INTERNAL Matrix matrix_of(const Weight& w);
/// Cuts a loop of n equal steps of `work` multiplications each: at least this many steps in a part.
int64_t grain_of(int64_t work);

}  // namespace cpu

}  // namespace dsinfer
