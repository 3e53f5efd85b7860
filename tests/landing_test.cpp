// Rows of stored tensors, fed in odd portions and orders, come to lie as the loader of whole tensors lays them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>



#include "checkpoint_writer.hpp"
#include "landed.hpp"
#include "weights/shard_loader.hpp"

namespace dsinfer {
namespace {

using test::expect_same_weights;
using test::feed;
using testing_support::fp8_change;
using testing_support::tiny_config_json;

struct Case {
  const char* name;
  nlohmann::json changes;
  std::vector<std::pair<const char*, int>> plans;
};

class LandingTest : public testing::Test {
 protected:
  void write(const nlohmann::json& changes, const testing_support::CheckpointOptions& options = {}) {
    nlohmann::json smaller = {{"num_hidden_layers", 2}, {"n_routed_experts", 8}};
    smaller.merge_patch(changes);
    config_ = testing_support::write_checkpoint(folder_, tiny_config_json(smaller), options);
  }
  std::filesystem::path folder_ = std::filesystem::path(testing::TempDir()) / (std::string("landing_") + testing::UnitTest::GetInstance()->current_test_info()->name());
  ModelConfig config_;
  std::unique_ptr<Backend> backend_ = make_backend("cpu", {.threads = 1});
  void TearDown() override { std::filesystem::remove_all(folder_); }
};

TEST_F(LandingTest, PortionsInAnyOrderGiveTheWeightsOfTheWholeLoader) {
  const std::vector<Case> cases = {
      {"bf16", nlohmann::json::object(), {{"", 1}, {"tp=2", 2}, {"tp=4,dp=2,ep=8", 8}, {"tp=2,pp=2,dp=2,ep=2", 8}, {"tp=8,ep=1", 8}}},
      {"fp8", fp8_change(16), {{"", 1}, {"tp=2,ep=2", 2}, {"tp=2,ep=1", 2}, {"pp=2,dp=2,ep=2", 4}}},
      {"ragged fp8", {{"quantization_config", fp8_change(24)["quantization_config"]}, {"moe_intermediate_size", 40}}, {{"", 1}, {"pp=2,dp=4,ep=4", 8}}}};
  unsigned seed = 1;
  for (const Case& c : cases) {
    write(c.changes);
    for (const auto& [spec, world] : c.plans) {
      const Plan plan = solve(config_, PlanRequest::parse(spec, world));
      for (int rank = 0; rank < world; ++rank, ++seed) {
        SCOPED_TRACE(std::string(c.name) + " " + spec + " rank " + std::to_string(rank));
        const WeightSet expected = load_weights(folder_, config_, plan.rank(rank), *backend_, {}, {});
        const WeightSet landed = feed(folder_, config_, plan.rank(rank), *backend_, WeightFormat::as_stored, seed);
        expect_same_weights(landed, expected, config_);
        EXPECT_EQ(landed.bytes(), rank_memory(folder_, plan, rank).weight_bytes);
      }
    }
  }
}

TEST_F(LandingTest, GateAndUpAndTheTwoLatentProjectionsLieBackToBack) {
  write(nlohmann::json::object());
  const WeightSet set = feed(folder_, config_, solve(config_, PlanRequest::parse("", 1)).rank(0), *backend_, WeightFormat::as_stored, 3);
  for (const auto& [first, second] : {std::pair{"model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"},
                                      {"model.layers.1.mlp.experts.3.gate_proj.weight", "model.layers.1.mlp.experts.3.up_proj.weight"},
                                      {"model.layers.1.mlp.shared_experts.gate_proj.weight", "model.layers.1.mlp.shared_experts.up_proj.weight"},
                                      {"model.layers.1.self_attn.q_a_proj.weight", "model.layers.1.self_attn.kv_a_proj_with_mqa.weight"}}) {
    const Weight* both = set.fused(first);
    ASSERT_TRUE(both) << first;
    EXPECT_EQ(both->out_dim(), set.matrix(first).out_dim() + set.matrix(second).out_dim());
    EXPECT_EQ(both->data.data, set.matrix(first).data.data);
    EXPECT_EQ(both->data.at(set.matrix(first).out_dim()), set.matrix(second).data.data);
  }
}

// Half a block of gate and half of up would share a scale.
TEST_F(LandingTest, FusesFp8OnlyWhereTheFirstEndsOnABlocksEdge) {
  nlohmann::json changes = fp8_change(32);
  changes["moe_intermediate_size"] = 48;
  write(changes);
  const WeightSet set = feed(folder_, config_, solve(config_, PlanRequest::parse("", 1)).rank(0), *backend_, WeightFormat::as_stored, 3);
  EXPECT_FALSE(set.fused("model.layers.1.mlp.experts.0.gate_proj.weight"));
  EXPECT_FALSE(set.fused("model.layers.1.self_attn.q_a_proj.weight"));  // 48 rows
  const Weight* dense = set.fused("model.layers.0.mlp.gate_proj.weight");
  ASSERT_TRUE(dense);
  EXPECT_EQ(dense->scale.dim(0), 8);  // 2 · 128 / 32
  EXPECT_EQ(dense->scale.row<float>(4), set.matrix("model.layers.0.mlp.up_proj.weight").scale.as<float>());
}

TEST_F(LandingTest, AMissingRowIsNoticed) {
  write(nlohmann::json::object());
  const Checkpoint checkpoint(folder_);
  const std::vector<TensorSpec> table = tensor_table(config_);
  const RankPlan rank = solve(config_, PlanRequest::parse("", 1)).rank(0);
  const auto pieces = shard_pieces(checkpoint.resolve(config_, table), config_, rank);
  const auto landing = Landing::make(checkpoint, pieces, config_, rank, *backend_, WeightFormat::as_stored);
  try {
    landing->finish({});
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("did not arrive"));
  }
}

}  // namespace
}  // namespace dsinfer
