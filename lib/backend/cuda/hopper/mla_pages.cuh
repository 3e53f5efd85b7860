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
  auto load = [&](int page) {  // read again by the block of the other 64 heads, at about the same time, and where sequences share it
    const int row = part.table[part.first + page] * S::kPage;
    for (int i = 0; i < 2; ++i) {
      const int half = i ^ (page % 2);
      wait_for_place(part, page, half);
      for (int c = half * 4; c < 4 + half * 5; ++c) {
        barrier_expect(part.full(page, c), S::kColumnBytes);
        copy_box_once(part.tile(page) + c * S::kColumnBytes, maps.cache, c * 64, row, part.full(page, c));
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

/// 128 threads: FP8 rows widened into the places, half a page at a time. A thread copies 16 bytes of two rows of each column to where it
/// will store what they become, so that no other waits for it; whole pages are asked for from memory ahead of that.
struct MlaWidener {
  using S = MlaShape;
  const MlaPart& part;
  const uint8_t* cache;
  int thread = threadIdx.x % 128, unit = thread % 4, row0 = thread / 4;  // 16 of a column's 64 bytes, in rows row0 and row0 + 32

  __device__ const uint8_t* page_data(int page) const {
    return page < part.pages ? cache + size_t(part.table[part.first + page]) * (S::kPage * kFp8KvRowBytes) : nullptr;
  }
  __device__ static void copy16(uint32_t to, const void* from, bool live) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(live ? 16 : 0) : "memory");
  }
  __device__ static void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
  template <int kLeft>
  __device__ static void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
  }
  __device__ void tell(int page, int column) const {
    // Who scores publishes it to the matrix unit.
    __syncwarp();
    if (thread % 32 == 0) barrier_arrive(part.full(page, column));
  }

  /// Five groups of copies: four columns, and with the second half the rope channels as they are.
  __device__ void copy_half(const uint8_t* data, int page, int half) const {
    const uint32_t tile = part.tile(page);
    const int valid = part.valid_rows(page);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = row0 + 32 * i;
        copy16(tile + (half * 4 + n) * S::kColumnBytes + swizzled(row, unit * 2),
               data + row * kFp8KvRowBytes + half * 256 + n * 64 + unit * 16, row < valid);
      }
      commit();
    }
    if (half)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = thread / 8 + 16 * i;
        copy16(tile + 8 * S::kColumnBytes + swizzled(row, thread % 8), data + row * kFp8KvRowBytes + 528 + thread % 8 * 16, row < valid);
      }
    commit();
  }

  /// Scales of two blocks of 128 of my rows.
  __device__ void load_scales(float2 (&scale)[2], const uint8_t* data, int page, int half) const {
    const int valid = part.valid_rows(page);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = row0 + 32 * i;
      scale[i] = row < valid ? *reinterpret_cast<const float2*>(data + row * kFp8KvRowBytes + 512 + half * 8) : float2{};
    }
  }

  __device__ void widen(uint8_t* column, int row, float scale) const {
    const __nv_bfloat162 factor = __float2bfloat162_rn(scale * 0x1p120f);
    uint4* const low = reinterpret_cast<uint4*>(column + swizzled(row, unit * 2));
    const uint4 v = *low;
    *low = uint4{scaled(spread_e4m3<false>(v.x), factor), scaled(spread_e4m3<true>(v.x), factor), scaled(spread_e4m3<false>(v.y), factor),
                 scaled(spread_e4m3<true>(v.y), factor)};
    *reinterpret_cast<uint4*>(column + swizzled(row, unit * 2 + 1)) =
        uint4{scaled(spread_e4m3<false>(v.z), factor), scaled(spread_e4m3<true>(v.z), factor), scaled(spread_e4m3<false>(v.w), factor),
              scaled(spread_e4m3<true>(v.w), factor)};
  }

  __device__ void run(const MlaMaps& maps, int q_row) const {
    const uint8_t *data = page_data(0), *next_data = page_data(1), *asked = page_data(1 + kMlaPagesAhead);
    if (thread < kMlaPagesAhead && thread + 1 < part.pages) ask_for_page(page_data(thread + 1), kFp8KvRowBytes);
    float2 scale[2], next_scale[2];
    load_scales(next_scale, data, 0, 0);
    for (int step = 0; step < part.pages * 2; ++step) {
      const int page = step / 2, half = step % 2 ^ page % 2;  // the halves in the order of their release
      if (step > 0 && step % 2 == 0) {
        data = next_data, next_data = page_data(page + 1);  // where a page lies is looked up a page ahead
        if (thread == 0 && asked) ask_for_page(asked, kFp8KvRowBytes);
        asked = page_data(page + 1 + kMlaPagesAhead);
      }
      wait_for_place(part, page, half);
      copy_half(data, page, half);
      if (step == 0) {
        wait_for_producers();
        let_dependents_start();
        if (thread == 0) {
          barrier_expect(part.q_full(), S::kTileBytes);
          for (int c = 0; c < S::kColumns; ++c) copy_box(part.base + c * S::kColumnBytes, maps.q, c * 64, q_row, part.q_full());
        }
      }
      scale[0] = next_scale[0], scale[1] = next_scale[1];
      if (step + 1 < part.pages * 2) {
        const int next_page = (step + 1) / 2;
        load_scales(next_scale, step % 2 == 0 ? data : next_data, next_page, (step + 1) % 2 ^ next_page % 2);
      }
      uint8_t* const columns = part.generic + (part.tile(page) - part.base) + half * 4 * S::kColumnBytes;
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        if (n == 0) wait_for_copies<4>();
        if (n == 1) wait_for_copies<3>();
        if (n == 2) wait_for_copies<2>();
        if (n == 3) wait_for_copies<1>();
#pragma unroll
        for (int i = 0; i < 2; ++i) widen(columns + n * S::kColumnBytes, row0 + 32 * i, n < 2 ? scale[i].x : scale[i].y);
        tell(page, half * 4 + n);
      }
      wait_for_copies<0>();
      if (half) tell(page, 8);
    }
  }
};

}  // namespace dsinfer::hopper
