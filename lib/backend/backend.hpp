/// Backend: where the forward pass runs. One virtual class of coarse operations; the CPU form is the reference of every other.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/blocks.hpp"
#include "core/buffer.hpp"
#include "core/format.hpp"
#include "core/tensor.hpp"

namespace dsinfer {

/// FP8 weights: w8a16 keeps activations, w8a8 quantises them 1×128 first (per row, floor 1e-4, scale amax/448, or the next power of two if ue8m0).
enum class Arithmetic : uint8_t { w8a16, w8a8 };

struct BackendOptions {
  int threads = 0;  ///< CPU workers, 0 = all cores this process may use
  Arithmetic arithmetic = Arithmetic::w8a16;
  bool ue8m0 = false;
};

/// One layer's paged latent cache: [pages, page_size, cache_dim], each row latent then rope key. f32 (CPU default) or bf16;
/// or u8, the bytes of a CacheRows::fp8 row, which blocks alone take.
struct CacheView {
  TensorView data;
  int64_t latent_dim = 0;  ///< kv_lora_rank; the rest of a row is the rope key
  int64_t page_size() const { return data.dim(1); }
};

/// Which cached positions the rows of an operation belong to. All host or device views as the backend wants; on CPU host.
struct AttentionBatch {
  TensorView positions;    ///< [rows] i32: position of each row in its sequence; where the backend pads steps, −1 for padding
  TensorView block_table;  ///< [rows, max_pages] i32: page of position p is block_table[row, p / page_size]; entries past the last are not read
};

/// Room for the pairs (row, expert) of routed experts: as many rows as pairs there can be.
struct PairRoom {
  TensorView rows, scale;           ///< [P] i32, f32
  TensorView gate_up, act, out;     ///< [P, 2·I], [P, I], [P, H]
};

/// Names a step that may be captured and replayed. Empty: run eagerly.
struct StepKey {
  int bucket = 0, slot = 0;
  bool empty() const { return bucket == 0; }
};

/// One per engine, driven by one thread at a time. Unless said otherwise: activations are f32 on CPU; views may have a row stride
/// (innermost stride 1); `out` must not alias inputs; rows == 0 is fine and does nothing; sums are in f32 in a fixed order that depends
/// neither on timing, nor on the number of threads, nor on which other rows are in the call (a row alone and in a batch gives the same bits).
/// Shape or dtype mismatch throws Error::internal naming the op.
class DSINFER_INTERNAL Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* name() const = 0;
  /// Zeroed memory. Throws out_of_memory naming the bytes.
  virtual Buffer allocate(size_t bytes) = 0;
  /// Same dtype and shape; any place to any place, in stream order. Host memory may be changed or read at once on return.
  virtual void copy(TensorView dst, TensorView src) = 0;
  /// Host memory for bytes on their way here, page-aligned, not zeroed: pinned where the device takes it faster from there. May outlive the backend; what upload()
  /// still reads from it when it is given back has ended by then. Throws out_of_memory naming the bytes.
  virtual Buffer staging(size_t bytes);
  /// As copy() from dense memory of staging() to where nothing asked for before writes or reads, beside the other operations where the backend can: what reads dst
  /// later finds it filled (a copy() to it may overtake), and src must stay as it is until uploaded(), with the number given. Other host memory is copied before the return. Not within run().
  virtual uint64_t upload(TensorView dst, TensorView src);
  /// Whether the uploads up to that one have ended. Never waits. 0: always.
  virtual bool uploaded(uint64_t /*upload*/) { return true; }
  /// Returns when they have.
  virtual void await_upload(uint64_t /*upload*/) {}
  /// Dense x := 0.
  virtual void zero(TensorView x) = 0;
  virtual Stream stream() const = 0;
  /// Bytes of memory that a new allocation may still take here (device memory, or what the cgroup and the machine leave).
  virtual size_t available_bytes() const = 0;
  virtual bool supports(Format format) const = 0;
  /// CPU: calls `step`. CUDA: runs a key's step until one moved nothing between host and device, captures the next, then replays.
  /// A key stands for one sequence of operations over the same memory and sizes; what the operations read may differ.
  virtual void run(const StepKey& key, const std::function<void()>& step) = 0;
  /// As many rows as a decode step of `rows` rows is to have, so that few keys stand for all: the rest is padding, of position −1. CPU: `rows`.
  virtual int64_t padded_rows(int64_t rows) const { return rows; }
  /// Whole sublayers in one call each, where the backend has them for these dimensions; nothing else. They must not outlive the backend.
  virtual std::unique_ptr<Blocks> make_blocks(const BlockDims& /*dims*/) { return nullptr; }

  /// out[t,:] = table[tokens[t] - first_row, :], zeros where the token is not in this slice. out [T,H] f32; table [rows,H]; tokens [T] i32.
  virtual void embed(TensorView out, const Weight& table, TensorView tokens, int64_t first_row) = 0;
  /// out = x / sqrt(mean(x²) + eps) · w. out, x [T,D] (may alias); w [D] f32. Source: Zhang & Sennrich 2019.
  virtual void rms_norm(TensorView out, TensorView x, TensorView w, float eps) = 0;
  /// residual += x; out = rms_norm(residual) · w. out may alias x.
  virtual void add_rms_norm(TensorView out, TensorView residual, TensorView x, TensorView w, float eps) = 0;
  /// x += y. [T,D].
  virtual void add(TensorView x, TensorView y) = 0;
  /// out[t,:] = x[t,:] · wᵀ. x [T,K], w [N,K], out [T,N].
  virtual void linear(TensorView out, TensorView x, const Weight& w) = 0;
  /// out[t,h,:] = w[h] · x[t,h,:]. x [T,heads,K] (strided), w.data [heads,N,K] f32, out [T,heads,N]. MLA's absorbed products.
  virtual void linear_per_head(TensorView out, TensorView x, const Weight& w) = 0;
  /// Rotates interleaved pairs (2j, 2j+1) in place: x [T,heads,dr] (strided), positions [T] i32, inv_freq [dr/2] f64-exact angles as f32 cos/sin
  /// tables: table [max_positions, dr] f32, cos of pair j at 2j, sin at 2j+1. Half-split layout (pairs j, j+dr/2) if !interleave.
  virtual void rope(TensorView x, TensorView positions, TensorView table, bool interleave) = 0;
  /// Writes latent [T,rkv] and key_rope [T,dr] to the page slots of their rows.
  virtual void mla_append(const CacheView& cache, TensorView latent, TensorView key_rope, const AttentionBatch& rows) = 0;
  /// Absorbed attention of one query row per batch row over positions 0 … positions[t]: q_latent [T,heads,rkv], q_rope [T,heads,dr] (strided),
  /// out [T,heads,rkv] = Σ softmax(scale · (q_latent·c + q_rope·k)) c.
  virtual void mla_attend(TensorView out, TensorView q_latent, TensorView q_rope, const CacheView& cache, const AttentionBatch& rows, float scale) = 0;
  /// out [n, cache_dim] = cached rows of positions first … first+n of the sequence whose pages are `pages` [max_pages] i32.
  virtual void mla_gather(TensorView out, const CacheView& cache, TensorView pages, int64_t first) = 0;
  /// Expanded attention of a chunk of one sequence against a tile of keys. q [T,heads,dn+dr], query row t at position q_first+t; kv [S,heads,dn+dv]
  /// (keys then values), key_rope [S,dr] (strided), key s at position k_first+s; key s is visible iff k_first+s ≤ q_first+t.
  /// out [T,heads,dv] = softmax-weighted values, lse [T,heads] = log-sum-exp of the scaled scores; no visible key: out 0, lse -inf.
  virtual void attend_expanded(TensorView out, TensorView lse, TensorView q, TensorView kv, TensorView key_rope, int64_t q_first, int64_t k_first, float scale) = 0;
  /// Merges a second partial attention into the first: (out, lse) := online-softmax sum of (out, lse) and (part, part_lse). Shapes as above.
  virtual void merge_attention(TensorView out, TensorView lse, TensorView part, TensorView part_lse) = 0;
  /// out [T,I] = silu(gate_up[:, :I]) ⊙ gate_up[:, I:]. gate_up [T,2I].
  virtual void silu_mul(TensorView out, TensorView gate_up) = 0;
  /// logits [T,E] f32 (before sigmoid/softmax), bias [E] f32 or no tensor. experts [T,k] i32, weights [T,k] f32, sorted by (score desc, index asc).
  /// Ties prefer the lower index; dropped groups get -inf. Source: DeepSeek-V3 report section 2.1.2.
  virtual void route(TensorView experts, TensorView weights, TensorView logits, TensorView bias, const GateOptions& gate) = 0;
  /// out[i,:] = x[rows[i],:]. rows [n] i32.
  virtual void gather_rows(TensorView out, TensorView x, TensorView rows) = 0;
  /// Rows offsets[e] … offsets[e+1] of x go through experts[e]: out = x · experts[e]ᵀ. x [n,K], out [n,N], offsets [experts+1] i64 on the host.
  virtual void grouped_linear(TensorView out, TensorView x, std::span<const Weight> experts, std::span<const int64_t> offsets) = 0;
  /// out[rows[i],:] += scale[i] · x[i,:], in the order of i. rows [n] i32, scale [n] f32.
  virtual void scatter_add(TensorView out, TensorView x, TensorView rows, TensorView scale) = 0;
  /// All routed experts of a layer without a look at the host: out[t,:] += Σ_j weights[t,j] · down_e · silu_mul(gate_up_e · x[t,:]) over e = experts[t,j] − first_expert
  /// that are among these, in ascending order of e. experts [T,k] i32, weights [T,k]. False where the backend has no such way, and nothing is done: the caller goes
  /// through gather_rows, grouped_linear, silu_mul and scatter_add, which give the same bits.
  virtual bool routed_experts(TensorView /*out*/, TensorView /*x*/, TensorView /*experts*/, TensorView /*weights*/, int64_t /*first_expert*/, std::span<const Weight> /*gate_up*/,
                              std::span<const Weight> /*down*/, const PairRoom& /*pairs*/) {
    return false;
  }
  /// What sampling needs of rows of logits (logit_survey.hpp): each row's best ids below id_limit, best first, the lower id first on a tie, and its sums, in f64 in a
  /// fixed order. logits [T,V] f32; asks [T,2] i32, LogitAsk; out [T,W] i32, LogitSummary and candidates; none of `asks` wants more than W has room for.
  /// 0 < id_limit ≤ V. False where the backend has no such way, and nothing is done: the caller looks at the rows.
  virtual bool survey_logits(TensorView /*out*/, TensorView /*logits*/, TensorView /*asks*/, int64_t /*id_limit*/) { return false; }
};

/// Page-aligned, not zeroed. Throws out_of_memory naming the bytes.
DSINFER_INTERNAL Buffer host_pages(size_t bytes);

/// "cpu", or "cuda" / "cuda:1" through libdsinfer_cuda. Throws invalid_argument for another name, not_found where the component is absent.
DSINFER_INTERNAL std::unique_ptr<Backend> make_backend(const std::string& device, const BackendOptions& options);

}  // namespace dsinfer
