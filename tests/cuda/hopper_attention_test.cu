/// The attention stages of the decode step against double precision.
#include <cstdio>
#include <cstring>
#include <numeric>

#include "backend/cuda/hopper/hopper.hpp"
#include "device_data.cuh"

namespace dsinfer {
namespace {
using namespace test;

class HopperAttention : public testing::Test {
  void SetUp() override {
    if (!has_hopper()) GTEST_SKIP() << "no GPU: skipped (needs compute capability 9.0)";
  }
};

/// Channel i of a cache row, as the bytes say.
__device__ double cached(const uint8_t* row, int i, bool fp8) {
  if (!fp8) return double(float(reinterpret_cast<const bf16*>(row)[i]));
  if (i >= 512) return double(float(reinterpret_cast<const bf16*>(row + 528)[i - 512]));
  return double(float(reinterpret_cast<const E4m3*>(row)[i])) * double(reinterpret_cast<const float*>(row + 512)[i / 128]);
}

/// A block a (token, head): scores, softmax and sum in double precision.
__global__ void attention_reference_kernel(double* u, const bf16* q, const uint8_t* cache, const int* table, const int* positions,
                                           int heads, int max_pages, double scale, double* scores, int max_positions, bool fp8) {
  const int head = blockIdx.x, token = blockIdx.y, n = positions[token] + 1, row_bytes = fp8 ? 656 : 1152;
  double* s = scores + (size_t(token) * heads + head) * max_positions;
  const bf16* query = q + (size_t(token) * heads + head) * 576;
  auto row = [&](int p) { return cache + (size_t(table[token * max_pages + p / 64]) * 64 + p % 64) * row_bytes; };
  for (int p = threadIdx.x; p < n; p += blockDim.x) {
    double dot = 0;
    for (int i = 0; i < 576; ++i) dot += double(float(query[i])) * cached(row(p), i, fp8);
    s[p] = dot * scale;
  }
  __syncthreads();
  double top = -1e300, total = 0;
  for (int p = 0; p < n; ++p) top = fmax(top, s[p]);
  for (int p = 0; p < n; ++p) total += exp(s[p] - top);
  for (int i = threadIdx.x; i < 512; i += blockDim.x) {
    double sum = 0;
    for (int p = 0; p < n; ++p) sum += exp(s[p] - top) * cached(row(p), i, fp8);
    u[(size_t(token) * heads + head) * 512 + i] = n > 0 ? sum / total : 0;
  }
}

/// FP8 rows: bytes of sigma 60 (subnormals and zeros too) with scales of about 1/60 that fit bf16; a thread a row.
__global__ void fp8_rows_kernel(uint8_t* cache, int rows, uint64_t seed) {
  const int r = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (r >= rows) return;
  uint8_t* row = cache + size_t(r) * 656;
  for (int i = 0; i < 512; ++i) {
    const float small = mix(seed * 77 + uint64_t(r) * 512 + i) % 8 == 0 ? 1e-4f : 1.0f;
    reinterpret_cast<E4m3*>(row)[i] = E4m3(gaussian(seed, uint64_t(r) * 640 + i) * 60 * small);
  }
  for (int b = 0; b < 4; ++b) reinterpret_cast<float*>(row + 512)[b] = float(bf16((0.5f + uniform(seed + 1, uint64_t(r) * 4 + b)) / 60));
  for (int i = 0; i < 64; ++i) reinterpret_cast<bf16*>(row + 528)[i] = bf16(gaussian(seed, uint64_t(r) * 640 + 512 + i));
}

/// Sequences of many lengths, their pages scattered; rows past the end of a sequence hold NaN, as memory nobody wrote may.
struct Sequences {
  static constexpr int kMaxPages = 16;
  Sequences(std::vector<int> at, int heads, hopper::KvFormat format)
      : positions(std::move(at)),
        heads(heads),
        format(format),
        tokens(int(positions.size())),
        pages(tokens * kMaxPages + 3),
        row_bytes(size_t(hopper::kv_row_bytes(format))),
        table(size_t(tokens) * kMaxPages),
        cache(size_t(pages) * 64 * row_bytes),
        q(size_t(tokens) * heads * 576),
        expected(size_t(tokens) * heads * 512),
        scores(size_t(tokens) * heads * 1024) {
    for (size_t i = 0; i < table.size(); ++i) table[i] = int((i * 37 + 5) % size_t(pages));  // no common factor: all different
    if (format == hopper::KvFormat::kFp8)
      fp8_rows_kernel<<<pages, 64>>>(cache, pages * 64, 21);
    else
      fill_kernel<<<1024, 256>>>(reinterpret_cast<bf16*>(static_cast<uint8_t*>(cache)), cache.size() / 2, 21, 1.0f, 0.0f);
    fill(q, 22, 1);
    for (int t = 0; t < tokens; ++t)
      if (const int used = positions[t] + 1; used > 0 && used % 64 != 0)
        cudaMemset(cache + (size_t(table[t * kMaxPages + positions[t] / 64]) * 64 + used % 64) * row_bytes, 0xff,
                   size_t(64 - used % 64) * row_bytes);
    cudaMemcpy(table_device, table.data(), table.size() * sizeof(int), cudaMemcpyHostToDevice);
    cudaMemcpy(positions_device, positions.data(), positions.size() * sizeof(int), cudaMemcpyHostToDevice);
    attention_reference_kernel<<<dim3(heads, tokens), 128>>>(expected, q, cache, table_device, positions_device, heads, kMaxPages, kScale,
                                                             scores, 1024, format == hopper::KvFormat::kFp8);
  }
  /// The output for `count` of the tokens from `first` on.
  std::vector<bf16> decode(int parts, int first, int count) const {
    Device<bf16> u(size_t(count) * heads * 512);
    Device<uint8_t> work(size_t(hopper::mla_workspace(count, heads, parts)));
    const hopper::MlaDecode a{u,
                              q + size_t(first) * heads * 576,
                              cache,
                              table_device + size_t(first) * kMaxPages,
                              positions_device + first,
                              reinterpret_cast<float*>(static_cast<uint8_t*>(work)),
                              count,
                              heads,
                              kMaxPages,
                              parts,
                              kScale,
                              format};
    EXPECT_EQ(cudaSuccess, hopper::mla_decode(a, nullptr));
    EXPECT_EQ(cudaSuccess, cudaDeviceSynchronize());
    return u.host();
  }
  static constexpr float kScale =
      0.1352337788608801f / 3;  // of V3, over three: unit Gaussians would otherwise leave one key in the softmax
  std::vector<int> positions;
  int heads;
  hopper::KvFormat format;
  int tokens, pages;
  size_t row_bytes;
  std::vector<int> table;
  Device<uint8_t> cache;
  Device<bf16> q;
  Device<double> expected, scores;
  Device<int> table_device{size_t(tokens) * kMaxPages}, positions_device{size_t(tokens)};
};

TEST_F(HopperAttention, MlaDecodeEqualsDoublePrecisionAtAnyLengthAndSplit) {
  for (const auto format : {hopper::KvFormat::kBf16, hopper::KvFormat::kFp8})
    for (const int heads : {128, 16}) {
      const Sequences s({0, 62, 63, 64, -1, 200, 511, 1023, 777, 130}, heads, format);  // -1: a padding row
      const auto expected = s.expected.host();
      for (const int parts : {1, 2, 3, 4, 5, 6, 7, 8, 14, 16, 64}) {
        const auto u = s.decode(parts, 0, s.tokens);
        const double error = relative_error(u, expected);
        std::printf("mla %s, %d heads, %d parts: %.2e\n", format == hopper::KvFormat::kFp8 ? "fp8" : "bf16", heads, parts, error);
        EXPECT_LT(error, 4e-3) << heads << " heads, " << parts << " parts";  // probabilities and output rounded to bf16
        for (int repeat = 0; repeat < 3; ++repeat) {
          const auto again = s.decode(parts, 0, s.tokens);
          EXPECT_EQ(0, std::memcmp(u.data(), again.data(), u.size() * sizeof(bf16)));
        }
      }
    }
}

TEST_F(HopperAttention, ATokenHasTheSameBitsAloneAndInABatch) {
  for (const auto format : {hopper::KvFormat::kBf16, hopper::KvFormat::kFp8}) {
    const Sequences s({700, 62, 1000, 64}, 16, format);  // few enough that one token's parts add up as four tokens' do
    for (const int parts : {1, 4, 8}) {
      const auto all = s.decode(parts, 0, 4);
      for (int t = 0; t < 4; ++t) {
        const auto one = s.decode(parts, t, 1);
        EXPECT_EQ(0, std::memcmp(one.data(), all.data() + size_t(t) * one.size(), one.size() * sizeof(bf16))) << parts << " parts";
      }
    }
  }
}

TEST_F(HopperAttention, AbsorbedProductsEqualDoublePrecision) {
  const int heads = 128;
  Device<bf16> w_uk(size_t(heads) * 512 * 128), w_uv(size_t(heads) * 128 * 512);
  fill(w_uk, 31, 0.1f), fill(w_uv, 32, 0.05f);
  const auto uk = w_uk.host(), uv = w_uv.host();
  std::vector<float> rope(128 * 64);
  for (int p = 0; p < 128; ++p)
    for (int j = 0; j < 32; ++j)
      rope[p * 64 + 2 * j] = std::cos(p * std::pow(10000.0, -j / 32.0)),
                        rope[p * 64 + 2 * j + 1] = std::sin(p * std::pow(10000.0, -j / 32.0));
  Device<float> rope_device(rope);
  for (const int tokens : {1, 7, 16, 17, 33, 64, 65, 128}) {
    std::vector<int> positions(tokens);
    for (int t = 0; t < tokens; ++t) positions[t] = (t * 29 + 3) % 128;
    Device<int> positions_device(positions);
    Device<bf16> q_b(size_t(tokens) * heads * 192), q(size_t(tokens) * heads * 576), u(size_t(tokens) * heads * 512);
    Device<uint8_t> o(size_t(tokens) * heads * 128);
    Device<float> o_scale(size_t(tokens) * heads);
    fill(q_b, 33, 1), fill(u, 34, 1);
    ASSERT_CUDA(hopper::absorb_query(q, q_b, w_uk, rope_device, positions_device, tokens, heads, nullptr));
    ASSERT_CUDA(hopper::expand_values(o, o_scale, u, w_uv, tokens, heads, false, nullptr));
    ASSERT_CUDA(cudaDeviceSynchronize());
    const auto q_b_host = q_b.host(), q_host = q.host(), u_host = u.host();
    const auto o_host = o.host();
    const auto scale_host = o_scale.host();
    std::vector<double> q_expected;
    std::vector<float> q_got, o_got;
    std::vector<double> o_expected;
    for (int t = 0; t<tokens; t += tokens> 8 ? 5 : 1)
      for (int h = 0; h < heads; h += 9) {
        const bf16* x = &q_b_host[(size_t(t) * heads + h) * 192];
        for (int n = 0; n < 512; ++n) {
          double sum = 0;
          for (int k = 0; k < 128; ++k) sum += double(float(x[k])) * double(float(uk[(size_t(h) * 512 + n) * 128 + k]));
          q_expected.push_back(sum), q_got.push_back(float(q_host[(size_t(t) * heads + h) * 576 + n]));
        }
        for (int j = 0; j < 32; ++j) {
          const double c = rope[positions[t] * 64 + 2 * j], s = rope[positions[t] * 64 + 2 * j + 1], a = float(x[128 + 2 * j]),
                       b = float(x[129 + 2 * j]);
          q_expected.push_back(a * c - b * s), q_expected.push_back(a * s + b * c);
          q_got.push_back(float(q_host[(size_t(t) * heads + h) * 576 + 512 + 2 * j])),
              q_got.push_back(float(q_host[(size_t(t) * heads + h) * 576 + 513 + 2 * j]));
        }
        double amax = 1e-4;
        for (int n = 0; n < 128; ++n) {
          double sum = 0;
          for (int k = 0; k < 512; ++k)
            sum += double(float(u_host[(size_t(t) * heads + h) * 512 + k])) * double(float(uv[(size_t(h) * 128 + n) * 512 + k]));
          o_expected.push_back(sum), amax = std::max(amax, std::abs(sum));
          E4m3 byte;
          byte.__x = o_host[(size_t(t) * heads + h) * 128 + n];
          o_got.push_back(float(byte) * scale_host[size_t(t) * heads + h]);
        }
        EXPECT_NEAR(amax / 448, scale_host[size_t(t) * heads + h], amax / 448 * 1e-5);
      }
    const double q_error = relative_error(q_got, q_expected), o_error = relative_error(o_got, o_expected);
    std::printf("absorbed products, %d tokens: q %.2e, o %.2e\n", tokens, q_error, o_error);
    EXPECT_LT(q_error, 2.5e-3);
    EXPECT_LT(o_error, 3.2e-2);  // the rounding of E4M3: 2.6e-2 on Gaussians
  }
}

}  // namespace
}  // namespace dsinfer
