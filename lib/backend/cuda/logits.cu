// What sampling needs of rows of logits: the best ids in order, and sums of exponentials.
//   1. parts: a row is cut in kParts; a block finds the best logit of its part, and whether all are numbers.
//   2. sums, where a row asks for one: each part's Σ exp(x − best) and Σ exp((x − best) / temperature), in f64, since top_p's border is decided by them.
//   3. finish: one block a row puts the parts together in their order, and finds more candidates than one by a radix select over the bits of the logits.
#include "backend/cuda/warp.cuh"
#include "backend/logit_survey.hpp"

namespace dsinfer::cuda {
namespace {

constexpr int kParts = 32, kThreads = 256, kFinish = 1024;
constexpr int kBins = 2048;  // of a radix digit: 11 bits, 11 bits, 10 bits

struct Part {
  double mass, tempered;
  float best;
  int32_t id, finite, unused;
};
static_assert(sizeof(Part) * kParts == kSurveyRowBytes);

struct Best {
  float value;
  int32_t id;
};
__device__ Best better(Best a, Best b) { return b.id >= 0 && (a.id < 0 || b.value > a.value || (b.value == a.value && b.id < a.id)) ? b : a; }
__device__ Best warp_best(Best a) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) a = better(a, {__shfl_xor_sync(kAll, a.value, step), __shfl_xor_sync(kAll, a.id, step)});
  return a;
}

__device__ LogitAsk ask_of(const Survey& s, int64_t row) {
  const int2 words = *reinterpret_cast<const int2*>(s.asks.data + row * s.asks.stride);
  LogitAsk ask;
  ask.temperature = __int_as_float(words.x);
  ask.best = static_cast<uint16_t>(words.y & 0xffff);
  ask.sums = static_cast<uint16_t>(static_cast<uint32_t>(words.y) >> 16);
  return ask;
}
__device__ Part* parts_of(const Survey& s, int64_t row) { return reinterpret_cast<Part*>(s.scratch) + row * kParts; }

__global__ void __launch_bounds__(kThreads) parts_kernel(Survey s) {
  __shared__ Best bests[kThreads / 32];
  const int64_t row = blockIdx.y, each = (s.vocab + kParts - 1) / kParts, begin = blockIdx.x * each, end = min(s.vocab, begin + each);
  const float* logits = s.logits.data + row * s.logits.stride;
  Best best{0, -1};
  bool finite = true;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const float x = logits[i];
    finite &= isfinite(x);
    if (i < s.ids && (best.id < 0 || x > best.value)) best = {x, static_cast<int32_t>(i)};
  }
  finite = __syncthreads_and(finite);
  best = warp_best(best);
  if (threadIdx.x % 32 == 0) bests[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int w = 1; w < kThreads / 32; ++w) best = better(best, bests[w]);
  parts_of(s, row)[blockIdx.x] = {0, 0, best.value, best.id, finite, 0};
}

__device__ Best row_best(const Part* parts) {  // by a whole warp
  static_assert(kParts == 32);
  const Part& part = parts[threadIdx.x % 32];
  return warp_best({part.best, part.id});
}

__device__ double block_sum(double x, double* scratch) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAll, x, step);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  double sum = 0;
  for (int w = 0; w < kThreads / 32; ++w) sum += scratch[w];
  __syncthreads();
  return sum;
}

__global__ void __launch_bounds__(kThreads) sums_kernel(Survey s) {
  __shared__ double scratch[kThreads / 32];
  const int64_t row = blockIdx.y, each = (s.vocab + kParts - 1) / kParts, begin = blockIdx.x * each, end = min(s.vocab, begin + each);
  const LogitAsk ask = ask_of(s, row);
  if (ask.sums == 0) return;
  const float* logits = s.logits.data + row * s.logits.stride;
  Part* parts = parts_of(s, row);
  const double top = row_best(parts).value, temperature = ask.temperature;
  const bool mass = ask.sums & LogitAsk::kMass, tempered = ask.sums & LogitAsk::kTemperedMass;
  double sum = 0, tempered_sum = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const double x = logits[i] - top;
    if (mass) sum += exp(x);
    if (tempered && i < s.ids) tempered_sum += exp(x / temperature);
  }
  sum = block_sum(sum, scratch);
  tempered_sum = block_sum(tempered_sum, scratch);
  if (threadIdx.x == 0) parts[blockIdx.x].mass = sum, parts[blockIdx.x].tempered = tempered_sum;
}

// As unsigned numbers in the order of the logits; −0 as 0.
__device__ uint32_t key_of(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The bin, from the highest on, in which the want-th key lies; how many lie above it; and how many in it.
struct Bin {
  uint32_t digit;
  int32_t above, in;
};

struct Select {
  int32_t bins[kBins];
  int32_t sums[kBins / 32];
  Bin found;
  int32_t taken;
  int32_t warp_counts[kFinish / 32];
  unsigned long long sorted[kMostBest];
};

__device__ Bin find_bin(Select& shared, int32_t want) {
  __syncthreads();
  if (threadIdx.x < kBins / 32) {
    int32_t sum = 0;
    for (int j = 0; j < 32; ++j) sum += shared.bins[threadIdx.x * 32 + (j + threadIdx.x) % 32];  // turned, so that each thread reads another bank
    shared.sums[threadIdx.x] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    int32_t above = 0;
    int group = kBins / 32 - 1;
    while (group > 0 && above + shared.sums[group] < want) above += shared.sums[group--];
    int bin = group * 32 + 31;
    while (bin > group * 32 && above + shared.bins[bin] < want) above += shared.bins[bin--];
    shared.found = {static_cast<uint32_t>(bin), above, shared.bins[bin]};
  }
  __syncthreads();
  return shared.found;
}

__device__ unsigned long long entry_of(uint32_t key, int32_t id) { return static_cast<unsigned long long>(key) << 32 | (0xffffffffu - static_cast<uint32_t>(id)); }

// Of the keys equal to `border`, the `need` with the lowest ids, by tiles in the order of ids.
__device__ void take_lowest(Select& shared, const float* logits, int64_t ids, uint32_t border, int32_t need) {
  int32_t before = 0;  // the same in every thread
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t base = 0; base < ids && before < need; base += kFinish) {
    const int64_t i = base + threadIdx.x;
    const bool equal = i < ids && key_of(logits[i]) == border;
    const unsigned ballot = __ballot_sync(kAll, equal);
    if (lane == 0) shared.warp_counts[warp] = __popc(ballot);
    __syncthreads();
    int32_t rank = before + __popc(ballot & ((1u << lane) - 1)), all = 0;
    for (int w = 0; w < kFinish / 32; ++w) {
      if (w < warp) rank += shared.warp_counts[w];
      all += shared.warp_counts[w];
    }
    if (equal && rank < need) shared.sorted[atomicAdd(&shared.taken, 1)] = entry_of(border, static_cast<int32_t>(i));
    before += all;
    __syncthreads();
  }
}

// use(id, logit) for this thread's logits, of which many are asked for at a time.
template <class Use> __device__ void each_logit(const float* logits, int64_t ids, Use use) {
  constexpr int kAtOnce = 8;
  for (int64_t base = threadIdx.x; base < ids; base += kAtOnce * kFinish) {
    float x[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) x[j] = base + j * kFinish < ids ? __ldg(logits + base + j * kFinish) : 0;
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j)
      if (base + j * kFinish < ids) use(static_cast<int32_t>(base + j * kFinish), x[j]);
  }
}

// The want best of ids logits into shared.sorted, best first, the lower id first on a tie.
__device__ void select_best(Select& shared, const float* logits, int64_t ids, int32_t want) {
  constexpr int kShift[] = {21, 10, 0}, kBits[] = {11, 11, 10};
  uint32_t border = 0, mask = 0;
  int32_t need = want;
  Bin bin{};
  for (int level = 0; level < 3; ++level) {
    for (int i = threadIdx.x; i < kBins; i += kFinish) shared.bins[i] = 0;
    __syncthreads();
    each_logit(logits, ids, [&](int32_t, float x) {
      const uint32_t key = key_of(x);
      if ((key & mask) == border) atomicAdd(&shared.bins[key >> kShift[level] & ((1u << kBits[level]) - 1)], 1);
    });
    bin = find_bin(shared, need);
    need -= bin.above;
    border |= bin.digit << kShift[level];
    mask |= ((1u << kBits[level]) - 1) << kShift[level];
  }
  const bool all_equals = bin.in == need;
  for (int i = threadIdx.x; i < kMostBest; i += kFinish) shared.sorted[i] = 0;
  if (threadIdx.x == 0) shared.taken = 0;
  __syncthreads();
  each_logit(logits, ids, [&](int32_t id, float x) {
    const uint32_t key = key_of(x);
    if (key > border || (all_equals && key == border)) shared.sorted[atomicAdd(&shared.taken, 1)] = entry_of(key, id);
  });
  __syncthreads();
  if (!all_equals) take_lowest(shared, logits, ids, border, need);
  // Bitonic sort, falling; what atomics put in any order comes in one. Source: Batcher, "Sorting networks and their applications", 1968.
  int size = 2;
  while (size < want) size *= 2;
  for (int span = 2; span <= size; span *= 2) {
    for (int step = span / 2; step > 0; step /= 2) {
      __syncthreads();
      const int i = threadIdx.x, j = i ^ step;
      if (i < size && j > i) {
        const unsigned long long a = shared.sorted[i], b = shared.sorted[j];
        const bool falling = (i & span) == 0;
        if (falling ? a < b : a > b) shared.sorted[i] = b, shared.sorted[j] = a;
      }
    }
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kFinish, 1) finish_kernel(Survey s) {
  static_assert(kFinish == kMostBest, "the sort has a thread for each");
  __shared__ Select shared;
  const int64_t row = blockIdx.x;
  const LogitAsk ask = ask_of(s, row);
  const float* logits = s.logits.data + row * s.logits.stride;
  const Part* parts = parts_of(s, row);
  int32_t* out = s.out.data + row * s.out.stride;
  const bool finite = __syncthreads_and(parts[threadIdx.x % kParts].finite);
  const Best best = row_best(parts);
  const auto want = static_cast<int32_t>(min(static_cast<int64_t>(min(static_cast<int>(ask.best), static_cast<int>(kMostBest))), s.ids));
  if (threadIdx.x == 0) {
    LogitSummary summary;
    summary.finite = finite;
    summary.count = finite ? want : 0;
    if (finite && s.sums) {
      for (int p = 0; p < kParts && ask.sums & LogitAsk::kMass; ++p) summary.mass += parts[p].mass;
      for (int p = 0; p < kParts && ask.sums & LogitAsk::kTemperedMass; ++p) summary.tempered_mass += parts[p].tempered;
    }
    *reinterpret_cast<LogitSummary*>(out) = summary;
  }
  if (!finite) return;
  int2* candidates = reinterpret_cast<int2*>(out + kSummaryWords);
  if (want == 1) {
    if (threadIdx.x == 0) candidates[0] = {best.id, __float_as_int(best.value)};
    return;
  }
  select_best(shared, logits, s.ids, want);
  for (int i = threadIdx.x; i < want; i += kFinish) {
    const auto id = static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(shared.sorted[i]));
    candidates[i] = {id, __float_as_int(logits[id])};
  }
}

}  // namespace

void survey_logits(const Survey& s, cudaStream_t stream) {
  if (s.rows == 0) return;
  const dim3 grid(kParts, static_cast<unsigned>(s.rows));
  parts_kernel<<<grid, kThreads, 0, stream>>>(s);
  if (s.sums) sums_kernel<<<grid, kThreads, 0, stream>>>(s);
  finish_kernel<<<static_cast<unsigned>(s.rows), kFinish, 0, stream>>>(s);
  check_launch("survey_logits");
}

}  // namespace dsinfer::cuda
