#include "weights/shard.hpp"

#include <algorithm>
#include <tuple>

namespace dsinfer {
namespace {

ShardRange range_of(const StoredTensor& tensor, const Cut& part) {
  const int64_t size = dtype_size(tensor.dtype);
  const int64_t cols = tensor.spec->shape.size() > 1 ? tensor.spec->shape[1] : 1;
  ShardRange range;
  range.file = tensor.at.file;
  range.offset = tensor.at.entry.begin + (part.rows.begin * cols + part.cols.begin) * size;
  if (part.cols.size() == cols) {  // whole rows lie together
    range.row_bytes = range.stride = part.elements() * size;
    return range;
  }
  range.row_bytes = part.cols.size() * size;
  range.rows = part.rows.size();
  range.stride = cols * size;
  return range;
}

}  // namespace

void sort_by_place(std::vector<StoredTensor>& tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const StoredTensor& a, const StoredTensor& b) { return std::tie(a.at.file, a.at.entry.begin) < std::tie(b.at.file, b.at.entry.begin); });
}

std::vector<ShardPiece> shard_pieces(const std::vector<StoredTensor>& tensors, const ModelConfig& config, const RankPlan& rank) {
  std::vector<ShardPiece> pieces;
  for (const StoredTensor& tensor : tensors)
    if (const auto part = cut(*tensor.spec, config, rank)) pieces.push_back({tensor, *part, range_of(tensor, *part)});
  const auto before = [](const ShardPiece& a, const ShardPiece& b) { return std::tie(a.range.file, a.range.offset) < std::tie(b.range.file, b.range.offset); };
  if (!std::is_sorted(pieces.begin(), pieces.end(), before)) std::sort(pieces.begin(), pieces.end(), before);
  return pieces;
}

}  // namespace dsinfer
