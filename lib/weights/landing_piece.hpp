/// PieceLander: how the rows of one stored tensor come to lie in memory.
#pragma once
#include <array>
#include <functional>
#include <memory>
#include <span>

#include "backend/backend.hpp"
#include "weights/convert.hpp"
#include "weights/layout.hpp"

namespace dsinfer {

/// What all pieces of one rank share.
struct LandingRoom {
  /// What is made on the host before it goes to a device: one is filled while the other is still read. They grow to the largest take().
  struct Made {
    Buffer memory;
    uint64_t upload = 0;
  };
  Backend& backend;
  std::array<Made, 2> made{};
  size_t turn = 0;
  std::vector<float> values{};     ///< values on their way to another format
  bool bytes_stay = false;         ///< those of this take(), until uploaded() of what it sets:
  uint64_t upload = 0;
  /// Fills `target`, or staging that is then copied to it, with the bytes of a dense tensor of its shape.
  void fill(TensorView target, const std::function<void(std::byte*)>& write);
};

/// What errors call a piece.
struct PieceName {
  std::string file, tensor;
  Cut cut;
  /// "[row, column]" in the stored tensor of element `flat` of rows that begin at row `begin` of the cut.
  std::string place(int64_t begin, int64_t flat) const;
};

/// Rows count from the cut's first; see Landing.
class PieceLander {
 public:
  virtual ~PieceLander() = default;
  virtual std::byte* direct(int64_t, int64_t) { return nullptr; }
  virtual void take(int64_t begin, int64_t end, std::span<const std::byte> bytes) = 0;
  /// All rows are there: what was kept for them may go, what waited for the last goes where it belongs.
  virtual void complete() {}
};

/// As stored, to `target` [rows, cols] or [rows].
std::unique_ptr<PieceLander> land_as_stored(LandingRoom& room, TensorView target);
/// Widened to f32. `scales`: refuses what is not finite.
std::unique_ptr<PieceLander> land_widened(LandingRoom& room, TensorView target, DType stored, PieceName name, bool scales);
/// Scales that no one holds, kept for land_decoded() until it is gone.
std::unique_ptr<PieceLander> keep_scales(std::shared_ptr<BlockScales> scales, DType stored, PieceName name);
/// E4M3 codes to BF16.
std::unique_ptr<PieceLander> land_decoded(LandingRoom& room, TensorView target, std::shared_ptr<BlockScales> scales, PieceName name);
/// BF16, F16 or F32 to E4M3 codes and scales, a band of blocks at a time.
std::unique_ptr<PieceLander> land_quantised(LandingRoom& room, const Weight& target, DType stored, PieceName name);

/// 4-bit numbers, words of eight along the input features (pack-quantized): they lie as we hold them.
std::unique_ptr<PieceLander> land_packed_words(LandingRoom& room, const Weight& target);
/// Their scales [out, groups], refused if not finite, and zero points, words of eight along the output features [⌈out / 8⌉, groups].
std::unique_ptr<PieceLander> land_packed_scales(LandingRoom& room, const Weight& target, PieceName name);
std::unique_ptr<PieceLander> land_packed_zeros(LandingRoom& room, const Weight& target);
/// AutoAWQ's: words [in, out / 8], zero points [groups, out / 8], scales [groups, out].
std::unique_ptr<PieceLander> land_awq_words(LandingRoom& room, const Weight& target);
std::unique_ptr<PieceLander> land_awq_scales(LandingRoom& room, const Weight& target, PieceName name);
std::unique_ptr<PieceLander> land_awq_zeros(LandingRoom& room, const Weight& target);

/// The error of a scale that is no finite number: element `flat` of rows from `begin` on.
[[noreturn]] void refuse_scale(const PieceName& name, float scale, int64_t begin, int64_t flat);

}  // namespace dsinfer
