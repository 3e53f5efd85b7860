#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_backend.hpp"

namespace dsinfer {

using cpu::expect;
using cpu::is;

namespace {

// One panel: this many rows of x against this many rows of w over this many columns. State, x and w of a panel are 512 KB together: an L2 cache.
constexpr int64_t kPanelRows = 64, kPanelOutputs = 64, kPanelDepth = 512;
constexpr int64_t kOutputGrain = 16;

size_t index(Format format) { return static_cast<size_t>(format); }

// Smallest part of a loop over outputs that is worth a thread.
int64_t output_grain(int64_t rows, int64_t depth) {
  return (cpu::grain_of(rows * depth) + kOutputGrain - 1) / kOutputGrain * kOutputGrain;
}

}  // namespace

CpuBackend::Activations CpuBackend::Activations::slice(int64_t begin, int64_t end) const {
  Activations part = *this;
  part.x += begin * ld;
  part.rows = end - begin;
  if (scale) part.scale += begin * blocks;
  return part;
}

// w8a8, per row and block: s = max(amax, 1e-4) / 448, rounded up to a power of two if ue8m0; x becomes the e4m3 value nearest to x / s.
CpuBackend::Activations CpuBackend::activations(const float* x, int64_t ld, int64_t rows, const Weight& w) {
  if (arithmetic_ != Arithmetic::w8a8 || w.format != Format::fp8_block) return {x, ld, rows};
  const int64_t depth = w.in_dim(), blocks = w.scale.dim(1);
  const auto room = [](Scratch& s, int64_t floats) {
    if (s.memory.size() < static_cast<size_t>(floats) * sizeof(float)) s.memory = host_buffer(static_cast<size_t>(floats) * sizeof(float));
    return reinterpret_cast<float*>(s.memory.data());
  };
  float* values = room(quantised_, rows * depth);
  float* scales = room(scales_, rows * blocks);
  pool_.parallel_for(rows, cpu::grain_of(depth * 8), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t k0 = b * w.block_cols, k1 = std::min(depth, k0 + w.block_cols);
        const float* from = x + t * ld;
        float amax = 0;
        bool nan = false;
        for (int64_t k = k0; k < k1; ++k) {
          amax = std::max(amax, std::fabs(from[k]));
          nan = nan || std::isnan(from[k]);
        }
        float s = std::max(amax, 1e-4f) / 448.0f;
        if (ue8m0_) s = std::exp2(std::ceil(std::log2(s)));
        for (int64_t k = k0; k < k1; ++k) values[t * depth + k] = nan ? from[k] : e4m3_to_f32(f32_to_e4m3(from[k] / s));
        scales[t * blocks + b] = s;
      }
    }
  });
  return {values, depth, rows, scales, blocks, w.block_cols};
}

/// out[:, first … last) = x · w[first … last)ᵀ; out points to column 0.
void CpuBackend::product(float* out, int64_t ldo, const Activations& x, const Weight& w, int64_t first, int64_t last, int part) {
  if (x.rows == 0 || first == last) return;
  if (x.scale) return product_w8a8(out, ldo, x, w, first, last, part);
  const cpu::Matrix m = cpu::matrix_of(w);
  const int64_t depth = w.in_dim();
  const bool int4 = w.format == Format::int4_group;  // always decoded first
  const bool blocks_of_lanes = !int4 && (w.format != Format::fp8_block || w.block_cols % 16 == 0);
  if (depth == 0 || (x.rows <= kernels_.direct_rows && blocks_of_lanes)) {
    kernels_.dot[index(int4 ? Format::f32 : w.format)](out + first, ldo, x.x, x.ld, x.rows, m, first, last - first, depth);
    return;
  }
  // The f32 form of a panel of w is made once and meets all rows of x; sums that are not finished wait in `state`, lane by lane.
  float* tile = scratch(part, kPanelOutputs * kPanelDepth + kPanelRows * kPanelOutputs * 16);
  float* state = tile + kPanelOutputs * kPanelDepth;
  for (int64_t t = 0; t < x.rows; t += kPanelRows) {
    const int64_t rows = std::min(kPanelRows, x.rows - t);
    for (int64_t n = first; n < last; n += kPanelOutputs) {
      const int64_t outputs = std::min(kPanelOutputs, last - n);
      for (int64_t k = 0; k < depth; k += kPanelDepth) {
        const int64_t end = std::min(depth, k + kPanelDepth);
        const float* panel = tile;
        int64_t ldw = kPanelDepth;
        if (w.format == Format::f32) {
          panel = w.data.row<float>(n) + k;
          ldw = w.data.stride[0];
        } else if (int4) {
          for (int64_t i = 0; i < outputs; ++i) decode_int4(tile + i * kPanelDepth, w, n + i, k, end);
        } else {
          for (int64_t i = 0; i < outputs; ++i) kernels_.decode[index(w.format)](tile + i * kPanelDepth, m, n + i, k, end);
        }
        kernels_.gemm_panel(out + t * ldo + n, ldo, x.x + t * x.ld + k, x.ld, rows, panel, ldw, outputs, end - k, state, k == 0, end == depth);
      }
    }
  }
}

/// y = Σ_b (Σ_k qx·qw) · (sx · sw), the blocks b in order.
void CpuBackend::product_w8a8(float* out, int64_t ldo, const Activations& x, const Weight& w, int64_t first, int64_t last, int part) {
  // The codes alone: a scale of 1 for the one block that is decoded at a time.
  const float one = 1;
  const cpu::Matrix codes{w.data.data, w.data.stride[0], &one, 0, w.out_dim(), w.in_dim()};
  const int64_t depth = w.in_dim(), width = w.block_cols;
  float* tile = scratch(part, kOutputGrain * width + kPanelRows * kOutputGrain);
  float* dots = tile + kOutputGrain * width;  // [rows, kOutputGrain]
  const cpu::Matrix decoded{reinterpret_cast<const std::byte*>(tile), width * static_cast<int64_t>(sizeof(float))};
  for (int64_t n = first; n < last; n += kOutputGrain) {
    const int64_t outputs = std::min(kOutputGrain, last - n);
    for (int64_t b = 0; b < x.blocks; ++b) {
      const int64_t k = b * width, end = std::min(depth, k + width);
      for (int64_t i = 0; i < outputs; ++i) kernels_.decode[index(Format::fp8_block)](tile + i * width, codes, n + i, k, end);
      for (int64_t t = 0; t < x.rows; t += kPanelRows) {
        const int64_t rows = std::min(kPanelRows, x.rows - t);
        kernels_.dot[index(Format::f32)](dots, kOutputGrain, x.x + t * x.ld + k, x.ld, rows, decoded, 0, outputs, end - k);
        for (int64_t r = 0; r < rows; ++r) {
          float* y = out + (t + r) * ldo + n;
          const float sx = x.scale[(t + r) * x.blocks + b];
          for (int64_t i = 0; i < outputs; ++i) {
            const float sw = w.scale.row<float>((n + i) / w.block_rows)[b];
            y[i] = (b == 0 ? 0.0f : y[i]) + dots[r * kOutputGrain + i] * (sx * sw);
          }
        }
      }
    }
  }
}

void CpuBackend::linear(TensorView out, TensorView x, const Weight& w) {
  expect(is(out, 2) && is(x, 2) && cpu::is_weight(w) && out.dim(0) == x.dim(0) && out.dim(1) == w.out_dim() && x.dim(1) == w.in_dim(), "linear",
         {{"out", &out}, {"x", &x}, {"w", &w.data}, {"scale", &w.scale}});
  const int64_t rows = x.dim(0), outputs = out.dim(1), grain = output_grain(rows, x.dim(1));
  if (rows == 0 || outputs == 0) return;
  const Activations all = activations(x.as<float>(), x.stride[0], rows, w);
  // Cut the outputs, so that each weight is decoded by one thread; the rows instead where there are too few outputs.
  if (outputs >= grain * pool_.threads() || rows < 2 * kPanelRows) {
    pool_.parallel_for(outputs, grain, [&](int64_t begin, int64_t end, int part) { product(out.as<float>(), out.stride[0], all, w, begin, end, part); });
  } else {
    pool_.parallel_for(rows, kPanelRows, [&](int64_t begin, int64_t end, int part) {
      product(out.row<float>(begin), out.stride[0], all.slice(begin, end), w, 0, outputs, part);
    });
  }
}

void CpuBackend::linear_per_head(TensorView out, TensorView x, const Weight& w) {
  const bool plain = w.format != Format::fp8_block && w.format != Format::int4_group && w.data.rank == 3 && w.data.stride[2] == 1;
  expect(is(out, 3) && is(x, 3) && plain && is(w.data, 3, w.format == Format::f32 ? DType::f32 : w.format == Format::bf16 ? DType::bf16 : DType::f16) &&
             out.dim(0) == x.dim(0) && out.dim(1) == x.dim(1) && x.dim(1) == w.data.dim(0) && out.dim(2) == w.data.dim(1) && x.dim(2) == w.data.dim(2),
         "linear_per_head", {{"out", &out}, {"x", &x}, {"w", &w.data}});
  const int64_t rows = x.dim(0), heads = x.dim(1), outputs = out.dim(2), depth = x.dim(2);
  if (rows == 0 || outputs == 0) return;
  // The loop runs over heads · outputs, so that few heads still fill all threads.
  pool_.parallel_for(heads * outputs, output_grain(rows, depth), [&](int64_t begin, int64_t end, int part) {
    for (int64_t h = begin / outputs; h * outputs < end; ++h) {
      Weight head;
      head.format = w.format;
      head.data = TensorView(w.data.at(h), w.data.dtype, {outputs, depth});
      head.data.stride[0] = w.data.stride[1];
      const Activations xs{x.as<float>() + h * x.stride[1], x.stride[0], rows};
      product(out.as<float>() + h * out.stride[1], out.stride[0], xs, head, std::max(begin - h * outputs, int64_t{0}), std::min(end - h * outputs, outputs), part);
    }
  });
}

void CpuBackend::grouped_linear(TensorView out, TensorView x, std::span<const Weight> experts, std::span<const int64_t> offsets) {
  expect(is(out, 2) && is(x, 2) && out.dim(0) == x.dim(0), "grouped_linear", {{"out", &out}, {"x", &x}});
  const int64_t count = static_cast<int64_t>(experts.size());
  if (offsets.size() != experts.size() + 1 || offsets.front() != 0 || offsets.back() != x.dim(0) || !std::is_sorted(offsets.begin(), offsets.end())) {
    throw Error(Error::internal, "grouped_linear: offsets must be " + std::to_string(count + 1) + " ascending numbers from 0 to " + std::to_string(x.dim(0)) + " rows");
  }
  if (x.dim(0) == 0) return;
  const int64_t outputs = out.dim(1), depth = x.dim(1);
  const auto rows_of = [&](int64_t e) { return offsets[static_cast<size_t>(e + 1)] - offsets[static_cast<size_t>(e)]; };
  // An expert's cost per output: its rows, and decoding the weight as four more.
  const auto cost = [&](int64_t e) { return rows_of(e) > 0 ? rows_of(e) + 4 : 0; };
  int64_t total = 0;
  const Weight* quantised = nullptr;
  for (int64_t e = 0; e < count; ++e) {
    const Weight& w = experts[static_cast<size_t>(e)];
    if (rows_of(e) == 0) continue;
    expect(cpu::is_weight(w) && w.out_dim() == outputs && w.in_dim() == depth, "grouped_linear", {{"out", &out}, {"x", &x}, {"expert", &w.data}, {"scale", &w.scale}});
    if (w.format == Format::fp8_block) {
      if (quantised && quantised->block_cols != w.block_cols) throw Error(Error::internal, "grouped_linear: experts differ in the width of their blocks");
      quantised = &w;
    }
    total += cost(e) * outputs;
  }
  const Activations plain{x.as<float>(), x.stride[0], x.dim(0)};
  const Activations blocks = quantised ? activations(x.as<float>(), x.stride[0], x.dim(0), *quantised) : plain;
  pool_.parallel_for(total, cpu::grain_of(depth) * kOutputGrain, [&](int64_t begin, int64_t end, int part) {
    int64_t start = 0;
    for (int64_t e = 0; e < count && start < end; ++e) {
      const int64_t c = cost(e), stop = start + c * outputs;
      if (c > 0 && stop > begin) {
        const auto edge = [&](int64_t at) { return std::clamp((at - start + c - 1) / c, int64_t{0}, outputs); };
        const Weight& w = experts[static_cast<size_t>(e)];
        const int64_t row = offsets[static_cast<size_t>(e)];
        const Activations& xs = w.format == Format::fp8_block ? blocks : plain;
        product(out.row<float>(row), out.stride[0], xs.slice(row, row + rows_of(e)), w, begin <= start ? 0 : edge(begin), edge(end), part);
      }
      start = stop;
    }
  });
}

}  // namespace dsinfer
