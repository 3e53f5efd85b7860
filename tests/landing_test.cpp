// Rows of stored tensors, fed in odd portions and orders, come to lie as the loader of whole tensors lays them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>



#include "checkpoint_writer.hpp"
#include "landed.hpp"
#include "plain_loader.hpp"

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

// By number, not in the order of the file's names, where 10 stands before 2.
TEST_F(LandingTest, TheExpertsOfALayerLieOneBehindAnother) {
  nlohmann::json changes = fp8_change(16);
  changes["n_routed_experts"] = 16;
  write(changes);
  const WeightSet set = feed(folder_, config_, solve(config_, PlanRequest::parse("", 1)).rank(0), *backend_, WeightFormat::as_stored, 3);
  const auto expect_behind = [](const TensorView& one, const TensorView& next) {
    EXPECT_EQ(next.data - one.data, static_cast<int64_t>(Arena::aligned(static_cast<size_t>(one.bytes()))));
  };
  for (int e = 0; e + 1 < 16; ++e) {
    const auto name = [](int expert, const char* kind) { return "model.layers.1.mlp.experts." + std::to_string(expert) + kind; };
    const Weight *one = set.fused(name(e, ".gate_proj.weight")), *next = set.fused(name(e + 1, ".gate_proj.weight"));
    ASSERT_TRUE(one && next);
    const Weight &down = set.matrix(name(e, ".down_proj.weight")), &next_down = set.matrix(name(e + 1, ".down_proj.weight"));
    expect_behind(one->data, next->data), expect_behind(one->scale, next->scale);
    expect_behind(down.data, next_down.data), expect_behind(down.scale, next_down.scale);
  }
}

TEST_F(LandingTest, AbsorbedCopiesInBf16AreTheF32OnesRounded) {
  write(fp8_change(16));
  const auto world = single_world();
  const Plan plan = solve(config_, PlanRequest::parse("", 1));
  LoadOptions halves;
  halves.absorbed_bf16 = true;
  const LoadedWeights whole = load(*world, folder_, plan), rounded = load(*world, folder_, plan, halves);
  const auto a = whole.tensors(), b = rounded.tensors();
  ASSERT_EQ(a.size(), b.size());
  int64_t saved = 0, seen = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].name, b[i].name);
    ASSERT_EQ(a[i].shape, b[i].shape);
    if (!a[i].name.ends_with("#key_up") && !a[i].name.ends_with("#value_up")) { EXPECT_EQ(a[i].dtype, b[i].dtype); continue; }
    EXPECT_EQ(a[i].dtype, "F32");
    EXPECT_EQ(b[i].dtype, "BF16");
    const int64_t count = a[i].shape[0] * a[i].shape[1] * a[i].shape[2];
    const auto* values = reinterpret_cast<const float*>(a[i].data);
    const auto* bits = reinterpret_cast<const uint16_t*>(b[i].data);
    for (int64_t j = 0; j < count; ++j) ASSERT_EQ(bits[j], f32_to_bf16(values[j])) << a[i].name << " " << j;
    saved += 2 * count;
    ++seen;
  }
  EXPECT_EQ(seen, 4);
  EXPECT_EQ(rounded.report().bytes_held, whole.report().bytes_held - saved);
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

// The checkpoint that `from` becomes when its FP8 tensors are decoded one number at a time (bf16), or its linear layers quantised (fp8).
void convert(const std::filesystem::path& from, const std::filesystem::path& to, const ModelConfig& config, WeightFormat format) {
  std::vector<testing_support::SafetensorsWriter::Entry> entries, scale_entries;
  for (const auto& entry : testing_support::checkpoint_entries(config)) {
    if (entry.name.ends_with("_scale_inv")) continue;
    entries.push_back(entry);
  }
  const auto whole = testing_support::checkpoint_entries(config);
  std::vector<TensorSpec> table = tensor_table(config);
  for (auto& entry : entries) {
    const auto spec = std::find_if(table.begin(), table.end(), [&](const TensorSpec& s) { return s.name == entry.name; });
    if (!spec->quantisable) continue;
    const int64_t rows = entry.shape[0], cols = entry.shape[1];
    std::vector<float> values(static_cast<size_t>(rows * cols));
    if (format == WeightFormat::bf16) {
      const auto scale = std::find_if(whole.begin(), whole.end(), [&](const auto& e) { return e.name == entry.name + "_scale_inv"; });
      std::vector<float> scales(scale->bytes.size() / 4);
      std::memcpy(scales.data(), scale->bytes.data(), scale->bytes.size());
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < cols; ++c)
          values[static_cast<size_t>(r * cols + c)] = e4m3_to_f32(static_cast<uint8_t>(entry.bytes[static_cast<size_t>(r * cols + c)])) *
                                                      scales[static_cast<size_t>(r / config.fp8->block_rows * scale->shape[1] + c / config.fp8->block_cols)];
      entry.dtype = "BF16";
      entry.bytes = testing_support::encode(values, DType::bf16);
    } else {
      for (size_t i = 0; i < values.size(); ++i) {
        uint16_t bits;
        std::memcpy(&bits, &entry.bytes[2 * i], 2);
        values[i] = bf16_to_f32(bits);
      }
      const std::vector<float> scales = testing_support::quantise(values, rows, cols, {});
      entry.dtype = "F8_E4M3";
      entry.bytes = testing_support::encode(values, DType::e4m3);
      scale_entries.push_back({entry.name + "_scale_inv", "F32", {(rows + 127) / 128, (cols + 127) / 128}, testing_support::encode(scales, DType::f32)});
    }
  }
  entries.insert(entries.end(), scale_entries.begin(), scale_entries.end());
  nlohmann::json json = nlohmann::json::parse(std::ifstream(from / "config.json"));
  json.erase("quantization_config");
  if (format == WeightFormat::fp8) json.merge_patch(fp8_change(128));
  std::filesystem::remove_all(to);
  testing_support::write_entries(to, entries, 2);
  std::ofstream(to / "config.json") << json.dump();
}

void expect_converted(const std::filesystem::path& folder, const ModelConfig& config, WeightFormat format, Backend& backend, const std::vector<std::pair<const char*, int>>& plans) {
  const std::filesystem::path converted = folder.string() + "_converted";
  convert(folder, converted, config, format);
  const ModelConfig held = ModelConfig::load(converted);
  unsigned seed = 1;
  for (const auto& [spec, world] : plans) {
    const Plan plan = solve(held_config(config, format), PlanRequest::parse(spec, world));
    for (int rank = 0; rank < world; ++rank, ++seed) {
      SCOPED_TRACE(std::string(spec) + " rank " + std::to_string(rank));
      const WeightSet expected = load_weights(converted, held, plan.rank(rank), backend, {}, {});
      const WeightSet landed = feed(folder, config, plan.rank(rank), backend, format, seed);
      test::expect_same_weights(landed, expected, config);
      EXPECT_EQ(landed.bytes(), rank_memory(folder, plan, rank, format).weight_bytes);
    }
  }
  std::filesystem::remove_all(converted);
}

// Also where a plan cuts within blocks, which FP8 as stored would refuse: parts are decoded, so blocks may straddle them.
TEST_F(LandingTest, Fp8DecodedOnLoadingEqualsTheCheckpointDecodedBefore) {
  write(fp8_change(16));
  EXPECT_THROW(solve(config_, PlanRequest::parse("tp=8,ep=1", 8)), Error);
  expect_converted(folder_, config_, WeightFormat::bf16, *backend_, {{"", 1}, {"tp=2,ep=2", 2}, {"tp=8,ep=1", 8}, {"tp=4,pp=2,dp=2,ep=2", 16}});
  write(fp8_change(24));
  expect_converted(folder_, config_, WeightFormat::bf16, *backend_, {{"tp=4,ep=2", 4}});
}

TEST_F(LandingTest, Bf16QuantisedOnLoadingEqualsTheCheckpointQuantisedBefore) {
  write({{"moe_intermediate_size", 256}, {"intermediate_size", 448}, {"hidden_size", 200}, {"num_attention_heads", 16}});
  expect_converted(folder_, config_, WeightFormat::fp8, *backend_, {{"", 1}, {"pp=2,dp=2,ep=2", 4}});
  write({{"moe_intermediate_size", 256}, {"intermediate_size", 512}});
  expect_converted(folder_, config_, WeightFormat::fp8, *backend_, {{"tp=2,ep=1", 2}, {"tp=2,dp=2,ep=2", 4}});
}

TEST_F(LandingTest, PlansOfWeightsQuantisedOnLoadingKeepToTheBlocks) {
  write(nlohmann::json::object());
  EXPECT_NO_THROW(solve(config_, PlanRequest::parse("tp=4", 4)));
  EXPECT_THROW(solve(held_config(config_, WeightFormat::fp8), PlanRequest::parse("tp=4", 4)), Error);
}

TEST_F(LandingTest, NumbersThatCannotBeConvertedAreNamed) {
  const auto refused = [&](WeightFormat format) -> std::string {
    try {
      feed(folder_, config_, solve(config_, PlanRequest::parse("", 1)).rank(0), *backend_, format, 1);
      return "nothing";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Error::bad_format);
      return e.what();
    }
  };
  const auto spoil = [&](const std::string& name, size_t at, const std::string& bytes) {
    auto entries = testing_support::checkpoint_entries(config_);
    for (auto& entry : entries) if (entry.name == name) entry.bytes.replace(at, bytes.size(), bytes);
    testing_support::write_entries(folder_, entries, 1);
  };
  const std::string tensor = "model.layers.1.mlp.experts.5.up_proj.weight";  // [32, 64]
  write(fp8_change(16));
  spoil(tensor, 3 * 64 + 7, "\x7f");
  EXPECT_THAT(refused(WeightFormat::bf16), testing::AllOf(testing::HasSubstr("model.safetensors"), testing::HasSubstr(tensor), testing::HasSubstr("[3, 7]")));
  spoil(tensor + "_scale_inv", 4 * 5, std::string("\x00\x00\x80\x7f", 4));
  EXPECT_THAT(refused(WeightFormat::bf16), testing::AllOf(testing::HasSubstr(tensor + "_scale_inv"), testing::HasSubstr("inf"), testing::HasSubstr("[1, 1]")));
  write(nlohmann::json::object());
  spoil(tensor, 2 * (2 * 64 + 9), "\xc0\x7f");
  EXPECT_THAT(refused(WeightFormat::fp8), testing::AllOf(testing::HasSubstr(tensor), testing::HasSubstr("nan"), testing::HasSubstr("[2, 9]")));
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
