// 4-bit numbers, scales and zero points as two programs write them, to the one layout of core/format.hpp.
#include <fmt/format.h>

#include <algorithm>

#include "weights/landing_piece.hpp"

namespace dsinfer {
namespace {

// Half byte j of an AWQ word belongs to output feature 8c + kAwqOrder[j]. Source: AutoAWQ, awq/utils/packing_utils.py.
constexpr int64_t kAwqOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
constexpr int64_t kPacked = 8;

uint32_t word_at(std::span<const std::byte> bytes, int64_t i) {
  uint32_t word;
  std::memcpy(&word, bytes.data() + 4 * i, sizeof word);
  return word;
}

void set_nibble(std::vector<uint8_t>& bytes, int64_t i, uint32_t value) {
  if (i / 2 >= static_cast<int64_t>(bytes.size())) return;  // of rows that pad the last word
  bytes[static_cast<size_t>(i / 2)] = static_cast<uint8_t>(bytes[static_cast<size_t>(i / 2)] | (value & 0xf) << (i % 2 * 4));
}

class PackedWords final : public PieceLander {
 public:
  PackedWords(LandingRoom& room, TensorView data) : room_(room), data_(data) {}
  std::byte* direct(int64_t begin, int64_t) override { return data_.place == Place::host ? data_.at(begin) : nullptr; }
  void take(int64_t begin, int64_t end, std::span<const std::byte> bytes) override {
    room_.fill(data_.rows(begin, end), [&](std::byte* out) { std::memcpy(out, bytes.data(), bytes.size()); });
  }

 private:
  LandingRoom& room_;
  TensorView data_;
};

void check_finite(const TensorView& scale, std::span<const std::byte> bytes, const PieceName& name, int64_t begin, std::vector<float>& values) {
  const auto count = static_cast<int64_t>(bytes.size()) / dtype_size(scale.dtype);
  values.resize(static_cast<size_t>(count));
  widen(values.data(), bytes.data(), scale.dtype, count);
  if (const auto bad = first_not_finite(values.data(), count)) refuse_scale(name, values[static_cast<size_t>(*bad)], begin, *bad);
}

class PackedScales final : public PieceLander {
 public:
  PackedScales(LandingRoom& room, TensorView scale, PieceName name) : room_(room), scale_(scale), name_(std::move(name)) {}
  void take(int64_t begin, int64_t end, std::span<const std::byte> bytes) override {
    check_finite(scale_, bytes, name_, begin, room_.values);
    room_.fill(scale_.rows(begin, end), [&](std::byte* out) { std::memcpy(out, bytes.data(), bytes.size()); });
  }

 private:
  LandingRoom& room_;
  TensorView scale_;
  PieceName name_;
};

// Eight rows of zero points are whole bytes; what comes in between waits for the last row.
class Zeros : public PieceLander {
 public:
  Zeros(LandingRoom& room, const Weight& target) : room_(room), zeros_(target.zeros), rows_(target.out_dim()), groups_(target.scale.dim(1)), bytes_(static_cast<size_t>(zeros_.dim(0))) {}
  void complete() override {
    room_.fill(zeros_, [&](std::byte* out) { std::memcpy(out, bytes_.data(), bytes_.size()); });
    bytes_ = {};
  }

 protected:
  void set(int64_t row, int64_t group, uint32_t value) {
    if (row < rows_) set_nibble(bytes_, row * groups_ + group, value);
  }
  LandingRoom& room_;
  TensorView zeros_;
  int64_t rows_, groups_;
  std::vector<uint8_t> bytes_;
};

class PackedZeros final : public Zeros {
 public:
  using Zeros::Zeros;
  void take(int64_t begin, int64_t end, std::span<const std::byte> bytes) override {
    for (int64_t r = begin, i = 0; r < end; ++r)
      for (int64_t g = 0; g < groups_; ++g, ++i)
        for (int64_t j = 0; j < kPacked; ++j) set(kPacked * r + j, g, word_at(bytes, i) >> (4 * j));
  }
};

class AwqZeros final : public Zeros {
 public:
  using Zeros::Zeros;
  void take(int64_t begin, int64_t end, std::span<const std::byte> bytes) override {
    for (int64_t g = begin, i = 0; g < end; ++g)
      for (int64_t c = 0; c < rows_ / kPacked; ++c, ++i)
        for (int64_t j = 0; j < kPacked; ++j) set(kPacked * c + kAwqOrder[j], g, word_at(bytes, i) >> (4 * j));
  }
};

class AwqScales final : public PieceLander {
 public:
  AwqScales(LandingRoom& room, TensorView scale, PieceName name) : room_(room), scale_(scale), name_(std::move(name)), bytes_(static_cast<size_t>(scale.bytes())) {}
  void take(int64_t begin, int64_t end, std::span<const std::byte> bytes) override {
    check_finite(scale_, bytes, name_, begin, room_.values);
    const int64_t rows = scale_.dim(0), groups = scale_.dim(1), size = dtype_size(scale_.dtype);
    for (int64_t g = begin; g < end; ++g)
      for (int64_t n = 0; n < rows; ++n) std::memcpy(bytes_.data() + (n * groups + g) * size, bytes.data() + ((g - begin) * rows + n) * size, static_cast<size_t>(size));
  }
  void complete() override {
    room_.fill(scale_, [&](std::byte* out) { std::memcpy(out, bytes_.data(), bytes_.size()); });
    bytes_ = {};
  }

 private:
  LandingRoom& room_;
  TensorView scale_;
  PieceName name_;
  std::vector<std::byte> bytes_;
};

// Rows are input features, words run over output features: a transposition of half bytes, two input features to a byte.
class AwqWords final : public PieceLander {
 public:
  AwqWords(LandingRoom& room, TensorView data) : room_(room), data_(data) {}
  void take(int64_t begin, int64_t end, std::span<const std::byte> bytes) override {
    if (begin % 2 != 0 || end % 2 != 0) throw Error(Error::internal, fmt::format("rows {} … {} of AWQ words are no pairs", begin, end));
    const TensorView target = data_.slice(1, begin / 2, end / 2);
    if (target.elements() == 0) return;
    const auto rows = end - begin;
    if (target.place == Place::host) transpose(reinterpret_cast<uint8_t*>(target.data), target.stride[0], bytes, rows);  // with its stride
    else room_.fill(target, [&](std::byte* out) { transpose(reinterpret_cast<uint8_t*>(out), target.dim(1), bytes, rows); });
  }

 private:
  void transpose(uint8_t* out, int64_t stride, std::span<const std::byte> bytes, int64_t rows) const {
    constexpr uint32_t kLow = 0x0f0f0f0f;
    constexpr int64_t kTile = 64;  // bytes of a row that are made at a time: a line of cache
    const int64_t words = data_.dim(0) / kPacked;
    uint8_t tile[kPacked][kTile];
    for (int64_t k = 0; k < rows / 2; k += kTile) {
      const int64_t width = std::min(kTile, rows / 2 - k);
      for (int64_t c = 0; c < words; ++c) {
        for (int64_t i = 0; i < width; ++i) {
          const uint32_t a = word_at(bytes, 2 * (k + i) * words + c), b = word_at(bytes, (2 * (k + i) + 1) * words + c);
          const uint32_t even = (a & kLow) | (b & kLow) << 4, odd = (a >> 4 & kLow) | (b & ~kLow);  // half bytes 0, 2, 4, 6 and 1, 3, 5, 7
          for (int64_t j = 0; j < 4; ++j) {
            tile[kAwqOrder[2 * j]][i] = static_cast<uint8_t>(even >> (8 * j));
            tile[kAwqOrder[2 * j + 1]][i] = static_cast<uint8_t>(odd >> (8 * j));
          }
        }
        for (int64_t j = 0; j < kPacked; ++j) std::memcpy(out + (kPacked * c + j) * stride + k, tile[j], static_cast<size_t>(width));
      }
    }
  }

  LandingRoom& room_;
  TensorView data_;
};

}  // namespace

std::unique_ptr<PieceLander> land_packed_words(LandingRoom& room, const Weight& target) { return std::make_unique<PackedWords>(room, target.data); }
std::unique_ptr<PieceLander> land_packed_scales(LandingRoom& room, const Weight& target, PieceName name) { return std::make_unique<PackedScales>(room, target.scale, std::move(name)); }
std::unique_ptr<PieceLander> land_packed_zeros(LandingRoom& room, const Weight& target) { return std::make_unique<PackedZeros>(room, target); }
std::unique_ptr<PieceLander> land_awq_words(LandingRoom& room, const Weight& target) { return std::make_unique<AwqWords>(room, target.data); }
std::unique_ptr<PieceLander> land_awq_scales(LandingRoom& room, const Weight& target, PieceName name) { return std::make_unique<AwqScales>(room, target.scale, std::move(name)); }
std::unique_ptr<PieceLander> land_awq_zeros(LandingRoom& room, const Weight& target) { return std::make_unique<AwqZeros>(room, target); }

}  // namespace dsinfer
