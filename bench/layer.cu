/// One decoder layer of DeepSeek-V3 on one Hopper GPU, MoE (all 256 experts) and dense, as a captured chain and part by part, beside its
/// floors and peers, for decode steps and for a prefill chunk. bench_layer [--out FILE.json] [--short] [--prefill]: --short leaves out 32k
/// and batch 8, --prefill all decode steps.
#include <cmath>
#include <cstring>
#include <ctime>
#include <string>

#include "layer_chain.cuh"
#include "layer_linears.cuh"
#include "layer_peers.hpp"
#include "layer_prefill.cuh"
#include "layer_time.cuh"

namespace dsinfer::bench {
namespace {

struct Part {
  std::string name;
  double us, bytes, flops, peer_us;  // peer: 0 = none
};

struct Bench {
  LayerWeights w;
  Activations a;
  bf16* cache;
  int64_t pool_pages;
  cudaStream_t stream = nullptr;
  double read_gbs = 0;
  static constexpr double kBf16Rate = 795e12;  // cuBLASLt's burst on an H100, bf16

  double floor_us(double bytes, double flops = 0) const { return std::max(bytes / read_gbs / 1e3, flops / kBf16Rate * 1e6); }

  /// One part alone. Its weights move on with every call, through the experts' 11 GB, so that L2 holds none of them.
  double alone(double weight_bytes, const std::function<void(const uint8_t*, int)>& call, int repeats) const {
    const auto step = size_t(weight_bytes) / 1024 * 1024 + 1024;
    const int calls = weight_bytes > 4e8 ? repeats : std::max(8, std::min(48, int(4e8 / double(step))));
    return graph_us(stream, calls, [&](int i) { call(w.gate_up.data + size_t(i) * step, i % repeats); });
  }

  std::vector<Part> parts(const Chain& c, bool moe) const {
    const Batch& b = c.b;
    const double t = b.tokens, row = 2.0 * kHidden, cache_bytes = t * b.kv * 1152.0;
    const auto fp8 = [](double n, double k) { return n * k + n / 128 * (k / 128) * 4; };
    const auto bf16_of = [&](const uint8_t* p) { return w.bf16_pool + (p - w.gate_up.data) / 2; };
    std::vector<Part> all;
    auto add = [&](const char* name, double weights, double activations, double peer, const std::function<void(const uint8_t*, int)>& call,
                   double flops = 0) {
      all.push_back({name, alone(weights, call, b.repeats), weights + activations, flops, peer});
    };
    add(moe ? "combine, add, norm, quantise" : "add, norm, quantise", 0, t * (moe ? (kTopK + 1) * row : row) + t * (8 + 1) * kHidden, 0,
        [&](const uint8_t*, int) { c.input_norm(moe); });
    add("q_a + kv_a (2112, 7168)", fp8(kJoined, kHidden), t * (kHidden + 2 * kJoined), peer_linear(0, b.tokens),
        [&](const uint8_t* p, int) { c.joined(p); });
    add("latent norms, rope, append", 0, t * 3 * kJoined, 0, [&](const uint8_t*, int r) { c.latents(r); });
    add("q_b (24576, 1536)", fp8(kHeads * 192, kQRank), t * (kQRank + 2 * kHeads * 192), peer_linear(1, b.tokens),
        [&](const uint8_t* p, int) { c.q_b(p); });
    add("absorb W_UK, rope (bf16)", 2.0 * kHeads * 512 * 128, t * kHeads * 2 * (192 + kLatentRow), 0,
        [&](const uint8_t* p, int) { c.absorb(bf16_of(p)); });
    all.push_back({"MLA decode, 128 heads", graph_us(stream, std::max(4, b.repeats), [&](int i) { c.attend(i % b.repeats); }),
                   cache_bytes + t * kHeads * 2.0 * (kLatentRow + 512), 2.0 * t * kHeads * b.kv * (kLatentRow + 512),
                   peer_mla(b.kv, b.tokens)});
    add("expand W_UV, quantise (bf16)", 2.0 * kHeads * 512 * 128, t * kHeads * (2 * 512 + 128), 0,
        [&](const uint8_t* p, int) { c.expand(bf16_of(p)); });
    add("o_proj (7168, 16384)", fp8(kHidden, kHeads * 128), t * (kHeads * 128 + row), peer_linear(2, b.tokens),
        [&](const uint8_t* p, int) { c.o_proj(p); });
    add("add, norm, quantise", 0, t * (row * 2 + 9 * kHidden), 0, [&](const uint8_t*, int) { c.post_norm(); });
    if (moe) {
      add("gate (256, 7168) bf16", 2.0 * kExperts * kHidden, t * row, 0, [&](const uint8_t* p, int) { c.gate(bf16_of(p)); });
      add("top-k, list of runs", 0, t * kExperts * 4 * hopper::kGateParts, 0, [&](const uint8_t*, int r) { c.route(r); });
      const double experts = b.active + 1, rows = t * (kTopK + 1);
      const double shared_peer = peer_linear(3, b.tokens), shared_peer_down = peer_linear(4, b.tokens);
      auto routed = [&](const char* name, double n, double k, double out, double peer,
                        const std::function<void()>& call) {  // the routing of each repeat in its turn
        const double with = graph_us(stream, b.repeats, [&](int i) { c.route(i), call(); }),
                     without = graph_us(stream, b.repeats, [&](int i) { c.route(i); });
        all.push_back({name, with - without, experts * fp8(n, k) + rows * (k + 2 * out), 0, peer});
      };
      routed("experts gate_up (4096, 7168), SwiGLU", 2 * kInner, kHidden, kInner, peer_experts(0, b.tokens, b.active) + shared_peer,
             [&] { c.gate_up(); });
      add("quantise", 0, rows * kInner * 3, 0, [&](const uint8_t*, int) { c.quantise(int64_t(rows), kInner); });
      routed("experts down (7168, 2048)", kHidden, kInner, kHidden, peer_experts(1, b.tokens, b.active) + shared_peer_down,
             [&] { c.down(); });
    } else {
      add("gate_up (36864, 7168), SwiGLU", fp8(2 * kDenseInner, kHidden), t * (kHidden + 2 * kDenseInner), peer_linear(5, b.tokens),
          [&](const uint8_t* p, int) { c.dense_gate_up(p); });
      add("quantise", 0, t * kDenseInner * 3, 0, [&](const uint8_t*, int) { c.quantise(b.tokens, kDenseInner); });
      add("down (7168, 18432)", fp8(kHidden, kDenseInner), t * (kDenseInner + row), peer_linear(6, b.tokens),
          [&](const uint8_t* p, int) { c.dense_down(p); });
    }
    return all;
  }

  /// What a layer finds, drawn anew: the residual, and the outputs and routing of the layer before.
  void start_values(const Chain& c) const {
    const size_t size = size_t(c.b.tokens) * kHidden;
    auto draw = [&](auto* p, size_t n, uint64_t seed, float sigma) {
      fill_kernel<<<1024, 256, 0, stream>>>(p, n, seed << 40, sigma, 0.0f);
    };
    draw(a.residual, size, 31, 1), draw(a.o, size, 36, 1);
    draw(a.logits, size_t(c.b.tokens) * kExperts * hopper::kGateParts, 39, 0.3f);
    c.route(0);
    draw(a.y, size * (kTopK + 1), 38, 1);
  }

  /// The residual after `repeats` layers, eager and replayed, from the same start: the same bits?
  bool graph_equals_eager(const Chain& c, bool moe) const {
    const size_t size = size_t(c.b.tokens) * kHidden;
    std::vector<float> results[2];
    for (std::vector<float>& result : results) {
      start_values(c);
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t replay = nullptr;
      const bool captured = &result == &results[1];
      if (captured) BENCH_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
      for (int r = 0; r < c.b.repeats; ++r) c.layer(r, moe);
      if (captured) {
        BENCH_CUDA(cudaStreamEndCapture(stream, &graph));
        BENCH_CUDA(cudaGraphInstantiate(&replay, graph, 0));
        BENCH_CUDA(cudaGraphLaunch(replay, stream));
      }
      BENCH_CUDA(cudaStreamSynchronize(stream));
      result.resize(size);
      BENCH_CUDA(cudaMemcpy(result.data(), a.residual, size * sizeof(float), cudaMemcpyDeviceToHost));
      if (captured) cudaGraphExecDestroy(replay), cudaGraphDestroy(graph);
    }
    for (const float v : results[0])
      if (!std::isfinite(v)) return false;
    return std::memcmp(results[0].data(), results[1].data(), size * sizeof(float)) == 0;
  }
};

/// The residual after two layers, eager and replayed, from the same start: the same bits?
bool same_in_a_graph(const ChunkChain& c, bool moe) {
  std::vector<float> results[2];
  for (std::vector<float>& result : results) {
    c.start_values();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replay = nullptr;
    const bool captured = &result == &results[1];
    if (captured) BENCH_CUDA(cudaStreamBeginCapture(c.stream, cudaStreamCaptureModeThreadLocal));
    c.layer(moe), c.layer(moe);
    if (captured) {
      BENCH_CUDA(cudaStreamEndCapture(c.stream, &graph));
      BENCH_CUDA(cudaGraphInstantiate(&replay, graph, 0));
      BENCH_CUDA(cudaGraphLaunch(replay, c.stream));
    }
    BENCH_CUDA(cudaStreamSynchronize(c.stream));
    result.resize(size_t(kChunk) * kHidden);
    BENCH_CUDA(cudaMemcpy(result.data(), c.a.residual, result.size() * sizeof(float), cudaMemcpyDeviceToHost));
    if (captured) cudaGraphExecDestroy(replay), cudaGraphDestroy(graph);
  }
  for (const float v : results[0])
    if (!std::isfinite(v)) return false;
  return results[0] == results[1];
}

void run_prefill(const Bench& bench, std::FILE* out) {
  constexpr double kFp8Rate = 1460e12;  // cuBLASLt's burst on an H100, per-tensor FP8
  const ChunkActivations a;
  const ChunkChain chain{bench.w, a, bench.cache, bench.stream};
  BENCH_CUDA(cudaDeviceSynchronize());
  for (const bool moe : {true, false}) {
    const bool same = same_in_a_graph(chain, moe);
    chain.start_values();
    const double total = graph_us(bench.stream, 2, [&](int) { chain.layer(moe); });
    double sum = 0, floors = 0;
    std::string rows;
    for (const ChunkChain::Part& p : chain.parts(moe)) {
      const double us = graph_us(bench.stream, 3, [&](int) { p.call(); });
      const double floor_us =
          std::max({p.bytes / bench.read_gbs / 1e3, p.fp8_flops / kFp8Rate * 1e6, p.bf16_flops / Bench::kBf16Rate * 1e6});
      sum += us, floors += floor_us;
      char line[256];
      std::snprintf(line, sizeof line, "%s\n  {\"name\": \"%s\", \"us\": %.2f, \"floor_us\": %.2f, \"peer_us\": %.2f}",
                    rows.empty() ? "" : ",", p.name, us, floor_us, p.peer_us * kAnchorReadGbs / bench.read_gbs);
      rows += line;
      std::printf("  %-40s %8.1f us (floor %.1f, peer %.1f)\n", p.name, us, floor_us, p.peer_us * kAnchorReadGbs / bench.read_gbs);
    }
    std::printf("%s prefill of %d: %.1f us a layer (parts alone %.1f, floor %.1f: %.2f), graph %s eager\n", moe ? "MoE  " : "dense", kChunk,
                total, sum, floors, floors / total, same ? "equals" : "DIFFERS FROM");
    std::fflush(stdout);
    std::fprintf(out,
                 "%s\n{\"layer\": \"%s\", \"tokens\": %d, \"graph_equals_eager\": %s, \"us\": %.2f, \"floor_us\": %.2f, \"parts\": [%s]}",
                 moe ? "" : ",", moe ? "moe" : "dense", kChunk, same ? "true" : "false", total, floors, rows.c_str());
  }
}

void run(const char* out_path, bool brief, bool prefill_alone) {
  const int64_t pool_pages = brief || prefill_alone ? 10000 : 66000;
  const size_t page = size_t(64) * kLatentRow;
  Bench bench{.w = {}, .a = {}, .cache = random_array<bf16>(size_t(pool_pages) * page, 41, 0.5f), .pool_pages = pool_pages};
  BENCH_CUDA(cudaStreamCreate(&bench.stream));
  BENCH_CUDA(cudaDeviceSynchronize());
  const size_t two_gib = size_t(2) << 30;
  const double read_us = graph_us(bench.stream, 3, [&](int i) {
    read_kernel<<<132 * 4, 512, 0, bench.stream>>>(reinterpret_cast<const uint4*>(bench.w.gate_up.data + size_t(i) * two_gib), two_gib / 16,
                                                   reinterpret_cast<uint32_t*>(bench.a.logits));
  });
  bench.read_gbs = double(two_gib) / read_us / 1e3;

  cudaDeviceProp device{};
  BENCH_CUDA(cudaGetDeviceProperties(&device, 0));
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver), cudaRuntimeGetVersion(&runtime);
  char date[16];
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof date, "%Y-%m-%d", std::gmtime(&now));
  std::FILE* out = std::fopen(out_path, "w");
  if (!out) check(cudaErrorInvalidValue, "cannot write the file of --out");
  std::fprintf(out,
               "{\"date\": \"%s\", \"device\": \"%s\", \"cuda_driver\": %d, \"cuda_runtime\": %d, \"read_gbs\": %.0f, \"anchor_read_gbs\": "
               "%.0f, \"cases\": [",
               date, device.name, driver, runtime, bench.read_gbs, kAnchorReadGbs);
  std::printf("%s, read %.0f GB/s\n", device.name, bench.read_gbs);
  bool first = true;
  for (const bool moe : {true, false})
    for (const int kv : {1024, 4096, 32768})
      for (const int tokens : {1, 8, 32, 128}) {
        if (prefill_alone || (brief && (kv > 4096 || tokens == 8 || (kv > 1024 && tokens > 32)))) continue;
        if (!moe && kv != 1024) continue;                                       // the dense layer differs in its MLP alone
        const int64_t room = bench.pool_pages / (int64_t(tokens) * (kv / 64));  // repeats share no page: each would find what another wrote
        const Batch batch(tokens, kv, int(std::min<int64_t>(tokens <= 8 ? 6 : 3, room)), bench.pool_pages, uint64_t(tokens * 7 + kv));
        const Chain chain{bench.w, bench.a, batch, bench.cache, bench.stream};
        const bool same = bench.graph_equals_eager(chain, moe);
        bench.start_values(chain);
        const double total = graph_us(bench.stream, batch.repeats, [&](int i) { chain.layer(i, moe); });
        const std::vector<Part> parts = bench.parts(chain, moe);
        double bytes = 0, sum = 0, floors = 0;
        for (const Part& p : parts) bytes += p.bytes, sum += p.us, floors += bench.floor_us(p.bytes, p.flops);
        std::printf("%s batch %3d kv %5d: %.1f us a layer (parts alone %.1f, floor %.1f: %.2f), %.1f experts, %d parts, graph %s eager\n",
                    moe ? "MoE  " : "dense", tokens, kv, total, sum, floors, floors / total, batch.active, batch.parts,
                    same ? "equals" : "DIFFERS FROM");
        std::fflush(stdout);
        std::fprintf(out,
                     "%s\n{\"layer\": \"%s\", \"batch\": %d, \"kv\": %d, \"experts_hit\": %.1f, \"mla_parts\": %d, \"graph_equals_eager\": "
                     "%s, \"us\": %.2f, \"floor_us\": %.2f, \"parts\": [",
                     first ? "" : ",", moe ? "moe" : "dense", tokens, kv, moe ? batch.active : 0.0, batch.parts, same ? "true" : "false",
                     total, floors);
        first = false;
        for (size_t i = 0; i < parts.size(); ++i)
          std::fprintf(out, "%s\n  {\"name\": \"%s\", \"us\": %.2f, \"floor_us\": %.2f, \"peer_us\": %.2f}", i ? "," : "",
                       parts[i].name.c_str(), parts[i].us, bench.floor_us(parts[i].bytes, parts[i].flops),
                       parts[i].peer_us * kAnchorReadGbs / bench.read_gbs);
        std::fprintf(out, "]}");
      }
  std::fprintf(out, "\n], \"linears\": [");
  if (!prefill_alone) run_linears(bench.w, bench.a, bench.stream, bench.read_gbs, out);
  std::fprintf(out, "\n], \"prefill\": [");
  run_prefill(bench, out);
  std::fprintf(out, "\n]}\n");
  std::fclose(out);
}

}  // namespace
}  // namespace dsinfer::bench

int main(int argc, char** argv) {
  const char* out = "layer.json";
  bool brief = false, prefill_alone = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--out") == 0 && i + 1 < argc)
      out = argv[++i];
    else if (std::strcmp(argv[i], "--short") == 0)
      brief = true;
    else if (std::strcmp(argv[i], "--prefill") == 0)
      prefill_alone = true;
    else
      return std::fprintf(stderr, "usage: bench_layer [--out FILE.json] [--short] [--prefill]\n"), 2;
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return std::printf("no GPU: skipped\n"), 0;
  dsinfer::bench::run(out, brief, prefill_alone);
}
