// Weights that are made up: for every config, from any place, the same on every rank; and a model that runs on them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>

#include "checkpoint_writer.hpp"
#include "dsinfer/engine.hpp"
#include "ranks.hpp"
#include "scratch_folder.hpp"
#include "storage/storage.hpp"
#include "weights/checkpoint.hpp"
#include "weights/dummy_storage.hpp"

namespace dsinfer {
namespace {

using test::on_threads;
using testing::HasSubstr;
using testing_support::tiny_config_json;

class DummyWeights : public testing::Test {
 protected:
  void SetUp() override { folder_.file("config.json", tiny_config_json(testing_support::fp8_change(16))); }
  std::string model(uint64_t seed = 3) const { return "dummy://" + folder_.path() + "?seed=" + std::to_string(seed); }
  ScratchFolder folder_;
};

std::string error_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

std::vector<std::byte> bytes_of(Source& source, int64_t begin, int64_t end) {
  std::vector<std::byte> bytes(static_cast<size_t>(end - begin));
  source.read(begin, bytes);
  return bytes;
}

TEST_F(DummyWeights, AreTheSameBytesWhateverTheRanges) {
  const auto whole_file = open_dummy(model())->open("model-00002.safetensors"), again = open_dummy(model())->open("model-00002.safetensors");
  const std::vector<std::byte> whole = bytes_of(*whole_file, 0, whole_file->size());
  std::mt19937 random{1};
  const auto size = static_cast<int>(whole.size());
  for (int round = 0; round < 400; ++round) {
    const int begin = std::uniform_int_distribution<int>(0, size)(random), length = std::min(size - begin, 1 << std::uniform_int_distribution<int>(0, 17)(random));
    const std::vector<std::byte> part = bytes_of(*again, begin, begin + length);
    ASSERT_EQ(0, std::memcmp(part.data(), whole.data() + begin, part.size())) << begin << " + " << length;
  }
  EXPECT_THAT(error_of([&] { bytes_of(*again, size - 1, size + 1); }), HasSubstr("ends at byte"));
}

TEST_F(DummyWeights, DifferByTensorAndBySeed) {
  const Checkpoint checkpoint(open_weights(model(3))), other(open_weights(model(4)));
  const auto of = [](const Checkpoint& c, const std::string& name) {
    const Location* at = c.find(name);
    return bytes_of(*c.open(at->file), at->entry.begin, at->entry.end);
  };
  const std::string up = "model.layers.1.mlp.experts.0.up_proj.weight";
  EXPECT_NE(of(checkpoint, up), of(checkpoint, "model.layers.1.mlp.experts.1.up_proj.weight"));
  EXPECT_NE(of(checkpoint, up), of(other, up));
  EXPECT_NE(checkpoint.fingerprint(), other.fingerprint());
}

TEST_F(DummyWeights, DecodeToNumbersOfTheDeviationThatKeepsActivationsInBounds) {
  const Checkpoint checkpoint(open_weights(model()));
  const auto deviation = [&](const std::string& name, const std::function<double(const std::byte*, size_t)>& value, size_t count) {
    const Location* at = checkpoint.find(name);
    const auto bytes = bytes_of(*checkpoint.open(at->file), at->entry.begin, at->entry.end);
    double squares = 0;
    for (size_t i = 0; i < count; ++i) squares += std::pow(value(bytes.data(), i), 2);
    return std::sqrt(squares / static_cast<double>(count));
  };
  const auto bf16 = [](const std::byte* at, size_t i) {
    uint16_t bits;
    std::memcpy(&bits, at + 2 * i, 2);
    return double{bf16_to_f32(bits)};
  };
  const auto e4m3 = [](const std::byte* at, size_t i) { return double{e4m3_to_f32(static_cast<uint8_t>(at[i]))}; };
  const auto f32 = [](const std::byte* at, size_t i) {
    float value;
    std::memcpy(&value, at + 4 * i, 4);
    return double{value};
  };
  EXPECT_NEAR(deviation("model.embed_tokens.weight", bf16, 320 * 64), 1, 0.05);
  EXPECT_NEAR(deviation("lm_head.weight", bf16, 320 * 64), 4 / 8.0, 0.03);
  EXPECT_EQ(deviation("model.norm.weight", bf16, 64), 1);
  EXPECT_NEAR(deviation("model.layers.1.mlp.gate.e_score_correction_bias", f32, 16), 0.01, 0.006);
  const std::string o = "model.layers.0.self_attn.o_proj.weight";  // 16 heads of 16
  EXPECT_NEAR(deviation(o, e4m3, 64 * 256) * deviation(o + "_scale_inv", f32, 4 * 16), 1 / 16.0, 0.005);
}

TEST_F(DummyWeights, HaveEveryTensorOfDeepSeekV3InThePublishedDtypes) {
  nlohmann::json config = nlohmann::json::parse(read_text(*open_storage(DSINFER_TEST_DATA "/configs"), "deepseek-v3.json"));
  folder_.file("config.json", config.dump());
  const auto storage = open_weights(model());
  int64_t bytes = 0, files = 0;
  for (; files < 100; ++files) {
    const std::string number = std::to_string(files + 1), name = "model-" + std::string(5 - number.size(), '0') + number + ".safetensors";
    if (!storage->exists(name)) break;
    const auto file = storage->open(name);
    uint64_t header = 0;
    file->read(0, std::as_writable_bytes(std::span(&header, 1)));
    bytes += file->size() - static_cast<int64_t>(8 + header);
  }
  EXPECT_EQ(files, 1 + 61 + 1);  // globals, layers, the prediction layer
  EXPECT_EQ(bytes, 688'574'839'360);  // of the published files
  config["num_hidden_layers"] = 4;    // what a loader makes of all of it takes half a minute with sanitizers
  folder_.file("config.json", config.dump());
  const Checkpoint checkpoint(open_weights(model()));
  const ModelConfig four = ModelConfig::load(folder_.path());
  const auto table = tensor_table(four);
  EXPECT_EQ(checkpoint.tensors().size(), table.size());
  EXPECT_GT(checkpoint.resolve(four, table).size(), 1500u);
}

TEST_F(DummyWeights, StandInForBfloat16AndFourBitCheckpointsToo) {
  const nlohmann::json awq = {{"quantization_config", {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 16}, {"version", "gemm"}, {"zero_point", true}}}};
  for (const nlohmann::json& change : {nlohmann::json::object(), awq}) {
    folder_.file("config.json", tiny_config_json(change));
    on_threads(1, [&](World& world) {
      ForwardOptions options;
      options.model = model();
      options.max_len = 64;
      options.num_pages = 8;
      Forward forward(world, options);
      ForwardSequence sequence;
      sequence.tokens = {1, 2, 3};
      sequence.pages = {0};
      sequence.logit_rows = {2};
      const Logits logits = forward.run(std::vector{sequence});
      double squares = 0;
      for (const float logit : logits.row(0)) squares += double{logit} * logit;
      const double deviation = std::sqrt(squares / 320);
      EXPECT_GT(deviation, 1) << change.dump();
      EXPECT_LT(deviation, 16) << change.dump();
    });
  }
}

// The text of one rank and of four is the same, so they hold the same weights.
TEST_F(DummyWeights, GiveTheSameTextUnderEveryPlan) {
  const auto text_of = [&](int ranks, const std::string& plan) {
    std::vector<int32_t> tokens;
    on_threads(ranks, [&](World& world) {
      EngineOptions options;
      options.forward.model = model();
      options.forward.plan = solve(ModelConfig::load(folder_.path()), PlanRequest::parse(plan, ranks));
      options.forward.max_len = 64;
      options.forward.threads = 1;
      Engine engine(world, options);
      if (world.rank() != 0) {
        while (engine.follow(std::chrono::milliseconds(100)) != StepResult::shutdown) {}
        return;
      }
      Request request;
      request.prompt = {5, 6, 7};
      request.max_tokens = 12;
      request.ignore_eos = true;
      engine.submit(request);
      std::vector<Event> events;
      for (bool ended = false; !ended; events.clear()) {
        engine.step(events);
        for (const Event& event : events) {
          if (event.kind == Event::Kind::token) tokens.push_back(event.token);
          ended |= event.kind != Event::Kind::token;
        }
      }
      engine.shutdown();
    });
    return tokens;
  };
  const std::vector<int32_t> one = text_of(1, "tp=1");
  EXPECT_EQ(one.size(), 12u);
  EXPECT_EQ(text_of(2, "tp=2"), one);
  EXPECT_EQ(text_of(4, "pp=2,dp=2,ep=2"), one);
}

TEST_F(DummyWeights, LandAsTheyAreInTheirFilesWhateverTheirSize) {
  nlohmann::json change = testing_support::fp8_change(16);
  change["vocab_size"] = 20000;  // an embedding of 2.5 MB, longer than what is read in one go
  folder_.file("config.json", tiny_config_json(change));
  const Checkpoint checkpoint(open_weights(model()));
  on_threads(2, [&](World& world) {
    const Plan plan = solve(ModelConfig::load(folder_.path()), PlanRequest::parse("tp=2", 2));
    const LoadedWeights weights = load(world, model(), plan);
    int compared = 0;
    for (const LoadedTensor& tensor : weights.tensors()) {
      if (tensor.name != "model.embed_tokens.weight" && tensor.name != "lm_head.weight") continue;
      const Location* at = checkpoint.find(tensor.name);
      const int64_t half = (at->entry.end - at->entry.begin) / 2, begin = at->entry.begin + world.rank() * half;
      const std::vector<std::byte> bytes = bytes_of(*checkpoint.open(at->file), begin, begin + half);
      EXPECT_EQ(0, std::memcmp(tensor.data, bytes.data(), bytes.size())) << tensor.name;
      ++compared;
    }
    EXPECT_EQ(compared, 2);
  });
}

TEST_F(DummyWeights, AreRefusedWhereTheyHaveNoSense) {
  on_threads(1, [&](World& world) {
    const Plan plan = solve(ModelConfig::load(folder_.path()), PlanRequest::parse("tp=1", 1));
    LoadOptions options;
    EXPECT_EQ(load(world, model(), plan, options).report().method, "dummy weights");
    for (const ReadMethod method : {ReadMethod::uring, ReadMethod::direct, ReadMethod::mmap}) {
      options.method = method;
      EXPECT_THAT(error_of([&] { load(world, model(), plan, options); }), HasSubstr("dummy weights lie in no file"));
    }
    options = {};
    options.shard_cache = folder_.path("cache");
    EXPECT_THAT(error_of([&] { load(world, model(), plan, options); }), HasSubstr("a shard cache has no sense"));
    EXPECT_THAT(error_of([&] { save_shards(world, model(), plan, folder_.path("cache")); }), HasSubstr("saving shards has no sense"));
    EXPECT_THAT(error_of([&] { verify_checkpoint(world, model(), VerifyDepth::quick); }), HasSubstr("verifying has no sense"));
  });
  EXPECT_THAT(error_of([&] { probe_storage(model()); }), HasSubstr("probing the storage has no sense"));
}

TEST_F(DummyWeights, NameWhatIsWrongWithTheirName) {
  for (const char* name : {"dummy://", "dummy://?seed=1", "dummy:///m?seed=", "dummy:///m?seed=-1", "dummy:///m?seed=18446744073709551616", "dummy:///m?grain=1", "dummy://hf://org/repo"})
    EXPECT_THAT(error_of([&] { open_dummy(name); }), HasSubstr("expected dummy://FOLDER or dummy://FOLDER?seed=N")) << name;
  EXPECT_THAT(error_of([] { open_dummy("dummy:///no/such/folder"); }), HasSubstr("no such model folder"));
  ScratchFolder empty;
  EXPECT_THAT(error_of([&] { open_dummy("dummy://" + empty.path()); }), HasSubstr("no config.json is there"));
  EXPECT_THAT(error_of([&] { open_dummy(model())->open("model-00099.safetensors"); }), HasSubstr("is no file of dummy weights"));
}

TEST_F(DummyWeights, DoNotLookAtWeightsThatLieInTheFolder) {
  folder_.file("model.safetensors", "no weights");
  folder_.file("model.safetensors.index.json", "no index");
  EXPECT_FALSE(open_dummy(model())->exists("model.safetensors"));
  EXPECT_GT(Checkpoint(open_weights(model())).tensors().size(), 100u);
}

}  // namespace
}  // namespace dsinfer
