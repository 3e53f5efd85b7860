/// A chunk of 4096 tokens of one sequence through one layer: the calls, each also alone, their floors and their peers.
#pragma once
#include "backend/cuda/hopper/prefill.hpp"
#include "layer_chain.cuh"

namespace dsinfer::bench {

constexpr int kChunk = 4096;

struct ChunkActivations {
  static constexpr size_t kPositions = size_t(kChunk) * (kTopK + 1), kWidest = size_t(kChunk) * kDenseInner;
  float* residual = random_array<float>(size_t(kChunk) * kHidden, 51, 1);
  bf16* normed = device_array<bf16>(size_t(kChunk) * kHidden);
  uint8_t* q8 = device_array<uint8_t>(size_t(kChunk) * kHidden);
  float* q8_scale = device_array<float>(size_t(kChunk) * kHidden / 128);
  bf16* joined = device_array<bf16>(size_t(kChunk) * kJoined);
  uint8_t* latent = device_array<uint8_t>(size_t(kChunk) * kQRank);
  float* latent_scale = device_array<float>(size_t(kChunk) * kQRank / 128);
  bf16* q_b = device_array<bf16>(size_t(kChunk) * kHeads * 192);
  uint8_t* o8 = device_array<uint8_t>(size_t(kChunk) * kHeads * 128);
  float* o8_scale = device_array<float>(size_t(kChunk) * kHeads);
  bf16* o = random_array<bf16>(size_t(kChunk) * kHidden, 52, 1);
  uint8_t* work = device_array<uint8_t>(size_t(hopper::prefill_workspace(kChunk, kHeads)));
  float* logits = device_array<float>(size_t(hopper::kGateParts) * kChunk * kExperts);
  uint8_t* sorted = device_array<uint8_t>(kPositions * kHidden);
  float* sorted_scale = device_array<float>(kPositions * kHidden / 128);
  bf16* h = device_array<bf16>(std::max(kPositions * kInner, kWidest));
  uint8_t* h8 = device_array<uint8_t>(std::max(kPositions * kInner, kWidest));
  float* h8_scale = device_array<float>(std::max(kPositions * kInner, kWidest) / 128);
  bf16* y = random_array<bf16>(kPositions * kHidden, 53, 1);
  hopper::Fp8Weight kv_b = random_weight(1, kHeads * 256, 512, 54);
  // What attention alone reads: values that attend as widely as a model's do.
  bf16* q = random_array<bf16>(size_t(kChunk) * kHeads * 192, 56, 1);
  bf16* kv = random_array<bf16>(size_t(kChunk) * kHeads * 256, 57, 1);
  bf16* rope_key = random_array<bf16>(size_t(kChunk) * 64, 58, 1);
  hopper::Routed routed{device_array<int>(size_t(kChunk) * kTopK),
                        device_array<float>(size_t(kChunk) * kTopK),
                        device_array<int>(size_t(kChunk) * kTopK),
                        device_array<int>(kPositions),
                        reinterpret_cast<hopper::ExpertRun*>(
                            device_array<uint8_t>(size_t(hopper::max_runs(kChunk, kTopK, kExperts) * hopper::kExpertRunBytes))),
                        to_device(std::vector<int>{0, 0})};
  int *positions, *table, *forced;

  ChunkActivations() {
    std::vector<int> at(kChunk), pages(size_t(kChunk) * (kChunk / 64)), experts;
    for (int t = 0; t < kChunk; ++t) at[size_t(t)] = t;
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = int(i % (kChunk / 64) * 13 % (kChunk / 64));  // every token's row: one sequence
    std::mt19937_64 random(59);
    for (int t = 0; t < kChunk; ++t)
      while (int(experts.size()) < (t + 1) * kTopK)
        if (const int e = int(random() % kExperts); std::find(experts.begin() + t * kTopK, experts.end(), e) == experts.end())
          experts.push_back(e);
    positions = to_device(at), table = to_device(pages), forced = to_device(experts);
  }
};

struct ChunkChain {
  const LayerWeights& w;
  const ChunkActivations& a;
  bf16* cache;
  cudaStream_t stream;
  hopper::RouteOptions options{};
  static constexpr float kScale = 0.1352337788608801f;
  static constexpr int kPages = kChunk / 64;

  void norm(bool routed, bool as_bf16) const {
    hopper::AddNorm n{};
    n.residual = a.residual, n.x = routed ? a.y : a.o, n.weight = w.norm, n.q = a.q8, n.q_scale = a.q8_scale, n.shared_first = -1,
    n.eps = 1e-6f;
    if (as_bf16) n.out = a.normed;
    if (routed) n.slot = a.routed.slot, n.route_weight = a.routed.weights, n.top_k = kTopK, n.shared_first = int64_t(kChunk) * kTopK;
    BENCH_CUDA(hopper::add_norm(n, kChunk, kHidden, stream));
  }
  void linear(bf16* out, const uint8_t* x, const float* scale, const hopper::Fp8Weight& weight, int n, int k) const {
    BENCH_CUDA(hopper::fp8_linear(out, {x, scale}, weight, kChunk, n, k, stream));
  }
  void joined() const { linear(a.joined, a.q8, a.q8_scale, w.joined, kJoined, kHidden); }
  void latents() const {
    hopper::Latent l{};
    l.a = a.joined, l.q_norm = w.q_norm, l.kv_norm = w.kv_norm, l.rope = w.rope, l.positions = a.positions, l.block_table = a.table;
    l.cache = cache, l.q = a.latent, l.q_scale = a.latent_scale, l.max_pages = kPages, l.eps = 1e-6f;
    BENCH_CUDA(hopper::latents(l, kChunk, stream));
  }
  void q_b() const { linear(a.q_b, a.latent, a.latent_scale, w.q_b, kHeads * 192, kQRank); }
  void attend() const {
    hopper::PrefillSegment s{};
    s.o = a.o8, s.o_scale = a.o8_scale, s.q_b = a.q_b, s.cache = cache, s.block_table = a.table, s.positions = a.positions, s.rope = w.rope;
    s.kv_b = a.kv_b, s.work = a.work, s.tokens = kChunk, s.heads = kHeads, s.scale = kScale;
    BENCH_CUDA(hopper::prefill_segment(s, stream));
  }
  void o_proj() const { linear(a.o, a.o8, a.o8_scale, w.o, kHidden, kHeads * 128); }
  void gate() const { BENCH_CUDA(hopper::gate_logits(a.logits, a.normed, w.gate, kChunk, kExperts, kHidden, stream)); }
  void route() const { BENCH_CUDA(hopper::route(a.routed, a.logits, w.bias, a.forced, kChunk, options, stream)); }
  void sort() const {
    BENCH_CUDA(hopper::sort_rows(a.sorted, a.sorted_scale, {a.q8, a.q8_scale}, a.routed, kChunk, options, kHidden, stream));
  }
  void gate_up() const {
    BENCH_CUDA(hopper::grouped_gate_up_sorted(a.h, {a.sorted, a.sorted_scale}, w.gate_up, w.shared_gate_up, a.routed, kChunk, options,
                                              2 * kInner, kHidden, stream));
  }
  void quantise(int64_t rows, int64_t width) const { BENCH_CUDA(hopper::quantise(a.h8, a.h8_scale, a.h, rows, width, false, stream)); }
  void down() const {
    BENCH_CUDA(hopper::grouped_down(a.y, {a.h8, a.h8_scale}, w.down, w.shared_down, a.routed, kChunk, options, kHidden, kInner, stream));
  }
  void dense_gate_up() const {
    BENCH_CUDA(hopper::fp8_gate_up(a.h, {a.q8, a.q8_scale}, w.dense_gate_up, kChunk, 2 * kDenseInner, kHidden, stream));
  }

  void layer(bool moe) const {
    norm(moe, false), joined(), latents(), q_b(), attend(), o_proj(), norm(false, moe);
    if (moe)
      gate(), route(), sort(), gate_up(), quantise(int64_t(kChunk) * (kTopK + 1), kInner), down();
    else
      dense_gate_up(), quantise(kChunk, kDenseInner), linear(a.o, a.h8, a.h8_scale, w.dense_down, kHidden, kDenseInner);
  }
  /// What a layer finds: the residual, and the routing and outputs of the layer before.
  void start_values() const {
    auto draw = [&](auto* p, size_t n, uint64_t seed, float sigma) {
      fill_kernel<<<1024, 256, 0, stream>>>(p, n, seed << 40, sigma, 0.0f);
    };
    draw(a.residual, size_t(kChunk) * kHidden, 51, 1), draw(a.o, size_t(kChunk) * kHidden, 52, 1);
    draw(a.y, ChunkActivations::kPositions * kHidden, 53, 1), draw(a.logits, size_t(hopper::kGateParts) * kChunk * kExperts, 60, 0.3f);
    route();
  }

  struct Part {
    const char* name;
    std::function<void()> call;
    double bytes, fp8_flops, bf16_flops, peer_us;
  };
  /// Peers on an H100 of 3110 GB/s, as in layer_peers.hpp: DeepGEMM at 4096 rows (grouped contiguous: 4096 tokens, random top-8, rows
  /// padded to 128, with the shared expert's dense product), cuDNN 9.19's attention.
  std::vector<Part> parts(bool moe) const {
    const double t = kChunk, row = 2.0 * kHidden;
    std::vector<Part> all;
    auto product = [&](const char* name, double n, double k, double out, double peer, std::function<void()> call) {
      all.push_back({name, std::move(call), n * k + t * (k + 2 * out), 2 * t * n * k, 0, peer});
    };
    auto experts = [&](const char* name, double n, double k, double out, double peer, std::function<void()> call) {
      const double rows = t * (kTopK + 1);
      all.push_back({name, std::move(call), (kExperts + 1) * n * k + rows * (k + 2 * out), 2 * rows * n * k, 0, peer});
    };
    all.push_back({moe ? "combine, add, norm, quantise" : "add, norm, quantise", [=, this] { norm(moe, false); },
                   t * ((moe ? (kTopK + 1) : 1) * row + 9.0 * kHidden), 0, 0, 0});
    product("q_a + kv_a (2112, 7168)", kJoined, kHidden, kJoined, 98.5, [this] { joined(); });
    all.push_back({"latent norms, rope, append", [this] { latents(); }, t * (2 * kJoined + kQRank + 2 * kLatentRow), 0, 0, 0});
    product("q_b (24576, 1536)", kHeads * 192, kQRank, kHeads * 192, 244, [this] { q_b(); });
    product("kv_b (32768, 512)", kHeads * 256, 512, kHeads * 256, 136.9,
            [this] { linear(reinterpret_cast<bf16*>(a.work), a.latent, a.latent_scale, a.kv_b, kHeads * 256, 512); });
    all.push_back(
        {"attention, 128 heads, causal",
         [this] {
           BENCH_CUDA(hopper::chunk_attention(
               {a.o8, a.o8_scale, a.q, a.kv, a.rope_key, kChunk, kHeads, 0, kScale, false, w.rope, a.positions}, stream));
         },
         t * kHeads * (2 * 192 + 2 * 256 + 128), 0, kHeads * 2.0 * 320 * t * (t + 1) / 2, 1144});
    product("o_proj (7168, 16384)", kHidden, kHeads * 128, kHidden, 657, [this] { o_proj(); });
    all.push_back({"add, norm, quantise", [=, this] { norm(false, moe); }, t * (row + (moe ? 11.0 : 9.0) * kHidden), 0, 0, 0});
    if (moe) {
      all.push_back({"gate (256, 7168) bf16", [this] { gate(); },
                     2.0 * kExperts * kHidden + t * (row + 4 * kExperts * hopper::kManyGateParts), 0, 2 * t * kExperts * kHidden, 0});
      all.push_back({"top-k, list of runs", [this] { route(); }, t * kExperts * 4 * hopper::kManyGateParts, 0, 0, 0});
      all.push_back({"sort rows", [this] { sort(); }, t * (kTopK + 2) * kHidden, 0, 0, 0});
      experts("experts gate_up (4096, 7168), SwiGLU", 2 * kInner, kHidden, kInner, 3927 + 168.2, [this] { gate_up(); });
      all.push_back({"quantise", [this] { quantise(int64_t(kChunk) * (kTopK + 1), kInner); }, t * (kTopK + 1) * kInner * 3, 0, 0, 0});
      experts("experts down (7168, 2048)", kHidden, kInner, kHidden, 1814 + 93.4, [this] { down(); });
    } else {
      product("gate_up (36864, 7168), SwiGLU", 2 * kDenseInner, kHidden, kDenseInner, 1578, [this] { dense_gate_up(); });
      all.push_back({"quantise", [this] { quantise(kChunk, kDenseInner); }, t * kDenseInner * 3, 0, 0, 0});
      product("down (7168, 18432)", kHidden, kDenseInner, kHidden, 743,
              [this] { linear(a.o, a.h8, a.h8_scale, w.dense_down, kHidden, kDenseInner); });
    }
    return all;
  }
};

}  // namespace dsinfer::bench
