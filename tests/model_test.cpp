#include <gtest/gtest.h>

#include "core/bytes.hpp"
#include "model/batch.hpp"
#include "model/block_layers.hpp"
#include "model/moe.hpp"

namespace dsinfer {
namespace {

TEST(Batch, SurvivesTheTripBetweenRanks) {
  Batch batch;
  batch.step = 7;
  batch.parts.resize(3);
  batch.parts[1].tokens = {5, 6, 7, 8};
  batch.parts[1].segments = {{100, 1, true, {3, 1, 4}, {0}}, {0, 3, false, {9}, {1, 2}}};
  const std::string bytes = batch.to_bytes();
  const Batch copy = Batch::from_bytes(bytes);
  EXPECT_EQ(copy.to_bytes(), bytes);
  EXPECT_EQ(copy.step, 7u);
  EXPECT_EQ(copy.parts[1].num_logit_rows(), 3);
  EXPECT_EQ(copy.parts[1].segments[1].logit_rows, (std::vector<int32_t>{1, 2}));
  EXPECT_TRUE(copy.parts[2].segments.empty());
  for (size_t cut = 0; cut < bytes.size(); ++cut) EXPECT_THROW(Batch::from_bytes(std::string_view(bytes).substr(0, cut)), Error) << cut;
}

TEST(BlockLayers, LengthsFallIntoClassesOfPowersOfTwo) {
  BatchPart part;
  EXPECT_EQ(length_class(part, 5000).longest, 1024);
  part.segments = {{1022, 1, true, {}, {}}, {7, 1, true, {}, {}}};
  EXPECT_EQ(length_class(part, 5000).longest, 1024);
  EXPECT_EQ(length_class(part, 5000).number, 0);
  EXPECT_EQ(length_class(part, 600).longest, 600);
  part.segments.push_back({1000, 25, false, {}, {}});
  EXPECT_EQ(length_class(part, 5000).longest, 2048);
  EXPECT_EQ(length_class(part, 5000).number, 1);
  part.segments[1].position = 4500;
  EXPECT_EQ(length_class(part, 5000).longest, 5000);
  EXPECT_EQ(length_class(part, 5000).number, 3);
}

TEST(BlockLayers, SegmentsThatAreNoDecodeRowsKeepTheirPlaceInTheStep) {
  BatchPart part;
  part.segments = {{100, 1, true, {}, {}}, {9, 2, true, {}, {}}, {0, 3, false, {}, {}}, {64, 5, false, {}, {}}};
  const auto segments = prefill_segments(part);
  ASSERT_EQ(segments.size(), 2u);
  EXPECT_EQ(segments[0].first_row, 3);
  EXPECT_EQ(segments[0].rows, 3);
  EXPECT_EQ(segments[1].first_row, 6);
  EXPECT_EQ(segments[1].position, 64);
}

TEST(GateOptions, ScaleAndNormaliseAsEachFamilyDoes) {
  ModelConfig c;
  c.n_routed_experts = 16;
  c.num_experts_per_tok = 4;
  c.n_group = 4;
  c.topk_group = 2;
  c.routed_scaling_factor = 2.5;
  c.norm_topk_prob = true;
  EXPECT_TRUE(gate_options(c).normalise);
  EXPECT_EQ(gate_options(c).scale, 2.5f);
  EXPECT_TRUE(gate_options(c).group_score_top2);

  c.scoring_func = Scoring::softmax;
  c.topk_method = TopkMethod::group_limited_greedy;
  EXPECT_EQ(gate_options(c).scale, 1.0f);  // V2 scales only weights that it does not normalise
  EXPECT_FALSE(gate_options(c).group_score_top2);
  c.norm_topk_prob = false;
  EXPECT_EQ(gate_options(c).scale, 2.5f);
  c.topk_method = TopkMethod::greedy;
  EXPECT_FALSE(gate_options(c).grouped);
}

}  // namespace
}  // namespace dsinfer
