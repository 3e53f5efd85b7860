/// One decoder layer of DeepSeek-V3 at its true dimensions on seeded random weights, as the calls of its decode step.
#pragma once
#include <cuda_fp8.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <vector>

#include "backend/cuda/hopper/hopper.hpp"

namespace dsinfer::bench {

using hopper::bf16;

inline void check(cudaError_t result, const char* what) {
  if (result == cudaSuccess) return;
  std::fprintf(stderr, "bench_layer: %s: %s\n", what, cudaGetErrorString(result));
  std::exit(1);
}
#define BENCH_CUDA(call) ::dsinfer::bench::check((call), #call)

constexpr int kHidden = 7168, kHeads = 128, kQRank = 1536, kLatentRow = 576, kJoined = 2112, kInner = 2048, kExperts = 256, kTopK = 8,
              kDenseInner = 18432;
constexpr int kMaxTokens = 128;

template <class T>
T* device_array(size_t size) {
  void* p = nullptr;
  BENCH_CUDA(cudaMalloc(&p, size * sizeof(T)));
  return static_cast<T*>(p);
}
template <class T>
T* to_device(const std::vector<T>& values) {
  T* p = device_array<T>(values.size());
  BENCH_CUDA(cudaMemcpy(p, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return p;
}

__device__ inline uint32_t mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return uint32_t((x ^ (x >> 31)) >> 16);
}
/// About Gaussian, sigma 1: the sum of the four bytes of a random word.
__device__ inline float gaussian(uint64_t i) {
  const uint32_t r = mix(i);
  return (float((r & 255) + (r >> 8 & 255) + (r >> 16 & 255) + (r >> 24)) - 510.0f) * (1.0f / 147.8f);
}
template <class T>
__global__ void fill_kernel(T* p, size_t n, uint64_t seed, float sigma, float mean) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x)
    p[i] = T(gaussian(seed + i) * sigma + mean);
}
template <class T>
T* random_array(size_t size, uint64_t seed, float sigma, float mean = 0) {
  T* p = device_array<T>(size);
  fill_kernel<<<2048, 256>>>(p, size, seed << 40, sigma, mean);
  BENCH_CUDA(cudaGetLastError());
  return p;
}
/// Weights of sigma 0.02: E4M3 bytes of sigma 100 (so that the largest of a block come near 448) and scales around 0.0002.
inline hopper::Fp8Weight random_weight(int64_t count, int n, int k, uint64_t seed) {
  const auto* bytes = random_array<__nv_fp8_e4m3>(size_t(count) * size_t(n) * size_t(k), seed, 100);
  return {reinterpret_cast<const uint8_t*>(bytes),
          random_array<float>(size_t(count) * size_t((n + 127) / 128) * size_t(k / 128), seed + 1, 2e-5f, 2e-4f)};
}

struct LayerWeights {
  hopper::Fp8Weight joined = random_weight(1, kJoined, kHidden, 1), q_b = random_weight(1, kHeads * 192, kQRank, 3),
                    o = random_weight(1, kHidden, kHeads * 128, 5);
  hopper::Fp8Weight gate_up = random_weight(kExperts, 2 * kInner, kHidden, 7), down = random_weight(kExperts, kHidden, kInner, 9);
  hopper::Fp8Weight shared_gate_up = random_weight(1, 2 * kInner, kHidden, 11), shared_down = random_weight(1, kHidden, kInner, 13);
  hopper::Fp8Weight dense_gate_up = random_weight(1, 2 * kDenseInner, kHidden, 15), dense_down = random_weight(1, kHidden, kDenseInner, 17);
  bf16* w_uk = random_array<bf16>(size_t(kHeads) * 512 * 128, 19, 0.02f);
  bf16* w_uv = random_array<bf16>(size_t(kHeads) * 128 * 512, 20, 0.02f);
  bf16* gate = random_array<bf16>(size_t(kExperts) * kHidden, 21, 0.02f);
  float* bias = random_array<float>(kExperts, 22, 0.01f);
  float* norm = random_array<float>(kHidden, 23, 0.1f, 1);
  float* q_norm = random_array<float>(kQRank, 24, 0.1f, 1);
  float* kv_norm = random_array<float>(512, 25, 0.1f, 1);
  bf16* bf16_pool = random_array<bf16>(size_t(420) << 20, 27, 0.02f);  // what the bf16 parts move through when timed alone
  float* rope = random_array<float>(size_t(32768) * 64, 26, 0.5f);     // any rotation costs the same
};

/// A batch at one length: its pages, its routing (drawn uniformly, eight different experts a token), and where activations stand.
struct Batch {
  Batch(int tokens, int kv, int repeats, int64_t pool_pages, uint64_t seed) : tokens(tokens), kv(kv), max_pages(kv / 64), repeats(repeats) {
    std::mt19937_64 random(seed);
    std::vector<int> order(size_t(pool_pages), 0);
    for (size_t i = 0; i < order.size(); ++i) order[i] = int(i);
    std::shuffle(order.begin(), order.end(), random);
    for (int r = 0; r < repeats; ++r) {
      std::vector<int> table(size_t(tokens) * size_t(max_pages)), experts;
      for (size_t i = 0; i < table.size(); ++i) table[i] = order[(size_t(r) * table.size() + i) % order.size()];
      std::vector<bool> hit(kExperts, false);
      for (int t = 0; t < tokens; ++t)
        while (int(experts.size()) < (t + 1) * kTopK)
          if (const int e = int(random() % kExperts); std::find(experts.begin() + t * kTopK, experts.end(), e) == experts.end())
            experts.push_back(e), hit[size_t(e)] = true;
      active += double(std::count(hit.begin(), hit.end(), true)) / repeats;
      tables.push_back(to_device(table)), forced.push_back(to_device(experts));
    }
    positions = to_device(std::vector<int>(size_t(tokens), kv - 1));
    parts = hopper::mla_parts(tokens, kHeads, kv);
    mla_work = device_array<float>(size_t(hopper::mla_workspace(tokens, kHeads, parts)) / sizeof(float));
  }
  ~Batch() {
    for (int* p : tables) cudaFree(p);
    for (int* p : forced) cudaFree(p);
    cudaFree(positions), cudaFree(mla_work);
  }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  int tokens, kv, max_pages, repeats, parts = 1;
  double active = 0;  // experts with a token, mean over the repeats
  std::vector<int*> tables, forced;
  int* positions = nullptr;
  float* mla_work = nullptr;
};

struct Activations {
  static constexpr size_t kPositions = size_t(kMaxTokens) * (kTopK + 1);
  float* residual = random_array<float>(size_t(kMaxTokens) * kHidden, 31, 1);
  bf16* normed = device_array<bf16>(size_t(kMaxTokens) * kHidden);
  uint8_t* q8 = device_array<uint8_t>(size_t(kMaxTokens) * 2 * kDenseInner);  // quantised input of whichever linear comes
  float* q8_scale = device_array<float>(size_t(kMaxTokens) * 2 * kDenseInner / 128);
  bf16* joined = device_array<bf16>(size_t(kMaxTokens) * kJoined);
  bf16* q_b = random_array<bf16>(size_t(kMaxTokens) * kHeads * 192, 33, 1);
  bf16* q = random_array<bf16>(size_t(kMaxTokens) * kHeads * kLatentRow, 34, 0.3f);
  bf16* u = random_array<bf16>(size_t(kMaxTokens) * kHeads * 512, 35, 1);
  bf16* o = random_array<bf16>(size_t(kMaxTokens) * kHidden, 36, 1);
  float* logits = device_array<float>(size_t(hopper::kGateParts) * kMaxTokens * kExperts);
  bf16* h = random_array<bf16>(std::max(kPositions * kInner, size_t(kMaxTokens) * kDenseInner), 37, 1);
  uint8_t* h8 = device_array<uint8_t>(std::max(kPositions * kInner, size_t(kMaxTokens) * kDenseInner));
  float* h8_scale = device_array<float>(std::max(kPositions * kInner, size_t(kMaxTokens) * kDenseInner) / 128);
  bf16* y = random_array<bf16>(kPositions * kHidden, 38, 1);
  hopper::Routed routed{device_array<int>(size_t(kMaxTokens) * kTopK),
                        device_array<float>(size_t(kMaxTokens) * kTopK),
                        device_array<int>(size_t(kMaxTokens) * kTopK),
                        device_array<int>(kPositions),
                        reinterpret_cast<hopper::ExpertRun*>(
                            device_array<uint8_t>(size_t(hopper::max_runs(kMaxTokens, kTopK, kExperts) * hopper::kExpertRunBytes))),
                        to_device(std::vector<int>{0, 0})};
};

/// The calls of one layer, each also alone. `repeat` picks the pages and the routing.
struct Chain {
  const LayerWeights& w;
  const Activations& a;
  const Batch& b;
  bf16* cache;
  cudaStream_t stream;
  hopper::RouteOptions options{};

  /// The sum of the layer before (routed, or dense) joins the residual.
  void input_norm(bool moe) const {
    hopper::AddNorm n{};
    n.residual = a.residual, n.x = moe ? a.y : a.o, n.weight = w.norm, n.q = a.q8, n.q_scale = a.q8_scale, n.shared_first = -1,
    n.eps = 1e-6f;
    if (moe) n.slot = a.routed.slot, n.route_weight = a.routed.weights, n.top_k = kTopK, n.shared_first = int64_t(b.tokens) * kTopK;
    BENCH_CUDA(hopper::add_norm(n, b.tokens, kHidden, stream));
  }
  void joined(const uint8_t* other = nullptr) const { linear(a.joined, a.q8, a.q8_scale, w.joined, kJoined, kHidden, other); }
  void latents(int repeat) const {
    hopper::Latent l{a.joined, w.q_norm, w.kv_norm,  w.rope,      b.positions, b.tables[size_t(repeat)],
                     cache,    a.q8,     a.q8_scale, b.max_pages, 1e-6f,       false};
    BENCH_CUDA(hopper::latents(l, b.tokens, stream));
  }
  void q_b(const uint8_t* other = nullptr) const { linear(a.q_b, a.q8, a.q8_scale, w.q_b, kHeads * 192, kQRank, other); }
  void absorb(const bf16* other = nullptr) const {
    BENCH_CUDA(hopper::absorb_query(a.q, a.q_b, other ? other : w.w_uk, w.rope, b.positions, b.tokens, kHeads, stream));
  }
  void attend(int repeat) const {
    hopper::MlaDecode m{a.u,    a.q,         cache,   b.tables[size_t(repeat)], b.positions, b.mla_work, b.tokens,
                        kHeads, b.max_pages, b.parts, 0.1352337788608801f};
    BENCH_CUDA(hopper::mla_decode(m, stream));
  }
  void expand(const bf16* other = nullptr) const {
    BENCH_CUDA(hopper::expand_values(a.q8, a.q8_scale, a.u, other ? other : w.w_uv, b.tokens, kHeads, false, stream));
  }
  void o_proj(const uint8_t* other = nullptr) const { linear(a.o, a.q8, a.q8_scale, w.o, kHidden, kHeads * 128, other); }
  void post_norm() const {
    hopper::AddNorm n{};
    n.residual = a.residual, n.x = a.o, n.weight = w.norm, n.out = a.normed, n.q = a.q8, n.q_scale = a.q8_scale, n.shared_first = -1,
    n.eps = 1e-6f;
    BENCH_CUDA(hopper::add_norm(n, b.tokens, kHidden, stream));
  }
  void gate(const bf16* other = nullptr) const {
    BENCH_CUDA(hopper::gate_logits(a.logits, a.normed, other ? other : w.gate, b.tokens, kExperts, kHidden, stream));
  }
  void route(int repeat) const {
    BENCH_CUDA(hopper::route(a.routed, a.logits, w.bias, b.forced[size_t(repeat)], b.tokens, options, stream));
  }
  void gate_up() const {
    BENCH_CUDA(hopper::grouped_gate_up(a.h, {a.q8, a.q8_scale}, w.gate_up, w.shared_gate_up, a.routed, b.tokens, options, 2 * kInner,
                                       kHidden, stream));
  }
  void quantise(int64_t rows, int64_t width) const { BENCH_CUDA(hopper::quantise(a.h8, a.h8_scale, a.h, rows, width, false, stream)); }
  void down() const {
    BENCH_CUDA(hopper::grouped_down(a.y, {a.h8, a.h8_scale}, w.down, w.shared_down, a.routed, b.tokens, options, kHidden, kInner, stream));
  }
  void dense_gate_up(const uint8_t* other = nullptr) const {
    BENCH_CUDA(hopper::fp8_gate_up(a.h, {a.q8, a.q8_scale}, {other ? other : w.dense_gate_up.data, w.dense_gate_up.scale}, b.tokens,
                                   2 * kDenseInner, kHidden, stream));
  }
  void dense_down(const uint8_t* other = nullptr) const { linear(a.o, a.h8, a.h8_scale, w.dense_down, kHidden, kDenseInner, other); }

  void attention(int repeat, bool moe) const {
    input_norm(moe), joined(), latents(repeat), q_b(), absorb(), attend(repeat), expand(), o_proj(), post_norm();
  }
  void layer(int repeat, bool moe) const {
    attention(repeat, moe);
    if (moe)
      gate(), route(repeat), gate_up(), quantise(int64_t(b.tokens) * (kTopK + 1), kInner), down();
    else
      dense_gate_up(), quantise(b.tokens, kDenseInner), dense_down();
  }

 private:
  void linear(bf16* out, const uint8_t* x, const float* scale, const hopper::Fp8Weight& weight, int n, int k, const uint8_t* other) const {
    BENCH_CUDA(hopper::fp8_linear(out, {x, scale}, {other ? other : weight.data, weight.scale}, b.tokens, n, k, stream));
  }
};

}  // namespace dsinfer::bench
