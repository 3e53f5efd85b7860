/// Filling the two places for pages: what the third warpgroup of an attention block does.
#pragma once
#include "mla_kernel.cuh"

namespace dsinfer::hopper {

struct MlaMaps {
  CUtensorMap q, cache;  // rows of 576 bf16; the second is used for a bf16 cache only
};

/// Waits until half `half` of the place of `page` is free: columns 0 … 3, or 4 … 8.
__device__ inline void wait_for_place(const MlaPart& part, int page, int half) {
  if (page >= 2) barrier_wait(part.empty(page, half), (page / 2 - 1) % 2);
}

/// Asks for a whole page from memory to L2.
__device__ inline void ask_for_page(const void* page, int64_t row_bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(page), "r"(int(MlaShape::kPage * row_bytes)) : "memory");
}
constexpr int kMlaPagesAhead = 3;  // asked for ahead of their copy: a place that falls free is filled at L2's latency

/// One thread: pages by the copy engine, the halves in the order of their release; q after the first two.
__device__ inline void load_pages(const MlaMaps& maps, const MlaPart& part, int q_row) {
  using S = MlaShape;
  auto load = [&](int page) {
    const int row = part.table[part.first + page] * S::kPage;
    for (int i = 0; i < 2; ++i) {
      const int half = i ^ (page % 2);
      wait_for_place(part, page, half);
      for (int c = half * 4; c < 4 + half * 5; ++c) {
        barrier_expect(part.full(page, c), S::kColumnBytes);
        copy_box(part.tile(page) + c * S::kColumnBytes, maps.cache, c * 64, row, part.full(page, c));
      }
    }
  };
  // The cache was written by an earlier kernel than the one just before this: it may be read at once.
  for (int page = 0; page < min(part.pages, 2); ++page) load(page);
  wait_for_producers();
  let_dependents_start();
  barrier_expect(part.q_full(), S::kTileBytes);
  for (int c = 0; c < S::kColumns; ++c) copy_box(part.base + c * S::kColumnBytes, maps.q, c * 64, q_row, part.q_full());
  for (int page = 2; page < part.pages; ++page) load(page);
}

/// Two E4M3 bytes (0 and 1 of `bytes`, or with kHigh 2 and 3) as bf16, of 2^-120 times their value: sign, exponent and mantissa in bf16's
/// places.
template <bool kHigh>
__device__ inline uint32_t spread_e4m3(uint32_t bytes) {
  const uint32_t x = __byte_perm(bytes, 0, kHigh ? 0x3424 : 0x1404);
  return (x & 0x80008000u) | ((x >> 4) & 0x07f007f0u);
}
__device__ inline uint32_t scaled(uint32_t pair, __nv_bfloat162 scale) {
  const __nv_bfloat162 y = __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&pair), scale);
  return *reinterpret_cast<const uint32_t*>(&y);
}

/// 128 threads: FP8 rows widened into the places. A step is 64 bytes of each of a page's 64 rows: a column of latents, or half of the rope
/// channels. The next three steps' bytes are on their way from L2 while one's are written, whole pages from memory ahead of them.
struct MlaWidener {
  using S = MlaShape;
  static constexpr int kSteps = 10, kAhead = 4;
  const MlaPart& part;
  const uint8_t* cache;
  int thread = threadIdx.x % 128, unit = thread % 4, row0 = thread / 4;  // 16 of the 64 bytes, in rows row0 and row0 + 32
  struct Bytes {
    uint4 data[2];
    float scale[2];
  };
  struct Step {
    int page = 0, step = 0;
    const uint8_t* data;
    /// Even pages: columns 0 … 7, rope; odd ones: 4 … 7, rope, 0 … 3.
    __device__ int column() const { return page % 2 == 0 ? step : (step + 4) % kSteps; }  // 8, 9: rope
  };

  __device__ const uint8_t* page_data(int page) const {
    return page < part.pages ? cache + size_t(part.table[part.first + page]) * (S::kPage * kFp8KvRowBytes) : nullptr;
  }

  __device__ void fetch(Bytes& b, const Step& at) const {
    const int column = at.column(), valid = part.valid_rows(at.page);
    const uint8_t* from = at.data + row0 * kFp8KvRowBytes;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint8_t* row = from + i * 32 * kFp8KvRowBytes;
      const bool live = row0 + 32 * i < valid;
      b.data[i] = live ? *reinterpret_cast<const uint4*>(row + (column < 8 ? column * 64 : column * 64 + 16) + unit * 16) : uint4{};
      b.scale[i] = live && column < 8 ? *reinterpret_cast<const float*>(row + 512 + column / 2 * 4) : 0;
    }
  }

  __device__ void store(const Bytes& b, const Step& at) const {
    const int column = at.column();
    uint8_t* to = part.generic + (part.tile(at.page) - part.base) + min(column, 8) * S::kColumnBytes;
    if (column == 0 || column == 4) wait_for_place(part, at.page, column / 4);
    if (column >= 8) {
#pragma unroll
      for (int i = 0; i < 2; ++i) *reinterpret_cast<uint4*>(to + swizzled(row0 + 32 * i, (column - 8) * 4 + unit)) = b.data[i];
      if (column == 8) return;
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const __nv_bfloat162 scale = __float2bfloat162_rn(b.scale[i] * 0x1p120f);
        const uint4 v = b.data[i];
        *reinterpret_cast<uint4*>(to + swizzled(row0 + 32 * i, unit * 2)) =
            uint4{scaled(spread_e4m3<false>(v.x), scale), scaled(spread_e4m3<true>(v.x), scale), scaled(spread_e4m3<false>(v.y), scale),
                  scaled(spread_e4m3<true>(v.y), scale)};
        *reinterpret_cast<uint4*>(to + swizzled(row0 + 32 * i, unit * 2 + 1)) =
            uint4{scaled(spread_e4m3<false>(v.z), scale), scaled(spread_e4m3<true>(v.z), scale), scaled(spread_e4m3<false>(v.w), scale),
                  scaled(spread_e4m3<true>(v.w), scale)};
      }
    }
    // Who scores publishes it to the matrix unit: here that fence would wait for the loads under way.
    __syncwarp();
    if (thread % 32 == 0) barrier_arrive(part.full(at.page, min(column, 8)));
  }

  __device__ void run(const MlaMaps& maps, int q_row) {
    Bytes ring[kAhead];
    Step reading, writing;
    const uint8_t *next_data = page_data(1), *asked = page_data(1 + kMlaPagesAhead);  // looked up a page before they are wanted
    reading.data = page_data(0);
    if (thread < kMlaPagesAhead && thread + 1 < part.pages) ask_for_page(page_data(thread + 1), kFp8KvRowBytes);
    const int steps = part.pages * kSteps;
    int fetched = 0;
    auto fetch_next = [&](Bytes& b) {
      if (fetched++ >= steps) return;
      fetch(b, reading);
      if (++reading.step < kSteps) return;
      reading.step = 0, ++reading.page, reading.data = next_data;
      next_data = page_data(reading.page + 1);
      if (thread == 0 && asked) ask_for_page(asked, kFp8KvRowBytes);
      asked = page_data(reading.page + 1 + kMlaPagesAhead);
    };
#pragma unroll
    for (int i = 0; i < kAhead; ++i) fetch_next(ring[i]);
    wait_for_producers();
    let_dependents_start();
    if (thread == 0) {
      barrier_expect(part.q_full(), S::kTileBytes);
      for (int c = 0; c < S::kColumns; ++c) copy_box(part.base + c * S::kColumnBytes, maps.q, c * 64, q_row, part.q_full());
    }
    for (int done = 0; done < steps; done += kAhead)
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (done + i >= steps) break;
        store(ring[i], writing);
        if (++writing.step == kSteps) writing.step = 0, ++writing.page;
        fetch_next(ring[i]);
      }
  }
};

}  // namespace dsinfer::hopper
