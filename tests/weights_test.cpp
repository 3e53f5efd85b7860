#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <atomic>
#include <map>
#include <mutex>
#include <thread>

#include "checkpoint_writer.hpp"
#include "dsinfer/error.hpp"
#include "spoilt_backend.hpp"
#include "ranks.hpp"
#include "weights/loader.hpp"

namespace dsinfer {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing_support::fp8_change;
using testing_support::tiny_config_json;

// A tensor as f32, decoded on its own: what the loader's slices are compared with.
struct Whole { std::vector<float> values; int64_t rows = 0, cols = 1; };

float decode(const std::string& bytes, const std::string& dtype, size_t i) {
  uint16_t half = 0;
  if (dtype == "F32") { float value; std::memcpy(&value, &bytes[4 * i], 4); return value; }
  if (dtype == "F8_E4M3") return e4m3_to_f32(static_cast<uint8_t>(bytes[i]));
  std::memcpy(&half, &bytes[2 * i], 2);
  return dtype == "BF16" ? bf16_to_f32(half) : f16_to_f32(half);
}

std::map<std::string, Whole> decode_all(const std::vector<testing_support::SafetensorsWriter::Entry>& entries, const ModelConfig& config) {
  std::map<std::string, Whole> wholes;
  for (const auto& entry : entries) {
    Whole whole;
    whole.rows = entry.shape[0];
    if (entry.shape.size() > 1) whole.cols = entry.shape[1];
    for (int64_t i = 0; i < whole.rows * whole.cols; ++i) whole.values.push_back(decode(entry.bytes, entry.dtype, static_cast<size_t>(i)));
    wholes[entry.name] = std::move(whole);
  }
  for (auto& [name, whole] : wholes) {
    const auto scale = wholes.find(name + "_scale_inv");
    if (scale == wholes.end()) continue;
    for (int64_t r = 0; r < whole.rows; ++r)
      for (int64_t c = 0; c < whole.cols; ++c)
        whole.values[static_cast<size_t>(r * whole.cols + c)] *= scale->second.values[static_cast<size_t>(r / config.fp8->block_rows * scale->second.cols + c / config.fp8->block_cols)];
  }
  return wholes;
}

// The slice [rows) × [cols) of a whole tensor, row-major.
std::vector<float> slice(const Whole& whole, Range rows, Range cols) {
  std::vector<float> out;
  for (int64_t r = rows.begin; r < rows.end; ++r)
    for (int64_t c = cols.begin; c < cols.end; ++c) out.push_back(whole.values[static_cast<size_t>(r * whole.cols + c)]);
  return out;
}

std::vector<float> decoded(const Weight& weight) {
  std::vector<float> out(static_cast<size_t>(weight.out_dim() * weight.in_dim()));
  decode_rows(out.data(), weight, 0, weight.out_dim());
  return out;
}

std::vector<float> floats(TensorView view) { return {view.as<float>(), view.as<float>() + view.elements()}; }

// Counts the bytes that go through it.
class CountingSource final : public Source {
 public:
  CountingSource(std::unique_ptr<Source> inner, std::atomic<int64_t>& data_bytes) : inner_(std::move(inner)), data_bytes_(data_bytes) {}
  const std::string& name() const override { return inner_->name(); }
  int64_t size() const override { return inner_->size(); }
  void read(int64_t offset, std::span<std::byte> out) override {
    data_bytes_ += static_cast<int64_t>(out.size());
    inner_->read(offset, out);
  }

 private:
  std::unique_ptr<Source> inner_;
  std::atomic<int64_t>& data_bytes_;
};

class CountingStorage final : public Storage {
 public:
  CountingStorage(const std::filesystem::path& folder, std::atomic<int64_t>& data_bytes) : inner_(open_storage(folder.string())), data_bytes_(data_bytes) {}
  const std::string& name() const override { return inner_->name(); }
  bool exists(const std::string& file) override { return inner_->exists(file); }
  std::unique_ptr<Source> open(const std::string& file) override { return std::make_unique<CountingSource>(inner_->open(file), data_bytes_); }

 private:
  std::unique_ptr<Storage> inner_;
  std::atomic<int64_t>& data_bytes_;
};

class WeightsTest : public testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove_all(folder_); }
  // One dense and one MoE layer of 8 experts.
  void write(const nlohmann::json& changes, const testing_support::CheckpointOptions& options = {}) {
    nlohmann::json smaller = {{"num_hidden_layers", 2}, {"n_routed_experts", 8}};
    smaller.merge_patch(changes);
    config_ = testing_support::write_checkpoint(folder_, tiny_config_json(smaller), options);
    wholes_ = decode_all(testing_support::checkpoint_entries(config_, options), config_);
  }
  Plan plan(const std::string& spec, int world) const { return solve(config_, PlanRequest::parse(spec, world)); }

  // All ranks of the plan load together, as threads; `each` sees what they have. Gives the error that one met, empty if none did.
  std::string load_all(const Plan& p, const std::function<void(int, RankWeights)>& each = {}, LoadOptions options = {}, Backend* backend = nullptr, const Checkpoint* checkpoint = nullptr) {
    std::optional<Checkpoint> own;
    if (!checkpoint) checkpoint = &own.emplace(folder_);
    std::vector<std::unique_ptr<World>> worlds = thread_worlds(p.world_size);
    std::vector<std::thread> threads;
    std::mutex mutex;
    std::string error;
    for (std::unique_ptr<World>& world : worlds)
      threads.emplace_back([&] {
        const std::string mine = error_of([&] {
          in_agreement(*world, [&] {
            const auto rank_backend = make_backend("cpu", {.threads = 1});
            RankWeights loaded = load_rank(*world, *checkpoint, p, backend ? *backend : *rank_backend, options);
            const std::lock_guard lock(mutex);
            if (each) each(world->rank(), std::move(loaded));
          });
        });
        const std::lock_guard lock(mutex);
        if (mine != "no error") error = mine;
      });
    for (std::thread& thread : threads) thread.join();
    return error;
  }
  WeightSet load(const Plan& p, int rank) {
    WeightSet mine;
    EXPECT_EQ(load_all(p, [&](int r, RankWeights loaded) { if (r == rank) mine = std::move(loaded.weights); }), "");
    return mine;
  }

  // Every tensor that `rank` should hold equals its slice of the whole one, and nothing else is there.
  void expect_slices(const WeightSet& set, const RankPlan& rank, uintptr_t alignment = 64) {
    for (const TensorSpec& spec : tensor_table(config_)) {
      if (spec.is_scale) continue;
      const bool mine = (spec.layer < 0 ? (spec.home == Home::first_stage ? rank.first_stage : rank.last_stage) : rank.layers.contains(spec.layer)) &&
                        (spec.expert < 0 || rank.experts.contains(spec.expert));
      ASSERT_EQ(set.has(spec.name), mine) << spec.name;
      if (!mine) continue;
      const Whole& whole = wholes_.at(spec.name);
      if (spec.shape.size() == 1) { ASSERT_EQ(floats(set.vector(spec.name)), whole.values) << spec.name; continue; }
      const Range heads = {rank.heads.begin * spec.row_group, rank.heads.end * spec.row_group};
      Range rows = {0, whole.rows}, cols = {0, whole.cols};
      switch (spec.split) {
        case Split::whole: break;
        case Split::vocab_rows: rows = rank.vocab; break;
        case Split::head_rows: rows = heads; break;
        case Split::head_columns: cols = heads; break;
        case Split::dense_rows: rows = rank.dense_inter; break;
        case Split::dense_columns: cols = rank.dense_inter; break;
        case Split::shared_rows: rows = rank.shared_inter; break;
        case Split::shared_columns: cols = rank.shared_inter; break;
        case Split::expert_rows: rows = rank.moe_inter; break;
        case Split::expert_columns: cols = rank.moe_inter; break;
      }
      const Weight& weight = set.matrix(spec.name);
      ASSERT_EQ(reinterpret_cast<uintptr_t>(weight.data.data) % alignment, 0u);
      ASSERT_EQ(decoded(weight), slice(whole, rows, cols)) << spec.name;
      if (spec.name.find("kv_b_proj") != std::string::npos) expect_absorbed(set, spec.name, whole, rank);
    }
  }

  void expect_absorbed(const WeightSet& set, const std::string& name, const Whole& whole, const RankPlan& rank) {
    const int64_t nope = config_.qk_nope_head_dim, value = config_.v_head_dim, latent = config_.kv_lora_rank;
    const TensorView key = set.key_up(name).data, up = set.value_up(name).data;
    ASSERT_EQ(key.shape_text(), "[" + std::to_string(rank.heads.size()) + ", " + std::to_string(latent) + ", " + std::to_string(nope) + "]");
    for (int64_t h = 0; h < rank.heads.size(); ++h) {
      const int64_t row = (rank.heads.begin + h) * (nope + value);
      ASSERT_EQ(floats(up.slice(0, h, h + 1)), slice(whole, {row + nope, row + nope + value}, {0, latent}));
      for (int64_t d = 0; d < nope; ++d)
        for (int64_t r = 0; r < latent; ++r) ASSERT_EQ(key.as<float>()[(h * latent + r) * nope + d], whole.values[static_cast<size_t>((row + d) * latent + r)]);
    }
  }

  // All ranks load through a counting source: each gets its slices, and together they read every byte once.
  void expect_exact(const std::string& spec, int world) {
    SCOPED_TRACE(spec);
    const Plan p = plan(spec, world);
    std::atomic<int64_t> bytes = 0;
    const Checkpoint checkpoint(std::make_shared<CountingStorage>(folder_, bytes));
    bytes = 0;
    int64_t whole = 0, config_bytes = static_cast<int64_t>(std::filesystem::file_size(folder_ / "config.json"));
    const std::vector<TensorSpec> table = tensor_table(config_);
    for (const StoredTensor& tensor : checkpoint.resolve(config_, table)) whole += tensor.at.entry.end - tensor.at.entry.begin;
    for (const ReadMethod method : {ReadMethod::automatic, ReadMethod::pread, ReadMethod::direct}) {
      LoadOptions options;
      options.method = method;
      std::vector<int64_t> done(static_cast<size_t>(world)), total(static_cast<size_t>(world));
      std::mutex mutex;
      std::map<std::thread::id, int64_t> last;
      options.progress = [&](const LoadProgress& progress) {
        const std::lock_guard lock(mutex);
        EXPECT_GE(progress.bytes_done, last[std::this_thread::get_id()]);
        last[std::this_thread::get_id()] = progress.bytes_done;
        EXPECT_LE(progress.bytes_done, progress.bytes_total);
        EXPECT_LE(progress.all_bytes_done, progress.all_bytes_total);
        return true;
      };
      bytes = 0;
      const std::string error = load_all(p, [&](int rank, RankWeights loaded) {
        const RankMemory memory = rank_memory(folder_, p, rank);
        EXPECT_EQ(loaded.weights.bytes(), memory.weight_bytes);
        EXPECT_EQ(loaded.report.bytes_held, memory.weight_bytes);
        EXPECT_DOUBLE_EQ(loaded.report.read_amplification, 1);
        expect_slices(loaded.weights, p.rank(rank));
      }, options, nullptr, &checkpoint);
      EXPECT_EQ(error, "");
      if (method == ReadMethod::pread) { EXPECT_EQ(bytes, whole + world * config_bytes); }
    }
  }

  // Matrices that are held as they are stored stay in their files, cut or not; what is left is read. `mapped`: whether any is.
  void expect_mapped(const std::string& spec, int world, WeightFormat format = WeightFormat::as_stored, bool mapped = true) {
    SCOPED_TRACE(spec);
    const Plan p = plan(spec, world);
    LoadOptions options, copied;
    options.method = ReadMethod::mmap;
    options.weights = copied.weights = format;
    const LoadPlan dry = plan_load(folder_, p, options), whole = plan_load(folder_, p, copied);
    const std::string error = load_all(p, [&](int rank, RankWeights loaded) {
      const LoadReport& report = loaded.report;
      const RankMemory memory = rank_memory(folder_, p, rank, format);
      EXPECT_EQ(report.bytes_held + report.bytes_mapped, memory.weight_bytes);
      EXPECT_EQ(report.bytes_mapped > 0, mapped);
      EXPECT_EQ(report.bytes_read, dry.ranks[static_cast<size_t>(rank)].bytes_read);
      EXPECT_LE(report.bytes_read, whole.ranks[static_cast<size_t>(rank)].bytes_read);
      EXPECT_TRUE(report.method.starts_with("mmap")) << report.method;
      if (format == WeightFormat::as_stored) expect_slices(loaded.weights, p.rank(rank), 1);
    }, options);
    EXPECT_EQ(error, "");
    if (mapped) { EXPECT_LT(dry.bytes_read, whole.bytes_read); }  // these files' headers leave some data unaligned
  }

  template <class Call> std::string error_of(const Call& call) {
    try {
      call();
    } catch (const Error& e) {
      return std::string(code_name(e.code())) + ": " + e.what();
    }
    return "no error";
  }
  std::string load_error() { return load_all(plan("", 1)); }

  std::filesystem::path folder_ = std::filesystem::path(testing::TempDir()) / (std::string("weights_") + testing::UnitTest::GetInstance()->current_test_info()->name());
  ModelConfig config_;
  std::map<std::string, Whole> wholes_;
  std::unique_ptr<Backend> backend_ = make_backend("cpu", {.threads = 1});  // what the spoilt ones stand on
};

TEST_F(WeightsTest, GivesEachRankExactlyItsSlicesOfFp8Blocks) {
  write(fp8_change(16), {.shards = 3});
  expect_exact("", 1);
  expect_exact("pp=2,dp=2,ep=1", 4);
  expect_exact("dp=4,ep=4", 4);
}

TEST_F(WeightsTest, CutsFp8RowsAndColumnsBetweenBlocks) {
  write({{"n_shared_experts", 2}, {"quantization_config", fp8_change(8)["quantization_config"]}});
  expect_exact("tp=4,pp=2", 8);
  expect_exact("tp=2,dp=2,ep=2", 4);
}

TEST_F(WeightsTest, LeavesMatricesInMappedFiles) {
  write(fp8_change(16), {.shards = 3});
  expect_mapped("", 1);
  expect_mapped("pp=2,dp=2,ep=1", 4);
  expect_mapped("", 1, WeightFormat::bf16);  // embedding, head and gates are not quantised
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    write({{"q_lora_rank", 0}}, {.dtype = dtype, .shards = 2});
    expect_mapped("", 1);
    expect_mapped("tp=2,dp=2,ep=2", 4);
    expect_mapped("tp=4,ep=1", 4);
  }
}

TEST(MappedModel, IsReadForVectorsAndScalesOnly) {
  const ModelConfig config = ModelConfig::load(DSINFER_MINI_DIR);
  LoadOptions options;
  options.method = ReadMethod::mmap;
  const Plan plan = solve(config, PlanRequest{});
  EXPECT_LT(plan_load(DSINFER_MINI_DIR, plan, options).bytes_read, plan_load(DSINFER_MINI_DIR, plan).bytes_read / 50);
}

TEST_F(WeightsTest, RefusesToMapWhatCannotBe) {
  write(fp8_change(16));
  LoadOptions options;
  options.method = ReadMethod::mmap;
  options.shard_cache = folder_;
  EXPECT_THAT(load_all(plan("", 1), {}, options), AllOf(HasSubstr("invalid_argument"), HasSubstr("shard cache")));
  options.shard_cache.clear();
  std::atomic<int64_t> bytes = 0;
  const Checkpoint unmappable(std::make_shared<CountingStorage>(folder_, bytes));
  EXPECT_THAT(load_all(plan("", 1), {}, options, nullptr, &unmappable), AllOf(HasSubstr("unsupported"), HasSubstr("model"), HasSubstr("cannot be mapped")));
  const auto world = single_world();
  EXPECT_THAT(error_of([&] { save_shards(*world, folder_, plan("", 1), folder_ / "shards", options); }), HasSubstr("choose another method"));
}

TEST_F(WeightsTest, KeepsRaggedBlocksWhole) {
  write({{"hidden_size", 72}, {"kv_lora_rank", 40}, {"quantization_config", fp8_change(16)["quantization_config"]}});
  expect_exact("", 1);
  expect_exact("tp=2,ep=2", 2);
}

TEST_F(WeightsTest, GivesEachRankItsSlicesOfEveryDtype) {
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    write({{"q_lora_rank", 0}}, {.dtype = dtype, .shards = 2});
    expect_exact("tp=2,dp=2,ep=2", 4);
  }
  write(nlohmann::json::object());
  expect_exact("tp=16,ep=1", 16);
}

TEST_F(WeightsTest, TakesACastWhoseConfigStillSaysFp8) {
  write(fp8_change(16), {.expand_fp8 = true});
  expect_exact("tp=2,ep=1", 2);
}

TEST_F(WeightsTest, TakesScalesInBf16) {
  write(fp8_change(16));
  auto entries = testing_support::checkpoint_entries(config_);
  for (auto& entry : entries) {
    if (!entry.name.ends_with("_scale_inv")) continue;
    std::vector<float> values;
    for (size_t i = 0; i < entry.bytes.size() / 4; ++i) values.push_back(decode(entry.bytes, "F32", i));
    entry.bytes = testing_support::encode(values, DType::bf16);
    entry.dtype = "BF16";
  }
  testing_support::write_entries(folder_, entries, 1);
  wholes_ = decode_all(entries, config_);
  expect_exact("tp=2", 2);
}

TEST_F(WeightsTest, ReadsExpertsFusedAsTransformers5WritesThem) {
  for (const auto& change : {nlohmann::json::object(), fp8_change(16)}) {
    write(change);
    std::vector<testing_support::SafetensorsWriter::Entry> fused;
    std::map<std::string, size_t> at;
    const auto append = [&](const std::string& name, const testing_support::SafetensorsWriter::Entry& part, int64_t rows) {
      const auto [it, first] = at.emplace(name, fused.size());
      if (first) fused.push_back({name, part.dtype, {config_.n_routed_experts, rows, part.shape[1]}, ""});
      fused[it->second].bytes += part.bytes;
    };
    for (const auto& entry : testing_support::checkpoint_entries(config_)) {
      const size_t experts = entry.name.find(".experts.");
      if (experts == std::string::npos) { fused.push_back(entry); continue; }
      const std::string prefix = entry.name.substr(0, experts + 9), suffix = entry.name.ends_with("_scale_inv") ? "_scale_inv" : "";
      if (entry.name.find("down_proj") != std::string::npos) append(prefix + "down_proj" + suffix, entry, entry.shape[0]);
      else if (suffix.empty() || entry.name.find("gate_proj") != std::string::npos || entry.name.find("up_proj") != std::string::npos) append(prefix + "gate_up_proj" + suffix, entry, 2 * entry.shape[0]);
    }
    // Entries come as gate, gate's scale, up, up's scale, down: each expert's gate lies above its up.
    testing_support::write_entries(folder_, fused, 1);
    expect_exact("tp=2,dp=2,ep=2", 4);
  }
}

TEST_F(WeightsTest, RefusesScalesThatAreNotFinite) {
  write(fp8_change(16), {.shards = 2});
  const std::string name = "model.layers.1.mlp.experts.5.down_proj.weight_scale_inv";
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto entries = testing_support::checkpoint_entries(config_);
    for (auto& entry : entries) if (entry.name == name) std::memcpy(&entry.bytes[4 * 5], &bad, 4);  // [4, 2] blocks: number 5 is [2, 1]
    testing_support::write_entries(folder_, entries, 2);
    EXPECT_THAT(load_error(), AllOf(HasSubstr("bad_format: "), HasSubstr(".safetensors: tensor " + name), HasSubstr("at block [2, 1], expected finite numbers")));
    EXPECT_THAT(load_all(plan("dp=8", 8)), AllOf(HasSubstr("bad_format: rank 5 "), HasSubstr(name)));  // all hear of it
  }
}

TEST_F(WeightsTest, TakesZeroAndNegativeScales) {
  write(fp8_change(16));
  auto entries = testing_support::checkpoint_entries(config_);
  const float values[] = {0.0f, -1.5f};
  for (auto& entry : entries) if (entry.name.ends_with("_scale_inv")) std::memcpy(entry.bytes.data(), values, 8);
  testing_support::write_entries(folder_, entries, 1);
  wholes_ = decode_all(entries, config_);
  expect_exact("", 1);
}

TEST_F(WeightsTest, SaysHowMuchMemoryIsMissingBeforeItAllocates) {
  write(nlohmann::json::object());
  testing_support::SpoiltBackend poor(*backend_);
  poor.available = 500000;
  const int64_t needed = rank_memory(folder_, plan("", 1), 0).weight_bytes;
  EXPECT_GT(needed, 500000);
  EXPECT_THAT(load_all(plan("", 1), {}, {}, &poor),
              AllOf(HasSubstr("out_of_memory: rank 0: the weights need "), HasSubstr("500000 bytes (0.00 GB) are there"), HasSubstr("more ranks")));
  EXPECT_EQ(poor.allocated, 0u);
}

TEST_F(WeightsTest, RefusesAFormatThatTheBackendLacks) {
  write(fp8_change(16));
  testing_support::SpoiltBackend plain(*backend_);
  plain.no_fp8 = true;
  EXPECT_THAT(load_all(plan("", 1), {}, {}, &plain), AllOf(HasSubstr("unsupported: "), HasSubstr("cannot compute with")));
}

TEST_F(WeightsTest, GoesThroughTheHostToADevice) {
  write(fp8_change(16));
  testing_support::SpoiltBackend device(*backend_);
  device.place = Place::device;
  WeightSet there, here;
  EXPECT_EQ(load_all(plan("", 1), [&](int, RankWeights loaded) { there = std::move(loaded.weights); }, {}, &device), "");
  here = load(plan("", 1), 0);
  EXPECT_GT(device.copied, here.bytes());
  EXPECT_EQ(there.bytes(), here.bytes());
  expect_slices(there, plan("", 1).rank(0));  // the pretended device's memory can be read
}

TEST_F(WeightsTest, StopsOnAllRanksWhenOneCallbackSaysSo) {
  write(nlohmann::json::object());
  for (const int world : {1, 4}) {
    LoadOptions options;
    std::atomic<int> calls = 0;
    options.progress = [&](const LoadProgress&) { return ++calls < world; };
    EXPECT_THAT(load_all(plan(world == 1 ? "" : "tp=4,ep=1", world), {}, options), AllOf(HasSubstr("cancelled: "), HasSubstr("loading was cancelled by its progress callback")));
  }
}

TEST_F(WeightsTest, SaysWhatARankDoesNotHold) {
  write(nlohmann::json::object());
  const WeightSet set = load(plan("pp=2", 2), 1);
  EXPECT_THAT(error_of([&] { set.matrix("model.embed_tokens.weight"); }), HasSubstr("internal: this rank holds no matrix model.embed_tokens.weight"));
  EXPECT_THAT(error_of([&] { set.vector("model.layers.0.input_layernorm.weight"); }), HasSubstr("holds no vector"));
  EXPECT_THAT(error_of([&] { set.key_up("x"); }), HasSubstr("absorbed key matrix"));
}

TEST_F(WeightsTest, CountsTheCacheOfAStage) {
  write(nlohmann::json::object());
  EXPECT_EQ(rank_memory(folder_, plan("", 1), 0).cache_bytes_per_token, 2 * (32 + 16) * 4);
  EXPECT_EQ(rank_memory(folder_, plan("pp=2,tp=2", 4), 3).cache_bytes_per_token, 1 * (32 + 16) * 4);
}

}  // namespace
}  // namespace dsinfer
