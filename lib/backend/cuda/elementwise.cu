#include "backend/cuda/decode.cuh"
#include "backend/cuda/warp.cuh"

namespace dsinfer::cuda {
namespace {

constexpr int kThreads = 256;

template <Format F>
__global__ void embed_kernel(Rows<float> out, LinearWeight table, LinearShape s, const int32_t* tokens, int64_t first_row) {
  const int64_t t = blockIdx.x, row = tokens[t] - first_row;
  float* to = out.data + t * out.stride;
  const bool here = row >= 0 && row < s.n;
  for (int64_t k = threadIdx.x; k < s.k; k += kThreads) to[k] = here ? decode1<F>(table.data + row * s.stride, k, block_scale<F>(table, s, row, k / s.block_cols)) : 0.0f;
}

// A warp for each row and block.
__global__ void quantise_kernel(Rows<float> out, Rows<const float> x, int64_t width, int64_t block_cols, bool ue8m0) {
  const int lane = threadIdx.x % 32;
  const int64_t t = blockIdx.x, begin = (int64_t{blockIdx.y} * (kThreads / 32) + threadIdx.x / 32) * block_cols, end = min(begin + block_cols, width);
  if (begin >= width) return;
  const float* from = x.data + t * x.stride;
  float amax = 1e-4f;  // DeepSeek's floor
  for (int64_t k = begin + lane; k < end; k += 32) amax = fmaxf(amax, fabsf(from[k]));
  float s = warp_max(amax) / 448.0f;
  if (ue8m0) s = __uint_as_float((__float_as_uint(s) + 0x7fffffu) & 0x7f800000u);  // the next power of two
  for (int64_t k = begin + lane; k < end; k += 32) out.data[t * out.stride + k] = e4m3_pair(__nv_cvt_float_to_fp8(from[k] / s, __NV_SATFINITE, __NV_E4M3)).x * s;
}

// One order for all: thread by thread, warp by warp.
__device__ float block_sum(float x) {
  __shared__ float parts[kThreads / 32];
  const float mine = warp_sum(x);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = mine;
  __syncthreads();
  float total = 0;
  for (float part : parts) total += part;
  return total;
}

__global__ void rms_norm_kernel(Rows<float> out, Rows<float> residual, Rows<const float> x, const float* w, int64_t width, float eps) {
  const int64_t t = blockIdx.x;
  const float* from = x.data + t * x.stride;
  float* kept = residual.data ? residual.data + t * residual.stride : nullptr;
  float sum = 0;
  for (int64_t k = threadIdx.x; k < width; k += kThreads) {
    float v = from[k];
    if (kept) kept[k] = v = kept[k] + v;
    sum = fmaf(v, v, sum);
  }
  const float factor = 1.0f / sqrtf(block_sum(sum) / static_cast<float>(width) + eps);
  const float* values = kept ? kept : from;  // each thread reads what it wrote
  float* to = out.data + t * out.stride;
  for (int64_t k = threadIdx.x; k < width; k += kThreads) to[k] = values[k] * factor * w[k];
}

__global__ void add_kernel(Rows<float> x, Rows<const float> y, int64_t width) {
  const int64_t t = blockIdx.x, k = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (k < width) x.data[t * x.stride + k] += y.data[t * y.stride + k];
}

__global__ void silu_mul_kernel(Rows<float> out, Rows<const float> gate_up, int64_t width) {
  const int64_t t = blockIdx.x, k = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (k >= width) return;
  const float* row = gate_up.data + t * gate_up.stride;
  out.data[t * out.stride + k] = row[k] / (1.0f + expf(-row[k])) * row[width + k];
}

__global__ void rope_kernel(Rows<float> x, const int32_t* positions, Rows<const float> table, int64_t table_rows, int heads, int half, bool interleave, FaultSink fault) {
  const int64_t t = blockIdx.x;
  const int32_t position = positions[t];
  if (position == kPadding) return;
  if (position < 0 || position >= table_rows) {
    if (threadIdx.x == 0) report(fault, FaultRecord::rope_position, position, table_rows);
    return;
  }
  const float* angles = table.data + position * table.stride;
  for (int i = threadIdx.x; i < heads * half; i += kThreads) {
    const int h = i / half, j = i % half;
    float* row = x.data + t * x.stride + h * x.inner;
    float &a = row[interleave ? 2 * j : j], &b = row[interleave ? 2 * j + 1 : j + half];
    const float c = angles[2 * j], s = angles[2 * j + 1], rotated = a * c - b * s;
    b = a * s + b * c;
    a = rotated;
  }
}

template <class T> __global__ void copy_kernel(StridedCopy copy, int64_t elements) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= elements) return;
  int64_t rest = i, to = 0, from = 0;
  for (int d = 3; d >= 0; --d) {
    const int64_t at = rest % copy.shape[d];
    rest /= copy.shape[d];
    to += at * copy.to_stride[d];
    from += at * copy.from_stride[d];
  }
  reinterpret_cast<T*>(copy.to)[to] = reinterpret_cast<const T*>(copy.from)[from];
}

dim3 rows_by_columns(int64_t rows, int64_t width) { return {static_cast<unsigned>(rows), blocks_of(width, kThreads)}; }

}  // namespace

void embed(Rows<float> out, LinearWeight table, const LinearShape& shape, const int32_t* tokens, int64_t rows, int64_t first_row, cudaStream_t stream) {
  const auto launch = [&](auto kernel) { kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(out, table, shape, tokens, first_row); };
  switch (shape.format) {
    case Format::f32: launch(embed_kernel<Format::f32>); break;
    case Format::bf16: launch(embed_kernel<Format::bf16>); break;
    case Format::f16: launch(embed_kernel<Format::f16>); break;
    case Format::fp8_block: launch(embed_kernel<Format::fp8_block>); break;
    case Format::int4_group: launch(embed_kernel<Format::int4_group>); break;
  }
  check_launch("embed");
}

void quantise(Rows<float> out, Rows<const float> x, int64_t rows, int64_t width, int64_t block_cols, bool ue8m0, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(rows), blocks_of((width + block_cols - 1) / block_cols, kThreads / 32));
  quantise_kernel<<<grid, kThreads, 0, stream>>>(out, x, width, block_cols, ue8m0);
  check_launch("quantise");
}

void rms_norm(Rows<float> out, Rows<float> residual, Rows<const float> x, const float* w, int64_t rows, int64_t width, float eps, cudaStream_t stream) {
  rms_norm_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(out, residual, x, w, width, eps);
  check_launch("rms_norm");
}

void add(Rows<float> x, Rows<const float> y, int64_t rows, int64_t width, cudaStream_t stream) {
  add_kernel<<<rows_by_columns(rows, width), kThreads, 0, stream>>>(x, y, width);
  check_launch("add");
}

void silu_mul(Rows<float> out, Rows<const float> gate_up, int64_t rows, int64_t width, cudaStream_t stream) {
  silu_mul_kernel<<<rows_by_columns(rows, width), kThreads, 0, stream>>>(out, gate_up, width);
  check_launch("silu_mul");
}

void rope(Rows<float> x, const int32_t* positions, Rows<const float> table, int64_t table_rows, int64_t rows, int64_t heads, int64_t width, bool interleave, FaultSink fault,
          cudaStream_t stream) {
  rope_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(x, positions, table, table_rows, static_cast<int>(heads), static_cast<int>(width / 2), interleave, fault);
  check_launch("rope");
}

void copy_strided(const StridedCopy& copy, cudaStream_t stream) {
  const int64_t elements = copy.shape[0] * copy.shape[1] * copy.shape[2] * copy.shape[3];
  const auto launch = [&](auto kernel) { kernel<<<blocks_of(elements, kThreads), kThreads, 0, stream>>>(copy, elements); };
  switch (copy.size) {
    case 1: launch(copy_kernel<uint8_t>); break;
    case 2: launch(copy_kernel<uint16_t>); break;
    case 4: launch(copy_kernel<uint32_t>); break;
    default: launch(copy_kernel<uint64_t>); break;
  }
  check_launch("copy");
}

}  // namespace dsinfer::cuda
