#include "weights/read_plan.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "checkpoint_writer.hpp"
#include "dsinfer/error.hpp"
#include "headers_only.hpp"
#include "scratch_folder.hpp"

namespace dsinfer {
namespace {

using testing_support::tiny_config_json;

std::string text_of(const std::filesystem::path& path) {
  std::ostringstream out;
  out << std::ifstream(path).rdbuf();
  return out.str();
}

// Every legal plan of `config` up to `most` ranks.
std::vector<Plan> legal_plans(const ModelConfig& config, int most) {
  std::vector<Plan> plans;
  for (int tp = 1; tp <= most; tp *= 2)
    for (int pp = 1; tp * pp <= most; ++pp)
      for (int dp = 1; tp * pp * dp <= most; dp *= 2)
        for (int ep = 1; ep <= tp * dp; ep *= 2) {
          PlanRequest request;
          request.tp = tp, request.pp = pp, request.dp = dp, request.ep = ep, request.world_size = tp * pp * dp;
          try {
            plans.push_back(solve(config, request));
          } catch (const Error& e) {
            EXPECT_EQ(e.code(), Error::plan_refused) << e.what();
          }
        }
  return plans;
}

std::vector<int> nodes(int ranks, int ranks_per_node) {
  std::vector<int> node_of;
  for (int rank = 0; rank < ranks; ++rank) node_of.push_back(rank / ranks_per_node);
  return node_of;
}

// Each element of each stored tensor: how often a rank gets it, and how often each node reads it.
class Coverage {
 public:
  Coverage(const ReadPlan& reads, const Plan& plan) : reads_(reads), plan_(plan) {
    for (const Chunk& chunk : reads.chunks) count(chunk);
  }

  // Every rank gets each of its elements once, nothing else; every byte is read once by all the nodes that share it.
  void expect_exact() {
    for (int rank = 0; rank < plan_.world_size; ++rank) {
      const RankPlan part = plan_.rank(rank);
      for (size_t t = 0; t < reads_.tensors.size(); ++t) {
        const StoredTensor& tensor = reads_.tensors[t];
        const auto mine = cut(*tensor.spec, plan_.config, part);
        const int64_t want = mine ? mine->rows.size() : 0;
        ASSERT_EQ((rows_[{rank, static_cast<int>(t)}]), want) << tensor.spec->name << " rank " << rank;
      }
    }
  }
  const std::map<std::pair<int, int>, std::map<int64_t, int64_t>>& read_rows() const { return read_; }

 private:
  void count(const Chunk& chunk) {
    int64_t last = chunk.begin;
    for (int64_t i = chunk.first_part; i < chunk.first_part + chunk.num_parts; ++i) {
      const ChunkPart& part = reads_.parts[static_cast<size_t>(i)];
      const StoredTensor& tensor = reads_.tensors[static_cast<size_t>(part.tensor)];
      const int64_t begin = reads_.offset(part), end = begin + (part.end - part.begin) * reads_.row_bytes(tensor);
      ASSERT_GE(begin, last);
      ASSERT_LE(end, chunk.end);
      last = end;
      const auto& holders = reads_.holder_sets[static_cast<size_t>(part.holders)];
      ASSERT_THAT(holders, testing::Contains(chunk.reader));
      for (const int rank : holders) {
        const Cut got = part_for(reads_, part, plan_.config, plan_.rank(rank));
        ASSERT_EQ(got.rows, (Range{part.begin, part.end}));
        rows_[{rank, part.tensor}] += got.rows.size();
      }
      const int node = reads_.node_of[static_cast<size_t>(chunk.reader)];
      auto& rows = read_[{node, part.tensor}];
      const auto [it, fresh] = rows.emplace(part.begin, part.end);
      ASSERT_TRUE(fresh) << tensor.spec->name << " is read twice on node " << node;
      if (it != rows.begin()) { ASSERT_LE(std::prev(it)->second, part.begin); }
      if (std::next(it) != rows.end()) { ASSERT_LE(part.end, std::next(it)->first); }
    }
  }

  const ReadPlan& reads_;
  const Plan& plan_;
  std::map<std::pair<int, int>, int64_t> rows_;                           // (rank, tensor) → rows got
  std::map<std::pair<int, int>, std::map<int64_t, int64_t>> read_;        // (node, tensor) → rows read
};

class ReadPlanTest : public testing::Test {
 protected:
  void use(const nlohmann::json& changes) {
    config_ = testing_support::write_checkpoint(folder_.path(), tiny_config_json(changes), {.shards = 3});
    table_ = tensor_table(config_);
    checkpoint_.emplace(folder_.path());
  }
  ReadPlan reads(const Plan& plan, int ranks_per_node, const ReadPlanOptions& options = {}) const {
    return make_read_plan(checkpoint_->resolve(config_, table_), config_, plan, nodes(plan.world_size, ranks_per_node), options);
  }

  ScratchFolder folder_;
  ModelConfig config_;
  std::vector<TensorSpec> table_;
  std::optional<Checkpoint> checkpoint_;
};

TEST_F(ReadPlanTest, GivesEveryRankItsRowsOnceUnderEveryLegalPlan) {
  for (const auto& change : {nlohmann::json::object(), testing_support::fp8_change(16)}) {
    use(change);
    const std::vector<Plan> plans = legal_plans(config_, 16);
    EXPECT_GE(plans.size(), 25u);
    for (const Plan& plan : plans)
      for (const int a_node : {16, 4}) {
        SCOPED_TRACE(plan.spec() + ", " + std::to_string(a_node) + " ranks a node");
        const ReadPlan made = reads(plan, a_node, {.own_block = 8192, .shared_block = 4096});
        Coverage coverage(made, plan);
        coverage.expect_exact();
        if (HasFatalFailure()) return;
      }
  }
}

TEST_F(ReadPlanTest, ReadsEachByteOnceOnOneNode) {
  use(testing_support::fp8_change(16));
  int64_t whole = 0;
  for (const StoredTensor& tensor : checkpoint_->resolve(config_, table_)) whole += tensor.at.entry.end - tensor.at.entry.begin;
  for (const Plan& plan : legal_plans(config_, 16)) {
    SCOPED_TRACE(plan.spec());
    const ReadPlan made = reads(plan, 16);
    EXPECT_EQ(made.node_read, std::vector<int64_t>{whole});
    EXPECT_EQ(made.node_needed, std::vector<int64_t>{whole});
    int64_t sum = 0, sent = 0, received = 0;
    for (const RankLoad& rank : made.ranks) sum += rank.bytes_read, sent += rank.bytes_sent, received += rank.bytes_received;
    EXPECT_EQ(sum, whole);
    EXPECT_EQ(sent, received);
  }
}

TEST_F(ReadPlanTest, StaysWithinFivePerCentOfTheNeedOnEveryNode) {
  use(nlohmann::json::object());
  for (const Plan& plan : legal_plans(config_, 16))
    for (const int a_node : {8, 2}) {
      if (plan.world_size <= a_node) continue;
      SCOPED_TRACE(plan.spec() + ", " + std::to_string(a_node) + " ranks a node");
      const ReadPlan made = reads(plan, a_node, {.own_block = 8192, .shared_block = 1024});
      for (size_t node = 0; node < made.node_read.size(); ++node)
        EXPECT_LE(static_cast<double>(made.node_read[node]), 1.05 * static_cast<double>(made.node_needed[node])) << "node " << node;
    }
}

TEST_F(ReadPlanTest, SharesReadingOutEvenly) {
  use(nlohmann::json::object());
  for (const char* spec : {"tp=4,ep=1", "dp=4,ep=4", "tp=2,dp=2,ep=2"}) {
    const ReadPlan made = reads(solve(config_, PlanRequest::parse(spec, 4)), 4, {.own_block = 4096, .shared_block = 4096});
    int64_t least = INT64_MAX, most = 0;
    for (const RankLoad& rank : made.ranks) least = std::min(least, rank.bytes_read), most = std::max(most, rank.bytes_read);
    EXPECT_LE(most - least, most / 10) << spec;
  }
}

TEST_F(ReadPlanTest, KeepsBlocksWithinTheirLength) {
  use(nlohmann::json::object());
  const ReadPlan made = reads(solve(config_, PlanRequest::parse("tp=4,ep=1", 4)), 4, {.own_block = 4096, .shared_block = 2048});
  for (const Chunk& chunk : made.chunks) EXPECT_LE(chunk.end - chunk.begin, 4096);
}

TEST(LoadPlanOfDeepSeekV3, IsMadeFromHeadersAlone) {
  ScratchFolder folder;
  const std::string config_json = text_of(std::filesystem::path(DSINFER_TEST_DATA) / "configs" / "deepseek-v3.json");
  testing_support::write_headers(folder.path(), config_json, int64_t{4300} << 20);
  const ModelConfig config = ModelConfig::load(folder.path());
  const Plan plan = solve(config, PlanRequest::parse("tp=8,pp=2", 16));
  const LoadPlan load = plan_load(folder.path(), plan, {}, 8);
  EXPECT_EQ(load.files_cut_short, static_cast<int>(load.files.size()));
  EXPECT_GT(load.files.size(), 100u);
  EXPECT_LE(load.read_amplification, 1.05);
  ASSERT_EQ(load.ranks.size(), 16u);
  const RankMemory memory = rank_memory(folder.path(), plan, 3);
  EXPECT_EQ(load.ranks[3].bytes_needed, memory.read_bytes);
  EXPECT_GE(load.ranks[3].device_bytes, memory.weight_bytes);
  EXPECT_LE(load.ranks[3].device_bytes, memory.weight_bytes + memory.weight_bytes / 1000);
  for (const RankLoad& rank : load.ranks) {
    EXPECT_LE(rank.host_peak_bytes, int64_t{256} << 20);
    int64_t sum = 0;
    for (const ReadRange& range : rank.ranges) sum += range.bytes;
    EXPECT_EQ(sum, rank.bytes_read);
  }
  EXPECT_THAT(load.text(), testing::HasSubstr("hold their header alone"));
}

}  // namespace
}  // namespace dsinfer
