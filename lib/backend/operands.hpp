/// What the operations of every backend ask of what they are given. Where it must lie is each backend's own: its `is`.
#pragma once
#include <initializer_list>
#include <utility>

#include "core/format.hpp"
#include "core/tensor.hpp"

namespace dsinfer {

using NamedViews = std::initializer_list<std::pair<const char*, const TensorView*>>;

/// Throws Error::internal that names the operation and its operands, those that do not lie in `place` marked.
[[noreturn]] DSINFER_INTERNAL void refuse_operands(const char* op, NamedViews views, Place place);

/// Whether a weight has one of the formats, with scales that cover it; `is(view, rank, dtype)` tells whether the backend takes a view as such.
template <class Is> bool is_weight(const Weight& w, const Is& is) {
  switch (w.format) {
    case Format::f32: return is(w.data, 2, DType::f32);
    case Format::bf16: return is(w.data, 2, DType::bf16);
    case Format::f16: return is(w.data, 2, DType::f16);
    case Format::int4_group: {
      const bool scaled = is(w.scale, 2, DType::f16) || is(w.scale, 2, DType::bf16) || is(w.scale, 2, DType::f32);
      const int64_t group = w.block_cols;
      return is(w.data, 2, DType::u8) && scaled && group > 0 && group % 2 == 0 && w.scale.dim(0) == w.out_dim() && w.scale.dim(1) * group == w.in_dim() &&
             (!w.zeros || (is(w.zeros, 1, DType::u8) && w.zeros.dim(0) >= (w.out_dim() * w.scale.dim(1) + 1) / 2));
    }
    case Format::fp8_block: break;
  }
  const int64_t r = w.block_rows, c = w.block_cols;
  return is(w.data, 2, DType::e4m3) && is(w.scale, 2, DType::f32) && r > 0 && c > 0 && w.scale.dim(0) == (w.out_dim() + r - 1) / r && w.scale.dim(1) == (w.in_dim() + c - 1) / c;
}

}  // namespace dsinfer
