#include "weights/shard_cache.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <thread>

#include "checkpoint_writer.hpp"
#include "dsinfer/error.hpp"
#include "dsinfer/version.hpp"
#include "landed.hpp"
#include "ranks.hpp"
#include "scratch_folder.hpp"
#include "weights/new_file.hpp"
#include "weights/safetensors.hpp"
#include "weights/weight_set_builder.hpp"

namespace dsinfer {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<std::string> files_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  std::error_code code;
  for (const auto& entry : std::filesystem::directory_iterator(folder, code)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

void flip(const std::filesystem::path& path, int64_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const int byte = file.get();
  file.seekp(at);
  file.put(static_cast<char>(byte ^ 1));
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return std::string(code_name(e.code())) + ": " + e.what();
  }
  return "no error";
}

// A made-up rank of three tensors over several blocks of the file.
class ShardFileTest : public testing::Test {
 protected:
  static constexpr int64_t kRows = 3000, kCols = 4000;  // 24 MB of bf16
  ShardFileTest() {
    HeldTensor vector, matrix, quantised;
    vector = {.name = "norm.weight", .vector = true, .rows = 33, .cols = 1};
    vector.data_at = 0, vector.data_bytes = 33 * 4;
    matrix = {.name = "big.weight", .format = Format::bf16, .rows = kRows, .cols = kCols};
    matrix.data_at = 192, matrix.data_bytes = kRows * kCols * 2;
    quantised = {.name = "q.weight", .format = Format::fp8_block, .rows = 130, .cols = 256};
    quantised.block_rows = quantised.block_cols = 128;
    quantised.data_at = matrix.data_at + matrix.data_bytes, quantised.data_bytes = 130 * 256;
    quantised.scale_at = quantised.data_at + quantised.data_bytes, quantised.scale_bytes = 4 * 4;
    layout_.tensors = {vector, matrix, quantised};
    layout_.buffer_bytes = quantised.scale_at + 64;
    layout_.held_bytes = vector.data_bytes + matrix.data_bytes + quantised.data_bytes + quantised.scale_bytes;
    key_ = {"fingerprint", "{\"plan\": 1}", "tp=2", 1, 2, WeightFormat::as_stored, "layout"};
  }
  WeightSet weights(unsigned seed = 1) {
    Buffer buffer = backend_->allocate(static_cast<size_t>(layout_.buffer_bytes));
    auto* words = reinterpret_cast<uint32_t*>(buffer.data());
    for (int64_t i = 0; i < layout_.buffer_bytes / 4; ++i) words[i] = static_cast<uint32_t>(i) * 2654435761u + seed;
    return WeightSetBuilder::build(layout_, std::move(buffer), config_);
  }
  int64_t write(const ShardWatch& watch = {}) { return write_shard(folder_.path(), key_, layout_, weights(), *backend_, watch); }
  WeightSet read(const ShardFile::Reading& how = {}, const ShardWatch& watch = {}) { return ShardFile::find(folder_.path(), key_, layout_).value().read(layout_, config_, *backend_, how, watch); }
  std::string error() { return error_of([&] { read(); }); }
  std::string path() const { return folder_.path(key_.file_name()); }

  ScratchFolder folder_;
  ModelConfig config_;
  HeldLayout layout_;
  ShardKey key_;
  std::unique_ptr<Backend> backend_ = make_backend("cpu", {});
};

TEST_F(ShardFileTest, GivesBackWhatWasWrittenByEveryWayOfReading) {
  const int64_t bytes = write();
  EXPECT_EQ(bytes, static_cast<int64_t>(std::filesystem::file_size(path())));
  EXPECT_THAT(files_in(folder_.path()), ElementsAre(key_.file_name()));
  const WeightSet expected = weights();
  for (const IoEngine engine : {IoEngine::automatic, IoEngine::pread}) {
    for (const int64_t staging : {int64_t{1}, int64_t{64} << 20}) {
      int64_t done = 0;
      const WeightSet found = read({engine, 3, staging, std::chrono::seconds(20)}, {[&](int64_t n) { done += n; }, {}});
      const Buffer &a = WeightSetBuilder::buffer(found), &b = WeightSetBuilder::buffer(expected);
      EXPECT_EQ(std::memcmp(a.data(), b.data(), static_cast<size_t>(layout_.buffer_bytes)), 0);
      EXPECT_EQ(done, layout_.buffer_bytes);
    }
  }
}

TEST_F(ShardFileTest, IsASafetensorsFile) {
  write();
  const SafetensorsHeader header = read_safetensors(*open_file(path()));
  EXPECT_EQ(header.data_begin % 4096, 0);
  EXPECT_EQ(header.tensors.at("big.weight").dtype, "BF16");
  EXPECT_THAT(header.tensors.at("big.weight").shape, ElementsAre(kRows, kCols));
  EXPECT_EQ(header.tensors.at("big.weight").begin, header.data_begin + 192);
  EXPECT_THAT(header.tensors.at("q.weight#scale").shape, ElementsAre(2, 2));
  EXPECT_EQ(header.tensors.at("#pad.0").end, header.data_begin + 192);
  EXPECT_EQ(header.metadata.at("plan_spec"), "tp=2");
  EXPECT_EQ(header.metadata.at("library"), DSINFER_VERSION);
}

TEST_F(ShardFileTest, IsNothingWhereThereIsNone) {
  EXPECT_FALSE(ShardFile::find(folder_.path(), key_, layout_));
  EXPECT_FALSE(ShardFile::find(folder_.path("no/such/folder"), key_, layout_));
  folder_.file("rank-00007-of-00008.abc.safetensors", "of another rank");
  EXPECT_FALSE(ShardFile::find(folder_.path(), key_, layout_));
}

TEST_F(ShardFileTest, RefusesEveryEditedByte) {
  const int64_t bytes = write();
  const auto begin = read_safetensors(*open_file(path())).data_begin;
  for (const int64_t at : {int64_t{0}, int64_t{30}, int64_t{60}, begin / 2, begin - 1, begin, begin + 150, begin + (int64_t{8} << 20), bytes - 1}) {
    flip(path(), at);
    EXPECT_THAT(error(), AllOf(HasSubstr("bad_format"), HasSubstr(key_.file_name()), HasSubstr("save the shards again"))) << at;
    flip(path(), at);
  }
  flip(path(), begin + (int64_t{9} << 20));
  EXPECT_THAT(error(), AllOf(HasSubstr("big.weight"), HasSubstr("not what was written")));
  flip(path(), begin + (int64_t{9} << 20));
  EXPECT_EQ(error(), "no error");
}

TEST_F(ShardFileTest, RefusesAFileOfAnotherLength) {
  const int64_t bytes = write();
  for (const int64_t length : {bytes - 1, bytes + 1, bytes / 2, int64_t{5000}, int64_t{7}, int64_t{0}}) {
    std::filesystem::resize_file(path(), static_cast<uintmax_t>(length));
    EXPECT_THAT(error(), AllOf(HasSubstr("bad_format"), HasSubstr(key_.file_name()))) << length;
  }
}

TEST_F(ShardFileTest, TellsWhatElseItWasMadeOf) {
  write();
  const ShardKey sound = key_;
  const auto refused = [&] { return error_of([&] { ShardFile::find(folder_.path(), key_, layout_); }); };
  key_.checkpoint = "other";
  EXPECT_THAT(refused(), AllOf(HasSubstr("bad_format"), HasSubstr("the checkpoint's fingerprint is fingerprint, this run has other"), HasSubstr(sound.file_name())));
  key_ = sound, key_.plan = "{}", key_.plan_spec = "tp=1,dp=2";
  EXPECT_THAT(refused(), HasSubstr("the plan is tp=2, this run has tp=1,dp=2"));
  key_ = sound, key_.plan = "{}";
  EXPECT_THAT(refused(), HasSubstr("the plan tp=2 lays its ranks or stages out differently"));
  key_ = sound, key_.ranks = 4;
  EXPECT_THAT(refused(), HasSubstr("the number of ranks is 2, this run has 4"));
  key_ = sound, key_.weights = WeightFormat::bf16;
  EXPECT_THAT(refused(), HasSubstr("the format of the weights is as_stored, this run has bf16"));
  key_ = sound, key_.layout = "new";
  EXPECT_THAT(refused(), HasSubstr("layout"));
  key_ = sound, key_.rank = 0;
  EXPECT_FALSE(ShardFile::find(folder_.path(), key_, layout_));
}

TEST_F(ShardFileTest, RefusesOtherVersionsAndOtherNames) {
  write();
  std::string text;
  {
    std::ifstream in(path(), std::ios::binary);
    text.resize(std::filesystem::file_size(path()));
    in.read(text.data(), static_cast<std::streamsize>(text.size()));
  }
  const std::string library = "\"library\":\"" DSINFER_VERSION "\"";
  std::string older = library;
  older[older.size() - 2] = 'x';
  text.replace(text.find(library), library.size(), older);
  std::filesystem::remove(path());
  folder_.file("rank-00001-of-00002.00000000000000000000000000000000.safetensors", text);
  EXPECT_THAT(error_of([&] { ShardFile::find(folder_.path(), key_, layout_); }), AllOf(HasSubstr("bad_format"), HasSubstr("the library's version is"), HasSubstr("this run has " DSINFER_VERSION)));
  // The file of another rank under this rank's name.
  ShardKey other = key_;
  other.rank = 0;
  write_shard(folder_.path(), other, layout_, weights(), *backend_, {});
  std::filesystem::rename(folder_.path(other.file_name()), path());
  EXPECT_THAT(error(), AllOf(HasSubstr("bad_format"), HasSubstr("not what this library writes")));
  folder_.file(key_.file_name(), "rubbish and more rubbish");
  EXPECT_THAT(error(), HasSubstr("bad_format"));
}

TEST_F(ShardFileTest, LivesBesideFilesOfOtherKeys) {
  write();
  ShardKey other = key_;
  other.checkpoint = "other";
  write_shard(folder_.path(), other, layout_, weights(2), *backend_, {});
  EXPECT_EQ(error(), "no error");
  EXPECT_TRUE(ShardFile::find(folder_.path(), other, layout_));
}

TEST_F(ShardFileTest, LeavesNothingWhenWritingEnds) {
  for (int limit = 0; limit < 4; ++limit) {
    int blocks = 0;
    const ShardWatch watch = {{}, [&] { if (blocks++ == limit) throw Error(Error::cancelled, "enough"); }};
    const std::string error = error_of([&] { write(watch); });
    EXPECT_EQ(error, limit < 3 ? "cancelled: enough" : "no error") << limit;
    if (limit < 3) {
      EXPECT_THAT(files_in(folder_.path()), IsEmpty());
    }
  }
}

TEST_F(ShardFileTest, CanBeCancelledWhileItIsRead) {
  write();
  int blocks = 0;
  EXPECT_THAT(error_of([&] { read({}, {[&](int64_t) { if (++blocks == 2) throw Error(Error::cancelled, "enough"); }, {}}); }), "cancelled: enough");
  EXPECT_EQ(error(), "no error");
}

TEST_F(ShardFileTest, TellsAFullDiskAndLeavesNothing) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit small = before;
  small.rlim_cur = 1 << 20;
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string error = error_of([&] { write(); });
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_THAT(error, AllOf(HasSubstr("io: "), HasSubstr(key_.file_name()), HasSubstr("bytes")));
  EXPECT_THAT(files_in(folder_.path()), IsEmpty());
  folder_.file("plain", "a file");
  EXPECT_THAT(error_of([&] { write_shard(folder_.path("plain/cache"), key_, layout_, weights(), *backend_, {}); }), HasSubstr("io: "));
}

TEST_F(ShardFileTest, MayBeWrittenByManyAtOnce) {
  std::vector<std::thread> writers;
  for (int i = 0; i < 4; ++i) writers.emplace_back([&] { write(); });
  for (std::thread& writer : writers) writer.join();
  EXPECT_THAT(files_in(folder_.path()), ElementsAre(key_.file_name()));
  EXPECT_EQ(error(), "no error");
}

TEST(NewFile, SweepsWhatTheDeadLeftAndNothingElse) {
  ScratchFolder folder;
  NewFile living(folder.path("living"));
  living.write(0, "text");
  const pid_t child = fork();
  if (child == 0) {
    NewFile file(folder.path("dead"));
    file.write(0, "text");
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  folder.file(".mine.part2", "");
  EXPECT_EQ(files_in(folder.path()).size(), 3u);
  NewFile next(folder.path("next"));
  EXPECT_THAT(files_in(folder.path()), ElementsAre(testing::StartsWith(".living."), ".mine.part2", testing::StartsWith(".next.")));
  living.commit();
  EXPECT_EQ(std::filesystem::file_size(folder.path("living")), 4u);
}

// Ranks of a tiny checkpoint, landed from its files and kept.
class ShardCacheTest : public testing::Test {
 protected:
  void check(const nlohmann::json& change, const std::string& spec, int ranks, WeightFormat format) {
    nlohmann::json smaller = {{"num_hidden_layers", 2}, {"n_routed_experts", 8}};
    smaller.merge_patch(change);
    const ModelConfig config = testing_support::write_checkpoint(scratch_.path("model"), testing_support::tiny_config_json(smaller));
    const Checkpoint checkpoint(scratch_.path("model"));
    const auto table = tensor_table(config);
    const auto tensors = checkpoint.resolve(config, table);
    const Plan plan = solve(config, PlanRequest::parse(spec, ranks));
    const std::string folder = scratch_.path("cache" + spec);
    for (int rank = 0; rank < ranks; ++rank) {
      const WeightSet landed = test::feed(scratch_.path("model"), config, plan.rank(rank), *backend_, format, 1);
      const HeldLayout layout = held_layout(shard_pieces(tensors, config, plan.rank(rank)), config, format);
      const ShardKey key = shard_key(checkpoint, plan, rank, format, layout);
      write_shard(folder, key, layout, landed, *backend_, {});
      const WeightSet kept = ShardFile::find(folder, key, layout).value().read(layout, config, *backend_, {}, {});
      test::expect_same_weights(landed, kept, config);
      read_safetensors(*open_file(folder + "/" + key.file_name()));
    }
    EXPECT_EQ(files_in(folder).size(), static_cast<size_t>(ranks));
    std::filesystem::remove_all(folder);
  }
  ScratchFolder scratch_;
  std::unique_ptr<Backend> backend_ = make_backend("cpu", {});
};

TEST_F(ShardCacheTest, GivesEveryRankTheWeightsThatItHeld) {
  check({}, "tp=2,dp=2,ep=4", 4, WeightFormat::as_stored);
  check({}, "tp=4,pp=2,dp=2,ep=8", 16, WeightFormat::as_stored);
}

TEST_F(ShardCacheTest, KeepsWhatWasConverted) {
  check(testing_support::fp8_change(16), "tp=2", 2, WeightFormat::as_stored);
  check(testing_support::fp8_change(16), "tp=2", 2, WeightFormat::bf16);
}

// All ranks: what a caller sees.
class SavedShardsTest : public testing::Test {
 protected:
  SavedShardsTest() {
    config_ = testing_support::write_checkpoint(model(), testing_support::tiny_config_json({{"num_hidden_layers", 2}, {"n_routed_experts", 8}}));
    options_.shard_cache = cache();
  }
  std::string model() const { return scratch_.path("model"); }
  std::string cache() const { return scratch_.path("cache"); }
  Plan plan(int ranks) const { return solve(config_, PlanRequest::parse(ranks == 16 ? "tp=4,pp=2,dp=2,ep=8" : "tp=2,dp=2,ep=4", ranks)); }
  void save(int ranks) {
    test::on_threads(ranks, [&](World& world) { save_shards(world, model(), plan(ranks), cache()); });
  }
  // What every rank's load ends with: "cache", "model" or its error.
  std::vector<std::string> load_all(int ranks) {
    std::vector<std::string> ends(static_cast<size_t>(ranks));
    test::on_threads(ranks, [&](World& world) {
      std::string& end = ends[static_cast<size_t>(world.rank())];
      bool from_cache = false;
      end = error_of([&] { from_cache = load(world, model(), plan(ranks), options_).report().from_shard_cache; });
      if (end == "no error") end = from_cache ? "cache" : "model";
    });
    return ends;
  }
  std::string file_of(int rank) const {
    for (const std::string& name : files_in(cache()))
      if (name.starts_with("rank-0000" + std::to_string(rank))) return cache() + "/" + name;
    return "";
  }
  ScratchFolder scratch_;
  ModelConfig config_;
  LoadOptions options_;
};

TEST_F(SavedShardsTest, AreLoadedByAllRanksWithTheSameWeights) {
  for (const int ranks : {4, 16}) {
    save(ranks);
    EXPECT_EQ(files_in(cache()).size(), static_cast<size_t>(ranks));
    test::on_threads(ranks, [&](World& world) {
      const LoadedWeights a = load(world, model(), plan(ranks)), b = load(world, model(), plan(ranks), options_);
      EXPECT_FALSE(a.report().from_shard_cache);
      EXPECT_TRUE(b.report().from_shard_cache);
      EXPECT_EQ(a.report().bytes_held, b.report().bytes_held);
      EXPECT_GT(b.report().host_peak_bytes, 0);
      EXPECT_LE(b.report().host_peak_bytes, int64_t{256} << 20);
      const auto x = a.tensors(), y = b.tensors();
      ASSERT_EQ(x.size(), y.size());
      for (size_t i = 0; i < x.size(); ++i) {
        int64_t bytes = x[i].dtype == "F32" ? 4 : 2;
        for (const int64_t dim : x[i].shape) bytes *= dim;
        EXPECT_EQ(x[i].name, y[i].name);
        EXPECT_EQ(x[i].shape, y[i].shape);
        EXPECT_EQ(std::memcmp(x[i].data, y[i].data, static_cast<size_t>(bytes)), 0) << x[i].name;
      }
    });
    std::filesystem::remove_all(cache());
  }
}

TEST_F(SavedShardsTest, AreRefusedOnAllRanksIfOneIsEdited) {
  save(4);
  EXPECT_THAT(load_all(4), testing::Each("cache"));
  const std::string file = file_of(2);
  flip(file, static_cast<int64_t>(std::filesystem::file_size(file)) - 100);
  EXPECT_THAT(load_all(4), testing::Each(AllOf(HasSubstr("bad_format"), HasSubstr(file), HasSubstr("rank 2"))));
}

TEST_F(SavedShardsTest, AreRefusedForAChangedModelAndAnotherPlan) {
  save(4);
  {
    std::ofstream(model() + "/config.json", std::ios::app) << "\n";
  }
  EXPECT_THAT(load_all(4), testing::Each(AllOf(HasSubstr("bad_format"), HasSubstr("fingerprint"))));
  EXPECT_THAT(load_all(16), testing::Each(AllOf(HasSubstr("bad_format"), HasSubstr("the number of ranks is 4, this run has 16"))));
}

TEST_F(SavedShardsTest, AreNoFile) {
  scratch_.file("cache", "no folder");
  EXPECT_THAT(load_all(4), testing::Each(AllOf(HasSubstr("invalid_argument"), HasSubstr("no folder"))));
}

TEST_F(SavedShardsTest, NamesTheRankThatWouldSaveSomethingElse) {
  test::on_threads(4, [&](World& world) {
    LoadOptions options;
    if (world.rank() == 2) options.weights = WeightFormat::fp8;
    EXPECT_THAT(error_of([&] { save_shards(world, model(), plan(4), cache(), options); }), AllOf(HasSubstr("invalid_argument"), HasSubstr("the format of the weights held"), HasSubstr("rank 2")));
    EXPECT_THAT(error_of([&] { load(world, model(), plan(4), options); }), AllOf(HasSubstr("invalid_argument"), HasSubstr("the format of the weights held"), HasSubstr("rank 2")));
  });
  EXPECT_FALSE(std::filesystem::exists(cache()));
}

TEST_F(SavedShardsTest, AreLeftAloneIfARankHasNone) {
  EXPECT_THAT(load_all(4), testing::Each("model"));
  save(4);
  std::filesystem::remove(file_of(3));
  EXPECT_THAT(load_all(4), testing::Each("model"));
}

TEST_F(SavedShardsTest, LeaveNothingIfSavingIsCancelled) {
  test::on_threads(4, [&](World& world) {
    LoadOptions options;
    int calls = 0;
    options.progress = [&](const LoadProgress& progress) { return world.rank() != 1 || progress.bytes_done == 0 || ++calls < 2; };
    EXPECT_THAT(error_of([&] { save_shards(world, model(), plan(4), cache(), options); }), AllOf(HasSubstr("cancelled"), HasSubstr("rank 1")));
  });
  for (const std::string& name : files_in(cache())) EXPECT_FALSE(name.ends_with(".part")) << name;
  save(4);
  EXPECT_THAT(load_all(4), testing::Each("cache"));
}

}  // namespace
}  // namespace dsinfer
