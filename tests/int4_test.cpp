// 4-bit checkpoints: what their config says, how their parts land, and products with them. Their logits are golden_test's, their plans plans_test's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "config/module_pattern.hpp"
#include "landed.hpp"
#include "plan/cost.hpp"
#include "spoilt_backend.hpp"

namespace dsinfer {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::filesystem::path golden(const std::string& name) { return std::filesystem::path(DSINFER_TEST_DATA) / "goldens" / name; }

std::string refused(const std::string& base, const std::function<void(json&)>& change) {
  json config = json::parse(std::ifstream(golden(base) / "config.json"));
  change(config["quantization_config"]);
  try {
    ModelConfig::parse(config.dump());
    return "nothing";
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(Int4Config, IsReadFromBothFormsOfCheckpoints) {
  const ModelConfig awq = ModelConfig::load(golden("awq")), packed = ModelConfig::load(golden("packed")), experts = ModelConfig::load(golden("packed-experts"));
  ASSERT_TRUE(awq.int4 && packed.int4 && experts.int4);
  EXPECT_EQ(awq.int4->group_size, 64);
  EXPECT_EQ(awq.int4->layout, Int4Layout::awq);
  EXPECT_TRUE(awq.int4->zero_points);
  EXPECT_EQ(packed.int4->layout, Int4Layout::pack_quantized);
  EXPECT_TRUE(packed.int4->zero_points);
  EXPECT_FALSE(experts.int4->zero_points);
  EXPECT_TRUE(experts.int4->converts("model.layers.1.mlp.experts.3.up_proj"));
  for (const char* left : {"lm_head", "model.layers.0.self_attn.o_proj", "model.layers.2.mlp.shared_experts.down_proj", "model.layers.0.mlp.gate_up_proj", "model.layers.0.mlp.down_proj"})
    EXPECT_FALSE(experts.int4->converts(left)) << left;
}

TEST(Int4Config, TheOlderSpellingOfAwqMeansTheSame) {
  json config = json::parse(std::ifstream(golden("awq") / "config.json"));
  config["quantization_config"] = {{"quant_method", "awq"}, {"w_bit", 4}, {"q_group_size", 64}, {"zero_point", true}, {"version", "GEMM"}, {"modules_to_not_convert", {"mlp.gate.", "layers.1.self_attn"}}};
  const ModelConfig parsed = ModelConfig::parse(config.dump());
  EXPECT_EQ(parsed.int4->group_size, 64);
  EXPECT_FALSE(parsed.int4->converts("model.layers.1.self_attn.q_a_proj"));
  EXPECT_TRUE(parsed.int4->converts("model.layers.0.self_attn.q_a_proj"));
}

TEST(Int4Config, OtherFormsAreRefusedByTheirKey) {
  EXPECT_THAT(refused("awq", [](json& q) { q["bits"] = 8; }), HasSubstr("\"quantization_config.bits\" is 8"));
  EXPECT_THAT(refused("awq", [](json& q) { q["version"] = "gemv"; }), HasSubstr("\"quantization_config.version\" is \"gemv\""));
  EXPECT_THAT(refused("awq", [](json& q) { q["zero_point"] = false; }), HasSubstr("zero_point"));
  EXPECT_THAT(refused("awq", [](json& q) { q["group_size"] = -1; }), HasSubstr("group_size"));
  EXPECT_THAT(refused("awq", [](json& q) { q["modules_to_not_convert"] = {1}; }), HasSubstr("modules_to_not_convert"));
  const auto group = [](json& q) -> json& { return q["config_groups"]["group_0"]; };
  EXPECT_THAT(refused("packed", [](json& q) { q["format"] = "marlin-24"; }), HasSubstr("\"quantization_config.format\" is \"marlin-24\""));
  EXPECT_THAT(refused("packed", [](json& q) { q["kv_cache_scheme"] = {{"num_bits", 8}}; }), HasSubstr("kv_cache_scheme"));
  EXPECT_THAT(refused("packed", [&](json& q) { group(q)["targets"] = {"re:.*experts.*"}; }), HasSubstr("config_groups.group_0.targets"));
  EXPECT_THAT(refused("packed", [&](json& q) { group(q)["input_activations"] = {{"num_bits", 8}}; }), HasSubstr("config_groups.group_0.input_activations"));
  EXPECT_THAT(refused("packed", [&](json& q) { group(q)["weights"]["num_bits"] = 8; }), HasSubstr("config_groups.group_0.weights.num_bits"));
  EXPECT_THAT(refused("packed", [&](json& q) { group(q)["weights"]["strategy"] = "channel"; }), HasSubstr("config_groups.group_0.weights.strategy"));
  EXPECT_THAT(refused("packed", [&](json& q) { group(q)["weights"]["actorder"] = "group"; }), HasSubstr("config_groups.group_0.weights.actorder"));
  EXPECT_THAT(refused("packed", [&](json& q) { q["config_groups"]["group_1"] = group(q); }), HasSubstr("config_groups"));
}

TEST(Int4Config, PatternsOfModulesMatchAsPythonsDo) {
  EXPECT_TRUE(matches_pattern(".*self_attn.*", "model.layers.0.self_attn.o_proj"));
  EXPECT_TRUE(matches_pattern("model\\.layers\\.[0-2]\\.", "model.layers.1.mlp.up_proj"));
  EXPECT_FALSE(matches_pattern("model\\.layers\\.[0-2]\\.", "model.layers.12.mlp.up_proj"));
  EXPECT_FALSE(matches_pattern("self_attn", "model.layers.0.self_attn.o_proj"));  // from the beginning on
  EXPECT_TRUE(matches_pattern(".*(gate|(up|down))_proj$", "mlp.down_proj"));
  EXPECT_FALSE(matches_pattern(".*(gate|(up|down))_proj$", "mlp.down_proj.weight"));
  EXPECT_TRUE(matches_pattern("^model\\.layers\\.\\d+\\.mlp\\.(?:gate|up)_proj", "model.layers.17.mlp.up_proj"));
  EXPECT_TRUE(matches_pattern("lm_head|.*norm", "model.norm"));
  for (const char* unknown : {"(", ")", "[", "a)", "(a|b)*", "\\", "a{3}", "*", "(?=a)", "\\bx", "[a"}) EXPECT_FALSE(matches_pattern(unknown, "aaa")) << unknown;
  EXPECT_FALSE(matches_pattern("(a|b)(a|b)(a|b)(a|b)(a|b)(a|b)(a|b)(a|b)(a|b)(a|b)(a|b)c", "abababababac"));  // too many alternatives to try
  EXPECT_FALSE(matches_pattern("a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", std::string(2000, 'a')));
}

// Whatever the portions, on the host and on a device that reads its uploads late: the same bytes, and as many as planner and solver say.
TEST(Int4Landing, PortionsInAnyOrderGiveTheSameWeights) {
  const auto backend = make_backend("cpu", {.threads = 1});
  testing_support::SpoiltBackend device(*backend);
  device.place = Place::device;
  device.patience = 3;
  for (const auto& [name, spec, world] : {std::tuple{"awq", "tp=2,dp=2,ep=2", 4}, {"awq-128", "dp=2,ep=1,pp=1", 1}, {"packed", "tp=2,ep=1", 2}, {"packed-experts", "tp=2,dp=2,ep=2", 4}}) {
    const ModelConfig config = ModelConfig::load(golden(name));
    const Plan plan = world == 1 ? solve(config, PlanRequest{}) : solve(config, PlanRequest::parse(spec, world));
    for (int rank = 0; rank < world; ++rank) {
      SCOPED_TRACE(std::string(name) + " rank " + std::to_string(rank));
      const WeightSet a = test::feed(golden(name), config, plan.rank(rank), *backend, WeightFormat::as_stored, 1);
      const WeightSet b = test::feed(golden(name), config, plan.rank(rank), device, WeightFormat::as_stored, 2);
      std::vector<std::string> names;
      for (const TensorSpec& t : tensor_table(config)) if (t.int4 == Int4Part::none) names.push_back(t.name);
      for (const std::string& tensor : names) {
        ASSERT_EQ(a.has(tensor), b.has(tensor));
        if (!a.has(tensor) || tensor.find("norm") != std::string::npos || tensor.ends_with("bias")) continue;
        test::expect_same_weight(a.matrix(tensor), b.matrix(tensor), tensor);
        ASSERT_EQ(test::bytes_of(a.matrix(tensor).zeros), test::bytes_of(b.matrix(tensor).zeros)) << tensor;
      }
      EXPECT_EQ(a.bytes(), rank_memory(golden(name), plan, rank).weight_bytes);
      if (std::string(name) != "awq" && std::string(name) != "packed") continue;  // whose files are not as their configs say in all
      EXPECT_EQ(a.bytes(), rank_bytes(config, plan.rank(rank), 4).held);
    }
  }
}

// 4 bits, and a 16-bit scale and a 4-bit zero point for each 128: 0.51953 bytes.
TEST(Int4Landing, AWeightTakesTheBytesThatThePlannerCounts) {
  const auto backend = make_backend("cpu", {.threads = 1});
  const ModelConfig config = ModelConfig::load(golden("awq-128"));
  const WeightSet set = test::feed(golden("awq-128"), config, solve(config, PlanRequest{}).rank(0), *backend, WeightFormat::as_stored, 1);
  const Weight& w = set.matrix("model.layers.1.self_attn.kv_a_proj_with_mqa.weight");
  ASSERT_EQ(w.format, Format::int4_group);
  EXPECT_EQ(static_cast<double>(w.data.bytes() + w.scale.bytes() + w.zeros.bytes()) / static_cast<double>(w.out_dim() * w.in_dim()), (4 + 20.0 / 128) / 8);
  EXPECT_EQ(set.matrix("model.layers.0.mlp.down_proj.weight").format, Format::f16);  // left alone by the file
  EXPECT_TRUE(set.fused("model.layers.1.mlp.experts.2.gate_proj.weight"));
  EXPECT_THROW(test::feed(golden("awq-128"), config, solve(config, PlanRequest{}).rank(0), *backend, WeightFormat::bf16, 1), Error);
}

// 84 rows are no whole number of AWQ's words: the words would stand for 88.
TEST(Int4Landing, AnotherFormatIsRefusedBeforeAnythingIsRead) {
  for (const char* name : {"awq", "packed"})
    for (const WeightFormat format : {WeightFormat::bf16, WeightFormat::fp8}) {
      const Plan plan = solve(ModelConfig::load(golden(name)), PlanRequest{});
      LoadOptions options;
      options.weights = format;
      for (const auto& look : {std::function<void()>([&] { plan_load(golden(name), plan, options); }), std::function<void()>([&] { rank_memory(golden(name), plan, 0, format); })}) {
        try {
          look();
          ADD_FAILURE() << name;
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), Error::unsupported);
          EXPECT_THAT(error.what(), testing::AllOf(HasSubstr(name), HasSubstr("4-bit weights, which are loaded as stored only")));
        }
      }
    }
}

TEST(Int4Landing, PartsThatDoNotFitTogetherAreRefused) {
  json config = json::parse(std::ifstream(golden("awq") / "config.json"));
  config["qk_rope_head_dim"] = 20;  // kv_a_proj_with_mqa has 64 + 20 rows
  const ModelConfig parsed = ModelConfig::parse(config.dump());
  const std::vector<TensorSpec> table = tensor_table(parsed);
  std::vector<StoredTensor> stored;
  for (const TensorSpec& spec : table) if (spec.expected && !is_prediction(spec, parsed)) stored.push_back({&spec, {0, {dtype_name(spec.dtype), spec.shape, 0, 0}}, spec.dtype});
  const RankPlan rank = solve(parsed, PlanRequest{}).rank(0);
  try {
    held_layout(shard_pieces(stored, parsed, rank), parsed, WeightFormat::as_stored);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Error::unsupported);
    EXPECT_THAT(e.what(), HasSubstr("kv_a_proj_with_mqa"));
  }
}

// A random weight; its values decoded by hand.
struct Random {
  std::vector<uint8_t> data, zeros;
  std::vector<uint16_t> scale;
  std::vector<float> values;
  Weight weight;
  Random(int64_t rows, int64_t cols, int64_t group, bool with_zeros, DType dtype, unsigned seed) {
    std::mt19937 random(seed);
    const int64_t groups = cols / group;
    data.resize(static_cast<size_t>(rows * cols / 2));
    zeros.resize(static_cast<size_t>((rows * groups + 1) / 2));
    for (auto* bytes : {&data, &zeros}) for (uint8_t& byte : *bytes) byte = static_cast<uint8_t>(random());
    for (int64_t i = 0; i < rows * groups; ++i) {
      const float s = 0.01f + 0.001f * static_cast<float>(random() % 100);
      scale.push_back(dtype == DType::bf16 ? f32_to_bf16(s) : f32_to_f16(s));
    }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) {
        const int64_t g = r * groups + c / group;
        const int q = data[static_cast<size_t>((r * cols + c) / 2)] >> (c % 2 * 4) & 15, z = with_zeros ? zeros[static_cast<size_t>(g / 2)] >> (g % 2 * 4) & 15 : 8;
        const uint16_t bits = scale[static_cast<size_t>(g)];
        values.push_back(static_cast<float>(q - z) * (dtype == DType::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits)));
      }
    weight.format = Format::int4_group;
    weight.data = TensorView(data.data(), DType::u8, {rows, cols / 2});
    weight.scale = TensorView(scale.data(), dtype, {rows, groups});
    weight.block_rows = 1;
    weight.block_cols = group;
    if (with_zeros) weight.zeros = TensorView(zeros.data(), DType::u8, {static_cast<int64_t>(zeros.size())});
  }
  Weight plain() { return Weight{TensorView(values.data(), DType::f32, {weight.out_dim(), weight.in_dim()}), {}, Format::f32}; }
};

TEST(Int4Ops, DecodingIsExact) {
  for (const bool zeros : {false, true})
    for (const DType dtype : {DType::f16, DType::bf16}) {
      Random r(7, 96, 32, zeros, dtype, 5);
      std::vector<float> out(r.values.size());
      decode_rows(out.data(), r.weight, 0, 7);
      EXPECT_EQ(out, r.values);
      decode_int4(out.data(), r.weight, 3, 30, 67);
      EXPECT_TRUE(std::equal(out.begin(), out.begin() + 37, r.values.begin() + 3 * 96 + 30));
    }
}

// The same sums in the same order as with the decoded weight, so the same bits.
TEST(Int4Ops, ProductsEqualThoseWithTheDecodedWeight) {
  const auto backend = make_backend("cpu", {.threads = 2});
  std::mt19937 random(9);
  for (const int64_t rows : {1, 3, 70})
    for (const auto& [n, k, group] : {std::tuple{40, 96, 32}, {130, 1152, 64}, {8, 128, 128}}) {
      std::vector<Random> weights;
      for (unsigned i = 0; i < 3; ++i) weights.emplace_back(n, k, group, i != 1, i == 2 ? DType::bf16 : DType::f16, i);
      for (Random& w : weights) {  // views of what has moved
        w.weight.data.data = reinterpret_cast<std::byte*>(w.data.data());
        w.weight.scale.data = reinterpret_cast<std::byte*>(w.scale.data());
        if (w.weight.zeros) w.weight.zeros.data = reinterpret_cast<std::byte*>(w.zeros.data());
      }
      std::vector<float> x(static_cast<size_t>(rows * k)), a(static_cast<size_t>(rows * n)), b(a.size());
      for (float& v : x) v = static_cast<float>(random() % 2001) / 1000 - 1;
      const TensorView xs = TensorView::of(x.data(), {rows, k});
      backend->linear(TensorView::of(a.data(), {rows, n}), xs, weights[0].weight);
      backend->linear(TensorView::of(b.data(), {rows, n}), xs, weights[0].plain());
      EXPECT_EQ(a, b) << rows << " x " << n << " x " << k;
      const std::vector<int64_t> offsets = {0, rows / 2, rows / 2, rows};
      const std::vector<Weight> packed = {weights[0].weight, weights[1].weight, weights[2].weight}, plain = {weights[0].plain(), weights[1].plain(), weights[2].plain()};
      backend->grouped_linear(TensorView::of(a.data(), {rows, n}), xs, packed, offsets);
      backend->grouped_linear(TensorView::of(b.data(), {rows, n}), xs, plain, offsets);
      EXPECT_EQ(a, b) << rows << " x " << n << " x " << k;
    }
}

}  // namespace
}  // namespace dsinfer
