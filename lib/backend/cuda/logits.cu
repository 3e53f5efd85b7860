// What sampling needs of rows of logits: the best ids in order, and sums of exponentials.
//   1. parts: a row is dealt in kParts; a block finds its part's best logit, whether all are numbers, its best candidates where more than one is asked for, and
//      where a row asks for them Σ exp(x − best) and Σ exp((x − best) / temperature), in f64, since top_p's border is decided by them.
//   2. finish: one block a row puts the parts together in their order, and sorts what they offer. Where a part may hold more of the best than it offers, or a row
//      is too long for 1 to hold, it looks for them in the whole row.
#include <cfloat>

#include "backend/cuda/select_best.cuh"

namespace dsinfer::cuda {
namespace {

constexpr int kParts = 32, kThreads = 512, kWarps = kThreads / 32;
constexpr int kHeld = 10;   // logits of a part that a thread of it holds: rows of up to 163,840
constexpr int kShare = 96;  // that a part offers at most

struct Part {
  double mass, tempered;  // sums
  Entry low;              // what it does not offer is less
  float best;
  int32_t id;
  float top;  // of all its logits, those beyond the candidates too: what mass and tempered are relative to
  int16_t finite, offered;
};
static_assert((sizeof(Part) + kShare * sizeof(Entry)) * kParts == kSurveyRowBytes);

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
__device__ Part* parts_of(const Survey& s, int64_t row) { return reinterpret_cast<Part*>(s.scratch + row * kSurveyRowBytes); }
__device__ Entry* offers_of(const Survey& s, int64_t row) { return reinterpret_cast<Entry*>(parts_of(s, row) + kParts); }
__device__ int32_t wanted(const Survey& s, const LogitAsk& ask) {
  return static_cast<int32_t>(min(static_cast<int64_t>(min(static_cast<int>(ask.best), static_cast<int>(kMostBest))), s.ids));
}
// What a part should offer: its share of the best if they lie anywhere, 3.5 deviations, and 4.
__device__ int32_t share_of(int32_t want) { return min(want, static_cast<int32_t>(static_cast<float>(want) / kParts + 3.5f * sqrtf(static_cast<float>(want) / kParts)) + 4); }
static_assert(32 + 20 + 4 < kShare * 2 / 3 && kMostBest == 1024, "room for those beside the threads' best");
// The n-th logit of this thread in its block's part: parts take turns by 32, since the ids of the best are often neighbours.
__device__ uint32_t place(int n) { return ((static_cast<uint32_t>(n) * kWarps + threadIdx.x / 32) * kParts + blockIdx.x) * 32 + threadIdx.x % 32; }

struct Offer {
  Entry low;  // what is left out is less; 0 if nothing is
  int32_t count;
};
// About `share` of the part's best to `offers`, in any order; all of it if that is not more than kShare.
__device__ Offer offer_best(Entry* offers, const uint32_t (&keys)[kHeld], int32_t share) {
  __shared__ int32_t reached, offered;
  uint32_t most = 0;
#pragma unroll
  for (const uint32_t key : keys) most = max(most, key);
  // At least as many logits as threads' best ones reach a border, and few more.
  uint32_t border = 1;
  for (int32_t threads = share;; threads /= 2) {
    if (threadIdx.x == 0) reached = offered = 0;
    __syncthreads();
    int32_t own = 0;
#pragma unroll
    for (const uint32_t key : keys) own += key >= border;
    if (own > 0) atomicAdd(&reached, own);
    __syncthreads();
    if (reached <= kShare) break;
    if (threads == 0) return {~Entry{0}, 0};
    border = 0;
    for (int bit = 31; bit >= 0; --bit)
      if (const uint32_t higher = border | 1u << bit; __syncthreads_count(most >= higher) >= threads) border = higher;
    border = max(border, 1u);
  }
#pragma unroll
  for (int j = 0; j < kHeld; ++j)
    if (keys[j] >= border) offers[atomicAdd(&offered, 1)] = entry_of(keys[j], static_cast<int32_t>(place(j)));
  return {border > 1 ? static_cast<Entry>(border) << 32 : 0, reached};
}

__device__ double warp_sum(double x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAll, x, step);
  return x;
}
__device__ double block_sum(double x, double* scratch) {
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  double sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += scratch[w];
  __syncthreads();
  return sum;
}

__global__ void __launch_bounds__(kThreads, 2) parts_kernel(Survey s) {
  __shared__ Best bests[kWarps];
  __shared__ float tops[kWarps];
  __shared__ double scratch[kWarps];
  const int64_t row = blockIdx.y;
  const float* logits = s.logits.data + row * s.logits.stride;
  const LogitAsk ask = ask_of(s, row);
  float held[kHeld];
#pragma unroll
  for (int j = 0; j < kHeld; ++j) held[j] = place(j) < s.vocab ? logits[place(j)] : 0;
  Best best{0, -1};
  float top = -FLT_MAX;
  bool finite = true;
  auto take = [&](uint32_t i, float x) {
    if (i >= s.vocab) return;
    finite &= isfinite(x);
    top = fmaxf(top, x);
    if (i < s.ids && (best.id < 0 || x > best.value)) best = {x, static_cast<int32_t>(i)};
  };
#pragma unroll
  for (int j = 0; j < kHeld; ++j) take(place(j), held[j]);
  for (int j = kHeld; place(j) < s.vocab; ++j) take(place(j), logits[place(j)]);
  finite = __syncthreads_and(finite);
  best = warp_best(best);
  top = warp_max(top);
  if (threadIdx.x % 32 == 0) bests[threadIdx.x / 32] = best, tops[threadIdx.x / 32] = top;
  __syncthreads();
  best = warp_best(bests[threadIdx.x % kWarps]), top = warp_max(tops[threadIdx.x % kWarps]);

  Part part{0, 0, 0, best.value, best.id, top, finite, 0};
  if (finite && ask.sums != 0) {
    const bool mass = ask.sums & LogitAsk::kMass, tempered = ask.sums & LogitAsk::kTemperedMass;
    const double rate = 1 / static_cast<double>(ask.temperature);
    auto add = [&](uint32_t i, float logit) {
      const double x = logit - static_cast<double>(top);
      if (mass) part.mass += exp(x);
      if (tempered && i < s.ids) part.tempered += exp(x * rate);
    };
#pragma unroll
    for (int j = 0; j < kHeld; ++j)
      if (place(j) < s.vocab) add(place(j), held[j]);
    for (int j = kHeld; place(j) < s.vocab; ++j) add(place(j), logits[place(j)]);
    part.mass = block_sum(part.mass, scratch);
    part.tempered = block_sum(part.tempered, scratch);
  }
  if (const int32_t want = wanted(s, ask); finite && want > 1) {
    uint32_t keys[kHeld];
#pragma unroll
    for (int j = 0; j < kHeld; ++j) keys[j] = place(j) < s.ids ? key_of(held[j]) : 0;
    const Offer offer = s.vocab <= kHeld * kParts * kThreads ? offer_best(offers_of(s, row) + blockIdx.x * kShare, keys, share_of(want)) : Offer{~Entry{0}, 0};
    part.low = offer.low, part.offered = static_cast<int16_t>(offer.count);
  }
  if (threadIdx.x == 0) parts_of(s, row)[blockIdx.x] = part;
}

__device__ Best row_best(const Part* parts) {  // by a whole warp
  static_assert(kParts == 32);
  const Part& part = parts[threadIdx.x % 32];
  return warp_best({part.best, part.id});
}

// The want best of the row into shared.sorted, from what its parts offer. → whether those are all that can be among them.
__device__ bool sort_offers(Select& shared, const Entry* offers, const Part* parts, int32_t want) {
  static_assert(kFinish == kParts * 32 && kParts == 32, "a warp for each part, and a lane");
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, count = parts[lane].offered;
  const int all = __reduce_add_sync(kAll, count), before = __reduce_add_sync(kAll, lane < warp ? count : 0);
  if (all < want) return false;
  int size = 64;
  while (size < all) size *= 2;
  for (int i = lane; i < parts[warp].offered; i += 32) shared.sorted[before + i] = offers[warp * kShare + i];
  for (int i = all + static_cast<int>(threadIdx.x); i < size; i += kFinish) shared.sorted[i] = 0;
  sort_falling(shared, size);
  return __syncthreads_and(parts[lane].low <= shared.sorted[want - 1]);
}

__global__ void __launch_bounds__(kFinish, 1) finish_kernel(Survey s) {
  static_assert(kParts * kShare <= kMostSorted);
  __shared__ Select shared;
  const int64_t row = blockIdx.x;
  const LogitAsk ask = ask_of(s, row);
  const float* logits = s.logits.data + row * s.logits.stride;
  const Part* parts = parts_of(s, row);
  int32_t* out = s.out.data + row * s.out.stride;
  const bool finite = __syncthreads_and(parts[threadIdx.x % kParts].finite);
  const Best best = row_best(parts);
  const int32_t want = wanted(s, ask);
  if (threadIdx.x < 32) {
    LogitSummary summary;
    summary.finite = finite;
    summary.count = finite ? want : 0;
    if (finite && ask.sums != 0) {
      const Part& part = parts[threadIdx.x];
      const double above = part.top - static_cast<double>(best.value);
      if (ask.sums & LogitAsk::kMass) summary.mass = warp_sum(part.mass * exp(above));
      if (ask.sums & LogitAsk::kTemperedMass) summary.tempered_mass = warp_sum(part.tempered * exp(above / static_cast<double>(ask.temperature)));
    }
    if (threadIdx.x == 0) *reinterpret_cast<LogitSummary*>(out) = summary;
  }
  if (!finite) return;
  int2* candidates = reinterpret_cast<int2*>(out + kSummaryWords);
  if (want == 1) {
    if (threadIdx.x == 0) candidates[0] = {best.id, __float_as_int(best.value)};
    return;
  }
  if (!sort_offers(shared, offers_of(s, row), parts, want)) select_best(shared, logits, s.ids, want);
  for (int i = threadIdx.x; i < want; i += kFinish) {
    const int32_t id = id_of(shared.sorted[i]);
    candidates[i] = {id, __float_as_int(logits[id])};
  }
}

}  // namespace

void survey_logits(const Survey& s, cudaStream_t stream) {
  if (s.rows == 0) return;
  const dim3 grid(kParts, static_cast<unsigned>(s.rows));
  parts_kernel<<<grid, kThreads, 0, stream>>>(s);
  finish_kernel<<<static_cast<unsigned>(s.rows), kFinish, 0, stream>>>(s);
  check_launch("survey_logits");
}

}  // namespace dsinfer::cuda
