/// A second loader, as plain as can be: one rank, one read at a time, every byte that it needs itself. What the real one is compared with.
#pragma once
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "plan/cost.hpp"
#include "backend/backend.hpp"
#include "dsinfer/loader.hpp"
#include "weights/checkpoint.hpp"
#include "weights/shard.hpp"
#include "weights/weight_set.hpp"

namespace dsinfer {
namespace {

constexpr int64_t kWindow = int64_t{32} << 20;  // host memory for data on its way; two polls are less than twice this apart
constexpr auto kReportEvery = std::chrono::milliseconds(50);

Format format_of(DType dtype) {
  switch (dtype) {
    case DType::e4m3: return Format::fp8_block;
    case DType::bf16: return Format::bf16;
    case DType::f16: return Format::f16;
    default: return Format::f32;
  }
}

TensorView view_of(std::byte* data, DType dtype, const Cut& part, bool vector, Place place) {
  return vector ? TensorView(data, dtype, {part.rows.size()}, place) : TensorView(data, dtype, {part.rows.size(), part.cols.size()}, place);
}

void widen(float* out, const std::byte* in, DType dtype, int64_t count) {
  if (dtype == DType::f32) { std::memcpy(out, in, static_cast<size_t>(count) * 4); return; }
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, in + 2 * i, 2);
    out[i] = dtype == DType::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
  }
}

std::string weight_name(const std::string& scale_name) { return scale_name.substr(0, scale_name.size() - std::strlen("_scale_inv")); }

}  // namespace

/// One load of one rank: lays the pieces out in one buffer, reads them in file order, then absorbs kv_b_proj.
class ShardLoader {
 public:
  ShardLoader(const Checkpoint& checkpoint, const ModelConfig& config, const RankPlan& rank, Backend& backend, const ProgressCallback& progress, const std::function<void()>& poll)
      : checkpoint_(checkpoint), config_(config), rank_(rank), backend_(backend), progress_(progress), poll_(poll),
        table_(tensor_table(config)), pieces_(shard_pieces(checkpoint.resolve(config, table_), config, rank)) {}

  WeightSet load() && {
    allocate();
    report(/*always=*/true);
    for (size_t i = 0; i < pieces_.size(); ++i) read(pieces_[i], targets_[i]);
    for (const auto& [name, weight] : set_.matrices_) if (key_target_.count(name)) absorb(name, weight);
    report(/*always=*/true);
    return std::move(set_);
  }

 private:
  bool is_vector(const ShardPiece& piece) const { return piece.tensor.spec->shape.size() == 1; }

  void allocate() {
    size_t total = 0;
    std::vector<size_t> offsets, absorbed;
    for (const ShardPiece& piece : pieces_) {
      const int64_t elements = piece.cut.elements();
      const int64_t bytes = elements * dtype_size(held_dtype(*piece.tensor.spec, piece.tensor.dtype));
      offsets.push_back(total);
      total += Arena::aligned(static_cast<size_t>(bytes));
      set_.bytes_ += bytes;
      bytes_total_ += piece.range.bytes();
      if (!is_kv_b(*piece.tensor.spec)) continue;
      absorbed.push_back(total);
      total += Arena::aligned(static_cast<size_t>(rank_.heads.size() * config_.kv_lora_rank * config_.qk_nope_head_dim * 4));
      absorbed.push_back(total);
      total += Arena::aligned(static_cast<size_t>(rank_.heads.size() * config_.kv_lora_rank * config_.v_head_dim * 4));
      set_.bytes_ += elements * 4;
    }
    check_memory(total);
    std::byte* base = set_.buffers_.emplace_back(backend_.allocate(std::max<size_t>(total, 1))).data();
    place_ = set_.buffers_.back().place();
    size_t next_absorbed = 0;
    for (size_t i = 0; i < pieces_.size(); ++i) {
      const ShardPiece& piece = pieces_[i];
      const TensorSpec& spec = *piece.tensor.spec;
      targets_.push_back(view_of(base + offsets[i], held_dtype(spec, piece.tensor.dtype), piece.cut, is_vector(piece), place_));
      enter(piece, targets_.back());
      if (!is_kv_b(spec)) continue;
      key_target_[spec.name] = TensorView(base + absorbed[next_absorbed++], DType::f32, {rank_.heads.size(), config_.kv_lora_rank, config_.qk_nope_head_dim}, place_);
      value_target_[spec.name] = TensorView(base + absorbed[next_absorbed++], DType::f32, {rank_.heads.size(), config_.v_head_dim, config_.kv_lora_rank}, place_);
    }
  }

  void check_memory(size_t needed) const {
    const size_t there = backend_.available_bytes();
    if (needed <= there) return;
    throw Error(Error::out_of_memory, fmt::format("rank {}: the weights need {} bytes ({:.2f} GB) on {}, {} bytes ({:.2f} GB) are there; split the model over more ranks "
                                                  "(tp, pp or ep), or free memory", rank_.world_rank, needed, static_cast<double>(needed) / 1e9, backend_.name(), there,
                                                  static_cast<double>(there) / 1e9));
  }

  void enter(const ShardPiece& piece, TensorView target) {
    const TensorSpec& spec = *piece.tensor.spec;
    if (is_vector(piece)) { set_.vectors_[spec.name] = target; return; }
    Weight& weight = set_.matrices_[spec.is_scale ? weight_name(spec.name) : spec.name];
    if (spec.is_scale) { weight.scale = target; return; }
    weight.data = target;
    weight.format = format_of(piece.tensor.dtype);
    if (weight.format == Format::fp8_block) {
      weight.block_rows = config_.fp8->block_rows;
      weight.block_cols = config_.fp8->block_cols;
    }
    if (!backend_.supports(weight.format))
      throw Error(Error::unsupported, fmt::format("tensor {} is stored as {}, which the {} backend cannot compute with", spec.name, format_name(weight.format), backend_.name()));
  }

  Source& source(int file) {
    if (file != open_file_) {
      source_ = checkpoint_.open(file);
      open_file_ = file;
    }
    return *source_;
  }

  void read(const ShardPiece& piece, TensorView target) {
    if (piece.cut.elements() == 0) return;
    if (target.dtype != piece.tensor.dtype || piece.tensor.spec->is_scale) return read_small(piece, target);
    if (piece.range.rows == 1) read_rows(piece, target); else read_columns(piece, target);
  }

  // Vectors and scales: through the host, widened to f32.
  void read_small(const ShardPiece& piece, TensorView target) {
    const int64_t count = piece.cut.elements();
    std::vector<std::byte> raw(static_cast<size_t>(piece.range.bytes()));
    read_strided(piece.range, 0, piece.range.rows, raw.data());
    std::vector<float> values(static_cast<size_t>(count));
    widen(values.data(), raw.data(), piece.tensor.dtype, count);
    if (piece.tensor.spec->is_scale) check_scales(piece, values);
    TensorView staged = target;
    staged.data = reinterpret_cast<std::byte*>(values.data());
    staged.place = Place::host;
    backend_.copy(target, staged);
    advance(piece.range.bytes());
  }

  void check_scales(const ShardPiece& piece, const std::vector<float>& values) const {
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::isfinite(values[i])) continue;
      const auto flat = static_cast<int64_t>(i);
      throw Error(Error::bad_format, fmt::format("{}: tensor {} has the scale {} at block [{}, {}], expected finite numbers; fetch the file again",
                                                 checkpoint_.files()[static_cast<size_t>(piece.range.file)].path, piece.tensor.spec->name, values[i],
                                                 piece.cut.rows.begin + flat / piece.cut.cols.size(), piece.cut.cols.begin + flat % piece.cut.cols.size()));
    }
  }

  // One run of bytes, in windows; on the host straight to where it stays.
  void read_rows(const ShardPiece& piece, TensorView target) {
    const int64_t size = dtype_size(target.dtype), total = target.elements();
    const TensorView flat = target.reshape({total});
    for (int64_t done = 0; done < total;) {
      const int64_t count = std::min(total - done, kWindow / size);
      fill(flat.slice(0, done, done + count), [&](std::byte* out) { source(piece.range.file).read(piece.range.offset + done * size, {out, static_cast<size_t>(count * size)}); });
      advance(count * size);
      done += count;
    }
  }

  // A piece of every row: exactly the bytes that are ours, however far apart.
  void read_columns(const ShardPiece& piece, TensorView target) {
    const int64_t rows_a_window = std::max<int64_t>(1, kWindow / piece.range.row_bytes);
    for (int64_t row = 0; row < piece.range.rows;) {
      const int64_t end = std::min(piece.range.rows, row + rows_a_window);
      fill(target.rows(row, end), [&](std::byte* out) { read_strided(piece.range, row, end, out); });
      advance((end - row) * piece.range.row_bytes);
      row = end;
    }
  }

  void read_strided(const ShardRange& range, int64_t begin, int64_t end, std::byte* out) {
    Source& file = source(range.file);
    for (int64_t row = begin; row < end; ++row, out += range.row_bytes) file.read(range.offset + row * range.stride, {out, static_cast<size_t>(range.row_bytes)});
  }

  template <class Read> void fill(TensorView target, const Read& read_into) {
    if (target.place == Place::host) return read_into(target.data);
    window_.resize(static_cast<size_t>(std::max<int64_t>(static_cast<int64_t>(window_.size()), target.bytes())));
    read_into(window_.data());
    TensorView staged = target;
    staged.data = window_.data();
    staged.place = Place::host;
    backend_.copy(target, staged);
  }

  // key_up[h] = W_UKᵀ, value_up[h] = W_UV of head h, decoded before the cut so that FP8 blocks may straddle the two.
  void absorb(const std::string& name, const Weight& stored) {
    std::vector<std::byte> data, scale;
    Weight weight = stored;
    weight.data = on_host(stored.data, data);
    if (stored.scale) weight.scale = on_host(stored.scale, scale);
    const int64_t heads = rank_.heads.size(), latent = config_.kv_lora_rank, nope = config_.qk_nope_head_dim, value = config_.v_head_dim;
    std::vector<float> rows(static_cast<size_t>((nope + value) * latent)), key(static_cast<size_t>(nope * latent));
    for (int64_t h = 0; h < heads; ++h) {
      decode_rows(rows.data(), weight, h * (nope + value), (h + 1) * (nope + value));
      for (int64_t r = 0; r < latent; ++r)
        for (int64_t d = 0; d < nope; ++d) key[static_cast<size_t>(r * nope + d)] = rows[static_cast<size_t>(d * latent + r)];
      backend_.copy(key_target_.at(name).rows(h, h + 1), TensorView(key.data(), DType::f32, {1, latent, nope}));
      backend_.copy(value_target_.at(name).rows(h, h + 1), TensorView(rows.data() + nope * latent, DType::f32, {1, value, latent}));
    }
    set_.key_up_[name] = Weight{key_target_.at(name), {}, Format::f32};
    set_.value_up_[name] = Weight{value_target_.at(name), {}, Format::f32};
    if (poll_) poll_();
  }

  TensorView on_host(TensorView view, std::vector<std::byte>& storage) {
    if (view.place == Place::host) return view;
    storage.resize(static_cast<size_t>(view.bytes()));
    TensorView host = view;
    host.data = storage.data();
    host.place = Place::host;
    backend_.copy(host, view);
    return host;
  }

  void advance(int64_t bytes) {
    bytes_done_ += bytes;
    unpolled_ += bytes;
    if (unpolled_ >= kWindow) {
      unpolled_ = 0;
      if (poll_) poll_();
    }
    report(false);
  }

  void report(bool always) {
    const auto now = std::chrono::steady_clock::now();
    if (!progress_ || (!always && now - reported_ < kReportEvery)) return;
    reported_ = now;
    if (!progress_({bytes_done_, bytes_total_, std::chrono::duration<double>(now - started_).count()}))
      throw Error(Error::cancelled, fmt::format("loading was cancelled by its progress callback after {} of {} bytes", bytes_done_, bytes_total_));
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const RankPlan& rank_;
  Backend& backend_;
  const ProgressCallback& progress_;
  const std::function<void()>& poll_;
  std::vector<TensorSpec> table_;
  std::vector<ShardPiece> pieces_;
  std::vector<TensorView> targets_;  // one for each piece
  std::unordered_map<std::string, TensorView> key_target_, value_target_;
  WeightSet set_;
  Place place_ = Place::host;
  std::unique_ptr<Source> source_;
  int open_file_ = -1;
  std::vector<std::byte> window_;  // empty on the host
  int64_t bytes_done_ = 0, bytes_total_ = 0, unpolled_ = 0;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now(), reported_{};
};

inline WeightSet load_weights(const Checkpoint& checkpoint, const ModelConfig& config, const RankPlan& rank, Backend& backend, const ProgressCallback& progress,
                       const std::function<void()>& poll) {
  return ShardLoader(checkpoint, config, rank, backend, progress, poll).load();
}

inline WeightSet load_weights(const std::filesystem::path& folder, const ModelConfig& config, const RankPlan& rank, Backend& backend, const ProgressCallback& progress,
                       const std::function<void()>& poll) {
  return load_weights(Checkpoint(folder), config, rank, backend, progress, poll);
}

}  // namespace dsinfer
