/// Feeds a rank's rows to a Landing in portions and orders that depend on a seed, and compares sets of weights bit by bit.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "weights/landing.hpp"

namespace dsinfer::test {

/// Rows [begin, end) of a piece, dense, from its file.
inline std::vector<std::byte> rows_of(Source& file, const ShardPiece& piece, int64_t begin, int64_t end) {
  const int64_t size = dtype_size(piece.tensor.dtype), row_bytes = piece.cut.cols.size() * size;
  const int64_t stride = piece.range.rows == 1 ? row_bytes : piece.range.stride;  // whole rows lie together
  std::vector<std::byte> bytes(static_cast<size_t>((end - begin) * row_bytes));
  for (int64_t row = begin; row < end; ++row)
    file.read(piece.range.offset + row * stride, {bytes.data() + (row - begin) * row_bytes, static_cast<size_t>(row_bytes)});
  return bytes;
}

inline WeightSet feed(const std::filesystem::path& folder, const ModelConfig& config, const RankPlan& rank, Backend& backend, WeightFormat format, unsigned seed) {
  const Checkpoint checkpoint(folder);
  const std::vector<TensorSpec> table = tensor_table(config);
  const std::vector<ShardPiece> pieces = shard_pieces(checkpoint.resolve(config, table), config, rank);
  const auto landing = Landing::make(checkpoint, pieces, config, rank, backend, format);
  struct Portion { int piece; int64_t begin, end; };
  std::vector<Portion> portions;
  std::mt19937 random(seed);
  for (size_t i = 0; i < pieces.size(); ++i) {
    const int64_t together = rows_together(*pieces[i].tensor.spec, pieces[i].tensor.dtype, config, format), rows = pieces[i].cut.rows.size();
    for (int64_t row = 0; row < rows;) {
      const int64_t end = std::min(rows, row + together * (1 + static_cast<int64_t>(random() % 40)));
      portions.push_back({static_cast<int>(i), row, end});
      row = end;
    }
  }
  std::shuffle(portions.begin(), portions.end(), random);
  std::stable_sort(portions.begin(), portions.end(), [&](const Portion& a, const Portion& b) {
    return landing_phase(*pieces[static_cast<size_t>(a.piece)].tensor.spec) < landing_phase(*pieces[static_cast<size_t>(b.piece)].tensor.spec);
  });
  std::vector<std::unique_ptr<Source>> files(checkpoint.files().size());
  for (const Portion& p : portions) {
    const ShardPiece& piece = pieces[static_cast<size_t>(p.piece)];
    auto& file = files[static_cast<size_t>(piece.range.file)];
    if (!file) file = checkpoint.open(piece.range.file);
    const std::vector<std::byte> bytes = rows_of(*file, piece, p.begin, p.end);
    std::byte* there = random() % 2 ? landing->direct(p.piece, p.begin, p.end) : nullptr;
    if (there) {
      std::copy(bytes.begin(), bytes.end(), there);
      landing->arrived(p.piece, p.begin, p.end);
    } else {
      landing->take(p.piece, p.begin, p.end, bytes);
    }
  }
  return landing->finish({});
}

inline std::string bytes_of(TensorView view) { return view ? std::string(reinterpret_cast<const char*>(view.data), static_cast<size_t>(view.bytes())) : std::string(); }

inline void expect_same_weight(const Weight& a, const Weight& b, const std::string& name) {
  ASSERT_EQ(a.format, b.format) << name;
  ASSERT_EQ(a.data.shape_text(), b.data.shape_text()) << name;
  ASSERT_EQ(bytes_of(a.data), bytes_of(b.data)) << name;
  ASSERT_EQ(a.scale.shape_text(), b.scale.shape_text()) << name;
  ASSERT_EQ(bytes_of(a.scale), bytes_of(b.scale)) << name;
}

inline void expect_same_weights(const WeightSet& a, const WeightSet& b, const ModelConfig& config) {
  EXPECT_EQ(a.bytes(), b.bytes());
  for (const TensorSpec& spec : tensor_table(config)) {
    if (spec.is_scale) continue;
    ASSERT_EQ(a.has(spec.name), b.has(spec.name)) << spec.name;
    if (!a.has(spec.name)) continue;
    if (spec.shape.size() == 1) { ASSERT_EQ(bytes_of(a.vector(spec.name)), bytes_of(b.vector(spec.name))) << spec.name; continue; }
    expect_same_weight(a.matrix(spec.name), b.matrix(spec.name), spec.name);
    if (!spec.name.ends_with("kv_b_proj.weight")) continue;
    expect_same_weight(a.key_up(spec.name), b.key_up(spec.name), spec.name + " key_up");
    expect_same_weight(a.value_up(spec.name), b.value_up(spec.name), spec.name + " value_up");
  }
}

}  // namespace dsinfer::test
