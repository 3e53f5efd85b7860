#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

#include "dsinfer/error.hpp"
#include "plan/step_model.hpp"

using namespace dsinfer;

namespace {

const Precisions kFp8;

const ModelConfig& v3() {
  static const ModelConfig config = ModelConfig::load(DSINFER_TEST_DATA "/configs/deepseek-v3.json");
  return config;
}

Fleet fleet(const char* gpu, int nodes = 1, const char* between = "ib400x8", int per_node = 8) { return describe_fleet(Catalogue::shipped(), nodes, per_node, gpu, between); }

Shape shape(int64_t tp, int64_t pp, int64_t dp, int64_t ep, int redundant = 0) {
  Shape s;
  s.tp = tp;
  s.pp = pp;
  s.dp = dp;
  s.ep = ep;
  s.redundant_experts = redundant;
  return s;
}

OperatingPoint at(int64_t batch, int64_t context, int64_t chunk = 4096) {
  OperatingPoint o;
  o.batch = batch;
  o.context = context;
  o.chunk = chunk;
  return o;
}

/// One rank's parts, as the tables of kernels have them.
class Kernels {
 public:
  Kernels(const Fleet& fleet, const Shape& shape, Precisions precisions = {}) : fleet_(fleet), shape_(shape), numerics_(numerics_of(v3(), precisions, fleet_.gpu, Curves::shipped())) {}

  double attention(double batch, double context) const {
    Tally t;
    model().attention_projections(t, batch);
    model().absorbed_core(t, batch, 1, context);
    return t.total();
  }
  double experts(double tokens, double skew = 0) const {
    Tally t;
    model().routed_experts(t, tokens, skew, true);
    return t.total();
  }
  double all_reduce(double bytes) const {
    Tally t;
    model().all_reduces(t, bytes / (2 * 7168), nullptr);
    return t.total() / 2;
  }
  double exchange(double tokens, bool captured = true) const {
    Tally t;
    model().exchange(t, tokens, captured, nullptr);
    return t.total();
  }
  double hop(double tokens) const { return model().hop_us(tokens, 1); }

 private:
  StepModel model() const { return StepModel(v3(), numerics_, shape_, fleet_); }
  Fleet fleet_;
  Shape shape_;
  Numerics numerics_;
};

void expect_within(double found, double wanted, double share) { EXPECT_NEAR(found / wanted, 1.0, share) << found << " where " << wanted << " was measured or stated"; }

}  // namespace

TEST(SolverCost, AttentionModulesMatchTheH100TableForAllHeadsAndForSixteen) {
  const Kernels all(fleet("h100-80g"), shape(1, 1, 8, 8)), sixteen(fleet("h100-80g"), shape(8, 1, 1, 1));
  // Whole MLA module, FP8 weights, BF16 cache: us at batch, context 4096 (then 32768).
  for (const auto& [batch, us] : {std::pair{1.0, 123.0}, {32.0, 201.0}, {64.0, 245.0}, {128.0, 390.0}, {256.0, 701.0}}) expect_within(all.attention(batch, 4096), us, 0.08);
  for (const auto& [batch, us] : {std::pair{1.0, 65.0}, {32.0, 116.0}, {128.0, 261.0}}) expect_within(sixteen.attention(batch, 4096), us, 0.08);
  expect_within(all.attention(32, 32768), 591, 0.15);
  expect_within(all.attention(128, 32768), 1921, 0.25);
}

TEST(SolverCost, OneLayerOfOneRankIsTheSumDoneByHand) {
  const Kernels one(fleet("h100-80g"), shape(1, 1, 1, 1));
  // 187,105,280 FP8 weights at 0.80 of 3350 GB/s: 69.83 us, against 2 x 187.1e6 x 64 FLOPs: at 0.9 x 1979 TFLOPS 13.45 us and 9.4e-4 B/FLOP from memory 6.72 us: root of squares 72.68 us.
  // 64 x 278,528 x 4096 FLOPs: at 0.9 x 989 TFLOPS 82.03 us and 2.2e-3 B/FLOP 47.95 us; more than 302 MB of cache at 0.88 x 3350 GB/s (102.4 us). Launches 52 us.
  EXPECT_NEAR(one.attention(64, 4096), 72.68 + 129.98 + 52, 0.3);
  // One token: 8 experts of 44,050,944 B at 0.83 x 3350 GB/s: 126.7 us; launches 28 us; 8 rows are nothing beside.
  EXPECT_NEAR(one.experts(1), 126.7 + 28, 0.3);
}

TEST(SolverCost, ExpertsMatchTheH100TablesWhileTheirBytesBind) {
  for (const auto& [ep, us] : {std::pair{16, 278.0}, {32, 150.0}, {64, 85.0}, {128, 54.0}, {256, 36.0}})
    expect_within(Kernels(fleet("h100-80g", 32), shape(1, 1, ep, ep)).experts(2048.0 / ep), us, ep == 256 ? 0.3 : 0.15);
  // H200, cut by TP8: 8, 16, 32, 64 tokens.
  const Kernels tp8(fleet("h200-141g"), shape(8, 1, 1, 1));
  for (const auto& [tokens, us] : {std::pair{8.0, 105.0}, {16.0, 191.0}, {32.0, 249.0}, {64.0, 326.0}}) expect_within(tp8.experts(tokens), us, 0.2);
}

TEST(SolverCost, ExpertsTouchedFollowTheUniformDraw) {
  // 256 x (1 - (31/32)^B): 8, 57.4, 163.3, 251.6 experts of 44.05 MB on one rank.
  const Kernels one(fleet("h20-96g"), shape(1, 1, 1, 1));
  for (const auto& [tokens, experts] : {std::pair{1.0, 8.0}, {8.0, 57.4}, {32.0, 163.3}}) expect_within(one.experts(tokens) - 28, experts * 44.05e6 / (0.83 * 4000e3), 0.02);
}

TEST(SolverCost, AllReducesMatchTheH100Table) {
  const Kernels k(fleet("h100-80g"), shape(8, 1, 1, 1));
  for (const auto& [bytes, us] : {std::pair{16384.0, 3.75}, {65536.0, 4.8}, {262144.0, 9.4}, {1048576.0, 13.5}, {2097152.0, 20.1}, {8388608.0, 62.9}, {536870912.0, 2114.0}})
    expect_within(k.all_reduce(bytes), us, 0.25);
  // Without NVLink (8 L40S in one box): 42 us for one token, about 35 ms for 2048 tokens.
  const Kernels pcie(fleet("l40s-48g"), shape(8, 1, 1, 1));
  expect_within(pcie.all_reduce(14336), 42, 0.4);
  expect_within(pcie.all_reduce(2048 * 14336), 35e3, 0.2);
}

TEST(SolverCost, ExpertExchangesMatchTheH100TablesOverNodes) {
  // DeepEP low latency, dispatch and combine together: nodes, tokens, us (AIConfigurator).
  struct Row { int nodes; double tokens, us; };
  for (const Row& row : {Row{1, 16, 36}, {1, 128, 112}, {2, 8, 60}, {2, 32, 101}, {4, 8, 74}, {4, 128, 406}, {8, 8, 78}, {8, 128, 472}, {8, 256, 881}})
    expect_within(Kernels(fleet("h100-80g", row.nodes), shape(1, 1, 8 * row.nodes, 8 * row.nodes)).exchange(row.tokens), row.us, 0.15);
  // Normal kernels, 24 SMs, 4096 tokens.
  for (const Row& row : {Row{1, 4096, 1459}, {2, 4096, 2526}, {4, 4096, 5313}})
    expect_within(Kernels(fleet("h100-80g", row.nodes), shape(1, 1, 8 * row.nodes, 8 * row.nodes)).exchange(row.tokens, false), row.us, 0.3);
}

TEST(SolverCost, OneSlowNicANodeMakesExchangesDearAndHopsCheap) {
  // 4 x 8 A800, 200G a node, 32 a GPU: about 0.88 ms a layer to exchange; a pipeline's hop of the node's 256 tokens 0.15 ms.
  Precisions bf16;
  bf16.weights = Precision::bf16;
  const Fleet slow = fleet("a800-80g", 4, "ib200x1");
  const double exchange = Kernels(slow, shape(1, 1, 32, 32), bf16).exchange(32);
  EXPECT_GT(exchange, 800);
  EXPECT_LT(exchange, 1900);
  expect_within(Kernels(slow, shape(8, 4, 1, 1), bf16).hop(256), 147 + 15, 0.1);
}

TEST(SolverCost, TheWorkedPredictionsHoldWithinTheirOwnError) {
  const Fleet two = fleet("h100-80g", 2), nine = fleet("h100-80g", 9), h200 = fleet("h200-141g");
  expect_within(decode_step(v3(), kFp8, shape(1, 1, 16, 16), two, at(64, 4096)).total_ms, 43, 0.08);
  expect_within(decode_step(v3(), kFp8, shape(1, 1, 16, 16), two, at(41, 4096)).total_ms, 38.6, 0.08);
  expect_within(decode_step(v3(), kFp8, shape(1, 1, 16, 16), two, at(16, 4096)).total_ms, 32.7, 0.08);
  expect_within(decode_step(v3(), kFp8, shape(8, 2, 1, 1), two, at(1, 4096)).total_ms, 11.5, 0.2);
  expect_within(decode_step(v3(), kFp8, shape(1, 1, 72, 72, 32), nine, at(256, 2048)).total_ms, 92.0, 0.08);
  // Eight H200, TP8, 1k in and out: published 12.8, 17.2, 25.6 ms; prefill shares the steps from 32 on.
  for (const auto& [batch, ms] : {std::pair<int64_t, double>{8, 12.8}, {16, 17.2}, {32, 25.6}})
    expect_within(decode_step(v3(), kFp8, shape(8, 1, 1, 1), h200, at(batch, 1536)).total_ms, ms, 0.15);
}

TEST(SolverCost, TheWorkedEstimatesOfOtherMachinesHold) {
  Precisions bf16, int4;
  bf16.weights = Precision::bf16;
  int4.weights = Precision::int4;
  // 4 x 8 A800, TP8xPP4 in BF16, one request: 10 to 12 ms if well built.
  expect_within(decode_step(v3(), bf16, shape(8, 4, 1, 1), fleet("a800-80g", 4, "ib200x1"), at(1, 4096)).total_ms, 11, 0.35);
  // 2 x 8 L20, int4: bytes alone take 12 ms on TP2xPP8, as the stages follow each other.
  const Fleet l20 = fleet("l20-48g", 2, "ib100x1");
  EXPECT_GT(decode_step(v3(), int4, shape(2, 8, 1, 1), l20, at(1, 4096)).total_ms, 12);
  // A chunk of 2048 tokens: 29 MB a hop in about 1.5 ms, against 122 all-reduces of 35 ms.
  expect_within(Kernels(l20, shape(1, 8, 1, 1), int4).hop(2048), 1500, 0.1);
  expect_within(prefill_step(v3(), int4, shape(8, 2, 1, 1), l20, at(1, 2048, 2048)).parts_ms.at("all_reduce"), 4200, 0.15);
  // Four-bit weights take half the bytes of a step on H20 where weights bind, and compute in BF16 where rows do.
  const Fleet h20 = fleet("h20-96g");
  EXPECT_LT(decode_step(v3(), int4, shape(8, 1, 1, 1), h20, at(8, 4096)).total_ms, decode_step(v3(), kFp8, shape(8, 1, 1, 1), h20, at(8, 4096)).total_ms);
  EXPECT_GT(prefill_step(v3(), int4, shape(8, 1, 1, 1), h20, at(1, 8192, 8192)).total_ms, prefill_step(v3(), kFp8, shape(8, 1, 1, 1), h20, at(1, 8192, 8192)).total_ms);
}

TEST(SolverCost, PrefillMatchesPublishedRatesOverExperts) {
  // EP32 on 4 nodes, 16384 tokens a GPU: 57.7, 54.5 and 50.3 thousand tokens a node at prompts of 1, 2 and 4 thousand; 59.3 with perfect balance.
  const Fleet four = fleet("h100-80g", 4);
  const auto rate = [&](int64_t prompt, double skew) {
    OperatingPoint point = at(1, prompt, 16384);
    point.skew = skew;
    return 8 * 16384 / prefill_step(v3(), kFp8, shape(1, 1, 32, 32, 32), four, point).interval_ms;
  };
  expect_within(rate(1024, -1), 57.674, 0.1);
  expect_within(rate(2048, -1), 54.543, 0.1);
  expect_within(rate(4096, -1), 50.302, 0.1);
  expect_within(rate(4096, 0), 59.337, 0.1);
}

TEST(SolverCost, TensorParallelismWinsAtFewRequestsAndDataParallelismAtMany) {
  const Fleet two = fleet("h100-80g", 2);
  const auto rate = [&](const Shape& s, int64_t users) {
    const OperatingPoint point = at(std::max<int64_t>(1, users / s.dp), 2048);
    return static_cast<double>(std::min(users, s.dp * point.batch)) / decode_step(v3(), kFp8, s, two, point).total_ms;
  };
  for (const int64_t users : {1, 4}) EXPECT_GT(rate(shape(8, 2, 1, 1), users), rate(shape(1, 1, 16, 16), users)) << users;
  EXPECT_GT(rate(shape(1, 1, 16, 16), 1024), 3 * rate(shape(16, 1, 1, 1), 192));
  EXPECT_GT(rate(shape(16, 1, 1, 1), 1), rate(shape(1, 1, 16, 16), 1));
}

TEST(SolverCost, WiderExpertParallelismOnH20PaysAtSmallBatchesOnly) {
  Precisions precisions;
  precisions.cache = CachePrecision::fp8;
  const auto rate = [&](int nodes, int64_t batch) {
    Shape s = shape(1, 1, 8 * nodes, 8 * nodes);
    s.prediction_layer = true;
    return static_cast<double>(batch) / decode_step(v3(), precisions, s, fleet("h20-96g", nodes, "roce400x4"), at(batch, 4864)).total_ms;
  };
  EXPECT_GT(rate(4, 8), rate(2, 8));
  EXPECT_LT(rate(4, 32), rate(2, 32));
}

TEST(SolverCost, PartsAddUpToTheStepOnEveryKnownGpu) {
  for (const GpuKind& gpu : Catalogue::shipped().gpus) {
    if (gpu.bf16_tflops <= 0) continue;  // V100: refused before it is timed
    const Fleet f = fleet(gpu.id.c_str(), 32, "ib400x8");
    for (const Shape& s : {shape(1, 1, 1, 1), shape(8, 1, 1, 8), shape(8, 4, 1, 1), shape(1, 1, 32, 32), shape(4, 1, 64, 256), shape(16, 2, 2, 32), shape(1, 1, 256, 256), shape(1, 61, 1, 1)}) {
      for (const int64_t batch : {1, 16, 512}) {
        for (const int64_t context : {1024, 131072}) {
          for (const StepTime& step : {decode_step(v3(), kFp8, s, f, at(batch, context)), prefill_step(v3(), kFp8, s, f, at(batch, context))}) {
            double sum = 0;
            for (const auto& [part, ms] : step.parts_ms) sum += ms;
            ASSERT_TRUE(std::isfinite(step.total_ms)) << gpu.id << ' ' << s.tp;
            ASSERT_NEAR(sum / step.total_ms, 1.0, 1e-9) << gpu.id;
            ASSERT_LE(step.interval_ms, step.total_ms * (1 + 1e-12));
            ASSERT_GT(step.interval_ms, 0);
            ASSERT_FALSE(step.bottleneck.empty());
          }
        }
      }
    }
  }
}

TEST(SolverCost, NoRoofIsBroken) {
  // A step can never be shorter than its bytes at the full rate of the memory: one rank's weights and cache.
  for (const char* gpu : {"h100-80g", "h20-96g", "b200-180g", "a800-80g", "l20-48g"}) {
    const Fleet f = fleet(gpu, 2);
    for (const int64_t batch : {1, 8, 128}) {
      const double experts = 256 * (1 - std::pow(31.0 / 32, static_cast<double>(batch)));
      const double bytes = (58 * (187.15e6 + (1 + experts) * 44.05e6) + 3 * 583.64e6 + 1853e6) / 8 + static_cast<double>(batch) * 4096 * 61 * 1152.0;
      EXPECT_GT(decode_step(v3(), kFp8, shape(8, 1, 1, 1), f, at(batch, 4096)).total_ms, bytes / (f.gpu.memory_gb_per_s * 1e6)) << gpu << ' ' << batch;
    }
  }
}

TEST(SolverCost, BetterHardwareIsNeverSlowerAndMoreWorkNeverFaster) {
  std::mt19937 random(20261122);
  const auto draw = [&](double low, double high) { return low * std::pow(high / low, std::uniform_real_distribution<double>(0, 1)(random)); };
  const std::vector<Shape> shapes = {shape(1, 1, 1, 1),   shape(8, 1, 1, 1),  shape(8, 1, 1, 8),   shape(16, 1, 1, 1), shape(8, 4, 1, 1),      shape(1, 1, 32, 32, 32),
                                     shape(1, 2, 16, 16), shape(4, 1, 8, 32), shape(4, 2, 4, 1),   shape(2, 1, 16, 8), shape(1, 1, 72, 72, 32), shape(1, 8, 1, 1)};
  const std::vector<std::string> inside = {"nvlink", "pcie", "memory"}, between = {"ib", "roce", "socket", "nvlink"}, families = {"hopper", "ampere", "blackwell", "cpu", "other"};
  for (int i = 0; i < 600; ++i) {
    Fleet f;
    f.nodes = 32;
    f.gpus_per_node = std::vector<int>{1, 4, 8, 16}[random() % 4];
    f.gpu.curves = families[random() % families.size()];
    f.gpu.fp8_units = random() % 2;
    f.gpu.memory_gb_per_s = draw(50, 10000);
    f.gpu.bf16_tflops = draw(1, 3000);
    f.gpu.fp8_tflops = 2 * f.gpu.bf16_tflops;
    f.inside.transport = inside[random() % inside.size()];
    f.inside.gb_per_s = draw(1, 2000);
    f.inside.latency_us = draw(0.1, 50);
    f.between.transport = between[random() % between.size()];
    f.between.gb_per_s = draw(0.1, 500);
    f.between.latency_us = draw(0.5, 100);
    Shape s = shapes[random() % shapes.size()];
    s.micro_batches = std::vector<int>{1, 1, 2, 4, 8}[random() % 5];
    s.prediction_layer = random() % 4 == 0;
    Precisions precisions;
    precisions.weights = std::vector<Precision>{Precision::fp8, Precision::fp8_bf16, Precision::bf16, Precision::int4}[random() % 4];
    precisions.cache = std::vector<CachePrecision>{CachePrecision::bf16, CachePrecision::fp8, CachePrecision::fp8_scaled}[random() % 3];
    const OperatingPoint point = at(std::llround(draw(1, 1024)), std::llround(draw(1, 200000)), std::llround(draw(1, 65536)));
    const auto time = [&](const Fleet& g, const OperatingPoint& o, bool prefill, bool interval) {
      const StepTime step = prefill ? prefill_step(v3(), precisions, s, g, o) : decode_step(v3(), precisions, s, g, o);
      return interval ? step.interval_ms : step.total_ms;
    };
    const double more = draw(1.01, 20);
    std::vector<std::pair<const char*, Fleet>> better;
    const auto add = [&](const char* what, auto change) {
      Fleet g = f;
      change(g);
      better.emplace_back(what, g);
    };
    add("memory", [&](Fleet& g) { g.gpu.memory_gb_per_s *= more; });
    add("tflops", [&](Fleet& g) { g.gpu.bf16_tflops *= more, g.gpu.fp8_tflops *= more; });
    add("fp8 tflops", [&](Fleet& g) { g.gpu.fp8_tflops *= more; });
    add("inside", [&](Fleet& g) { g.inside.gb_per_s *= more; });
    add("between", [&](Fleet& g) { g.between.gb_per_s *= more; });
    add("inside latency", [&](Fleet& g) { g.inside.latency_us /= more; });
    add("between latency", [&](Fleet& g) { g.between.latency_us /= more; });
    for (const bool prefill : {false, true}) {
      for (const bool interval : {false, true}) {
        const double now = time(f, point, prefill, interval);
        for (const auto& [what, g] : better) ASSERT_LE(time(g, point, prefill, interval), now * (1 + 1e-9)) << what << " case " << i << " prefill " << prefill;
      }
      OperatingPoint longer = point, wider = point;
      longer.context = std::llround(static_cast<double>(point.context) * more);
      (prefill ? wider.chunk : wider.batch) = std::llround(static_cast<double>(prefill ? point.chunk : point.batch) * more) + 1;
      ASSERT_GE(time(f, longer, prefill, false), time(f, point, prefill, false) * (1 - 1e-9)) << "context, case " << i << " prefill " << prefill;
      ASSERT_GE(time(f, wider, prefill, false), time(f, point, prefill, false) * (1 - 1e-9)) << "batch, case " << i << " prefill " << prefill << ' ' << point.chunk << ' ' << point.context;
    }
    // Fewer bytes at the same arithmetic: the cache in FP8 with scales, weights stored in FP8 and computed in BF16.
    Precisions large = precisions, small = precisions;
    large.cache = CachePrecision::bf16;
    small.cache = CachePrecision::fp8_scaled;
    large.weights = Precision::bf16;
    small.weights = Precision::fp8_bf16;
    ASSERT_LE(decode_step(v3(), small, s, f, point).total_ms, decode_step(v3(), large, s, f, point).total_ms * (1 + 1e-9)) << i;
  }
}

TEST(SolverCost, PipelinesDeliverOneMicroBatchASlowestStage) {
  const Fleet f = fleet("h20-96g", 2);
  Shape s = shape(8, 2, 1, 1);
  s.stage_layers = {32, 29};
  const StepTime one = decode_step(v3(), kFp8, s, f, at(16, 4096));
  EXPECT_DOUBLE_EQ(one.interval_ms, one.total_ms);  // one batch in flight: a stage waits for the other
  s.micro_batches = 2;
  const StepTime two = decode_step(v3(), kFp8, s, f, at(32, 4096));
  EXPECT_NEAR(two.total_ms - (two.parts_ms.contains("bubble") ? two.parts_ms.at("bubble") : 0), one.total_ms, 1e-9);  // the same 16 sequences a batch
  EXPECT_GT(two.interval_ms, one.total_ms / 2 - 1e-9);
  EXPECT_LT(two.interval_ms, one.total_ms * 0.6);
  s.micro_batches = 8;  // more batches than stages wait for a turn: no faster, later
  const StepTime eight = decode_step(v3(), kFp8, s, f, at(128, 4096));
  EXPECT_NEAR(eight.interval_ms, two.interval_ms, 1e-9);
  EXPECT_NEAR(eight.total_ms, 8 * eight.interval_ms, 1e-9);
}

TEST(SolverCost, TheCutOfLayersMovesTimeBetweenStages) {
  const Fleet f = fleet("h100-80g", 2);
  Shape even = shape(8, 2, 1, 1), uneven = even;
  even.stage_layers = {31, 30};
  uneven.stage_layers = {51, 10};
  even.micro_batches = uneven.micro_batches = 2;
  EXPECT_LT(decode_step(v3(), kFp8, even, f, at(32, 4096)).interval_ms, decode_step(v3(), kFp8, uneven, f, at(32, 4096)).interval_ms);
  const std::vector<double> seconds = layer_seconds(v3(), kFp8, even, f, at(32, 4096));
  ASSERT_EQ(seconds.size(), 61u);
  EXPECT_LT(seconds[0], seconds[3]);  // dense layers read less
  EXPECT_DOUBLE_EQ(seconds[3], seconds[60]);
}

TEST(SolverCost, TwoMicroBatchesHideAtMostASixthOfAStep) {
  const Fleet f = fleet("h100-80g", 9);
  Shape s = shape(1, 1, 72, 72, 32);
  const StepTime alone = decode_step(v3(), kFp8, s, f, at(512, 4096));
  s.micro_batches = 2;
  const StepTime both = decode_step(v3(), kFp8, s, f, at(512, 4096));
  EXPECT_LT(both.total_ms, alone.total_ms);
  EXPECT_GT(both.total_ms, 0.83 * alone.total_ms);
}

TEST(SolverCost, DraftsCostAVerifiedTokenAndAPassOfTheirLayer) {
  const Fleet f = fleet("h200-141g");
  Shape s = shape(8, 1, 1, 4);
  OperatingPoint point = at(1, 2048);
  const double plain = decode_step(v3(), kFp8, s, f, point).total_ms;
  s.prediction_layer = true;
  point.draft_tokens = 3;
  const StepTime drafting = decode_step(v3(), kFp8, s, f, point);
  EXPECT_GT(drafting.parts_ms.at("draft"), 3 * plain / 61);
  expect_within(2.82e3 / drafting.total_ms, 158.1, 0.15);  // TensorRT-LLM, 2.82 tokens a step
}

TEST(SolverCost, ConfidenceEndsWithTheRangeThatWasMeasured) {
  const Shape s = shape(8, 1, 1, 1);
  EXPECT_EQ(decode_step(v3(), kFp8, s, fleet("h100-80g"), at(64, 4096)).confidence, Confidence::interpolated);
  EXPECT_EQ(decode_step(v3(), kFp8, s, fleet("h100-80g"), at(64, 131072)).confidence, Confidence::specification);
  EXPECT_EQ(decode_step(v3(), kFp8, s, fleet("h20-96g"), at(64, 4096)).confidence, Confidence::specification);
  EXPECT_EQ(decode_step(v3(), kFp8, shape(8, 2, 1, 1), fleet("h100-80g", 2, "socket25x1"), at(64, 4096)).confidence, Confidence::specification);
  Precisions bf16;
  bf16.weights = Precision::bf16;
  EXPECT_EQ(decode_step(v3(), bf16, s, fleet("h100-80g"), at(64, 4096)).confidence, Confidence::specification);
}

TEST(SolverCost, NonsenseIsRefusedByTheNameOfItsField) {
  const auto message = [](auto call) -> std::string {
    try {
      call();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Error::invalid_argument);
      return e.what();
    }
    return "accepted";
  };
  const Fleet good = fleet("h100-80g", 2);
  const auto decode = [&](const Fleet& f, const Shape& s, const OperatingPoint& o) { return message([&] { decode_step(v3(), kFp8, s, f, o); }); };
  EXPECT_THAT(decode(good, shape(8, 1, 1, 1), at(0, 1)), testing::HasSubstr("batch"));
  EXPECT_THAT(decode(good, shape(8, 1, 1, 1), at(-3, 1)), testing::HasSubstr("batch"));
  EXPECT_THAT(decode(good, shape(8, 1, 1, 1), at(1, -1)), testing::HasSubstr("context"));
  EXPECT_THAT(decode(good, shape(8, 1, 1, 1), at(1, 1, 0)), testing::HasSubstr("chunk"));
  EXPECT_THAT(decode(good, shape(0, 1, 1, 1), at(1, 1)), testing::HasSubstr("tp"));
  EXPECT_THAT(decode(good, shape(1, 62, 1, 1), at(1, 1)), testing::HasSubstr("pp"));
  Shape cut = shape(8, 2, 1, 1);
  cut.stage_layers = {30, 30};
  EXPECT_THAT(decode(good, cut, at(1, 1)), testing::HasSubstr("stage_layers"));
  Fleet bad = good;
  bad.gpu.memory_gb_per_s = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(decode(bad, shape(8, 1, 1, 1), at(1, 1)), testing::HasSubstr("memory_gb_per_s"));
  bad = good;
  bad.inside.latency_us = -1;
  EXPECT_THAT(decode(bad, shape(8, 1, 1, 1), at(1, 1)), testing::HasSubstr("inside.latency_us"));
  bad = good;
  bad.between.gb_per_s = 0;
  EXPECT_THAT(decode(bad, shape(8, 2, 1, 1), at(1, 1)), testing::HasSubstr("between.gb_per_s"));
  EXPECT_EQ(decode(bad, shape(8, 1, 1, 1), at(1, 1)), "accepted");  // no rank needs that link
}

TEST(SolverCost, EnormousFiguresStayFinite) {
  Fleet f = fleet("h100-80g", 2);
  const int64_t most = std::numeric_limits<int64_t>::max();
  EXPECT_TRUE(std::isfinite(decode_step(v3(), kFp8, shape(1, 1, 1000000000, 1000000000), f, at(most, most, most)).total_ms));
  EXPECT_TRUE(std::isfinite(prefill_step(v3(), kFp8, shape(1000000, 61, 1000000, 1), f, at(most, most, most)).total_ms));
}

TEST(SolverCurves, AMeasuredFileTakesThePlaceOfTheShippedNumbers) {
  const auto file = std::filesystem::temp_directory_path() / "dsinfer_solver_cost_curves.json";
  std::ofstream(file) << R"({"format": "dsinfer-curves-1", "families": {
    "hopper": {"covers": {"gpus": ["h20-96g"], "precisions": ["fp8"], "transports": ["nvlink"], "max_batch": 256, "max_context": 8192, "max_nodes": 1, "mark": "measured"},
               "expert_stream": {"value": 0.5, "mark": "measured", "source": "probe"}},
    "mine": {"cache_stream": {"value": 0.4, "mark": "measured"}}},
    "links": {"direct_share": {"value": 0.3, "mark": "measured"}}})";
  Fleet f = fleet("h20-96g");
  const Shape s = shape(8, 1, 1, 1);
  const StepTime before = decode_step(v3(), kFp8, s, f, at(64, 4096));
  f.curves = load_curves(file);
  std::filesystem::remove(file);
  const StepTime after = decode_step(v3(), kFp8, s, f, at(64, 4096));
  EXPECT_GT(after.parts_ms.at("experts"), 1.4 * before.parts_ms.at("experts"));
  EXPECT_GT(after.parts_ms.at("all_reduce"), before.parts_ms.at("all_reduce"));
  EXPECT_DOUBLE_EQ(after.parts_ms.at("attention"), before.parts_ms.at("attention"));
  EXPECT_EQ(after.confidence, Confidence::measured);
  f.gpu.curves = "mine";
  EXPECT_GT(decode_step(v3(), kFp8, s, f, at(64, 4096)).parts_ms.at("attention"), before.parts_ms.at("attention"));
}

TEST(SolverCurves, AWrongFileIsRefusedNamingTheKey) {
  const auto message = [](const std::string& json) -> std::string {
    try {
      Curves::parse(json, "mine.json", Curves::shipped());
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Error::bad_format);
      return e.what();
    }
    return "accepted";
  };
  const auto hopper = [](const std::string& inner) { return R"({"format": "dsinfer-curves-1", "families": {"hopper": {)" + inner + "}}}"; };
  EXPECT_THAT(message("[]"), testing::HasSubstr("mine.json"));
  EXPECT_THAT(message("{"), testing::HasSubstr("mine.json"));
  EXPECT_THAT(message(R"({"format": "curves"})"), testing::HasSubstr("format"));
  EXPECT_THAT(message(hopper(R"("speed": {"value": 1, "mark": "measured"})")), testing::HasSubstr("speed"));
  EXPECT_THAT(message(hopper(R"("cache_stream": {"value": 0, "mark": "measured"})")), testing::HasSubstr("cache_stream"));
  EXPECT_THAT(message(hopper(R"("cache_stream": {"value": "fast", "mark": "measured"})")), testing::HasSubstr("value"));
  EXPECT_THAT(message(hopper(R"("cache_stream": {"value": 0.5, "mark": "guessed"})")), testing::HasSubstr("guessed"));
  EXPECT_THAT(message(hopper(R"("layer_fixed_us": {"value": -1, "mark": "measured"})")), testing::HasSubstr("layer_fixed_us"));
  EXPECT_THAT(message(hopper(R"("layer_fixed_us": 3)")), testing::HasSubstr("layer_fixed_us"));
  EXPECT_THAT(message(R"({"format": "dsinfer-curves-1", "links": {"overlap": {"value": 2, "mark": "measured"}}})"), testing::HasSubstr("overlap"));
  EXPECT_THAT(message(R"({"format": "dsinfer-curves-1", "families": []})"), testing::HasSubstr("families"));
}
