#include "weights/checkpoint.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "checkpoint_writer.hpp"
#include "dsinfer/error.hpp"
#include "weights/checkpoint.hpp"

namespace dsinfer {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing_support::SafetensorsWriter;
using Entries = std::vector<SafetensorsWriter::Entry>;

// A folder of its own for each test, and a tiny model to spoil.
class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) / (std::string("checkpoint_") + testing::UnitTest::GetInstance()->current_test_info()->name());
    static const std::string text = testing_support::tiny_config_json(testing_support::fp8_change(16));
    static const Entries sound = testing_support::checkpoint_entries(ModelConfig::parse(text));  // made once, spoiled by each test
    config_ = ModelConfig::parse(text);
    entries_ = sound;
    rewrite(3);
    std::ofstream(folder_ / "config.json") << text;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  SafetensorsWriter::Entry& entry(const std::string& name) {
    for (auto& e : entries_) if (e.name == name) return e;
    throw std::runtime_error("no entry " + name);
  }
  void drop(const std::string& name) { std::erase_if(entries_, [&](const auto& e) { return e.name == name; }); }
  void rewrite(int shards = 1) {
    std::filesystem::remove_all(folder_);
    testing_support::write_entries(folder_, entries_, shards);
  }
  json index() {
    std::ifstream in(folder_ / "model.safetensors.index.json");
    return json::parse(in);
  }
  void write_index(const std::string& text) { std::ofstream(folder_ / "model.safetensors.index.json") << text; }

  // Error of opening the folder and resolving the model's table in it.
  std::string error() {
    try {
      const std::vector<TensorSpec> table = tensor_table(config_);
      Checkpoint(folder_).resolve(config_, table);
    } catch (const Error& e) {
      return std::string(code_name(e.code())) + ": " + e.what();
    }
    return "no error";
  }

  std::filesystem::path folder_;
  ModelConfig config_;
  Entries entries_;
};

const std::string kQueryB = "model.layers.1.self_attn.q_b_proj.weight";
const std::string kShard2 = "model-00002-of-000003.safetensors";

TEST_F(CheckpointTest, FindsEveryTensorOfTheMainLayers) {
  const std::vector<TensorSpec> table = tensor_table(config_);
  EXPECT_EQ(Checkpoint(folder_).resolve(config_, table).size(), table.size());
  rewrite(1);
  EXPECT_EQ(error(), "no error");
}

TEST_F(CheckpointTest, NeedsNoPredictionLayersAndIgnoresStrangers) {
  const auto with_prediction = json::parse(testing_support::tiny_config_json({{"num_nextn_predict_layers", 1}}));
  config_ = ModelConfig::parse(with_prediction.dump());
  entries_ = testing_support::checkpoint_entries(config_);
  entries_.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {2}, std::string(8, '\0')});
  entries_.push_back({"visual.strange", "F4_NEW", {7}, "abc"});
  rewrite(2);
  EXPECT_EQ(error(), "no error");
}

TEST_F(CheckpointTest, NamesAnAbsentFolderAndAFolderWithoutWeights) {
  std::filesystem::remove_all(folder_);
  EXPECT_THAT(error(), AllOf(HasSubstr("not_found: "), HasSubstr("no such model folder")));
  std::filesystem::create_directories(folder_);
  EXPECT_THAT(error(), AllOf(HasSubstr("not_found: "), HasSubstr("no weights: neither model.safetensors nor model.safetensors.index.json")));
}

TEST_F(CheckpointTest, NamesAMissingShard) {
  std::filesystem::remove(folder_ / kShard2);
  EXPECT_THAT(error(), AllOf(HasSubstr("not_found: "), HasSubstr("shard " + kShard2 + " is missing")));
}

TEST_F(CheckpointTest, RefusesAFileThatChangesAfterItsHeaderWasRead) {
  const Checkpoint checkpoint(folder_);
  ASSERT_EQ(checkpoint.files()[1].name, kShard2);
  checkpoint.open(1);
  std::filesystem::last_write_time(folder_ / kShard2, std::filesystem::last_write_time(folder_ / kShard2) + std::chrono::seconds(1));
  try {
    checkpoint.open(1);
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Error::io);
    EXPECT_THAT(e.what(), AllOf(HasSubstr(kShard2 + ": changed since its header was read"), HasSubstr("load again")));
  }
  checkpoint.open(0);
}

TEST_F(CheckpointTest, NamesATruncatedShard) {
  std::filesystem::resize_file(folder_ / kShard2, std::filesystem::file_size(folder_ / kShard2) - 1);
  EXPECT_THAT(error(), AllOf(HasSubstr("bad_format: "), HasSubstr(kShard2 + ": truncated: tensor ")));
}

TEST_F(CheckpointTest, RefusesAnIndexThatNamesATensorTwice) {
  std::string text = index().dump();
  text.insert(text.find("\"weight_map\":{") + 14, "\"" + kQueryB + "\":\"" + kShard2 + "\",");
  write_index(text);
  EXPECT_THAT(error(), AllOf(HasSubstr("bad_format: "), HasSubstr("index.json"), HasSubstr("\"" + kQueryB + "\" appears twice")));
}

TEST_F(CheckpointTest, RefusesATensorInTwoShards) {
  json map = index();
  Entries second = {entry(kQueryB)};
  SafetensorsWriter{second, ""}.write(folder_ / "extra.safetensors");
  map["weight_map"]["stranger"] = "extra.safetensors";
  second.push_back({"stranger", "F32", {1}, "abcd"});
  SafetensorsWriter{second, ""}.write(folder_ / "extra.safetensors");
  write_index(map.dump());
  EXPECT_THAT(error(), AllOf(HasSubstr("bad_format: "), HasSubstr("extra.safetensors: holds tensor " + kQueryB), HasSubstr("one file only")));
}

TEST_F(CheckpointTest, RefusesAnIndexThatNamesWhatAShardLacks) {
  json map = index();
  map["weight_map"]["model.layers.9.ghost"] = kShard2;
  write_index(map.dump());
  EXPECT_THAT(error(), AllOf(HasSubstr("bad_format: "), HasSubstr("names tensor model.layers.9.ghost in " + kShard2)));
}

TEST_F(CheckpointTest, RefusesFileNamesOutsideOfTheFolder) {
  for (const char* name : {"../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b"}) {
    json map = index();
    map["weight_map"]["evil"] = name;
    write_index(map.dump());
    EXPECT_THAT(error(), AllOf(HasSubstr("bad_format: "), HasSubstr("tensor evil lies in"))) << name;
  }
}

TEST_F(CheckpointTest, ShowsHostileNamesShortAndWithoutControlCharacters) {
  const auto harmless = [](const std::string& text) {
    return text.size() < 1500 && std::none_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  };
  const std::string evil = "\x1b[2Jevil\n" + std::string(100'000, 'x');
  json map = index();
  for (const std::string& file : {evil, std::string("a\0b", 3), std::string("../") + evil}) {
    map["weight_map"][evil] = file;
    write_index(map.dump());
    EXPECT_TRUE(harmless(error())) << error().substr(0, 2000);
    EXPECT_THAT(error(), HasSubstr("evil"));
  }
  write_index("{\"weight_map\": {\"" + std::string(100'000, 'x') + "\": 1, \"" + std::string(100'000, 'x') + "\": 1}}");
  EXPECT_TRUE(harmless(error())) << error().substr(0, 2000);
  entry(kQueryB).shape.assign(100'000, 1);
  rewrite();
  EXPECT_TRUE(harmless(error())) << error().substr(0, 2000);
  EXPECT_THAT(error(), HasSubstr(", … of 100000]"));
}

TEST_F(CheckpointTest, RefusesAnIndexOfTheWrongForm) {
  for (const char* text : {"{", "[]", "{}", "{\"weight_map\":{}}", "{\"weight_map\":[]}", "{\"weight_map\":{\"a\":1}}"}) {
    write_index(text);
    EXPECT_THAT(error(), AllOf(HasSubstr("bad_format: "), HasSubstr("index.json"))) << text;
  }
}

TEST_F(CheckpointTest, ReadsAnIndexWithoutMetadataAndAPaddedHeader) {
  json map = index();
  map.erase("metadata");
  write_index(map.dump());
  EXPECT_EQ(error(), "no error");
  std::filesystem::remove_all(folder_);
  std::filesystem::create_directories(folder_);
  SafetensorsWriter{entries_, std::string(77, ' ')}.write(folder_ / "model.safetensors");
  EXPECT_EQ(error(), "no error");
}

TEST_F(CheckpointTest, NamesAMissingTensor) {
  drop(kQueryB);
  rewrite(2);
  EXPECT_THAT(error(), AllOf(HasSubstr("not_found: "), HasSubstr("tensor " + kQueryB + " of shape [512, 48] is missing")));
}

TEST_F(CheckpointTest, NamesAMissingScale) {
  drop(kQueryB + "_scale_inv");
  rewrite(2);
  EXPECT_THAT(error(), AllOf(HasSubstr("not_found: "), HasSubstr(kQueryB + "_scale_inv of shape [32, 3] is missing; its weight is F8_E4M3")));
}

TEST_F(CheckpointTest, NamesFileTensorFoundAndExpectedShape) {
  entry(kQueryB).shape = {256, 96};
  rewrite(1);
  EXPECT_THAT(error(), AllOf(HasSubstr("bad_format: "), HasSubstr("model.safetensors: tensor " + kQueryB + " has shape [256, 96], expected [512, 48]")));
}

TEST_F(CheckpointTest, NamesAScaleOfTheWrongShape) {
  entry(kQueryB + "_scale_inv").shape = {3, 32};
  rewrite(1);
  EXPECT_THAT(error(), HasSubstr(kQueryB + "_scale_inv has shape [3, 32], expected [32, 3]"));
}

TEST_F(CheckpointTest, NamesADtypeThatItCannotUse) {
  const auto as = [&](const std::string& name, const char* dtype, size_t element) {
    auto& e = entry(name);
    size_t count = 1;
    for (const int64_t dim : e.shape) count *= static_cast<size_t>(dim);
    e.dtype = dtype;
    e.bytes.assign(count * element, '\0');
    rewrite(1);
    return error();
  };
  const std::string norm = "model.norm.weight", head = "lm_head.weight", scale = kQueryB + "_scale_inv";
  EXPECT_THAT(as(kQueryB, "I8", 1), HasSubstr("bad_format: " + (folder_ / "model.safetensors").string() + ": tensor " + kQueryB + " has dtype I8, expected F8_E4M3, BF16, F16 or F32"));
  EXPECT_THAT(as(kQueryB, "BF16", 2), "no error");  // its scale is then not looked at
  EXPECT_THAT(as(scale, "BF16", 2), "no error");
  EXPECT_THAT(as(kQueryB, "F8_E4M3", 1), "no error");
  EXPECT_THAT(as(scale, "F16", 2), HasSubstr("has dtype F16, expected F32 or BF16"));
  EXPECT_THAT(as(scale, "F32", 4), "no error");
  EXPECT_THAT(as(norm, "I64", 8), HasSubstr("tensor model.norm.weight has dtype I64, expected BF16, F16 or F32"));
  EXPECT_THAT(as(norm, "F16", 2), "no error");
  EXPECT_THAT(as(head, "F8_E4M3", 1), HasSubstr("tensor lm_head.weight has dtype F8_E4M3, expected BF16, F16 or F32"));
}

TEST_F(CheckpointTest, WantsABlockSizeForFp8Weights) {
  config_.fp8.reset();
  EXPECT_THAT(error(), HasSubstr("has dtype F8_E4M3, expected BF16, F16 or F32 (config.json has no quantization_config with weight_block_size)"));
}

TEST_F(CheckpointTest, TrustsDtypesOverAConfigThatStillSaysFp8) {
  testing_support::write_checkpoint(folder_, testing_support::tiny_config_json(testing_support::fp8_change(16)), {.expand_fp8 = true});
  EXPECT_EQ(error(), "no error");
}

TEST_F(CheckpointTest, FingerprintsConfigIndexHeadersAndSizes) {
  const std::string first = Checkpoint(folder_).fingerprint();
  EXPECT_EQ(first.size(), 32u);
  EXPECT_EQ(Checkpoint(folder_).fingerprint(), first);
  std::set<std::string> seen = {first};
  std::ofstream(folder_ / "config.json", std::ios::app) << " ";
  EXPECT_TRUE(seen.insert(Checkpoint(folder_).fingerprint()).second);
  std::ofstream(folder_ / "model.safetensors.index.json", std::ios::app) << " ";
  EXPECT_TRUE(seen.insert(Checkpoint(folder_).fingerprint()).second);
  entries_.push_back({"stranger", "F32", {1}, "abcd"});
  rewrite(3);
  EXPECT_TRUE(seen.insert(Checkpoint(folder_).fingerprint()).second);
  rewrite(1);
  EXPECT_TRUE(seen.insert(Checkpoint(folder_).fingerprint()).second);
}

// What a check that collects is told of the folder.
std::vector<std::string> problems_of(const std::filesystem::path& folder, const ModelConfig& config) {
  std::vector<std::string> problems;
  const Problems collect = [&](const Error& problem) { problems.push_back(problem.what()); };
  const Checkpoint checkpoint(open_storage(folder.string()), Headers::with_data, collect);
  checkpoint.resolve(config, tensor_table(config), collect);
  return problems;
}

TEST_F(CheckpointTest, TellsEveryProblemAtOnceWhenAsked) {
  EXPECT_THAT(problems_of(folder_, config_), testing::IsEmpty());
  entry("model.norm.weight").dtype = "I16";
  entry("model.layers.1.self_attn.q_a_proj.weight").shape = {64, 48};
  drop("model.layers.2.input_layernorm.weight");
  rewrite(4);
  std::filesystem::resize_file(folder_ / "model-00002-of-000004.safetensors", std::filesystem::file_size(folder_ / "model-00002-of-000004.safetensors") - 10);
  std::filesystem::remove(folder_ / "model-00004-of-000004.safetensors");
  EXPECT_THAT(problems_of(folder_, config_),
              testing::UnorderedElementsAre(HasSubstr("model-00004-of-000004.safetensors is missing"), AllOf(HasSubstr("model-00002-of-000004.safetensors"), HasSubstr("truncated")),
                                            AllOf(HasSubstr("model.norm.weight"), HasSubstr("dtype I16")), AllOf(HasSubstr("layers.1.self_attn.q_a_proj.weight"), HasSubstr("[64, 48]")),
                                            AllOf(HasSubstr("layers.2.input_layernorm.weight"), HasSubstr("is missing"))));
}

TEST_F(CheckpointTest, TellsProblemsOfTheIndexAtOnceWhenAsked) {
  json changed = index();
  std::string moved, other;
  for (const auto& [name, file] : changed["weight_map"].items()) {
    if (file == "model-00001-of-000003.safetensors" && moved.empty()) moved = name;
    if (file == "model-00002-of-000003.safetensors" && other.empty()) other = name;
  }
  changed["weight_map"][moved] = "model-00003-of-000003.safetensors";
  changed["weight_map"][other] = 7;
  changed["weight_map"]["more"] = "../escape";
  write_index(changed.dump());
  EXPECT_THAT(problems_of(folder_, config_),
              testing::UnorderedElementsAre(AllOf(HasSubstr("holds tensor " + moved), HasSubstr("00003")), AllOf(HasSubstr("names tensor " + moved), HasSubstr("does not hold it")),
                                            HasSubstr("no file name for tensor " + other), HasSubstr("\"../escape\""), AllOf(HasSubstr(moved), HasSubstr("is missing"))));
  write_index("{");
  EXPECT_THAT(problems_of(folder_, config_), testing::SizeIs(1));
}

}  // namespace
}  // namespace dsinfer
