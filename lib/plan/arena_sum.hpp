/// Sums of bytes as an Arena lays them out, which absurd sizes do not overflow.
#pragma once
#include <algorithm>
#include <initializer_list>

#include "core/buffer.hpp"

namespace dsinfer {

// Sizes of absurd plans end here instead of overflowing: more than any memory, and sums of a few stay in range.
inline constexpr int64_t kMostBytes = int64_t{1} << 55;

inline int64_t product(std::initializer_list<int64_t> factors) {
  int64_t result = 1;
  for (const int64_t factor : factors) {
    if (factor == 0) return 0;
    if (result > kMostBytes / factor) result = kMostBytes; else result *= factor;
  }
  return result;
}

class ArenaSum {
 public:
  explicit ArenaSum(int64_t element) : element_(element) {}
  void rows(std::initializer_list<int64_t> dims) { add(product(dims), element_); }
  void words(std::initializer_list<int64_t> dims) { add(product(dims), 4); }  // f32 and i32 wherever it runs
  void raw(std::initializer_list<int64_t> dims) { add(product(dims), 1); }
  /// The largest of what may stand in the same place.
  void any_of(std::initializer_list<ArenaSum> sums) {
    int64_t most = 0;
    for (const ArenaSum& sum : sums) most = std::max(most, sum.bytes_);
    bytes_ = std::min(bytes_ + most, kMostBytes);
  }
  int64_t bytes() const { return bytes_; }

 private:
  void add(int64_t count, int64_t element) { bytes_ = std::min(bytes_ + static_cast<int64_t>(Arena::aligned(static_cast<size_t>(product({count, element})))), kMostBytes); }
  int64_t element_, bytes_ = 0;
};

}  // namespace dsinfer
