/// Which shape of fp8_wide_kernel serves which linear.
#include "fp8_wide.cuh"

#include "fp8_wide.hpp"

namespace dsinfer::hopper {
namespace {

struct Linear {
  bf16* out;
  Fp8Rows x;
  Fp8Weight w;
  int m, n, k;
};

template <int kRows, int kTokens, bool kGated>
cudaError_t launch(const Linear& l, cudaStream_t stream) {
  using S = WideShape<kRows, kTokens>;
  constexpr int kHalf = kGated ? kRows / 2 : kRows;
  WideArgs a{};
  a.out = l.out, a.x_scale = l.x.scale, a.w_scale = l.w.scale, a.tokens = l.m, a.n = l.n, a.k = l.k;
  a.box_tokens = l.m < kTokens ? l.m : kTokens;
  cudaError_t status = encode(a.w, {l.w.data, l.n, l.k, l.k, 1, kHalf});
  if (status == cudaSuccess) status = encode(a.x, {l.x.data, l.m, l.k, l.k, 1, a.box_tokens});
  if (status != cudaSuccess) return status;
  const int tiles = ((kGated ? l.n / 2 : l.n) + kHalf - 1) / kHalf * ((l.m + kTokens - 1) / kTokens), resident = multiprocessors();
  return start(fp8_wide_kernel<kRows, kTokens, kGated>, dim3(unsigned(tiles < resident ? tiles : resident)), S::kThreads, S::kSharedBytes,
               stream, true, a);
}

/// Time of a tile over K, up to a factor: its weights come from memory, its tokens from L2.
template <int kRows, int kTokens>
int64_t cost(const Linear& l) {
  const int64_t tiles = int64_t((l.n + kRows - 1) / kRows) * ((l.m + kTokens - 1) / kTokens), processors = multiprocessors();
  return (tiles + processors - 1) / processors * (2 * kRows + kTokens);
}

struct Choice {
  int64_t cost;
  cudaError_t (*launch)(const Linear&, cudaStream_t);
};

}  // namespace

bool wide_fits(int n, int k, bool gated) {
  if (gated)
    return n % 128 == 0 && k % 128 == 0 && n / 144 >= multiprocessors() * 3 / 4;  // with fewer tiles fp8_tile_kernel has more blocks
  return n % 64 == 0 && k % 256 == 0;
}

cudaError_t wide_linear(bf16* out, Fp8Rows x, Fp8Weight w, int m, int n, int k, bool gated, cudaStream_t stream) {
  if (!wide_fits(n, k, gated) || m < 1 || m > 128) return cudaErrorInvalidValue;
  const Linear l{out, x, w, m, n, k};
  if (gated) return launch<144, 128, true>(l, stream);
  const Choice choices[] = {{cost<32, 64>(l), launch<32, 64, false>},     {cost<64, 64>(l), launch<64, 64, false>},
                            {cost<112, 64>(l), launch<112, 64, false>},   {cost<96, 128>(l), launch<96, 128, false>},
                            {cost<144, 128>(l), launch<144, 128, false>}, {cost<192, 128>(l), launch<192, 128, false>}};
  const Choice* best = choices;
  for (const Choice& c : choices)
    if (c.cost < best->cost) best = &c;
  return best->launch(l, stream);
}

}  // namespace dsinfer::hopper
