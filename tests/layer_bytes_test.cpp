// Bytes of a rank's weights, cache and activations: from the outline of the tensor table, held against the whole table, the engine's workspace and the engine.
#include <gtest/gtest.h>

#include "dsinfer/forward.hpp"
#include "model/workspace.hpp"
#include "plan/cost.hpp"
#include "plan/memory.hpp"
#include "ranks.hpp"
#include "solver_shapes.hpp"

namespace dsinfer {
namespace {

using namespace test;

// Of layers begin … end-1 on any rank, as layer_bytes() has them.
int64_t stage_bytes(const LayerBytes& bytes, Range layers, bool first, bool last) {
  int64_t sum = (first ? bytes.embedding : 0) + (last ? bytes.head : 0);
  for (int64_t i = layers.begin; i < layers.end; ++i) sum += bytes.layer[static_cast<size_t>(i)];
  return sum;
}

// The same for `rank`, tensor by tensor over the whole table, as the checkpoint stores them.
int64_t stored_bytes(const std::vector<TensorSpec>& table, const ModelConfig& config, const RankPlan& rank) {
  int64_t sum = 0;
  for (const TensorSpec& spec : table) {
    if (is_prediction(spec, config)) continue;
    if (const auto part = cut(spec, config, rank)) sum += part->elements() * dtype_size(spec.dtype);
  }
  return sum;
}

struct Sample {
  ModelConfig config;
  Precision precision;
  std::vector<Shape> shapes;
};

std::vector<Sample> samples() {
  const auto fp8_tiny = [](int64_t block, nlohmann::json changes) {
    changes.update(testing_support::fp8_change(block));
    return tiny_config(changes);
  };
  return {
      {deepseek_v3(), Precision::fp8, {shape_of(8, 2, 1, 8, {32, 29}), shape_of(1, 1, 16, 16, {61}), shape_of(16, 1, 2, 4, {61}), shape_of(4, 4, 2, 1, {17, 15, 15, 14})}},
      {real_config("kimi-k2-instruct"), Precision::fp8, {shape_of(4, 2, 2, 8, {31, 30})}},
      {real_config("deepseek-v2"), Precision::bf16, {shape_of(8, 2, 2, 16, {30, 30}), shape_of(1, 1, 10, 10, {60})}},
      {real_config("deepseek-v2-lite"), Precision::bf16, {shape_of(16, 1, 1, 16, {27}), shape_of(1, 3, 4, 2, {9, 10, 8})}},
      {real_config("moonlight-16b-a3b"), Precision::bf16, {shape_of(2, 1, 4, 8, {27})}},
      {tiny_config(), Precision::bf16, {shape_of(2, 2, 4, 4, {1, 3}), shape_of(16, 1, 1, 1, {4})}},
      {fp8_tiny(16, {{"num_nextn_predict_layers", 1}}), Precision::fp8, {shape_of(2, 1, 1, 1, {4}), shape_of(1, 4, 2, 2, {1, 1, 1, 1})}},
      {fp8_tiny(24, {{"moe_intermediate_size", 40}, {"intermediate_size", 100}}), Precision::fp8, {shape_of(1, 2, 2, 2, {2, 2})}},  // ragged blocks everywhere
      {tiny_config({{"moe_layer_freq", 2}, {"num_hidden_layers", 7}, {"n_shared_experts", 0}}), Precision::bf16, {shape_of(2, 2, 1, 2, {3, 4})}},
      {ModelConfig::parse(testing_support::tiny_config_json({}, {"n_routed_experts"})), Precision::bf16, {shape_of(4, 2, 2, 1, {2, 2})}},
  };
}

TEST(LayerBytes, AgreeWithTheTableTensorByTensor) {
  for (const Sample& sample : samples()) {
    const std::vector<TensorSpec> table = tensor_table(sample.config);
    for (const Shape& shape : sample.shapes) {
      SCOPED_TRACE(sample.config.model_type + " " + shape.spec());
      ASSERT_FALSE(refuse(sample.config, in(sample.precision), shape)) << refuse(sample.config, in(sample.precision), shape)->detail;
      const Plan plan = plan_of(sample.config, shape);
      const LayerBytes bytes = layer_bytes(sample.config, in(sample.precision), shape);
      for (int64_t stage = 0; stage < shape.pp; ++stage) {
        const int64_t in_stage = shape.tp * shape.dp;
        for (const int64_t i : {int64_t{0}, in_stage - 1}) {  // of equal ranks, two
          const RankPlan rank = plan.rank(static_cast<int>(stage * in_stage + i));
          EXPECT_EQ(stage_bytes(bytes, rank.layers, rank.first_stage, rank.last_stage), stored_bytes(table, sample.config, rank)) << "rank " << rank.world_rank;
        }
      }
    }
  }
}

TEST(LayerBytes, OfTheHostAreWhatTheCpuBackendHolds) {
  for (const Sample& sample : samples()) {
    const std::vector<TensorSpec> table = tensor_table(sample.config);
    const StoredDType as_stored = [](const TensorSpec& spec) { return std::optional(spec.dtype); };
    for (const Shape& shape : sample.shapes) {
      SCOPED_TRACE(sample.config.model_type + " " + shape.spec());
      const Plan plan = plan_of(sample.config, shape);
      const LayerBytes bytes = layer_bytes(sample.config, on_host(), shape);
      const RankPlan rank = plan.rank(plan.world_size - 1);
      const RankBytes held = rank_bytes(table, as_stored, sample.config, rank, 4);
      EXPECT_EQ(stage_bytes(bytes, rank.layers, rank.first_stage, rank.last_stage) + rank.layers.size() * bytes.absorbed_per_layer, held.held);
      EXPECT_EQ(rank.layers.size() * cache_bytes_per_token_layer(sample.config, on_host()), held.cache_per_token);
    }
  }
}

TEST(LayerBytes, MakeUpTheWholeModelAsOftenAsItIsHeld) {
  const ModelConfig& config = deepseek_v3();
  for (const Precision precision : {Precision::fp8, Precision::bf16, Precision::int4}) {
    const LayerBytes whole = layer_bytes(config, in(precision), shape_of(1, 1, 1, 1));
    for (const Shape& shape : all_shapes(32)) {
      if (refuse(config, in(precision), shape)) continue;
      const LayerBytes part = layer_bytes(config, in(precision), shape);
      for (const int64_t layer : {0, 3, 60}) {
        const auto i = static_cast<size_t>(layer);
        int64_t sum = 0;
        for (const auto& [kind, sizes] : part.by_kind) {
          sum += sizes[i];
          const int64_t once = whole.by_kind.at(kind)[i], ranks = shape.tp * shape.dp;
          if (kind == "experts") { EXPECT_EQ(sizes[i] * ranks, once) << shape.spec(); }                         // one copy in a stage
          if (kind == "shared" || kind == "dense") { EXPECT_EQ(sizes[i] * shape.tp, once) << shape.spec(); }    // one in each dp rank
          if (kind == "router" || kind == "norms") { EXPECT_EQ(sizes[i], once) << shape.spec(); }               // one on each rank
          if (kind == "attention") { EXPECT_LE(sizes[i] * shape.tp - once, (shape.tp - 1) * int64_t{2112 * 7168 * 2 + 4096}); }  // q_a and kv_a on each
        }
        EXPECT_EQ(sum, part.layer[i]) << shape.spec();
      }
      EXPECT_EQ(part.embedding * shape.tp, whole.embedding);
    }
  }
}

TEST(LayerBytes, ArePrintedInTheReferenceForDeepSeekV3) {
  const auto of = [](Precision precision) { return layer_bytes(deepseek_v3(), in(precision), shape_of(1, 1, 1, 1)); };
  const LayerBytes fp8 = of(Precision::fp8), bf16 = of(Precision::bf16), int4 = of(Precision::int4);
  EXPECT_EQ(fp8.layer[60], 11'511'947'488);
  EXPECT_EQ(fp8.layer[0], 583'642'336);
  EXPECT_EQ(bf16.layer[60], 23'014'572'544 + 256 * 2);  // the reference has the router's bias in BF16 there and in FP8's line in F32; it is F32
  EXPECT_EQ(bf16.layer[0], 1'166'966'784);
  EXPECT_EQ(int4.layer[60], 5'981'135'616 + 256 * 4);   // without that bias there
  EXPECT_NEAR(static_cast<double>(int4.layer[0]), 303e6, 0.3e6);
  EXPECT_EQ(fp8.by_kind.at("experts")[60], 256 * int64_t{44'050'944});
  EXPECT_EQ(bf16.by_kind.at("experts")[60], 256 * int64_t{88'080'384});
  EXPECT_EQ(int4.by_kind.at("experts")[60], 256 * int64_t{22'880'256});
  EXPECT_NEAR(static_cast<double>(int4.by_kind.at("attention")[60]), 97'207'040, 1e5);
  const auto model = [](const LayerBytes& bytes) { return static_cast<double>(stage_bytes(bytes, {0, 61}, true, true)) / 1e9; };
  EXPECT_NEAR(model(fp8), 673.15, 0.005);
  EXPECT_NEAR(model(bf16), 1342.05, 0.005);
  EXPECT_NEAR(model(int4), 351.5, 0.05);
  EXPECT_NEAR(static_cast<double>(fp8.prediction) / 1e9, 11.72, 0.005);
  EXPECT_NEAR(static_cast<double>(bf16.prediction) / 1e9, 23.22, 0.005);
  // Of the checkpoint's 688.57e9 bytes the MTP layer's copies of embedding and head are not held.
  EXPECT_EQ(stage_bytes(fp8, {0, 61}, true, true) + fp8.prediction + fp8.embedding + int64_t{129280} * 7168 * 2, 688'574'839'360);
}

TEST(LayerBytes, GrowWithSmallerGroupsAndRedundantExperts) {
  Precisions g64 = in(Precision::int4);
  g64.int4_group = 64;
  const LayerBytes g128_bytes = layer_bytes(deepseek_v3(), in(Precision::int4), shape_of(1, 1, 1, 1)), g64_bytes = layer_bytes(deepseek_v3(), g64, shape_of(1, 1, 1, 1));
  EXPECT_NEAR(static_cast<double>(g64_bytes.by_kind.at("experts")[60]) / static_cast<double>(g128_bytes.by_kind.at("experts")[60]), 0.53906 / 0.51953, 1e-4);
  Shape shape = shape_of(1, 1, 16, 16);
  const LayerBytes plain = layer_bytes(deepseek_v3(), in(Precision::fp8), shape);
  shape.redundant_experts = 16;  // one more slot on each rank
  const LayerBytes more = layer_bytes(deepseek_v3(), in(Precision::fp8), shape);
  EXPECT_NEAR(static_cast<double>(stage_bytes(more, {0, 61}, true, true) - stage_bytes(plain, {0, 61}, true, true)) / 1e9, 2.55, 0.01);
}

TEST(LayerBytes, CountAbsorbedCopiesWhereKvBIsNotBf16) {
  EXPECT_NEAR(static_cast<double>(61 * layer_bytes(deepseek_v3(), in(Precision::fp8), shape_of(1, 1, 1, 1)).absorbed_per_layer) / 1e9, 1.02, 0.005);
  EXPECT_NEAR(static_cast<double>(61 * layer_bytes(deepseek_v3(), in(Precision::fp8_bf16), shape_of(8, 1, 1, 8)).absorbed_per_layer) / 1e9, 0.13, 0.005);
  EXPECT_EQ(layer_bytes(deepseek_v3(), in(Precision::bf16), shape_of(1, 1, 1, 1)).absorbed_per_layer, 0);
}

TEST(CacheBytes, ArePrintedInTheReferenceForDeepSeekV3) {
  EXPECT_EQ(cache_bytes_per_token_layer(deepseek_v3(), in(Precision::fp8)), 1152);
  EXPECT_EQ(cache_bytes_per_token_layer(deepseek_v3(), in(Precision::fp8, CachePrecision::fp8)), 576);
  EXPECT_EQ(cache_bytes_per_token_layer(deepseek_v3(), in(Precision::fp8, CachePrecision::fp8_scaled)), 656);
  EXPECT_EQ(cache_bytes_per_token_layer(deepseek_v3(), on_host()), 2304);
}

TEST(Activations, AreTheEnginesWorkspace) {
  std::mt19937 dice(7);
  const auto roll = [&](int64_t least, int64_t most) { return least + static_cast<int64_t>(dice() % static_cast<unsigned>(most - least + 1)); };
  int compared = 0;
  for (const Sample& sample : samples()) {
    std::vector<Shape> shapes = sample.shapes;
    for (int i = 0; i < 20; ++i) shapes.push_back(shape_of(int64_t{1} << roll(0, 4), 1, roll(1, 6), 1));
    for (Shape& shape : shapes) {
      if (sample.config.n_routed_experts > 0) {
        const int64_t ranks = shape.tp * shape.dp;
        for (shape.ep = roll(1, ranks); ranks % shape.ep != 0 || sample.config.n_routed_experts % shape.ep != 0;) shape.ep = roll(1, ranks);
      }
      RankPlan rank = any_rank(sample.config, shape);
      rank.last_stage = roll(0, 1);
      const StepLimits limits{roll(1, 600), roll(1, 70), roll(1, 5000), roll(1, 64)};
      Arena counting = Arena::counting();
      Workspace(counting, sample.config, rank, limits.max_tokens, limits.max_sequences, limits.max_pages());
      EXPECT_EQ(arena_bytes(sample.config, rank, limits, 4, true), static_cast<int64_t>(counting.peak())) << shape.spec() << " of " << sample.config.model_type;
      EXPECT_LE(arena_bytes(sample.config, rank, limits, 2, false), arena_bytes(sample.config, rank, limits, 4, true));
      ++compared;
    }
  }
  EXPECT_GT(compared, 200);
}

// Keys and values of 8,192 positions are expanded at once there, 64 KiB each, however few rows a step has.
TEST(Activations, CoverHoppersBlocksWhereStepsAreShort) {
  SolveRequest request;
  request.max_len = 8192;
  const Shape shape = shape_of(1, 8, 1, 1);
  const auto counted = [&](const char* gpu, Precision precision, int64_t rows) {
    return memory_table(deepseek_v3(), in(precision), shape, describe_fleet(Catalogue::shipped(), 1, 8, gpu, "ib400x8"), request, rows).activation_bytes;
  };
  EXPECT_GT(counted("h100-80g", Precision::fp8, 64), 8192 * 65536);
  EXPECT_LT(counted("h100-80g", Precision::fp8, 64), 2 * 8192 * 65536);
  EXPECT_LT(counted("a800-80g", Precision::fp8_bf16, 64), 8192 * 65536 / 2);
  // Of long steps the plain arena is more, and what holds it holds both.
  EXPECT_EQ(counted("h100-80g", Precision::fp8, 4096), counted("a800-80g", Precision::fp8_bf16, 4096));
}

TEST(Activations, AreCountedForTheEnginesDefaults) {
  const Fleet cpus = describe_fleet(Catalogue::shipped(), 1, 1, "cpu", "");
  const ForwardOptions defaults;
  const StepLimits limits = step_limits(cpus, SolveRequest(), 0);
  EXPECT_EQ(limits.max_tokens, defaults.max_tokens);
  EXPECT_EQ(limits.max_sequences, defaults.max_sequences);
  EXPECT_EQ(limits.page_size, defaults.page_size);
  EXPECT_EQ(default_step_tokens(cpus), defaults.max_tokens);
}

// A model under several plans, one thread a rank: what every rank allocates is what the table says.
void expect_as_allocated(const std::filesystem::path& model, const Shape& shape) {
  SCOPED_TRACE(shape.spec());
  const ModelConfig config = ModelConfig::load(model);
  const Fleet cpus = describe_fleet(Catalogue::shipped(), 1, static_cast<int>(shape.ranks()), "cpu", "");
  SolveRequest request;
  request.max_len = 256;
  const Precisions precisions = precisions_for(config, cpus, request);
  ASSERT_FALSE(refuse_precision(config, precisions, cpus.gpu));
  ASSERT_FALSE(refuse(config, precisions, shape));
  const MemoryTable table = memory_table(config, precisions, shape, cpus, request);
  const LayerBytes bytes = layer_bytes(config, precisions, shape);

  const Plan plan = plan_of(config, shape);
  std::vector<ForwardStats> stats(static_cast<size_t>(plan.world_size));
  on_threads(plan.world_size, [&](World& world) {
    ForwardOptions options;
    options.model = model;
    options.plan = plan;
    options.threads = 1;
    options.max_len = request.max_len;
    options.num_pages = 20;
    const Forward forward(world, options);
    stats[static_cast<size_t>(world.rank())] = forward.stats();
  });
  int64_t fullest = 0, cache = 0;
  for (int i = 0; i < plan.world_size; ++i) {
    const RankPlan rank = plan.rank(i);
    const auto stage = static_cast<size_t>(rank.pp_rank);
    const ForwardStats& held = stats[static_cast<size_t>(i)];
    EXPECT_EQ(held.weight_bytes, table.weights_bytes_by_stage[stage] + rank.layers.size() * bytes.absorbed_per_layer) << "rank " << i;
    EXPECT_EQ(held.cache_bytes, rank.layers.size() * cache_bytes_per_token_layer(config, precisions) * 20 * 16) << "rank " << i;
    if (table.weights_bytes_by_stage[stage] == table.weights_bytes_max) fullest = std::max(fullest, held.weight_bytes);
    cache = std::max(cache, held.cache_bytes);
  }
  EXPECT_EQ(table.weights_bytes_max + table.absorbed_bytes, fullest);
  EXPECT_EQ(table.cache_bytes_per_token_max * 20 * 16, cache);
  EXPECT_EQ(table.overhead_bytes, table.absorbed_bytes + table.activation_bytes);
  EXPECT_EQ(table.communication_bytes + table.context_bytes + table.reserve_bytes, 0);
}

TEST(MemoryTable, OfCpusIsWhatTheEngineAllocatesForTheShippedModel) {
  for (const Shape& shape : {shape_of(2, 2, 1, 2, {3, 5}), shape_of(1, 1, 4, 4, {8})}) expect_as_allocated(DSINFER_MINI_DIR, shape);
}

TEST(MemoryTable, OfCpusIsWhatTheEngineAllocatesForOtherCheckpoints) {
  const std::filesystem::path goldens = std::filesystem::path(DSINFER_TEST_DATA) / "goldens";
  for (const Shape& shape : {shape_of(1, 1, 1, 1, {8}), shape_of(2, 2, 2, 1, {3, 5}), shape_of(1, 3, 1, 1, {2, 2, 4}), shape_of(4, 1, 2, 8, {8})}) expect_as_allocated(goldens / "plans", shape);
  expect_as_allocated(goldens / "fp8-tp", shape_of(2, 1, 1, 1));
  expect_as_allocated(goldens / "v2-lite", shape_of(2, 1, 2, 2));
}

}  // namespace
}  // namespace dsinfer
