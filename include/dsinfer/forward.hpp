/// Forward: the MoE forward pass alone, for applications with a scheduler and a sampler of their own.
/// Rows of tokens and cache pages in, logits of any rows out. Engine stands on the same parts.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dsinfer/loader.hpp"
#include "dsinfer/plan.hpp"
#include "dsinfer/world.hpp"

namespace dsinfer {

/// What the rows of the latent cache are held as. automatic: F32, or BF16 where a GPU's kernels are made for the model's dimensions. fp8: E4M3 latents with a
/// scale for each 128 of them, the rope key in BF16; where a GPU has kernels for it, `unsupported` elsewhere.
enum class CacheFormat : uint8_t { automatic, f32, bf16, fp8 };

struct ForwardOptions {
  std::filesystem::path model;        ///< folder with config.json and safetensors
  std::optional<Plan> plan;           ///< rank 0's counts; absent: solve() with no degrees given
  std::string device = "cpu";
  int threads = 0;                    ///< CPU workers of this rank; 0 = its share of the cores
  int64_t max_tokens = 512;           ///< most rows of one dp rank in one step
  int64_t max_sequences = 64;         ///< most sequences of one dp rank in one step
  int64_t max_len = 0;                ///< longest sequence; 0 = the model's max_position_embeddings
  int64_t page_size = 16;             ///< positions in a cache page; 64 whatever stands here where a GPU's kernels are made for the model's dimensions
  CacheFormat cache = CacheFormat::automatic;
  int64_t num_pages = 0;              ///< pages of each dp rank; 0 = as max_sequences and max_len want, within memory
  bool w8a8 = false;                  ///< FP8 weights: quantise activations too (oracle of the GPU arithmetic)
  LoadOptions load;                   ///< how weights are read, and what they are held as
  ProgressCallback progress;          ///< of loading; if given, takes the place of load.progress
};

/// Consecutive rows of one sequence. The caller owns page numbers: pages[i] holds positions i·page_size …; the same numbers on every step.
struct ForwardSequence {
  int dp_rank = 0;
  int64_t position = 0;               ///< of the first row; rows before it are in the cache already
  std::vector<int32_t> tokens;        ///< the rows
  std::vector<int32_t> pages;         ///< covers position + tokens.size() positions; 0 ≤ page < num_pages
  bool decode = false;                ///< absorbed attention (cheap for few rows); false: expanded (prefill)
  std::vector<int32_t> logit_rows;    ///< rows (of tokens) whose logits are wanted
};

/// Logits of the wanted rows, in the order of the sequences and their logit_rows. On rank 0 only; empty elsewhere.
struct Logits {
  int64_t vocab_size = 0;
  std::vector<float> values;          ///< [rows, vocab_size]
  int64_t rows() const { return vocab_size ? static_cast<int64_t>(values.size()) / vocab_size : 0; }
  std::span<const float> row(int64_t i) const { return {values.data() + i * vocab_size, static_cast<size_t>(vocab_size)}; }
};

/// What a rank did so far.
struct ForwardStats {
  int64_t weight_bytes = 0, cache_bytes = 0;       ///< held by this rank
  uint64_t steps = 0, rows = 0;
  uint64_t expert_rows_sent = 0, expert_rows_received = 0;  ///< to and from other ranks (exchange "exact"), or
  uint64_t expert_rows_computed = 0;               ///< (row, expert) pairs computed here
  uint64_t comm_bytes_sent = 0, comm_bytes_received = 0;
  uint64_t comm_wait_ns = 0;
};

/// Collective over `world`: every rank builds one, with rank 0's plan. `world` must outlive it. One replica only.
class DSINFER_API Forward {
 public:
  Forward(World& world, const ForwardOptions& options);
  ~Forward();
  Forward(Forward&&) noexcept;
  Forward& operator=(Forward&&) noexcept;

  const Plan& plan() const;
  const ModelConfig& config() const;
  int64_t num_pages() const;
  int64_t page_size() const;
  int64_t max_len() const;
  ForwardStats stats() const;

  /// Rank 0: one step over all ranks. Throws invalid_argument (nothing has happened then) for rows past max_tokens, pages or positions out of range,
  /// a token outside the vocabulary; group_failed when a rank fails.
  Logits run(std::span<const ForwardSequence> sequences);
  /// Other ranks: takes part in steps until rank 0 shuts down (returns false) or `timeout` passes (true).
  bool follow(std::chrono::milliseconds timeout);
  /// Rank 0: lets the followers return false. Also done by the destructor.
  void shutdown();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsinfer
