#include "backend/cuda/warp.cuh"

#include <algorithm>

namespace dsinfer::cuda {
namespace {

constexpr int kThreads = 256;

// A number and where it stands; NaN is above nothing, the lower index wins a tie, index -1 loses to all.
struct Candidate {
  float value;
  int index;
};
__device__ bool above(Candidate a, Candidate b) {
  if (a.index < 0 || b.index < 0) return b.index < 0 && a.index >= 0;
  if (isnan(a.value) != isnan(b.value)) return isnan(b.value);
  return a.value > b.value || (!(a.value < b.value) && a.index < b.index);
}

// The highest of values not yet taken, by one warp; every lane gets it.
__device__ Candidate highest(const float* values, const char* taken, int n, int lane) {
  Candidate best{0, -1};
  for (int i = lane; i < n; i += 32) {
    const Candidate one{values[i], i};
    if (!taken[i] && above(one, best)) best = one;
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const Candidate other{__shfl_xor_sync(kAll, best.value, step), __shfl_xor_sync(kAll, best.index, step)};
    if (above(other, best)) best = other;
  }
  return best;
}

__device__ float group_score(const float* choice, int n, bool top2) {
  float first = -INFINITY, second = -INFINITY;
  for (int i = 0; i < n; ++i) {
    if (choice[i] > first) {
      second = first;
      first = choice[i];
    } else if (choice[i] > second) {
      second = choice[i];
    }
  }
  return top2 && n > 1 ? first + second : first;
}

__device__ void scores_of(float* scores, const float* logits, const Gate& gate, int lane) {
  if (gate.sigmoid) {
    for (int e = lane; e < gate.experts; e += 32) scores[e] = 1.0f / (1.0f + expf(-logits[e]));
    return;
  }
  float top = -INFINITY, sum = 0;
  for (int e = lane; e < gate.experts; e += 32) top = fmaxf(top, logits[e]);
  top = warp_max(top);
  for (int e = lane; e < gate.experts; e += 32) sum += scores[e] = expf(logits[e] - top);
  sum = warp_sum(sum);
  for (int e = lane; e < gate.experts; e += 32) scores[e] /= sum;
}

// One warp for a row. Shared memory: scores and choices by expert, scores of groups, what is taken.
__global__ void route_kernel(Rows<int32_t> experts, Rows<float> weights, Rows<const float> logits, const float* bias, Gate gate) {
  extern __shared__ float shared[];
  const int n = gate.experts, size = n / gate.groups, lane = threadIdx.x;
  float *scores = shared, *choice = scores + n, *group = choice + n;
  char* taken = reinterpret_cast<char*>(group + gate.groups);
  const int64_t t = blockIdx.x;
  scores_of(scores, logits.data + t * logits.stride, gate, lane);
  for (int e = lane; e < n; e += 32) choice[e] = bias ? scores[e] + bias[e] : scores[e];
  for (int e = lane; e < n; e += 32) taken[e] = 0;
  __syncwarp();
  if (gate.groups > 1) {
    for (int g = lane; g < gate.groups; g += 32) group[g] = group_score(choice + g * size, size, gate.top2);
    __syncwarp();
    for (int i = 0; i < gate.kept_groups; ++i) {
      const Candidate best = highest(group, taken, gate.groups, lane);
      __syncwarp();
      if (lane == 0) taken[best.index] = 1;
      __syncwarp();
    }
    // -inf, not 0: a biased score may be negative.
    for (int e = lane; e < n; e += 32) if (!taken[e / size]) choice[e] = -INFINITY;
    __syncwarp();
    for (int g = lane; g < gate.groups; g += 32) taken[g] = 0;
    __syncwarp();
  }
  float sum = 0;
  for (int i = 0; i < gate.top_k; ++i) {
    const Candidate best = highest(choice, taken, n, lane);
    const float weight = scores[best.index];  // unbiased
    sum += weight;
    __syncwarp();
    if (lane == 0) {
      taken[best.index] = 1;
      experts.data[t * experts.stride + i] = best.index;
      weights.data[t * weights.stride + i] = weight;
    }
    __syncwarp();
  }
  if (lane == 0) {
    float* w = weights.data + t * weights.stride;
    for (int i = 0; i < gate.top_k; ++i) w[i] = (gate.normalise ? w[i] / (sum + 1e-20f) : w[i]) * gate.scale;
  }
}

__global__ void gather_rows_kernel(Rows<float> out, Rows<const float> x, const int32_t* indices, int64_t width, int64_t limit, FaultSink fault) {
  const int64_t t = blockIdx.x;
  const int32_t row = indices[t];
  if (row < 0 || row >= limit) {
    if (threadIdx.x == 0) report(fault, FaultRecord::gather_row, row, limit);
    return;
  }
  for (int64_t k = threadIdx.x; k < width; k += kThreads) out.data[t * out.stride + k] = x.data[row * x.stride + k];
}

// A block for each row of out: it looks for the rows of x that belong there, and adds them in their order.
__global__ void scatter_add_kernel(Rows<float> out, int64_t out_rows, Rows<const float> x, const int32_t* indices, const float* scale, int64_t rows, const int32_t* count, int64_t width,
                                   FaultSink fault) {
  if (count) rows = *count;
  __shared__ int found[kThreads], counts[kThreads / 32];
  const int64_t t = blockIdx.x, k = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float* to = out.data + t * out.stride + k;
  float sum = k < width ? *to : 0;
  bool any = false;
  for (int64_t begin = 0; begin < rows; begin += kThreads) {
    const int64_t i = begin + threadIdx.x;
    const int32_t row = i < rows ? indices[i] : static_cast<int32_t>(t) - 1;
    if (i < rows && (row < 0 || row >= out_rows) && t == 0 && blockIdx.y == 0) report(fault, FaultRecord::scatter_row, row, out_rows);
    const unsigned mine = __ballot_sync(kAll, row == t);
    if (lane == 0) counts[warp] = __popc(mine);
    __syncthreads();
    int place = 0, total = 0;
    for (int w = 0; w < kThreads / 32; ++w) {
      if (w < warp) place += counts[w];
      total += counts[w];
    }
    if (row == t) found[place + __popc(mine & ((1u << lane) - 1u))] = static_cast<int>(i);
    __syncthreads();
    for (int j = 0; j < total; ++j) {
      any = true;
      if (k < width) sum = fmaf(scale[found[j]], x.data[found[j] * x.stride + k], sum);
    }
    __syncthreads();
  }
  if (any && k < width) *to = sum;
}

// One block; a thread for each expert walks the gate's choice twice, 1,024 numbers at a time: to count its pairs, and to write them in the order of rows.
constexpr int kPairThreads = 1024;
__global__ void __launch_bounds__(kPairThreads) pair_up_kernel(Pairs pairs, Rows<const int32_t> experts, Rows<const float> weights, int rows, int top_k, int first_expert, int own) {
  __shared__ int32_t ids[kPairThreads];
  __shared__ int32_t sums[2][kPairThreads];  // pairs and tiles up to and with an expert
  const int e = threadIdx.x, choices = rows * top_k;
  const auto walk = [&](auto&& mine) {
    for (int begin = 0; begin < choices; begin += kPairThreads) {
      const int i = begin + e, n = min(kPairThreads, choices - begin);
      __syncthreads();
      if (e < n) ids[e] = experts.data[i / top_k * experts.stride + i % top_k] - first_expert;
      __syncthreads();
      if (e < own) for (int j = 0; j < n; ++j) if (ids[j] == e) mine(begin + j);
    }
  };
  int count = 0;
  walk([&](int) { ++count; });
  const int tiles = (count + pairs.tile_rows - 1) / pairs.tile_rows;
  sums[0][e] = count;
  sums[1][e] = tiles;
  for (int step = 1; step < kPairThreads; step *= 2) {
    __syncthreads();
    const int a = e >= step ? sums[0][e - step] : 0, b = e >= step ? sums[1][e - step] : 0;
    __syncthreads();
    sums[0][e] += a;
    sums[1][e] += b;
  }
  __syncthreads();
  int place = sums[0][e] - count;
  const int first = place, first_tile = sums[1][e] - tiles, used = sums[1][kPairThreads - 1];
  for (int i = 0; i < tiles; ++i) pairs.tiles[first_tile + i] = {e, first + i * pairs.tile_rows, min(pairs.tile_rows, count - i * pairs.tile_rows)};
  for (int i = used + e; i < pairs.num_tiles; i += kPairThreads) pairs.tiles[i] = {0, 0, 0};
  if (e == 0) *pairs.count = sums[0][kPairThreads - 1];
  walk([&](int i) {
    pairs.rows[place] = i / top_k;
    pairs.scale[place] = weights.data[i / top_k * weights.stride + i % top_k];
    ++place;
  });
}

}  // namespace

void pair_up(const Pairs& pairs, Rows<const int32_t> experts, Rows<const float> weights, int64_t rows, int64_t top_k, int64_t first_expert, int64_t own_experts, cudaStream_t stream) {
  pair_up_kernel<<<1, kPairThreads, 0, stream>>>(pairs, experts, weights, static_cast<int>(rows), static_cast<int>(top_k), static_cast<int>(first_expert), static_cast<int>(own_experts));
  check_launch("pair_up");
}

void route(Rows<int32_t> experts, Rows<float> weights, Rows<const float> logits, const float* bias, const Gate& gate, int64_t rows, cudaStream_t stream) {
  const size_t shared = static_cast<size_t>(2 * gate.experts + gate.groups) * sizeof(float) + static_cast<size_t>(gate.experts);
  route_kernel<<<static_cast<unsigned>(rows), 32, shared, stream>>>(experts, weights, logits, bias, gate);
  check_launch("route");
}

void gather_rows(Rows<float> out, Rows<const float> x, const int32_t* indices, int64_t rows, int64_t width, int64_t limit, FaultSink fault, cudaStream_t stream) {
  gather_rows_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(out, x, indices, width, limit, fault);
  check_launch("gather_rows");
}

void scatter_add(Rows<float> out, int64_t out_rows, Rows<const float> x, const int32_t* indices, const float* scale, int64_t rows, const int32_t* count, int64_t width, FaultSink fault,
                 cudaStream_t stream) {
  scatter_add_kernel<<<dim3(static_cast<unsigned>(out_rows), blocks_of(width, kThreads)), kThreads, 0, stream>>>(out, out_rows, x, indices, scale, rows, count, width, fault);
  check_launch("scatter_add");
}

}  // namespace dsinfer::cuda
