#include "weights/landing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "storage/mapped_file.hpp"
#include "weights/absorb.hpp"
#include "weights/landing_piece.hpp"
#include "weights/load_terms.hpp"
#include "weights/weight_set_builder.hpp"

namespace dsinfer {
namespace {

void check_memory(int64_t needed, const RankPlan& rank, const Backend& backend) {
  const auto there = static_cast<int64_t>(backend.available_bytes());
  if (needed <= there) return;
  throw Error(Error::out_of_memory, fmt::format("rank {}: the weights need {} bytes ({:.2f} GB) on {}, {} bytes ({:.2f} GB) are there; split the model over more ranks "
                                                "(tp, pp or ep), or free memory", rank.world_rank, needed, static_cast<double>(needed) / 1e9, backend.name(), there,
                                                static_cast<double>(there) / 1e9));
}

// One rank's landing: a lander for each piece over views of one buffer.
class RankLanding final : public Landing {
 public:
  RankLanding(const Checkpoint& checkpoint, const std::vector<ShardPiece>& pieces, const ModelConfig& config, const RankPlan& rank, Backend& backend, WeightFormat format, bool in_files,
              DType absorbed)
      : config_(config), room_{backend}, layout_(held_layout(pieces, config, format, in_files, absorbed)) {
    for (const HeldTensor& tensor : layout_.tensors)
      if (!tensor.vector && !backend.supports(tensor.format))
        throw Error(Error::unsupported, fmt::format("tensor {} is held as {}, which the {} backend cannot compute with", tensor.name, format_name(tensor.format), backend.name()));
    check_memory(layout_.buffer_bytes, rank, backend);
    buffer_ = std::make_shared<Buffer>(backend.allocate(static_cast<size_t>(std::max<int64_t>(layout_.buffer_bytes, 1))));
    landers_.reserve(pieces.size());
    absorbed_.assign(layout_.tensors.size(), false);
    for (size_t i = 0; i < pieces.size(); ++i) {
      const ShardPiece& piece = pieces[i];
      if (HeldTensor& tensor = layout_.tensors[static_cast<size_t>(layout_.tensor_of[i])]; tensor.in_file && !piece.tensor.spec->is_scale) {
        leave_in_file(checkpoint, piece, tensor);
        landers_.push_back({nullptr, piece.tensor.spec->name, 0, 0});
        continue;
      }
      const PieceName name{checkpoint.files()[static_cast<size_t>(piece.range.file)].path, piece.tensor.spec->name, piece.cut};
      landers_.push_back({lander(piece, layout_.tensor_of[i], name), piece.tensor.spec->name, piece.cut.rows.size(), piece.cut.elements() > 0 ? piece.cut.rows.size() : 0});
    }
    kept_.clear();
    files_.erase(std::remove(files_.begin(), files_.end(), nullptr), files_.end());
  }

  std::byte* direct(int piece, int64_t begin, int64_t end) override {
    return check(piece, begin, end).lander->direct(begin, end);
  }

  void arrived(int piece, int64_t begin, int64_t end) override {
    check(piece, begin, end);
    arrive(piece, end - begin);
  }

  void take(int piece, int64_t begin, int64_t end, std::span<const std::byte> bytes) override {
    Piece& p = check(piece, begin, end);
    if (begin == end || bytes.empty()) return;
    p.lander->take(begin, end, bytes);
    arrive(piece, end - begin);
  }

  uint64_t take_staged(int piece, int64_t begin, int64_t end, std::span<const std::byte> bytes) override {
    room_.bytes_stay = true;
    room_.upload = 0;
    take(piece, begin, end, bytes);
    room_.bytes_stay = false;
    return room_.upload;
  }

  WeightSet finish(const std::function<void()>& poll) override {
    for (const Piece& piece : landers_)
      if (piece.missing > 0) throw Error(Error::internal, fmt::format("{} rows of tensor {} did not arrive", piece.missing, piece.name));
    landers_.clear();
    for (size_t tensor = 0; tensor < layout_.tensors.size(); ++tensor) {
      if (layout_.tensors[tensor].key_up_at < 0 || absorbed_[tensor]) continue;
      absorb(layout_.tensors[tensor]);  // nothing of it arrived: this rank has no rows
      if (poll) poll();
    }
    const std::shared_ptr<Buffer> shared = std::move(buffer_);
    return WeightSetBuilder::build(layout_, Buffer(shared->data(), shared->size(), shared->place(), [shared](std::byte*) {}), config_, std::move(files_));
  }

  const HeldLayout& layout() const override { return layout_; }
  Place place() const override { return buffer_->place(); }
  std::shared_ptr<void> memory() const override { return buffer_; }

 private:
  struct Piece {
    std::unique_ptr<PieceLander> lander;
    std::string name;
    int64_t rows = 0, missing = 0;
  };

  Piece& check(int piece, int64_t begin, int64_t end) {
    Piece& p = landers_.at(static_cast<size_t>(piece));
    if (begin < 0 || end < begin || end > p.rows) throw Error(Error::internal, fmt::format("tensor {}: rows {} … {} of {}", p.name, begin, end, p.rows));
    return p;
  }

  void leave_in_file(const Checkpoint& checkpoint, const ShardPiece& piece, HeldTensor& tensor) {
    files_.resize(checkpoint.files().size());
    auto& file = files_[static_cast<size_t>(piece.range.file)];
    if (!file) file = std::make_shared<MappedFile>(*checkpoint.open(piece.range.file));
    tensor.mapped = file->data() + piece.range.offset;
    tensor.mapped_stride = piece.tensor.spec->shape[1];
  }

  // A kv_b_proj that is whole is absorbed at once, while others are still being read.
  void arrive(int piece, int64_t rows) {
    Piece& p = landers_[static_cast<size_t>(piece)];
    p.missing -= rows;
    if (p.missing > 0) return;
    p.lander->complete();
    const auto number = static_cast<size_t>(layout_.tensor_of[static_cast<size_t>(piece)]);
    const HeldTensor& tensor = layout_.tensors[number];
    if (tensor.key_up_at < 0 || absorbed_[number]) return;
    for (const int part : tensor.pieces)
      if (landers_[static_cast<size_t>(part)].missing > 0) return;
    absorb(tensor);
    absorbed_[number] = true;
  }

  std::unique_ptr<PieceLander> lander(const ShardPiece& piece, int tensor, const PieceName& name) {
    const HeldTensor& held = layout_.tensors[static_cast<size_t>(tensor)];
    const TensorSpec& spec = *piece.tensor.spec;
    const DType stored = piece.tensor.dtype;
    if (held.vector) {
      const TensorView target = held_vector(held, buffer_->data(), buffer_->place());
      return stored == DType::f32 ? land_as_stored(room_, target) : land_widened(room_, target, stored, name, false);
    }
    const Weight target = held_matrix(held, buffer_->data(), buffer_->place());
    if (spec.int4 != Int4Part::none) return int4_lander(spec, target, name);
    if (spec.is_scale) {
      if (held.format == Format::fp8_block) return land_widened(room_, target.scale, stored, name, true);
      const auto scales = scales_of(tensor);
      scales->first_row = piece.cut.rows.begin;
      scales->first_col = piece.cut.cols.begin;
      scales->cols = piece.cut.cols.size();
      scales->values.resize(static_cast<size_t>(piece.cut.elements()));
      return keep_scales(scales, stored, name);
    }
    if (stored == DType::e4m3 && held.format == Format::bf16) return land_decoded(room_, target.data, scales_of(tensor), name);
    if (stored != DType::e4m3 && held.format == Format::fp8_block) return land_quantised(room_, target, stored, name);
    return land_as_stored(room_, target.data);
  }

  std::unique_ptr<PieceLander> int4_lander(const TensorSpec& spec, const Weight& target, const PieceName& name) {
    const bool awq = config_.int4->layout == Int4Layout::awq;
    switch (spec.int4) {
      case Int4Part::words: return awq ? land_awq_words(room_, target) : land_packed_words(room_, target);
      case Int4Part::scales: return awq ? land_awq_scales(room_, target, name) : land_packed_scales(room_, target, name);
      case Int4Part::zeros: return awq ? land_awq_zeros(room_, target) : land_packed_zeros(room_, target);
      case Int4Part::none: break;
    }
    throw Error(Error::internal, spec.name + " is no part of a 4-bit weight");
  }

  // Shared by the landers of an FP8 weight and of its scales, whichever comes first.
  std::shared_ptr<BlockScales> scales_of(int tensor) {
    std::shared_ptr<BlockScales>& scales = kept_[tensor];
    if (!scales) scales = std::make_shared<BlockScales>();
    scales->block_rows = config_.fp8->block_rows;
    scales->block_cols = config_.fp8->block_cols;
    return scales;
  }

  // From the matrix as held, decoded row by row, so that blocks may straddle keys and values.
  void absorb(const HeldTensor& tensor) {
    std::byte* base = buffer_->data();
    const Place place = buffer_->place();
    absorber_.absorb(held_matrix(tensor, base, place), held_key_up(tensor, config_, base, place), held_value_up(tensor, config_, base, place));
  }

  const ModelConfig config_;
  LandingRoom room_;
  Absorber absorber_{room_};
  HeldLayout layout_;
  std::shared_ptr<Buffer> buffer_;
  std::vector<Piece> landers_;
  std::vector<bool> absorbed_;  // by tensor of the layout
  std::unordered_map<int, std::shared_ptr<BlockScales>> kept_;
  std::vector<std::shared_ptr<const MappedFile>> files_;  // that tensors stay in
};

}  // namespace

int64_t rows_together(const TensorSpec& spec, DType stored, const ModelConfig& config, WeightFormat format) {
  // A row of AWQ's words is an input feature: two of them share our bytes.
  if (spec.int4 == Int4Part::words && spec.transposed) return config.int4->group_size;
  const bool quantised = !spec.is_scale && spec.shape.size() == 2 && stored != DType::e4m3 && held_format(spec, stored, format) == Format::fp8_block;
  return quantised ? held_config(config, format).fp8->block_rows : 1;
}

int landing_phase(const TensorSpec& spec) { return spec.is_scale || spec.int4 == Int4Part::scales || spec.int4 == Int4Part::zeros ? 0 : 1; }

std::unique_ptr<Landing> Landing::make(const Checkpoint& checkpoint, const std::vector<ShardPiece>& pieces, const ModelConfig& config, const RankPlan& rank, Backend& backend, WeightFormat format,
                                       bool in_files, DType absorbed) {
  check_format(config, checkpoint.storage().name(), format);
  return std::make_unique<RankLanding>(checkpoint, pieces, config, rank, backend, format, in_files, absorbed);
}

}  // namespace dsinfer
