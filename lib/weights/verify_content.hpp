/// The content of tensors under a check: which bytes are looked at, by whom, and what they are like.
#pragma once
#include <chrono>
#include <functional>
#include <span>

#include "dsinfer/loader.hpp"
#include "weights/verify_survey.hpp"

namespace dsinfer {

/// Bytes of one tensor that are read and hashed in one go.
struct VerifyBlock {
  int tensor = 0;              ///< index into Survey::tensors
  int64_t begin = 0, end = 0;  ///< of the file
  int64_t bytes() const { return end - begin; }
};

/// In the order of the files. full: every byte. quick: scales and small tensors whole, of others a few places that depend on the name alone.
DSINFER_INTERNAL std::vector<VerifyBlock> verify_blocks(const Survey& survey, VerifyDepth depth);
/// Part `index` of `parts` of about equal cost: [first, last).
DSINFER_INTERNAL std::pair<size_t, size_t> part_of_blocks(const std::vector<VerifyBlock>& blocks, int index, int parts);

/// What a block's bytes are like.
struct BlockFinding {
  Hash128 hash;
  bool read = false;            ///< hash is there
  bool zeros = false;           ///< nothing but zero bits
  int64_t bad = 0, first_bad = -1;  ///< elements that are NaN or infinite, or below zero in a scale; place of the first in the tensor
};
DSINFER_INTERNAL BlockFinding look_at(const SurveyedTensor& tensor, const VerifyBlock& block, std::span<const std::byte> bytes);

/// Reads blocks [first, last). A block that cannot be read is told to `problems`; a file that fails often is given up. `advance(bytes)` is called after each
/// block, `poll` at least every 20 ms while nothing comes; both may throw.
DSINFER_INTERNAL std::vector<BlockFinding> read_blocks(const Survey& survey, std::span<const VerifyBlock> blocks, ProblemList& problems,
                                                       const std::function<void(int64_t)>& advance, const std::function<void()>& poll, std::chrono::milliseconds stall);

}  // namespace dsinfer
