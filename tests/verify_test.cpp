#include "weights/verify.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <mutex>

#include "checkpoint_writer.hpp"
#include "dsinfer/error.hpp"
#include "ranks.hpp"
#include "scratch_folder.hpp"
#include "weights/checkpoint.hpp"
#include "weights/verify_hashes.hpp"

namespace dsinfer {
namespace {

using namespace std::chrono_literals;
using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;
using testing_support::SafetensorsWriter;
using Entries = std::vector<SafetensorsWriter::Entry>;

const std::string& config_text() {
  static const std::string text = testing_support::tiny_config_json(testing_support::fp8_change(16));
  return text;
}

const Entries& sound_entries() {
  static const Entries entries = testing_support::checkpoint_entries(ModelConfig::parse(config_text()));
  return entries;
}

// A tiny FP8 model in three files, spoilt as a test likes.
class VerifyTest : public testing::Test {
 protected:
  VerifyTest() { write("model", sound_entries()); }

  void write(const std::string& name, const Entries& entries) {
    testing_support::write_entries(scratch_.path(name), entries, 3);
    scratch_.file(name + "/config.json", config_text());
  }
  std::string file(int number, const std::string& name = "model") const { return scratch_.path(name) + "/model-0000" + std::to_string(number) + "-of-000003.safetensors"; }

  // Writes bytes into a tensor of the folder.
  void spoil(const std::string& tensor, int64_t at, const std::string& bytes, const std::string& name = "model") {
    const Checkpoint checkpoint(scratch_.path(name));
    const Location* place = checkpoint.find(tensor);
    ASSERT_NE(place, nullptr) << tensor;
    std::fstream out(checkpoint.files()[static_cast<size_t>(place->file)].path, std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(place->entry.begin + at);
    out << bytes;
  }

  struct Asked {
    VerifyDepth depth = VerifyDepth::full;
    std::string hashes;
    ProgressCallback progress;
    std::vector<std::string> nodes = {"a"};  // names; the folder of node i is "model", but "copy" of the last if there are several
    bool last_has_copy = true;
  };
  // On `ranks` threads, dealt to the nodes in turn. All must get one report.
  VerifyReport verify(int ranks, const Asked& asked) {
    std::vector<VerifyReport> reports(static_cast<size_t>(ranks));
    test::on_threads(ranks, [&](World& world) {
      VerifyOptions options;
      options.depth = asked.depth;
      options.hashes = asked.hashes;
      options.progress = asked.progress;
      const size_t node = static_cast<size_t>(world.rank()) % asked.nodes.size();
      options.node = asked.nodes[node];
      const std::string folder = scratch_.path(asked.nodes.size() > 1 && node + 1 == asked.nodes.size() && asked.last_has_copy ? "copy" : "model");
      reports[static_cast<size_t>(world.rank())] = verify_checkpoint(world, [&] { return std::shared_ptr<Storage>(open_storage(folder)); }, options);
    });
    for (const VerifyReport& report : reports) {
      EXPECT_EQ(report.problems, reports[0].problems);
      EXPECT_EQ(report.fingerprint, reports[0].fingerprint);
      EXPECT_EQ(report.content_hash, reports[0].content_hash);
      EXPECT_EQ(report.bytes_checked, reports[0].bytes_checked);
    }
    return reports[0];
  }
  std::vector<std::string> quick() { return verify(4, {VerifyDepth::quick}).problems; }
  std::vector<std::string> full() { return verify(4, {VerifyDepth::full}).problems; }

  int64_t data_bytes() const {
    int64_t bytes = 0;
    for (const auto& entry : sound_entries()) bytes += static_cast<int64_t>(entry.bytes.size());
    return bytes;
  }

  ScratchFolder scratch_;
};

std::string bits16(uint16_t bits) { return {static_cast<char>(bits & 0xff), static_cast<char>(bits >> 8)}; }
std::string float_bytes(float value) { return std::string(reinterpret_cast<const char*>(&value), 4); }

const char* const kHead = "lm_head.weight";                                             // BF16 [320, 64]
const char* const kQuantised = "model.layers.1.self_attn.o_proj.weight";                // F8_E4M3 [64, 256]
const char* const kScale = "model.layers.1.self_attn.o_proj.weight_scale_inv";          // F32

TEST_F(VerifyTest, FindsNothingWrongWithASoundModel) {
  for (const int ranks : {1, 4, 16}) {
    const VerifyReport report = verify(ranks, {});
    EXPECT_THAT(report.problems, IsEmpty());
    EXPECT_EQ(report.tensors, static_cast<int64_t>(sound_entries().size()));
    EXPECT_EQ(report.bytes_checked, data_bytes());
    EXPECT_EQ(report.fingerprint, Checkpoint(scratch_.path("model")).fingerprint());
    EXPECT_EQ(report.content_hash.size(), 32u);
  }
  EXPECT_THAT(quick(), IsEmpty());
}

TEST_F(VerifyTest, HashDependsOnContentAloneNotOnRanksOrFiles) {
  const std::string hash = verify(1, {}).content_hash;
  EXPECT_EQ(verify(16, {}).content_hash, hash);
  testing_support::write_entries(scratch_.path("one"), sound_entries(), 1);
  scratch_.file("one/config.json", config_text());
  const auto world = single_world();
  EXPECT_EQ(verify_checkpoint(*world, scratch_.path("one"), VerifyDepth::full).content_hash, hash);
  spoil(kQuantised, 100, "\x11\x22");
  EXPECT_NE(verify(4, {}).content_hash, hash);
}

TEST_F(VerifyTest, TellsWhatHeadersTellAllAtOnce) {
  Entries entries = sound_entries();
  std::erase_if(entries, [](const auto& e) { return e.name == "model.layers.2.input_layernorm.weight"; });
  for (auto& e : entries) {
    if (e.name == "model.norm.weight") e.dtype = "I16";
    if (e.name == kQuantised) e.shape = {256, 64};
  }
  write("model", entries);
  std::filesystem::resize_file(file(3), std::filesystem::file_size(file(3)) - 10);
  for (const auto& problems : {quick(), full()})
    EXPECT_THAT(problems, UnorderedElementsAre(AllOf(HasSubstr("layers.2.input_layernorm.weight"), HasSubstr("is missing")), AllOf(HasSubstr("model.norm.weight"), HasSubstr("dtype I16")),
                                               AllOf(HasSubstr(kQuantised), HasSubstr("[256, 64]")), AllOf(HasSubstr("00003-of"), HasSubstr("truncated"))));
}

TEST_F(VerifyTest, TellsAMissingShardOnceNotItsTensors) {
  std::filesystem::remove(file(2));
  EXPECT_THAT(quick(), ElementsAre(HasSubstr("model-00002-of-000003.safetensors is missing")));
  EXPECT_THAT(full(), ElementsAre(HasSubstr("model-00002-of-000003.safetensors is missing")));
}

TEST_F(VerifyTest, TellsABadConfigAndABadIndex) {
  scratch_.file("model/config.json", "{}");
  EXPECT_THAT(quick(), ElementsAre(HasSubstr("config.json")));
  std::filesystem::remove(scratch_.path("model/config.json"));
  EXPECT_THAT(quick(), ElementsAre(HasSubstr("config.json is missing")));
  std::filesystem::create_directory(scratch_.path("model/config.json"));
  EXPECT_THAT(quick(), testing::Contains(HasSubstr("config.json: not a regular file")));
  std::filesystem::remove(scratch_.path("model/config.json"));
  scratch_.file("model/model.safetensors.index.json", "{");
  EXPECT_THAT(quick(), testing::Contains(HasSubstr("index.json")));
}

TEST_F(VerifyTest, ThrowsOnAllRanksWhereThereIsNoModel) {
  test::on_threads(4, [&](World& world) {
    try {
      verify_checkpoint(world, scratch_.path("nowhere"), VerifyDepth::quick);
      ADD_FAILURE();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Error::not_found);
      EXPECT_THAT(e.what(), HasSubstr("nowhere"));
    }
  });
}

TEST_F(VerifyTest, FindsValuesThatAreNotFiniteInEveryDtype) {
  Entries entries = sound_entries();
  for (auto& e : entries)
    if (e.name == "model.layers.0.self_attn.kv_a_layernorm.weight") {  // 32 of them, as F16
      e.dtype = "F16";
      e.bytes = std::string(64, '\x01') ;
    }
  write("model", entries);
  spoil("model.layers.0.self_attn.kv_a_layernorm.weight", 2 * 7, bits16(0xfc00));
  spoil(kHead, 2 * 5000, bits16(0x7f80) + bits16(0xffc0));
  spoil(kQuantised, 777, "\xff");
  spoil("model.layers.1.mlp.gate.e_score_correction_bias", 4 * 3, float_bytes(std::numeric_limits<float>::quiet_NaN()));
  EXPECT_THAT(full(), UnorderedElementsAre(AllOf(HasSubstr("0.self_attn.kv_a_layernorm.weight holds 1 values"), HasSubstr("element 7 ")),
                                           AllOf(HasSubstr("lm_head.weight holds 2 values"), HasSubstr("element 5000 ")), AllOf(HasSubstr("o_proj.weight holds 1 values"), HasSubstr("element 777 ")),
                                           AllOf(HasSubstr("e_score_correction_bias holds 1 values"), HasSubstr("element 3 "))));
}

TEST_F(VerifyTest, QuickLooksAtEveryScaleAndAtSamplesOfEveryTensor) {
  spoil(kScale, 4 * 5, float_bytes(std::numeric_limits<float>::infinity()));
  spoil("model.layers.2.self_attn.o_proj.weight_scale_inv", 0, float_bytes(-0.5f));
  spoil("model.layers.3.self_attn.o_proj.weight_scale_inv", 0, float_bytes(-0.0f));  // is zero
  std::string nan;
  for (int i = 0; i < 320 * 64; ++i) nan += bits16(0x7fc0);
  spoil(kHead, 0, nan);
  EXPECT_THAT(quick(), UnorderedElementsAre(AllOf(HasSubstr(std::string(kScale) + " holds 1 values that are NaN or infinite or below zero"), HasSubstr("element 5 ")),
                                            AllOf(HasSubstr("layers.2.self_attn.o_proj.weight_scale_inv holds 1 values")), AllOf(HasSubstr(kHead), HasSubstr("sampled"))));
}

TEST_F(VerifyTest, FindsTheHolesOfADownloadThatNeverEnded) {
  spoil(kHead, 0, std::string(320 * 64 * 2, '\0'));
  EXPECT_THAT(quick(), ElementsAre(AllOf(HasSubstr(kHead), HasSubstr("nothing but zeros"))));
  EXPECT_THAT(full(), ElementsAre(AllOf(HasSubstr(kHead), HasSubstr("nothing but zeros"))));
}

TEST_F(VerifyTest, LeavesAListOfHashesAndComparesWithIt) {
  const std::string list = scratch_.path("hashes.json");
  const VerifyReport first = verify(4, {VerifyDepth::full, list});
  EXPECT_TRUE(first.good());
  const TensorHashes hashes = read_hashes(list);
  EXPECT_EQ(hashes.size(), sound_entries().size());
  EXPECT_THAT(verify(3, {VerifyDepth::full, list}).problems, IsEmpty());
  spoil(kQuantised, 100, "\x11\x22");
  spoil(kHead, 100, "\x11\x22");
  EXPECT_THAT(verify(4, {VerifyDepth::full, list}).problems, UnorderedElementsAre(AllOf(HasSubstr(kQuantised), HasSubstr("has changed")), AllOf(HasSubstr(kHead), HasSubstr("has changed"))));
  EXPECT_EQ(read_hashes(list), hashes);
}

TEST_F(VerifyTest, ListsTensorsThatCameAndWent) {
  const std::string list = scratch_.path("hashes.json");
  verify(1, {VerifyDepth::full, list});
  Entries entries = sound_entries();
  entries.push_back({"stranger", "BF16", {2}, "abcd"});
  std::erase_if(entries, [](const auto& e) { return e.name == kHead; });
  write("model", entries);
  EXPECT_THAT(verify(2, {VerifyDepth::full, list}).problems, UnorderedElementsAre(AllOf(HasSubstr(kHead), HasSubstr("of shape"), HasSubstr("is missing")), AllOf(HasSubstr(kHead), HasSubstr("of the list")),
                                                                                  AllOf(HasSubstr("stranger"), HasSubstr("is not in the list"))));
}

TEST_F(VerifyTest, WritesNoListOfASpoiltModelAndTellsABadList) {
  const std::string list = scratch_.path("hashes.json");
  spoil(kQuantised, 0, "\x7f");
  EXPECT_THAT(verify(2, {VerifyDepth::full, list}).problems, testing::SizeIs(1));
  EXPECT_FALSE(std::filesystem::exists(list));
  spoil(kQuantised, 0, "\x01");
  for (const std::string bad : {"", "{", "[]", R"({"format": "other", "tensors": {}})", R"({"format": "dsinfer tensor hashes 1", "tensors": {"lm_head.weight": "12"}})"}) {
    scratch_.file("hashes.json", bad);
    EXPECT_THAT(verify(2, {VerifyDepth::full, list}).problems, ElementsAre(HasSubstr("hashes.json"))) << bad;
  }
  EXPECT_THAT(verify(2, {VerifyDepth::full, scratch_.path("no/such/folder/hashes.json")}).problems, ElementsAre(HasSubstr("no/such/folder")));
}

TEST_F(VerifyTest, ComparesTheCopiesOfNodes) {
  write("copy", sound_entries());
  const VerifyReport same = verify(16, {VerifyDepth::full, "", {}, {"n1", "n2", "n3"}});
  EXPECT_THAT(same.problems, IsEmpty());
  EXPECT_EQ(same.bytes_checked, 3 * data_bytes());  // every node its own copy
  spoil(kQuantised, 100, "\x11\x22", "copy");
  EXPECT_THAT(verify(16, {VerifyDepth::full, "", {}, {"n1", "n2", "n3"}}).problems, ElementsAre(AllOf(HasSubstr(kQuantised), HasSubstr("another content on n3 than on n1, n2"))));
}

TEST_F(VerifyTest, NamesTheNodeWhoseCopyIsSpoilt) {
  write("copy", sound_entries());
  spoil(kQuantised, 100, "\x7f", "copy");
  EXPECT_THAT(verify(4, {VerifyDepth::full, "", {}, {"n1", "n2"}}).problems,
              ElementsAre(AllOf(HasSubstr("on n2: "), HasSubstr("copy"), HasSubstr("holds 1 values")), AllOf(HasSubstr(kQuantised), HasSubstr("another content on n2 than on n1"))));
  std::filesystem::resize_file(file(2, "copy"), std::filesystem::file_size(file(2, "copy")) - 10);
  std::filesystem::remove(file(3, "copy"));
  const auto problems = verify(4, {VerifyDepth::quick, "", {}, {"n1", "n2"}}).problems;
  EXPECT_THAT(problems, testing::IsSupersetOf(std::vector<testing::Matcher<std::string>>{AllOf(HasSubstr("on n2: "), HasSubstr("truncated")), AllOf(HasSubstr("on n2: "), HasSubstr("00003"), HasSubstr("is missing")),
                                               AllOf(HasSubstr("another checkpoint on n2 than on n1"), HasSubstr("00003-of"))}));
}

TEST_F(VerifyTest, QuickSeesThatNodesHoldDifferentModels) {
  testing_support::CheckpointOptions other;
  other.seed = 2;
  write("copy", testing_support::checkpoint_entries(ModelConfig::parse(config_text()), other));  // the same headers
  EXPECT_THAT(verify(4, {VerifyDepth::quick, "", {}, {"n1", "n2"}}).problems, testing::Contains(HasSubstr("another content on n2 than on n1")));
}

TEST_F(VerifyTest, ReportsProgressOfAllRanks) {
  std::mutex mutex;
  LoadProgress last_of_all;
  int64_t least = std::numeric_limits<int64_t>::max();
  verify(4, {VerifyDepth::full, "", [&](const LoadProgress& progress) {
               const std::lock_guard lock(mutex);
               if (!progress.rank_part.empty()) last_of_all = progress;
               EXPECT_LE(progress.bytes_done, progress.bytes_total);
               EXPECT_LE(progress.all_bytes_done, progress.all_bytes_total);
               least = std::min(least, progress.bytes_done);
               return true;
             }});
  EXPECT_EQ(least, 0);
  EXPECT_EQ(last_of_all.all_bytes_done, data_bytes());
  EXPECT_EQ(last_of_all.all_bytes_total, data_bytes());
  EXPECT_THAT(last_of_all.rank_part, ElementsAre(1, 1, 1, 1));
}

TEST_F(VerifyTest, IsCancelledOnAllRanksByTheCallbackOfOne) {
  for (const int cancelling : {0, 2}) {
    test::on_threads(4, [&](World& world) {
      VerifyOptions options;
      options.depth = VerifyDepth::full;
      options.progress = [&](const LoadProgress&) { return world.rank() != cancelling; };
      try {
        verify_checkpoint(world, [&] { return std::shared_ptr<Storage>(open_storage(scratch_.path("model"))); }, options);
        ADD_FAILURE() << "rank " << world.rank();
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), Error::cancelled);
        EXPECT_EQ(e.rank(), cancelling);
      }
      EXPECT_TRUE(verify_checkpoint(world, scratch_.path("model"), VerifyDepth::quick).good());  // the World is as it was
    });
  }
}

// A folder in which one file breaks when its data is read.
class BrokenStorage final : public Storage {
 public:
  BrokenStorage(const std::string& folder, std::string broken, std::function<void()> on_read) : inner_(open_storage(folder)), broken_(std::move(broken)), on_read_(std::move(on_read)) {}
  const std::string& name() const override { return inner_->name(); }
  bool exists(const std::string& file) override { return inner_->exists(file); }
  std::unique_ptr<Source> open(const std::string& file) override {
    auto source = inner_->open(file);
    if (file == broken_ && ++opened_ > 1) return std::make_unique<BrokenSource>(std::move(source), on_read_);
    return source;
  }

 private:
  class BrokenSource final : public Source {
   public:
    BrokenSource(std::unique_ptr<Source> inner, const std::function<void()>& on_read) : inner_(std::move(inner)), on_read_(on_read) {}
    const std::string& name() const override { return inner_->name(); }
    int64_t size() const override { return inner_->size(); }
    void read(int64_t offset, std::span<std::byte> out) override {
      on_read_();
      inner_->read(offset, out);
    }

   private:
    std::unique_ptr<Source> inner_;
    const std::function<void()>& on_read_;
  };
  std::unique_ptr<Storage> inner_;
  std::string broken_;
  std::function<void()> on_read_;
  int opened_ = 0;
};

TEST_F(VerifyTest, GivesUpAFileThatCannotBeReadAndGoesOn) {
  const std::string name = "model-00002-of-000003.safetensors";
  test::on_threads(4, [&](World& world) {
    const VerifyReport report = verify_checkpoint(world, [&] {
      return std::make_shared<BrokenStorage>(scratch_.path("model"), name, [&] { throw Error(Error::io, file(2) + ": reading 4096 bytes at 8: Input/output error"); });
    }, {VerifyDepth::full});
    EXPECT_THAT(report.problems, testing::Contains(AllOf(HasSubstr("cannot be read"), HasSubstr("00002-of"), HasSubstr("Input/output error"))));
    EXPECT_THAT(report.problems, testing::Contains(AllOf(HasSubstr("00002-of"), HasSubstr("given up"))));
    EXPECT_THAT(report.problems, Each(HasSubstr("00002-of")));
    EXPECT_EQ(report.content_hash, "");
  });
}

TEST_F(VerifyTest, TellsTheOthersWhenARankIsStuck) {
  test::on_threads(4, [&](World& world) {
    world.set_stall_timeout(500ms);
    try {
      verify_checkpoint(world, [&] {
        return std::make_shared<BrokenStorage>(scratch_.path("model"), "model-00001-of-000003.safetensors", [&] { if (world.rank() == 0) std::this_thread::sleep_for(2s); });
      }, {VerifyDepth::full});
      ADD_FAILURE();
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), AllOf(HasSubstr("nothing moved for 0.5 s"), HasSubstr(world.rank() == 0 ? "00001-of" : "rank 0")));
    }
  });
}

TEST_F(VerifyTest, OfTheShippedModelIsGood) {
  test::on_threads(4, [](World& world) { EXPECT_THAT(verify_checkpoint(world, DSINFER_MINI_DIR, VerifyDepth::full).problems, IsEmpty()); });
}

}  // namespace
}  // namespace dsinfer
