// Which plans each precision allows, and what a refusal says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "solver_shapes.hpp"

namespace dsinfer {
namespace {

using namespace test;
using testing::AllOf;
using testing::HasSubstr;

const ModelConfig& v3() { return deepseek_v3(); }

// "rule: detail", or "legal".
std::string verdict(const ModelConfig& config, const Precisions& precisions, const Shape& shape) {
  const auto refused = refuse(config, precisions, shape);
  return refused ? refused->rule + ": " + refused->detail : "legal";
}
std::string verdict(Precision precision, const Shape& shape) { return verdict(v3(), in(precision), shape); }

int64_t legal_plans(Precision precision, int64_t ranks) {
  int64_t legal = 0;
  for (const Shape& shape : all_shapes(ranks)) legal += !refuse(v3(), in(precision), shape);
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

TEST(Refuse, SaysRuleTensorDivisorAndNearestLegalValue) {
  const auto fp8 = Precision::fp8, bf16 = Precision::bf16, int4 = Precision::int4;
  const std::tuple<Precision, Shape, const char*> cases[] = {
      {fp8, shape_of(32, 1, 1, 32), "fp8-block: tp=32 cuts mlp.gate_proj and up_proj of 18432 rows into parts of 576, not a multiple of the FP8 block of 128; nearest legal: 16 for tp"},
      {Precision::fp8_bf16, shape_of(32, 1, 1, 32), "fp8-block: tp=32 cuts mlp.gate_proj"},
      {int4, shape_of(32, 1, 1, 32), "int4-group: tp=32 cuts mlp.down_proj of 18432 columns into parts of 576, not a multiple of the int4 group of 128; nearest legal: 16 for tp"},
      {bf16, shape_of(32, 1, 1, 32), "legal"},
      {bf16, shape_of(64, 1, 1, 64), "legal"},
      {fp8, shape_of(16, 1, 1, 16), "legal"},
      {fp8, shape_of(3, 1, 1, 3), "heads: tp=3 does not divide num_attention_heads = 128; nearest legal: 2 or 4 for tp"},
      {bf16, shape_of(256, 1, 1, 256), "heads: tp=256 does not divide num_attention_heads = 128; nearest legal: 128 for tp"},
      {fp8, shape_of(1, 1, 32, 1), "fp8-block: moe_tp=32 cuts mlp.experts.*.gate_proj and up_proj of 2048 rows into parts of 64"},
      {int4, shape_of(1, 1, 32, 1), "int4-group: moe_tp=32 cuts mlp.experts.*.down_proj of 2048 columns into parts of 64"},
      {bf16, shape_of(1, 1, 32, 1), "legal"},
      {fp8, shape_of(1, 1, 16, 1), "legal"},
      {fp8, shape_of(1, 1, 12, 12), "experts: ep=12 does not divide n_routed_experts = 256"},
      {fp8, shape_of(8, 1, 2, 3), "experts: ep=3 does not divide tp·dp = 8·2 = 16"},
      {fp8, shape_of(1, 62, 1, 1), "stages: pp=62 is more than num_hidden_layers = 61"},
      {fp8, shape_of(8, 2, 1, 8, {30, 30}), "stages: layers: the stages sum to 60"},
      {fp8, shape_of(8, 2, 1, 8, {61}), "stages: layers: 1 stages given, pp=2"},
      {fp8, shape_of(8, 2, 1, 8, {61, 0}), "stages: layers: stage 1 has 0"},
      {fp8, shape_of(0, 2, 1, 8), "ranks: tp=0, expected at least 1"},
      {fp8, shape_of(8, 2, 1, -8), "ranks: ep=-8, expected at least 1"},
      {fp8, shape_of(1'000'000'000, 1'000'000'000, 1'000'000'000, 1), "ranks: tp·pp·dp·replicas = 1000000000·1000000000·1000000000·1 = 1"},
  };
  for (const auto& [precision, shape, text] : cases) EXPECT_THAT(verdict(precision, shape), HasSubstr(text)) << shape.spec();
  EXPECT_THAT(verdict(tiny_config({{"vocab_size", 322}}), in(bf16), shape_of(4, 1, 1, 4)), HasSubstr("vocab: tp=4 does not divide vocab_size = 322; nearest legal: 2 for tp"));
  EXPECT_THAT(verdict(tiny_config({{"intermediate_size", 100}}), in(bf16), shape_of(8, 1, 1, 8)), HasSubstr("dense: tp=8 does not divide intermediate_size = 100; nearest legal: 4 for tp"));
  EXPECT_THAT(verdict(tiny_config({{"moe_intermediate_size", 36}}), in(bf16), shape_of(8, 1, 1, 8)), HasSubstr("shared: tp=8 does not divide n_shared_experts · moe_intermediate_size = 36; nearest legal: 4 for tp"));
}

TEST(Refuse, CountsRedundantSlots) {
  Shape shape = shape_of(1, 1, 36, 36);
  EXPECT_THAT(verdict(Precision::fp8, shape), HasSubstr("experts: "));
  shape.redundant_experts = 32;
  for (const int64_t ep : {12, 24, 36, 72, 144}) {  // of 288 slots
    shape.dp = shape.ep = ep;
    EXPECT_EQ(verdict(Precision::fp8, shape), "legal") << ep;
  }
  shape.dp = shape.ep = 64;
  EXPECT_THAT(verdict(Precision::fp8, shape), HasSubstr("redundant: ep=64 does not divide n_routed_experts + redundant = 256 + 32 = 288"));
  shape.dp = shape.ep = 32;
  shape.redundant_experts = -32;
  EXPECT_THAT(verdict(Precision::fp8, shape), HasSubstr("redundant: redundant_experts = -32 is outside of 0 … "));
  shape = shape_of(8, 1, 1, 1);
  shape.redundant_experts = 32;
  EXPECT_THAT(verdict(Precision::fp8, shape), HasSubstr("are more on a rank than the 256 experts there are; nearest legal: 0 redundant"));
}

TEST(Refuse, WantsWholeGroupsInEveryMatrix) {
  const ModelConfig lite = real_config("deepseek-v2-lite");
  EXPECT_THAT(verdict(lite, in(Precision::int4), shape_of(1, 1, 1, 1)), HasSubstr("int4-group: mlp.down_proj has 10944 columns, not a multiple of the int4 group of 128; nearest legal: 64 for the group"));
  Precisions g64 = in(Precision::int4);
  g64.int4_group = 64;
  EXPECT_EQ(verdict(lite, g64, shape_of(1, 1, 1, 1)), "legal");
  EXPECT_EQ(verdict(lite, in(Precision::fp8), shape_of(1, 1, 1, 1)), "legal");  // a whole matrix may end in part of a block
  EXPECT_THAT(verdict(lite, in(Precision::fp8), shape_of(2, 1, 1, 2)), HasSubstr("fp8-block: tp=2 cuts mlp.gate_proj"));
  EXPECT_EQ(verdict(lite, in(Precision::bf16), shape_of(2, 1, 1, 2)), "legal");
  for (const int64_t group : {-128, 0, 4, 12}) {
    g64.int4_group = group;
    EXPECT_THAT(verdict(v3(), g64, shape_of(1, 1, 1, 1)), HasSubstr("int4-group: int4_group = ")) << group;
  }
}

TEST(Refuse, KeepsInt4RowsOnTheirPacking) {
  // 12 rows of an expert in each of two parts: whole numbers, but not of the eight that share a word.
  const ModelConfig config = tiny_config({{"moe_intermediate_size", 24}, {"q_lora_rank", 64}});
  Precisions group = in(Precision::int4);
  group.int4_group = 8;
  EXPECT_THAT(verdict(config, group, shape_of(1, 1, 2, 1)), HasSubstr("int4-group: moe_tp=2 cuts mlp.experts.*.gate_proj and up_proj of 24 rows into parts of 12, not a multiple of the int4 packing of 8"));
  EXPECT_EQ(verdict(config, in(Precision::bf16), shape_of(1, 1, 2, 1)), "legal");
}

TEST(Refuse, AgreesWithTheEngineForTheCheckpointAsItIs) {
  const ModelConfig models[] = {v3(), real_config("deepseek-v2-lite"), ModelConfig::load(DSINFER_MINI_DIR), tiny_config(), tiny_config(testing_support::fp8_change(16)),
                                ModelConfig::parse(testing_support::tiny_config_json({}, {"n_routed_experts"}))};
  int legal = 0, refused = 0;
  for (const ModelConfig& config : models)
    for (const int64_t ranks : {1, 2, 3, 4, 6, 8, 12, 16})
      for (const Shape& shape : all_shapes(ranks)) {
        const bool runs = error_of([&] { plan_of(config, shape); }) == "no error";
        EXPECT_EQ(!refuse(config, on_host(), shape), runs) << shape.spec();
        EXPECT_EQ(!refuse(config, in(config.fp8 ? Precision::fp8 : Precision::bf16), shape), runs) << shape.spec();
        ++(runs ? legal : refused);
      }
  EXPECT_GT(legal, 100);
  EXPECT_GT(refused, 100);
}

TEST(Refuse, KnowsModelsWithoutMtpLayersOrExperts) {
  Shape shape = shape_of(1, 1, 1, 1);
  shape.prediction_layer = true;
  EXPECT_EQ(verdict(Precision::fp8, shape), "legal");
  EXPECT_THAT(verdict(real_config("deepseek-v2"), in(Precision::bf16), shape), HasSubstr("prediction-layer: "));
  const ModelConfig dense = ModelConfig::parse(testing_support::tiny_config_json({}, {"n_routed_experts"}));
  shape = shape_of(1, 1, 2, 1);
  shape.redundant_experts = 4;
  EXPECT_THAT(verdict(dense, in(Precision::bf16), shape), HasSubstr("redundant: redundant_experts = 4, but the model has no routed experts"));
}

TEST(RefusePrecision, KnowsWhatEachGpuComputes) {
  const auto verdict_on = [](const char* gpu, Precision precision, const ModelConfig& config) {
    const auto refused = refuse_precision(config, in(precision), Catalogue::shipped().gpu(gpu));
    return refused ? refused->rule + ": " + refused->detail : "computes";
  };
  for (const char* gpu : {"h100-80g", "h20-96g", "l20-48g", "rtx4090-24g", "b200-180g"})
    for (const Precision precision : {Precision::fp8, Precision::fp8_bf16, Precision::bf16, Precision::int4}) EXPECT_EQ(verdict_on(gpu, precision, v3()), "computes") << gpu;
  for (const char* gpu : {"a100-40g", "a800-80g"}) {
    EXPECT_THAT(verdict_on(gpu, Precision::fp8, v3()), AllOf(HasSubstr("precision: "), HasSubstr("has no FP8 units (compute capability 8.0"), HasSubstr("fp8_bf16"))) << gpu;
    EXPECT_EQ(verdict_on(gpu, Precision::fp8_bf16, v3()), "computes");
  }
  EXPECT_EQ(verdict_on("gcu-48g", Precision::int4, v3()), "computes");
  EXPECT_EQ(verdict_on("gcu-48g", Precision::bf16, v3()), "computes");
  EXPECT_THAT(verdict_on("gcu-48g", Precision::fp8, v3()), HasSubstr("take bf16, int4"));
  EXPECT_THAT(verdict_on("gcu-48g", Precision::fp8_bf16, v3()), HasSubstr("precision: "));
  EXPECT_THAT(verdict_on("v100-32g", Precision::bf16, v3()), HasSubstr("has no BF16 units"));
  EXPECT_EQ(verdict_on("cpu", Precision::fp8, v3()), "computes");
  EXPECT_EQ(verdict_on("cpu", Precision::bf16, tiny_config()), "computes");
  EXPECT_THAT(verdict_on("cpu", Precision::int4, v3()), HasSubstr("as it is stored, here in fp8"));
  EXPECT_THAT(verdict_on("cpu", Precision::bf16, v3()), HasSubstr("as it is stored"));
}

TEST(Precisions, AreTheCheckpointsAsTheGpuCanComputeIt) {
  const auto chosen = [](const ModelConfig& config, const char* gpu) { return precisions_for(config, describe_fleet(Catalogue::shipped(), 1, 8, gpu, ""), SolveRequest()).weights; };
  EXPECT_EQ(chosen(v3(), "h20-96g"), Precision::fp8);
  EXPECT_EQ(chosen(v3(), "a800-80g"), Precision::fp8_bf16);
  EXPECT_EQ(chosen(v3(), "gcu-48g"), Precision::bf16);
  EXPECT_EQ(chosen(v3(), "cpu"), Precision::fp8_bf16);
  EXPECT_EQ(chosen(tiny_config(), "h20-96g"), Precision::bf16);
  SolveRequest request;
  request.precision = Precision::int4;
  request.cache = CachePrecision::fp8;
  const Precisions asked = precisions_for(v3(), describe_fleet(Catalogue::shipped(), 1, 8, "l20-48g", ""), request);
  EXPECT_EQ(asked.weights, Precision::int4);
  EXPECT_EQ(asked.cache, CachePrecision::fp8);
}

}  // namespace
}  // namespace dsinfer
