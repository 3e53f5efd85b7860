// Legality, memory and pipeline cuts of the plan solver: the worked answers for the clusters of five public guides, and the arithmetic tensor by tensor.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "checkpoint_writer.hpp"
#include "dsinfer/error.hpp"
#include "plan/cost.hpp"
#include "plan/memory.hpp"

namespace dsinfer {
namespace {

using testing::AllOf;
using testing::HasSubstr;

ModelConfig real(const std::string& name) { return ModelConfig::load(std::string(DSINFER_TEST_DATA) + "/configs/" + name + ".json"); }
const ModelConfig& v3() {
  static const ModelConfig config = real("deepseek-v3");
  return config;
}

Shape shape(int64_t tp, int64_t pp, int64_t dp, int64_t ep, std::vector<int64_t> layers = {}) {
  Shape s;
  s.tp = tp, s.pp = pp, s.dp = dp, s.ep = ep;
  s.stage_layers = std::move(layers);
  return s;
}

Precisions precisions(Precision weights, CachePrecision cache = CachePrecision::bf16) {
  Precisions p;
  p.weights = weights;
  p.cache = cache;
  return p;
}

Fleet fleet(int64_t memory_mib, int nodes = 2, double capability = 9.0) {
  Fleet f;
  f.nodes = nodes;
  f.gpus_per_node = 8;
  f.gpu.id = "test";
  f.gpu.memory_bytes = memory_mib << 20;
  f.gpu.compute_capability = capability;
  f.inside.transport = "nvlink";
  f.between.transport = "ib";
  return f;
}

constexpr int64_t kL20 = 46068, kL20WithoutEcc = 49140, kH20 = 97871, kH100 = 81559, kA800 = 81920, kA100 = 40960, kGcu = 49152, kRtx4090 = 24564;
constexpr double kGb = 1e9;

// A line of the worked answers.
struct Worked {
  const char* name;
  int64_t memory_mib;
  double utilization;
  Precision precision;
  Shape shape;
  std::vector<int64_t> cut;   // expected; empty: not stated
  double weights_gb;          // as printed
  double overhead_gb;
  double tokens, rounding;    // as printed; 0: not stated
  double room_gb;             // as printed; NaN: not stated
  int64_t max_len = 4096;
  bool feasible = true;
  CachePrecision cache = CachePrecision::bf16;
};

constexpr double kUnsaid = std::numeric_limits<double>::quiet_NaN();
constexpr double k = 1e3, M = 1e6;

MemoryTable table_of(const Worked& w) {
  SolveRequest request;
  request.utilization = w.utilization;
  request.overhead_bytes = w.overhead_gb * kGb;
  return memory_table(v3(), precisions(w.precision, w.cache), w.shape, fleet(w.memory_mib), request);
}

std::vector<Worked> worked_answers() {
  const auto fp8 = Precision::fp8, bf16 = Precision::bf16, int4 = Precision::int4;
  return {
      // 2 × 8 L20
      {"L20 TP8×PP2", kL20, 0.8, fp8, shape(8, 2, 1, 8), {32, 29}, 42.7, 2, 0, 0, -6.1, 65536, false},
      {"L20 TP8×PP2, ECC off", kL20WithoutEcc, 0.8, fp8, shape(8, 2, 1, 8), {32, 29}, 42.7, 2, 0, 0, -3.5, 65536, false},
      {"L20 TP8×PP2 cut by count", kL20, 0.8, fp8, shape(8, 2, 1, 8, {31, 30}), {31, 30}, 43.9, 2, 0, 0, kUnsaid, 65536, false},
      {"L20 TP16", kL20, 0.8, fp8, shape(16, 1, 1, 16), {61}, 43.1, 2, 0, 0, kUnsaid, 65536, false},
      {"L20 PP16", kL20, 0.8, fp8, shape(1, 16, 1, 1), {}, 46.0, 2, 0, 0, kUnsaid, 65536, false},
      {"L20 DP16×EP16", kL20, 0.8, fp8, shape(1, 1, 16, 16), {61}, 60.0, 2, 0, 0, kUnsaid, 65536, false},
      {"L20 util 0.95, ECC off", kL20WithoutEcc, 0.95, fp8, shape(8, 2, 1, 8), {32, 29}, 42.7, 2, 115 * k, 0.5 * k, 4.25, 65536, true},
      {"L20 util 0.95, ECC on", kL20, 0.95, fp8, shape(8, 2, 1, 8), {32, 29}, 42.7, 2, 32.3 * k, 0.05 * k, 1.19, 65536, false},
      {"L20 int4 TP4×PP4", kL20, 0.8, int4, shape(4, 4, 1, 4), {17, 15, 15, 14}, 22.6, 2, 760 * k, 0.5 * k, kUnsaid, 65536, true},
      {"L20 int4 TP2×PP8", kL20, 0.8, int4, shape(2, 8, 1, 2), {9, 7, 7, 7, 8, 8, 8, 7}, 24.0, 2, 1.38 * M, 0.005 * M, kUnsaid, 65536, true},
      {"L20 int4 TP2×PP8, ten first", kL20, 0.8, int4, shape(2, 8, 1, 2, {10, 7, 7, 7, 7, 8, 8, 7}), {10, 7, 7, 7, 7, 8, 8, 7}, 24.0, 2, 1.24 * M, 0.005 * M, kUnsaid, 65536, true},
      {"L20 int4 DP8×EP8×PP2", kL20, 0.8, int4, shape(1, 2, 8, 8), {31, 30}, 27.5, 2, 264 * k, 0.5 * k, kUnsaid, 65536, true},
      {"L20 3 nodes TP8×PP3", kL20, 0.8, fp8, shape(8, 3, 1, 8), {22, 20, 19}, 29.1, 2, 327 * k, 0.5 * k, kUnsaid, 65536, true},
      // H20
      {"H20 one node TP8", kH20, 0.92, fp8, shape(8, 1, 1, 8), {61}, 85.1, 4, 75 * k, 0.5 * k, 5.3},
      {"H20 TP8×PP2", kH20, 0.9, fp8, shape(8, 2, 1, 8), {32, 29}, 42.7, 4, 1.24 * M, 0.005 * M, 45.7},
      {"H20 TP16", kH20, 0.9, fp8, shape(16, 1, 1, 16), {61}, 43.1, 4, 644 * k, 0.5 * k, 45.2},
      {"H20 DP16×EP16", kH20, 0.9, fp8, shape(1, 1, 16, 16), {61}, 60.0, 5, 390 * k, 0.5 * k, 27.4},
      {"H20 DP16×EP16, scaled FP8 cache", kH20, 0.9, fp8, shape(1, 1, 16, 16), {61}, 60.0, 5, 10.96 * M / 16, 0.005 * M / 16, 27.4, 4096, true, CachePrecision::fp8_scaled},
      {"H20 DP2×TP8, EP16", kH20, 0.9, fp8, shape(8, 1, 2, 16), {61}, 44.3, 5, 613 * k, 0.5 * k, 43.1},
      // 2 × 8 H100
      {"H100 one node TP8", kH100, 0.9, fp8, shape(8, 1, 1, 8), {61}, 85.1, 4, 0, 0, kUnsaid, 4096, false},
      {"H100 TP8×PP2", kH100, 0.9, fp8, shape(8, 2, 1, 8), {32, 29}, 42.7, 4, 821 * k, 0.5 * k, kUnsaid},
      {"H100 TP16", kH100, 0.9, fp8, shape(16, 1, 1, 16), {61}, 43.1, 4, 424 * k, 0.5 * k, kUnsaid},
      {"H100 DP16×EP16", kH100, 0.9, fp8, shape(1, 1, 16, 16), {61}, 60.0, 5, 171 * k, 0.5 * k, 12.0},
      {"H100 DP16×EP16, scaled FP8 cache", kH100, 0.9, fp8, shape(1, 1, 16, 16), {61}, 60.0, 5, 300 * k, 0.5 * k, 12.0, 4096, true, CachePrecision::fp8_scaled},
      {"H100 DP2×TP8, EP16", kH100, 0.9, fp8, shape(8, 1, 2, 16), {61}, 44.3, 5, 0.79 * M / 2, 0.005 * M / 2, kUnsaid},
      // 4 × 8 A800
      {"A800 TP8×PP4", kA800, 0.9, bf16, shape(8, 4, 1, 8), {17, 15, 15, 14}, 43.6, 4, 1.63 * M, 0.005 * M, 29.7},
      {"A800 DP8×TP4, EP32", kA800, 0.9, bf16, shape(4, 1, 8, 32), {61}, 51.0, 4.5, 311 * k, 0.5 * k, 21.8},
      {"A800 DP4×TP8, EP32", kA800, 0.9, bf16, shape(8, 1, 4, 32), {61}, 47.0, 4.5, 368 * k, 0.5 * k, 25.9},
      {"A800 DP32×EP32", kA800, 0.9, bf16, shape(1, 1, 32, 32), {61}, 75.1, 4.5, 0, 0, -2.3, 4096, false},
      {"A800 TP32", kA800, 0.9, bf16, shape(32, 1, 1, 32), {61}, 43.9, 4, 418 * k, 0.5 * k, 29.4},
      {"A800 3 nodes TP8×PP3", kA800, 0.9, bf16, shape(8, 3, 1, 8), {22, 20, 19}, 58.1, 4, 659 * k, 0.5 * k, 15.2},
      {"A800 2 nodes, FP8 stored, TP8×PP2", kA800, 0.9, Precision::fp8_bf16, shape(8, 2, 1, 8), {32, 29}, 42.7, 4, 830 * k, 0.5 * k, 30.6},
      // 8 × 8 A100-40GB
      {"A100 TP8×PP8", kA100, 0.9, bf16, shape(8, 8, 1, 8), {9, 7, 7, 7, 8, 8, 8, 7}, 23.3, 3, 1.35 * M, 0.005 * M, 12.4},
      {"A100 TP8×PP8, ten first", kA100, 0.9, bf16, shape(8, 8, 1, 8, {10, 7, 7, 7, 7, 8, 8, 7}), {10, 7, 7, 7, 7, 8, 8, 7}, 23.3, 3, 1.26 * M, 0.005 * M, 12.4},
      {"A100 DP64×EP64", kA100, 0.9, bf16, shape(1, 1, 64, 64), {61}, 54.7, 3.5, 0, 0, kUnsaid, 4096, false},
      {"A100 DP16×TP4, EP64", kA100, 0.9, bf16, shape(4, 1, 16, 64), {61}, 30.5, 3.5, 66 * k, 0.5 * k, kUnsaid},
      {"A100 DP8×TP8, EP64", kA100, 0.9, bf16, shape(8, 1, 8, 64), {61}, 26.5, 3.5, 123 * k, 0.5 * k, kUnsaid},
      {"A100 6 nodes TP8×PP6", kA100, 0.9, bf16, shape(8, 6, 1, 8), {12, 10, 10, 10, 10, 9}, 29.1, 3, 572 * k, 0.5 * k, kUnsaid},
      {"A100 5 nodes TP8×PP5", kA100, 0.9, bf16, shape(8, 5, 1, 8), {14, 12, 12, 12, 11}, 34.9, 3, 56 * k, 0.5 * k, kUnsaid},
      {"A100 4 nodes TP8×PP4", kA100, 0.9, bf16, shape(8, 4, 1, 8), {}, 43.6, 3, 0, 0, kUnsaid, 4096, false},
      {"A100 int4, 2 nodes TP8×PP2", kA100, 0.9, int4, shape(8, 2, 1, 8), {32, 29}, 22.3, 3, 361 * k, 0.5 * k, kUnsaid},
      // 4 × 8 GCU
      {"GCU DP8×TP4, EP32", kGcu, 0.8, int4, shape(4, 1, 8, 32), {61}, 14.1, 3, 344 * k, 0.5 * k, 24.1, 2048},
      {"GCU DP32×EP32", kGcu, 0.8, int4, shape(1, 1, 32, 32), {61}, 22.4, 3, 225 * k, 0.5 * k, kUnsaid, 2048},
      {"GCU TP8×PP4", kGcu, 0.8, int4, shape(8, 4, 1, 8), {17, 15, 15, 14}, 11.4, 3, 1.39 * M, 0.005 * M, kUnsaid, 2048},
      {"GCU one node TP8", kGcu, 0.8, int4, shape(8, 1, 1, 8), {61}, 44.5, 3, 0, 0, kUnsaid, 2048, false},
      {"24 GB cards DP8×TP4, EP32", kRtx4090, 0.8, int4, shape(4, 1, 8, 32), {61}, 14.1, 3, 50 * k, 0.5 * k, 3.5, 2048},
  };
}

TEST(MemoryTable, GivesTheWorkedAnswers) {
  for (const Worked& w : worked_answers()) {
    SCOPED_TRACE(w.name);
    EXPECT_FALSE(refuse(v3(), precisions(w.precision), w.shape));
    const MemoryTable table = table_of(w);
    const double weights = static_cast<double>(table.weights_bytes_max) / kGb;
    EXPECT_NEAR(weights, w.weights_gb, 0.005 * w.weights_gb);
    if (w.tokens > 0) { EXPECT_NEAR(static_cast<double>(table.kv_tokens_per_dp_rank), w.tokens, w.rounding); }
    if (!std::isnan(w.room_gb)) { EXPECT_NEAR(static_cast<double>(table.room_bytes) / kGb, w.room_gb, 0.05); }
    EXPECT_EQ(table.kv_tokens_per_dp_rank >= w.max_len, w.feasible) << table.kv_tokens_per_dp_rank;
    EXPECT_EQ(table.overhead_bytes, static_cast<int64_t>(w.overhead_gb * kGb));
    if (!w.cut.empty() && w.shape.stage_layers.empty()) {
      const LayerBytes bytes = layer_bytes(v3(), precisions(w.precision), w.shape);
      EXPECT_EQ(best_cut(v3(), bytes, w.shape, table.budget_bytes, table.overhead_bytes, cache_bytes_per_token_layer(v3(), precisions(w.precision, w.cache))), w.cut);
    }
  }
}

int64_t legal_plans(Precision precision, int64_t ranks) {
  int64_t legal = 0;
  for (int64_t tp = 1; tp <= ranks; ++tp)
    for (int64_t pp = 1; tp * pp <= ranks; ++pp)
      for (int64_t ep = 1; ranks % (tp * pp) == 0 && ep <= ranks / pp; ++ep)
        if ((ranks / pp) % ep == 0 && !refuse(v3(), precisions(precision), shape(tp, pp, ranks / tp / pp, ep))) ++legal;
  return legal;
}

TEST(Refuse, LeavesAsManyPlansAsCountedByHand) {
  EXPECT_EQ(legal_plans(Precision::fp8, 8), 30);
  EXPECT_EQ(legal_plans(Precision::fp8, 16), 55);
  EXPECT_EQ(legal_plans(Precision::fp8, 32), 80);
  EXPECT_EQ(legal_plans(Precision::fp8_bf16, 32), 80);
  EXPECT_EQ(legal_plans(Precision::bf16, 32), 91);
  EXPECT_EQ(legal_plans(Precision::bf16, 64), 139);
}

}  // namespace
}  // namespace dsinfer
