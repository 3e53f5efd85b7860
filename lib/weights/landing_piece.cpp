#include "weights/landing_piece.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace dsinfer {
namespace {

TensorView dense(TensorView view, std::byte* data) {
  TensorView v = view;
  v.data = data;
  v.place = Place::host;
  int64_t step = 1;
  for (size_t i = view.rank; i-- > 0;) { v.stride[i] = step; step *= v.shape[i]; }
  return v;
}

class AsStored final : public PieceLander {
 public:
  AsStored(LandingRoom& room, TensorView target) : room_(room), target_(target) {}
  std::byte* direct(int64_t begin, int64_t) override { return target_.place == Place::host && target_.contiguous() ? target_.at(begin) : nullptr; }
  void take(int64_t begin, int64_t end, std::span<const std::byte> bytes) override {
    const TensorView rows = target_.rows(begin, end);
    if (rows.place == Place::host) return room_.fill(rows, [&](std::byte* out) { std::memcpy(out, bytes.data(), bytes.size()); });
    const TensorView from = dense(rows, const_cast<std::byte*>(bytes.data()));  // read alone; a device takes it from there
    if (room_.bytes_stay) room_.upload = room_.backend.upload(rows, from);
    else room_.backend.copy(rows, from);
  }

 private:
  LandingRoom& room_;
  TensorView target_;
};

class Widened final : public PieceLander {
 public:
  Widened(LandingRoom& room, TensorView target, DType stored, PieceName name, bool scales) : room_(room), target_(target), stored_(stored), name_(std::move(name)), scales_(scales) {}
  void take(int64_t begin, int64_t end, std::span<const std::byte> bytes) override {
    const TensorView rows = target_.rows(begin, end);
    room_.values.resize(static_cast<size_t>(rows.elements()));
    widen(room_.values.data(), bytes.data(), stored_, rows.elements());
    if (scales_)
      if (const auto bad = first_not_finite(room_.values.data(), rows.elements())) refuse_scale(name_, room_.values[static_cast<size_t>(*bad)], begin, *bad);
    room_.fill(rows, [&](std::byte* out) { std::memcpy(out, room_.values.data(), static_cast<size_t>(rows.bytes())); });
  }

 private:
  LandingRoom& room_;
  TensorView target_;
  DType stored_;
  PieceName name_;
  bool scales_;
};

class KeptScales final : public PieceLander {
 public:
  KeptScales(std::shared_ptr<BlockScales> scales, DType stored, PieceName name) : scales_(std::move(scales)), stored_(stored), name_(std::move(name)) {}
  void take(int64_t begin, int64_t end, std::span<const std::byte> bytes) override {
    float* out = scales_->values.data() + begin * scales_->cols;
    const int64_t count = (end - begin) * scales_->cols;
    widen(out, bytes.data(), stored_, count);
    if (const auto bad = first_not_finite(out, count)) refuse_scale(name_, out[*bad], begin, *bad);
  }

 private:
  std::shared_ptr<BlockScales> scales_;
  DType stored_;
  PieceName name_;
};

class Decoded final : public PieceLander {
 public:
  Decoded(LandingRoom& room, TensorView target, std::shared_ptr<BlockScales> scales, PieceName name) : room_(room), target_(target), scales_(std::move(scales)), name_(std::move(name)) {}
  void take(int64_t begin, int64_t end, std::span<const std::byte> bytes) override {
    if (!scales_) throw Error(Error::internal, name_.tensor + " has landed already");
    const TensorView rows = target_.rows(begin, end);
    std::optional<int64_t> nan;
    room_.fill(rows, [&](std::byte* out) {
      nan = decode_blocks(reinterpret_cast<uint16_t*>(out), reinterpret_cast<const uint8_t*>(bytes.data()), end - begin, rows.dim(1), name_.cut.rows.begin + begin, name_.cut.cols.begin, *scales_);
    });
    if (nan) throw Error(Error::bad_format, fmt::format("{}: tensor {} is NaN at {}, expected numbers; fetch the file again", name_.file, name_.tensor, name_.place(begin, *nan)));
  }
  void complete() override { scales_.reset(); }

 private:
  LandingRoom& room_;
  TensorView target_;
  std::shared_ptr<BlockScales> scales_;
  PieceName name_;
};

class Quantised final : public PieceLander {
 public:
  Quantised(LandingRoom& room, const Weight& target, DType stored, PieceName name) : room_(room), target_(target), stored_(stored), name_(std::move(name)) {}
  void take(int64_t begin, int64_t end, std::span<const std::byte> bytes) override {
    const int64_t cols = target_.in_dim(), band = target_.block_rows;
    if (begin % band != 0 || (end % band != 0 && end != target_.out_dim()))
      throw Error(Error::internal, fmt::format("{}: rows {} … {} of {} are no whole bands of {}", name_.tensor, begin, end, target_.out_dim(), band));
    room_.values.resize(static_cast<size_t>((end - begin) * cols));
    widen(room_.values.data(), bytes.data(), stored_, (end - begin) * cols);
    if (const auto bad = first_not_finite(room_.values.data(), (end - begin) * cols))
      throw Error(Error::bad_format, fmt::format("{}: tensor {} is {} at {}, expected finite numbers: it cannot be quantised; fetch the file again, or load as_stored", name_.file, name_.tensor,
                                                 room_.values[static_cast<size_t>(*bad)], name_.place(begin, *bad)));
    std::vector<float> scales(static_cast<size_t>((end - begin + band - 1) / band * target_.scale.dim(1)));
    room_.fill(target_.data.rows(begin, end), [&](std::byte* out) {
      for (int64_t row = 0; row < end - begin; row += band)
        quantise_band(reinterpret_cast<uint8_t*>(out) + row * cols, scales.data() + row / band * target_.scale.dim(1), room_.values.data() + row * cols, std::min(band, end - begin - row), cols,
                      target_.block_cols);
    });
    room_.fill(target_.scale.rows(begin / band, (end + band - 1) / band), [&](std::byte* out) { std::memcpy(out, scales.data(), scales.size() * sizeof(float)); });
  }

 private:
  LandingRoom& room_;
  Weight target_;
  DType stored_;
  PieceName name_;
};

}  // namespace

void refuse_scale(const PieceName& name, float scale, int64_t begin, int64_t flat) {
  throw Error(Error::bad_format, fmt::format("{}: tensor {} has the scale {} at block {}, expected finite numbers; fetch the file again", name.file, name.tensor, scale, name.place(begin, flat)));
}

void LandingRoom::fill(TensorView target, const std::function<void(std::byte*)>& write) {
  if (target.elements() == 0) return;
  if (target.place == Place::host && target.contiguous()) return write(target.data);
  Made& next = made[turn];
  turn = (turn + 1) % made.size();
  backend.await_upload(next.upload);
  if (const auto bytes = static_cast<size_t>(target.bytes()); next.memory.size() < bytes) next.memory = backend.staging(bytes);
  write(next.memory.data());
  next.upload = backend.upload(target, dense(target, next.memory.data()));
}

std::string PieceName::place(int64_t begin, int64_t flat) const {
  const int64_t width = std::max<int64_t>(cut.cols.size(), 1);
  return fmt::format("[{}, {}]", cut.rows.begin + begin + flat / width, cut.cols.begin + flat % width);
}

std::unique_ptr<PieceLander> land_as_stored(LandingRoom& room, TensorView target) { return std::make_unique<AsStored>(room, target); }

std::unique_ptr<PieceLander> land_widened(LandingRoom& room, TensorView target, DType stored, PieceName name, bool scales) {
  return std::make_unique<Widened>(room, target, stored, std::move(name), scales);
}

std::unique_ptr<PieceLander> keep_scales(std::shared_ptr<BlockScales> scales, DType stored, PieceName name) {
  return std::make_unique<KeptScales>(std::move(scales), stored, std::move(name));
}

std::unique_ptr<PieceLander> land_decoded(LandingRoom& room, TensorView target, std::shared_ptr<BlockScales> scales, PieceName name) {
  return std::make_unique<Decoded>(room, target, std::move(scales), std::move(name));
}

std::unique_ptr<PieceLander> land_quantised(LandingRoom& room, const Weight& target, DType stored, PieceName name) {
  return std::make_unique<Quantised>(room, target, stored, std::move(name));
}

}  // namespace dsinfer
