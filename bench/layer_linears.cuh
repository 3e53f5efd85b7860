/// The dense FP8 linears of a decode step alone, the shared expert's two among them, which the layer takes together with the routed ones.
#pragma once
#include "layer_time.cuh"

namespace dsinfer::bench {

inline void run_linears(const LayerWeights& w, const Activations& a, cudaStream_t stream, double read_gbs, std::FILE* out) {
  struct Shape {
    int n, k;
    bool gated;  // SwiGLU joined
  };
  constexpr Shape kShapes[] = {{kJoined, kHidden, false},    {kHeads * 192, kQRank, false}, {kHidden, kHeads * 128, false},
                               {2 * kInner, kHidden, false}, {kHidden, kInner, false},      {2 * kDenseInner, kHidden, true},
                               {kHidden, kDenseInner, false}};
  bool first = true;
  for (const Shape& s : kShapes)
    for (const int tokens : {1, 8, 32, 64, 128}) {
      const size_t step = size_t(s.n) * size_t(s.k) / 1024 * 1024 + 1024;  // weights move on with every call, so that L2 holds none of them
      const int calls = std::max(8, std::min(48, int(4e8 / double(step))));
      const double us = graph_us(stream, calls, [&](int i) {
        const hopper::Fp8Weight weight{w.gate_up.data + size_t(i) * step, w.gate_up.scale};
        const hopper::Fp8Rows x{reinterpret_cast<const uint8_t*>(w.down.data), w.down.scale};  // some E4M3 values with their scales
        BENCH_CUDA(s.gated ? hopper::fp8_gate_up(a.h, x, weight, tokens, s.n, s.k, stream)
                           : hopper::fp8_linear(a.y, x, weight, tokens, s.n, s.k, stream));
      });
      const double bytes = double(s.n) * s.k * (1 + 4.0 / (128 * 128)) + tokens * (s.k * (1 + 4.0 / 128) + (s.gated ? 1.0 : 2.0) * s.n);
      std::printf("  (%d, %d)%s, %d tokens: %.1f us (floor %.1f)\n", s.n, s.k, s.gated ? " gated" : "", tokens, us, bytes / read_gbs / 1e3);
      std::fprintf(out, "%s\n{\"n\": %d, \"k\": %d, \"gated\": %s, \"tokens\": %d, \"us\": %.2f, \"floor_us\": %.2f}", first ? "" : ",",
                   s.n, s.k, s.gated ? "true" : "false", tokens, us, bytes / read_gbs / 1e3);
      first = false;
    }
}

}  // namespace dsinfer::bench
