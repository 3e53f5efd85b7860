/// What peers' own kernels take on the same shapes: microseconds on an H100 80GB (SXM) whose read bandwidth was 3110 GB/s, 2026-11-22;
/// graphs of back-to-back calls with cold weights. DeepGEMM 2.6.1 at 54e2261 (the better of with and without PDL), FlashMLA at 9241ae3
/// (split and combine kernels, its scheduling kernel not counted). bench_layer scales them by its own run's bandwidth.
#pragma once
#include <cstddef>

namespace dsinfer::bench {

constexpr double kAnchorReadGbs = 3110;

constexpr int column_of(int tokens) { return tokens == 1 ? 0 : tokens == 8 ? 1 : tokens == 32 ? 2 : 3; }

/// Shapes: 0 (2112, 7168), 1 (24576, 1536), 2 (7168, 16384), 3 (4096, 7168), 4 (7168, 2048), 5 (36864, 7168), 6 (7168, 18432).
inline double peer_linear(int shape, int tokens) {
  constexpr double us[7][4] = {{13.1, 10.3, 10.4, 9.9}, {16.8, 17.1, 17.5, 18.7}, {44.5, 43.7, 44.4, 45.4}, {14.4, 13.4, 13.6, 13.8},
                               {7.7, 7.8, 8.0, 8.9},    {90.7, 92.2, 92.5, 96.8}, {49.3, 49.3, 49.8, 50.4}};
  return us[shape][column_of(tokens)];
}

/// DeepGEMM masked, 256 experts held, random top-8 (8, 55, 152, 252 experts hit): per expert hit. 0 gate_up, 1 down.
inline double peer_experts(int which, int tokens, double experts_hit) {
  constexpr double us[2][4] = {{114.5, 592, 1633, 2724}, {60.6, 302, 821, 1358}};
  constexpr double hit[4] = {8, 55, 152, 252};
  return us[which][column_of(tokens)] / hit[column_of(tokens)] * experts_hit;
}

/// FlashMLA, 128 heads.
inline double peer_mla(int kv, int tokens) {
  constexpr double us[3][4] = {{13.9, 20.1, 37.5, 78.9}, {19.9, 34.9, 77.0, 245}, {42.8, 132.9, 483, 1946}};
  return us[kv <= 1024 ? 0 : kv <= 4096 ? 1 : 2][column_of(tokens)];
}

}  // namespace dsinfer::bench
