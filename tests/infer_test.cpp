// A config from tensors' shapes alone, against the published config.json files and the small checkpoints.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "config/infer.hpp"
#include "config/tensors.hpp"
#include "core/dtype.hpp"
#include "dsinfer/error.hpp"
#include "dsinfer/loader.hpp"
#include "effort.hpp"
#include "solver_shapes.hpp"

namespace dsinfer {
namespace {

using namespace test;
using testing::AllOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

std::map<std::string, TensorShape> shapes_of(const ModelConfig& config) {
  std::map<std::string, TensorShape> shapes;
  for (const TensorSpec& spec : tensor_table(config)) shapes[spec.name] = {spec.dtype == DType::e4m3 ? "F8_E4M3" : "BF16", spec.shape};
  return shapes;
}

ModelConfig inferred(const std::map<std::string, TensorShape>& shapes, int64_t experts_per_token = 0) {
  std::vector<std::string> assumed;
  ModelConfig config = infer_config(shapes, "shards", experts_per_token, assumed);
  EXPECT_FALSE(assumed.empty());
  return config;
}

// What planning uses.
void expect_same(const ModelConfig& got, const ModelConfig& want) {
  using Dimension = int64_t ModelConfig::*;
  constexpr std::pair<const char*, Dimension> dimensions[] = {
      {"vocab_size", &ModelConfig::vocab_size}, {"hidden_size", &ModelConfig::hidden_size}, {"num_hidden_layers", &ModelConfig::num_hidden_layers},
      {"num_attention_heads", &ModelConfig::num_attention_heads}, {"q_lora_rank", &ModelConfig::q_lora_rank}, {"kv_lora_rank", &ModelConfig::kv_lora_rank},
      {"qk_nope_head_dim", &ModelConfig::qk_nope_head_dim}, {"qk_rope_head_dim", &ModelConfig::qk_rope_head_dim}, {"v_head_dim", &ModelConfig::v_head_dim},
      {"intermediate_size", &ModelConfig::intermediate_size}, {"moe_intermediate_size", &ModelConfig::moe_intermediate_size}, {"n_routed_experts", &ModelConfig::n_routed_experts},
      {"n_shared_experts", &ModelConfig::n_shared_experts}, {"first_k_dense_replace", &ModelConfig::first_k_dense_replace}, {"moe_layer_freq", &ModelConfig::moe_layer_freq},
      {"num_nextn_predict_layers", &ModelConfig::num_nextn_predict_layers}};
  for (const auto& [name, dimension] : dimensions) EXPECT_EQ(got.*dimension, want.*dimension) << name;
  EXPECT_EQ(got.scoring_func, want.scoring_func);
  ASSERT_EQ(got.fp8.has_value(), want.fp8.has_value());
  if (!got.fp8) return;
  EXPECT_EQ(got.fp8->block_rows, want.fp8->block_rows);
  EXPECT_EQ(got.fp8->block_cols, want.fp8->block_cols);
}

TEST(InferredConfig, IsThatOfEveryReleasedModel) {
  for (const char* name : {"deepseek-v3", "deepseek-r1", "deepseek-v3.1", "deepseek-v2", "deepseek-v2-lite", "moonlight-16b-a3b", "kimi-k2-instruct"}) {
    SCOPED_TRACE(name);
    if (!everything_is_asked() && std::string_view(name).find("v2-lite") == std::string_view::npos && std::string_view(name) != "deepseek-v3") continue;
    const ModelConfig want = real_config(name), got = inferred(shapes_of(want));
    expect_same(got, want);
    EXPECT_EQ(got.num_experts_per_tok, want.num_experts_per_tok);
    EXPECT_EQ(got.max_position_embeddings, want.max_position_embeddings);
    EXPECT_EQ(got.n_group, want.n_group);
    EXPECT_EQ(got.topk_group, want.topk_group);
    EXPECT_EQ(got.topk_method, want.topk_method);
  }
}

TEST(InferredConfig, ComesFromTheHeadersOfRealFiles) {
  for (const char* name : {"tp", "fp8-tp", "v2-lite", "plans"}) {
    SCOPED_TRACE(name);
    const fs::path folder = fs::path(DSINFER_TEST_DATA) / "goldens" / name;
    const ModelConfig want = ModelConfig::load(folder);
    expect_same(outline_model(folder, want.num_experts_per_tok).config, want);
  }
}

TEST(InferredConfig, AsksForWhatNoShapeShows) {
  ModelConfig other = real_config("deepseek-v3");
  other.num_hidden_layers = 10;
  EXPECT_THAT(error_of([&] { inferred(shapes_of(other)); }), AllOf(HasSubstr("unsupported"), HasSubstr("num_experts_per_tok"), HasSubstr("--experts-per-token"), HasSubstr("10 layers")));
  EXPECT_EQ(inferred(shapes_of(other), 6).num_experts_per_tok, 6);
  EXPECT_THAT(error_of([&] { inferred(shapes_of(other), -1); }), HasSubstr("experts_per_token is -1"));
  EXPECT_THAT(error_of([&] { inferred(shapes_of(other), 1000); }), HasSubstr("num_experts_per_tok"));
}

TEST(InferredConfig, NamesTheTensorThatIsMissingOrDoesNotFit) {
  const std::map<std::string, TensorShape> whole = shapes_of(tiny_config());
  const auto error = [&](const auto& spoil) {
    std::map<std::string, TensorShape> shapes = whole;
    spoil(shapes);
    return error_of([&] { inferred(shapes, 2); });
  };
  using Shapes = std::map<std::string, TensorShape>;
  EXPECT_THAT(error([](Shapes& s) { s.clear(); }), HasSubstr("not a checkpoint of the DeepSeek family"));
  EXPECT_THAT(error([](Shapes& s) { s.erase("lm_head.weight"); }), AllOf(HasSubstr("lm_head.weight is missing"), HasSubstr("all shards")));
  EXPECT_THAT(error([](Shapes& s) { s.at("model.embed_tokens.weight").shape = {5}; }), HasSubstr("model.embed_tokens.weight has shape [5]"));
  EXPECT_THAT(error([](Shapes& s) { s.at("model.embed_tokens.weight").shape = {-5, 0}; }), HasSubstr("[-5, 0]"));
  EXPECT_THAT(error([](Shapes& s) { s.at("model.layers.0.self_attn.o_proj.weight").shape[1] += 1; }), HasSubstr("no number of heads"));
  EXPECT_THAT(error([](Shapes& s) { s["model.layers.99999999999999.x"] = {"BF16", {1}}; }), HasSubstr("not a number of 0"));
  EXPECT_THAT(error([](Shapes& s) { s["model.layers.900.x"] = {"BF16", {1}}; }), HasSubstr("all shards"));
  EXPECT_THAT(error_of([] { outline_model("/nowhere/at/all"); }), AllOf(HasSubstr("not_found"), HasSubstr("/nowhere/at/all")));
}

}  // namespace
}  // namespace dsinfer
