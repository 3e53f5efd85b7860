/// Landing: from bytes as stored to weights as held: widening, decoding, quantising, repacking, absorbing.
#pragma once
#include <memory>
#include <span>

#include "backend/backend.hpp"
#include "weights/layout.hpp"
#include "weights/weight_set.hpp"

namespace dsinfer {

/// Rows of a stored tensor that must come together in one take(): a band of blocks where it is quantised on loading, a group of int4 rows; 1 for most.
/// Bands count from row 0 of the stored tensor. The same on every rank.
DSINFER_INTERNAL int64_t rows_together(const TensorSpec& spec, DType stored, const ModelConfig& config, WeightFormat format);

/// 0 for parts that others need for their conversion (scales and zero points), which must have landed whole before; 1 for the rest. The same on every rank.
DSINFER_INTERNAL int landing_phase(const TensorSpec& spec);

/// Takes the bytes of one rank's pieces in any order of pieces within a phase. Driven by one thread. Owns the rank's buffer.
class DSINFER_INTERNAL Landing {
 public:
  /// Allocates. `in_files`: matrices that lie in their files as they are held stay there; none of their rows are to land.
  /// Throws out_of_memory (rank, bytes needed and there, remedy), unsupported (format and backend, or files that cannot be mapped).
  static std::unique_ptr<Landing> make(const Checkpoint& checkpoint, const std::vector<ShardPiece>& pieces, const ModelConfig& config, const RankPlan& rank, Backend& backend,
                                       WeightFormat format, bool in_files = false, DType absorbed = DType::f32);
  virtual ~Landing() = default;
  /// Where rows [begin, end) of the piece's cut (counted from the cut's first row) may be written as they are stored, dense, in place of take(); nullptr where
  /// they need work (conversion, device memory). Columns: all of the cut's. Whoever wrote them there says so to arrived().
  virtual std::byte* direct(int piece, int64_t begin, int64_t end) = 0;
  virtual void arrived(int piece, int64_t begin, int64_t end) = 0;
  /// The bytes of rows [begin, end) of the piece's cut, dense. Each row once. Throws bad_format naming file, tensor and place for scales that are not finite.
  virtual void take(int piece, int64_t begin, int64_t end, std::span<const std::byte> bytes) = 0;
  /// As take() of bytes in memory of Backend::staging(), which stay as they are until that backend has uploaded() what is returned.
  virtual uint64_t take_staged(int piece, int64_t begin, int64_t end, std::span<const std::byte> bytes) = 0;
  /// After every row of every piece: checks that all is there, absorbs what is left, gives the weights. `poll` is called now and then; may throw.
  virtual WeightSet finish(const std::function<void()>& poll) = 0;
  virtual const HeldLayout& layout() const = 0;
  /// Of the rank's buffer.
  virtual Place place() const = 0;
  /// Keeps the rank's buffer alive: for reads that the system may still hold when a load is given up.
  virtual std::shared_ptr<void> memory() const = 0;
};

}  // namespace dsinfer
