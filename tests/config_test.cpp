#include "dsinfer/config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "checkpoint_writer.hpp"
#include "config/tensors.hpp"
#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::string read(const std::string& name) {
  std::ifstream in(std::string(DSINFER_TEST_DATA) + "/configs/" + name + ".json");
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

ModelConfig real(const std::string& name) { return ModelConfig::parse(read(name), name + ".json"); }

ModelConfig tiny(const json& changes = json::object(), const std::vector<std::string>& nulls = {}) {
  return ModelConfig::parse(testing_support::tiny_config_json(changes, nulls));
}

// The error of parsing `text`, as "code: message".
std::string error_of(const std::string& text) {
  try {
    ModelConfig::parse(text);
  } catch (const Error& e) {
    return std::string(code_name(e.code())) + ": " + e.what();
  }
  return "no error";
}

std::string error_of_change(const json& changes) { return error_of(testing_support::tiny_config_json(changes)); }

struct Census { int64_t tensors = 0, bytes = 0, parameters = 0; };

// Bytes of all tensors; parameters of the main model (no scales, no MTP).
Census census(const ModelConfig& config, const std::vector<TensorSpec>& table) {
  Census sum;
  for (const TensorSpec& spec : table) {
    int64_t elements = 1;
    for (const int64_t dim : spec.shape) elements *= dim;
    ++sum.tensors;
    sum.bytes += elements * dtype_size(spec.dtype);
    if (!spec.is_scale && spec.layer < config.num_hidden_layers) sum.parameters += elements;
  }
  return sum;
}

int64_t bytes_of_layer(const std::vector<TensorSpec>& table, int64_t layer, const std::string& with = "", const std::string& without = "?") {
  int64_t bytes = 0;
  for (const TensorSpec& spec : table) {
    if (spec.layer != layer || spec.name.find(with) == std::string::npos || spec.name.find(without) != std::string::npos) continue;
    int64_t elements = 1;
    for (const int64_t dim : spec.shape) elements *= dim;
    bytes += elements * dtype_size(spec.dtype);
  }
  return bytes;
}

TEST(ModelConfig, ReadsEveryDenseAttentionModelOfTheFamily) {
  const ModelConfig v3 = real("deepseek-v3");
  EXPECT_EQ(v3.vocab_size, 129280);
  EXPECT_EQ(v3.hidden_size, 7168);
  EXPECT_EQ(v3.q_lora_rank, 1536);
  EXPECT_EQ(v3.qk_head_dim(), 192);
  EXPECT_EQ(v3.cache_dim(), 576);
  EXPECT_EQ(v3.n_group, 8);
  EXPECT_EQ(v3.scoring_func, Scoring::sigmoid);
  EXPECT_EQ(v3.topk_method, TopkMethod::noaux_tc);
  EXPECT_EQ(v3.num_nextn_predict_layers, 1);
  EXPECT_FALSE(v3.is_moe(2));
  EXPECT_TRUE(v3.is_moe(3));
  ASSERT_TRUE(v3.fp8);
  EXPECT_FALSE(v3.fp8->ue8m0);
  EXPECT_EQ(v3.eos_token_id, std::vector<int64_t>{1});
  EXPECT_TRUE(real("deepseek-v3.1").fp8->ue8m0);
  const ModelConfig lite = real("deepseek-v2-lite");
  EXPECT_EQ(lite.q_lora_rank, 0);
  EXPECT_EQ(lite.scoring_func, Scoring::softmax);
  EXPECT_EQ(lite.topk_method, TopkMethod::greedy);
  EXPECT_FALSE(lite.fp8);
  EXPECT_FALSE(lite.norm_topk_prob);
  EXPECT_EQ(real("deepseek-v2").topk_method, TopkMethod::group_limited_greedy);
  EXPECT_FALSE(real("moonlight-16b-a3b").yarn);
  EXPECT_EQ(real("kimi-k2-instruct").model_type, "kimi_k2");
  EXPECT_EQ(real("deepseek-r1").vocab_size, 129280);
}

TEST(ModelConfig, RefusesSparseAttentionNamingItsKey) {
  EXPECT_THAT(error_of(read("deepseek-v3.2-exp")), HasSubstr("unsupported: config.json: key \"index_topk\""));
}

TEST(ModelConfig, GivesThePublishedSoftmaxScales) {
  EXPECT_NEAR(real("moonlight-16b-a3b").softmax_scale(), 0.07216878364870322, 1e-16);
  EXPECT_NEAR(real("deepseek-v3").softmax_scale(), 0.1352337788608801, 1e-15);
  EXPECT_NEAR(real("deepseek-v2-lite").softmax_scale(), 0.1147213867929261, 1e-15);
  EXPECT_NEAR(real("kimi-k2-instruct").softmax_scale(), 0.13086079996295005, 1e-15);
  EXPECT_EQ(real("deepseek-v3").rope_attention_factor(), 1);
  EXPECT_EQ(real("deepseek-v2-lite").rope_attention_factor(), 1);
}

TEST(ModelConfig, ScalesCosAndSinWhenAnMscaleIsAbsent) {
  const ModelConfig without = tiny({{"rope_scaling", {{"mscale_all_dim", nullptr}}}});
  EXPECT_NEAR(without.rope_attention_factor(), 0.1 * std::log(4.0) + 1, 1e-15);
  EXPECT_NEAR(without.softmax_scale(), 1 / std::sqrt(32.0), 1e-15);
  const ModelConfig uneven = tiny({{"rope_scaling", {{"mscale", 0.5}, {"mscale_all_dim", 2.0}}}});
  EXPECT_NEAR(uneven.rope_attention_factor(), (0.05 * std::log(4.0) + 1) / (0.2 * std::log(4.0) + 1), 1e-15);
}

TEST(ModelConfig, GivesThePublishedFrequenciesOfV3) {
  const std::vector<double> expected = {1, 0.749894209, 0.562341325, 0.421696503, 0.316227766, 0.237137371, 0.177827941, 0.133352143,
                                        0.1, 0.0749894209, 0.0562341325, 0.0390069266, 0.0268793601, 0.0183781462, 0.0124479559, 0.00833450895,
                                        0.0055, 0.00356199749, 0.0022493653, 0.00137051364, 0.000790569415, 0.000414990398, 0.000177827941, 3.33380358e-05,
                                        2.5e-05, 1.87473552e-05, 1.40585331e-05, 1.05424126e-05, 7.90569415e-06, 5.92843426e-06, 4.44569853e-06, 3.33380358e-06};
  const std::vector<double> found = real("deepseek-v3").rope_inv_freq();
  ASSERT_EQ(found.size(), expected.size());
  for (size_t j = 0; j < found.size(); ++j) EXPECT_NEAR(found[j] / expected[j], 1, 1e-8) << j;
}

TEST(ModelConfig, GivesThePublishedFrequenciesOfKimiK2) {
  const std::vector<double> found = real("kimi-k2-instruct").rope_inv_freq();
  for (const auto& [j, value] : {std::pair<size_t, double>{0, 1}, {1, 0.713111085}, {10, 0.0340072782}, {19, 0.00162175991}, {20, 3.61404677e-05}, {31, 8.76441291e-07}})
    EXPECT_NEAR(found[j] / value, 1, 1e-8) << j;
}

TEST(ModelConfig, SeparatesEqualYarnBoundsByAThousandth) {
  // Original length 4: both correction dimensions are negative, so low = max(…, 0) = 0 and high = 0 + 0.001: pair 0 alone is unscaled.
  const ModelConfig config = tiny({{"rope_scaling", {{"original_max_position_embeddings", 4}}}});
  const std::vector<double> found = config.rope_inv_freq();
  EXPECT_EQ(found[0], 1);
  EXPECT_NEAR(found[1], std::pow(10000.0, -2.0 / 16) / 4, 1e-15);
}

TEST(ModelConfig, ReadsTheSpellingOfTransformers5) {
  const json changes = {{"rope_scaling", nullptr}, {"rope_theta", nullptr}, {"topk_method", nullptr}, {"scoring_func", nullptr}, {"moe_layer_freq", nullptr},
                        {"head_dim", 16}, {"qk_head_dim", 32}, {"rope_interleave", true}, {"dtype", "bfloat16"},
                        {"mlp_layer_types", {"dense", "sparse", "sparse", "sparse"}}, {"layer_types", {"full_attention", "full_attention", "full_attention", "full_attention"}},
                        {"rope_parameters", {{"rope_theta", 10000.0}, {"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 64},
                                             {"beta_fast", 32.0}, {"beta_slow", 1.0}, {"mscale", 1.0}, {"mscale_all_dim", 1.0}}}};
  const ModelConfig saved = tiny(changes), published = tiny();
  EXPECT_EQ(saved.rope_inv_freq(), published.rope_inv_freq());
  EXPECT_EQ(saved.softmax_scale(), published.softmax_scale());
  EXPECT_EQ(saved.topk_method, TopkMethod::noaux_tc);
  EXPECT_EQ(saved.scoring_func, Scoring::sigmoid);
  const ModelConfig plain = tiny({{"rope_scaling", nullptr}, {"rope_parameters", {{"rope_theta", 50000.0}, {"rope_type", "default"}}}, {"rope_theta", nullptr}});
  EXPECT_FALSE(plain.yarn);
  EXPECT_EQ(plain.rope_theta, 50000);
}

TEST(ModelConfig, TakesWholeNumbersWrittenAsFloats) {
  EXPECT_EQ(tiny({{"hidden_size", 64.0}, {"rope_scaling", {{"original_max_position_embeddings", 64.0}}}}).hidden_size, 64);
  EXPECT_THAT(error_of_change({{"hidden_size", 64.5}}), HasSubstr("bad_format: config.json: key \"hidden_size\""));
}

TEST(ModelConfig, ReadsNullAndZeroAsNoQueryLatent) {
  EXPECT_EQ(tiny({}, {"q_lora_rank"}).q_lora_rank, 0);
  EXPECT_EQ(tiny({{"q_lora_rank", 0}}).q_lora_rank, 0);
}

TEST(ModelConfig, TakesAbsentGatesFromTheFamily) {
  const json v2 = {{"model_type", "deepseek_v2"}, {"scoring_func", nullptr}, {"topk_method", nullptr}};
  const ModelConfig config = tiny(v2, {"n_group", "topk_group"});
  EXPECT_EQ(config.scoring_func, Scoring::softmax);
  EXPECT_EQ(config.topk_method, TopkMethod::greedy);
  EXPECT_EQ(config.n_group, 1);
}

TEST(ModelConfig, ReadsOneOrSeveralEndTokens) {
  EXPECT_EQ(tiny({{"eos_token_id", {1, 5}}}).eos_token_id, (std::vector<int64_t>{1, 5}));
  EXPECT_TRUE(tiny({}, {"eos_token_id"}).eos_token_id.empty());
  EXPECT_EQ(tiny({{"bos_token_id", nullptr}}).bos_token_id, -1);
}

TEST(ModelConfig, NamesEachMissingKey) {
  for (const char* key : {"model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim",
                          "qk_rope_head_dim", "v_head_dim", "intermediate_size", "moe_intermediate_size", "n_routed_experts", "num_experts_per_tok",
                          "first_k_dense_replace", "n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor", "max_position_embeddings"})
    EXPECT_THAT(error_of_change({{key, nullptr}}), HasSubstr(std::string("bad_format: config.json: key \"") + key + "\" is missing"));
  EXPECT_THAT(error_of_change({{"rope_scaling", {{"factor", nullptr}}}}), HasSubstr("config.json.rope_scaling: key \"factor\" is missing"));
}

TEST(ModelConfig, NamesTheKeyOfWhatItCannotCompute) {
  const std::pair<const char*, json> cases[] = {
      {"\"model_type\" is \"llama\"", {{"model_type", "llama"}}},
      {"\"hidden_act\" is \"gelu\"", {{"hidden_act", "gelu"}}},
      {"\"tie_word_embeddings\" is true", {{"tie_word_embeddings", true}}},
      {"\"attention_bias\" is true", {{"attention_bias", true}}},
      {"\"scoring_func\" is \"tanh\"", {{"scoring_func", "tanh"}}},
      {"\"topk_method\" is \"random\"", {{"topk_method", "random"}}},
      {"\"type\" is \"linear\"", {{"rope_scaling", {{"type", "linear"}}}}},
      {"\"quantization_config.quant_method\" is \"gptq\"", {{"quantization_config", {{"quant_method", "gptq"}}}}},
      {"\"quantization_config.weight_block_size\" is absent", {{"quantization_config", {{"quant_method", "fp8"}}}}},
      {"\"quantization_config.activation_scheme\" is \"static\"", {{"quantization_config", {{"quant_method", "fp8"}, {"activation_scheme", "static"}}}}},
      {"keys \"scoring_func\" and \"topk_method\"", {{"scoring_func", "softmax"}}},
      {"\"layer_types\" is with \"sliding_attention\"", {{"layer_types", {"sliding_attention"}}}},
  };
  for (const auto& [text, change] : cases) EXPECT_THAT(error_of_change(change), testing::AllOf(HasSubstr("unsupported: config.json"), HasSubstr(text)));
}

TEST(ModelConfig, NamesTheKeyOfAContradiction) {
  const std::pair<const char*, json> cases[] = {
      {"\"num_key_value_heads\" is 4", {{"num_key_value_heads", 4}}},
      {"\"qk_rope_head_dim\" is 15, expected an even", {{"qk_rope_head_dim", 15}}},
      {"\"qk_head_dim\" is 99", {{"qk_head_dim", 99}}},
      {"\"n_group\" is 3, expected a divisor of n_routed_experts = 16", {{"n_group", 3}}},
      {"\"topk_group\" is 5", {{"topk_group", 5}}},
      {"\"num_experts_per_tok\" is 9", {{"num_experts_per_tok", 9}}},
      {"\"n_group\" is 16, expected at least 2 experts", {{"n_group", 16}, {"topk_group", 8}}},
      {"\"first_k_dense_replace\" is 5", {{"first_k_dense_replace", 5}}},
      {"\"rope_scaling.factor\" is 0.5", {{"rope_scaling", {{"factor", 0.5}}}}},
      {"\"rope_scaling.beta_fast\" is 0.5", {{"rope_scaling", {{"beta_fast", 0.5}}}}},
      {"\"hidden_size\" is 0", {{"hidden_size", 0}}},
      {"\"num_hidden_layers\" is -1", {{"num_hidden_layers", -1}}},
      {"\"n_routed_experts\" is -16", {{"n_routed_experts", -16}}},
      {"\"mlp_layer_types\" is of 1 entries", {{"mlp_layer_types", {"dense"}}}},
      {"\"mlp_layer_types[0]\" is \"sparse\"", {{"mlp_layer_types", {"sparse", "sparse", "sparse", "sparse"}}}},
      {"\"rope_theta\" is 10000", {{"rope_scaling", nullptr}, {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 500}}}}},
      {"\"vocab_size · hidden_size\"", {{"vocab_size", 1 << 30}, {"hidden_size", 1 << 30}}},
      {"\"hidden_size\" is", {{"hidden_size", int64_t{1} << 40}}},
      {"\"quantization_config.weight_block_size[0]\" is 0", testing_support::fp8_change(0)},
  };
  for (const auto& [text, change] : cases) EXPECT_THAT(error_of_change(change), testing::AllOf(HasSubstr("bad_format: config.json"), HasSubstr(text)));
}

TEST(ModelConfig, RefusesAKeyGivenTwice) {
  EXPECT_THAT(error_of(R"({"model_type": "deepseek_v3", "hidden_size": 1, "hidden_size": 2})"), HasSubstr("\"hidden_size\" appears twice"));
}

TEST(ModelConfig, RefusesNestingThatCouldOverflowAStack) {
  const std::string deep(100000, '[');
  EXPECT_THAT(error_of("{\"hidden_size\": " + deep + std::string(100000, ']') + "}"), HasSubstr("bad_format: config.json: JSON nested deeper than 200"));
}

TEST(ModelConfig, NamesAnAbsentFolderAndAFolderWithoutConfig) {
  const std::filesystem::path empty = std::filesystem::path(testing::TempDir()) / "config_test_empty";
  std::filesystem::create_directories(empty);
  const auto message = [](const std::filesystem::path& path) {
    try { ModelConfig::load(path); } catch (const Error& e) { return std::string(code_name(e.code())) + ": " + e.what(); }
    return std::string();
  };
  EXPECT_THAT(message(empty / "nowhere"), HasSubstr("not_found: " + (empty / "nowhere").string() + ": no such model folder"));
  EXPECT_THAT(message(empty), HasSubstr("has no config.json"));
  std::ofstream(empty / "config.json") << testing_support::tiny_config_json();
  EXPECT_EQ(message(empty), "");
  EXPECT_EQ(ModelConfig::load(empty / "config.json").hidden_size, 64);
  std::filesystem::remove_all(empty);
}

TEST(TensorTable, CountsTheTensorsAndBytesOfDeepSeekV3) {
  const ModelConfig v3 = real("deepseek-v3");
  const std::vector<TensorSpec> table = tensor_table(v3);
  const Census all = census(v3, table);
  EXPECT_EQ(all.tensors, 91991);
  EXPECT_EQ(all.bytes, 688574839360);
  EXPECT_EQ(bytes_of_layer(table, 0), 583642336);
  EXPECT_EQ(bytes_of_layer(table, 0, "", ".mlp."), 187183840);
  EXPECT_EQ(bytes_of_layer(table, 3), 11511947488);
  EXPECT_EQ(bytes_of_layer(table, 3, ".experts.17."), 44050944);
  EXPECT_EQ(bytes_of_layer(table, 61), 15424227552);
  EXPECT_EQ(bytes_of_layer(table, 61, "embed_tokens") + bytes_of_layer(table, 61, "shared_head.head"), 3706716160);
  EXPECT_EQ(bytes_of_layer(table, -1, "lm_head"), 1853358080);
}

TEST(TensorTable, CountsTheParametersOfEveryModel) {
  const auto billions = [](const char* name) { 
    const ModelConfig config = real(name);
    return static_cast<double>(census(config, tensor_table(config)).parameters) / 1e9;
  };
  EXPECT_NEAR(billions("deepseek-v3"), 671.0264, 5e-5);
  EXPECT_NEAR(billions("deepseek-v2"), 235.7414, 5e-5);
  EXPECT_NEAR(billions("deepseek-v2-lite"), 15.7065, 5e-5);
  EXPECT_NEAR(billions("moonlight-16b-a3b"), 15.9601, 5e-5);
  EXPECT_NEAR(billions("kimi-k2-instruct"), 1026.4082, 5e-5);
}

TEST(TensorTable, GivesTheBytesOfV3CastToBf16) {
  ModelConfig v3 = real("deepseek-v3");
  v3.fp8.reset();
  v3.num_nextn_predict_layers = 0;
  EXPECT_EQ(census(v3, tensor_table(v3)).bytes - 58 * 256 * 2, 1342052838400);  // the published figure counts the 58 correction biases as BF16
}

TEST(TensorTable, KeepsTheBiasForV3GatesAlone) {
  for (const auto& [name, expected] : {std::pair{"deepseek-v2", false}, {"deepseek-v2-lite", false}, {"moonlight-16b-a3b", true}}) {
    bool found = false;
    for (const TensorSpec& spec : tensor_table(real(name)))
      if (spec.name.ends_with("e_score_correction_bias")) { found = true; EXPECT_EQ(spec.dtype, DType::f32); }
    EXPECT_EQ(found, expected) << name;
  }
}

TEST(TensorTable, PlacesScalesAfterTheirWeights) {
  const std::vector<TensorSpec> table = tensor_table(real("deepseek-v3"));
  for (size_t i = 0; i < table.size(); ++i) {
    if (!table[i].is_scale) continue;
    ASSERT_EQ(table[i].name, table[i - 1].name + "_scale_inv");
    ASSERT_TRUE(table[i - 1].quantisable);
    for (size_t axis = 0; axis < 2; ++axis) ASSERT_EQ(table[i].shape[axis], (table[i - 1].shape[axis] + 127) / 128);
  }
}

}  // namespace
}  // namespace dsinfer
