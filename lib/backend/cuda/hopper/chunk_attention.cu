/// Attention of a prefill chunk in the expanded form.
#include "device.cuh"
#include "prefill.hpp"
#include "query_tile.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

namespace dsinfer::hopper {
namespace {

constexpr int kRows = 128, kKeys = 128, kStages = 2;  // of a block's tile
constexpr int kColumnBytes = 128 * 128;               // 128 rows of 64 channels: the unit of the swizzle
constexpr int kQueryBytes = 3 * kColumnBytes, kKeyBytes = 3 * kColumnBytes, kValueBytes = 2 * kColumnBytes;
constexpr float kSlack = 8;  // in powers of two: probabilities up to 256, sums up to 256 · S, both exact enough
constexpr size_t kSharedBytes = 1024 + kQueryBytes + kStages * (kKeyBytes + kValueBytes) + 8 * (2 + 4 * kStages);
static_assert(kSharedBytes <= 227 * 1024);

struct ChunkArgs {
  CUtensorMap q, kv, rope_key;  // [T, heads · 192], [S, heads · 256], [S, 64] in boxes of 64 by 128
  ChunkAttention a;
  int keys, group_heads;  // heads whose tiles are in flight together: their keys and values stay in L2
};

/// d[64,128] += a[64,16] · b[16,128], bf16, a in registers; b K-major, or N-major with kTransposed.
template <int kTransposed>
__device__ void wgmma_registers(float (&d)[64], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" DSINFER_REGISTERS_64 "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}"
      : DSINFER_SUMS_64(d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)), "n"(kTransposed));
}

/// 2^x; results below 2⁻¹²⁶ are 0.
__device__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// A block, as long as there is work: 128 queries of one head against all keys that they may see, 128 at a time. Two warpgroups of 64
// queries, which they hold in registers; one thread of the third copies. A warpgroup asks for the scores of the next keys before the values
// of these, so that the matrix unit works through its softmax, and the two ask in turns. Online softmax (Milakov & Gimelshein 2018); order
// and turns as in FlashAttention-3 (Shah et al. 2024).
__global__ void __launch_bounds__(384, 1) chunk_kernel(const __grid_constant__ ChunkArgs args) {
  extern __shared__ uint8_t raw[];
  const uint32_t query = (uint32_t(__cvta_generic_to_shared(raw)) + 1023) / 1024 * 1024, keys = query + kQueryBytes,
                 values = keys + kStages * kKeyBytes, query_full = values + kStages * kValueBytes, query_empty = query_full + 8,
                 key_full = query_empty + 8, key_empty = key_full + kStages * 8, value_full = key_empty + kStages * 8,
                 value_empty = value_full + kStages * 8;
  const ChunkAttention& a = args.a;
  const int group = __shfl_sync(~0u, int(threadIdx.x / 128), 0), thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32,
            g = lane / 4, t = lane % 4;
  if (threadIdx.x == 0) {
    barrier_init(query_full, 1), barrier_init(query_empty, 8);
    for (int s = 0; s < kStages; ++s) {
      barrier_init(key_full + s * 8, 1), barrier_init(value_full + s * 8, 1);
      barrier_init(key_empty + s * 8, 8), barrier_init(value_empty + s * 8, 8);
    }
    publish_barriers();
  }
  __syncthreads();
  wait_for_producers();
  let_dependents_start();

  // Work in groups of heads; within one the longest first, dealt out forth and back, so that every block has about as many keys.
  const int query_tiles = (a.tokens + kRows - 1) / kRows;
  struct Work {
    int head, tile, key_tiles;
  };
  auto each_work = [&](auto&& work) {
    for (int head0 = 0, turn = 0; head0 < a.heads; head0 += args.group_heads, ++turn) {
      const int heads = min(args.group_heads, a.heads - head0), count = heads * query_tiles;
      const int block = (blockIdx.x + turn * 37) % gridDim.x;  // whom the short last round leaves out changes from group to group
      for (int round = 0; round * int(gridDim.x) < count; ++round) {
        const int i = round * gridDim.x + (round % 2 ? gridDim.x - 1 - block : block);
        if (i >= count) continue;
        const int tile = query_tiles - 1 - i / heads, last = min((tile + 1) * kRows, a.tokens) - 1;
        work(Work{head0 + i % heads, tile, (a.q_first + last) / kKeys + 1});
      }
    }
  };

  if (group == 2) {
    give_registers<24>();
    if (thread == 0) {
      RingPlace<1> query_place;
      RingPlace<kStages> key_place, value_place;
      each_work([&](const Work& w) {
        auto load_keys = [&](int j) {
          const uint32_t to = keys + key_place.stage * kKeyBytes, ready = key_full + key_place.stage * 8;
          barrier_wait(key_empty + key_place.stage * 8, key_place.parity ^ 1);
          barrier_expect(ready, kKeyBytes);
          copy_box(to, args.kv, w.head * 256, j * kKeys, ready);
          copy_box(to + kColumnBytes, args.kv, w.head * 256 + 64, j * kKeys, ready);
          copy_box(to + 2 * kColumnBytes, args.rope_key, 0, j * kKeys, ready);
          key_place.next();
        };
        barrier_wait(query_empty, query_place.parity ^ 1);
        barrier_expect(query_full, kQueryBytes);
        for (int c = 0; c < 3; ++c) copy_box(query + c * kColumnBytes, args.q, w.head * 192 + c * 64, w.tile * kRows, query_full);
        query_place.next();
        load_keys(0);
        for (int j = 0; j < w.key_tiles; ++j) {
          if (j + 1 < w.key_tiles) load_keys(j + 1);
          const uint32_t to = values + value_place.stage * kValueBytes, ready = value_full + value_place.stage * 8;
          barrier_wait(value_empty + value_place.stage * 8, value_place.parity ^ 1);
          barrier_expect(ready, kValueBytes);
          copy_box(to, args.kv, w.head * 256 + 128, j * kKeys, ready);
          copy_box(to + kColumnBytes, args.kv, w.head * 256 + 192, j * kKeys, ready);
          value_place.next();
        }
      });
    }
    return;
  }

  take_registers<240>();
  auto my_turn = [&] { named_sync(group + 1, 256); };
  auto your_turn = [&] { named_arrive((group ^ 1) + 1, 256); };
  if (group == 1) your_turn();
  RingPlace<1> query_place;
  RingPlace<kStages> key_place, value_place;
  const float scale = a.scale * 1.44269504f;  // exp(x) = 2^(x log2 e)
  each_work([&](const Work& w) {
    float out[64], max0 = -INFINITY, max1 = -INFINITY, sum0 = 0, sum1 = 0;  // of rows g and g + 8 of the warp's 16
    uint32_t p[32];                                                         // probabilities, as the a operand
    const int row0 = w.tile * kRows + group * 64 + warp * 16 + g;
    QueryTile q;
    {
      QueryAngles angles;
      if (a.rope) angles.load(a, row0 - g, lane);
      barrier_wait(query_full, query_place.parity);
      q.load(query, kColumnBytes, group * 64 + warp * 16, lane);
      fence_async_proxy();  // read, before the next queries are copied there
      __syncwarp();
      if (lane == 0) barrier_arrive(query_empty);
      query_place.next();
      if (a.rope) angles.apply(q);
    }
    auto ask_scores = [&](float(&s)[64]) {
      barrier_wait(key_full + key_place.stage * 8, key_place.parity);
      my_turn();
      const uint32_t tile = keys + key_place.stage * kKeyBytes;
      wgmma_begin();
#pragma unroll
      for (int k = 0; k < 12; ++k)
        wgmma_registers<0>(s, q.fragment[k], tile_descriptor(tile + k / 4 * kColumnBytes + k % 4 * 32, 16), k > 0);
      wgmma_commit();
    };
    auto ask_values = [&] {
      barrier_wait(value_full + value_place.stage * 8, value_place.parity);
      const uint32_t tile = values + value_place.stage * kValueBytes;
      wgmma_begin();
#pragma unroll
      for (int k = 0; k < 8; ++k) wgmma_registers<1>(out, p + k * 4, tile_descriptor(tile + k * 2048, kColumnBytes), true);
      wgmma_commit();
    };
    auto done_keys = [&] {
      if (lane == 0) barrier_arrive(key_empty + key_place.stage * 8);
      key_place.next();
    };
    auto done_values = [&] {
      if (lane == 0) barrier_arrive(value_empty + value_place.stage * 8);
      value_place.next();
    };
    float shrink0 = 0, shrink1 = 0;
    // Scores of keys 128 j … become 2^(scale (s - max)); sums and maxima move on.
    auto soften = [&](float(&s)[64], int j) {
      const int position0 = a.q_first + row0, key0 = j * kKeys + t * 2;
      if (j * kKeys + kKeys - 1 > position0 - g) {  // some key of the tile lies behind some row of the warp
#pragma unroll
        for (int i = 0; i < 16; ++i)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            if (key0 + i * 8 + e > position0) s[i * 4 + e] = -INFINITY;
            if (key0 + i * 8 + e > position0 + 8) s[i * 4 + 2 + e] = -INFINITY;
          }
      }
      float new0 = max0, new1 = max1;
#pragma unroll
      for (int i = 0; i < 64; i += 4) new0 = fmaxf(new0, fmaxf(s[i], s[i + 1])), new1 = fmaxf(new1, fmaxf(s[i + 2], s[i + 3]));
#pragma unroll
      for (int offset = 1; offset < 4; offset <<= 1) {
        new0 = fmaxf(new0, __shfl_xor_sync(~0u, new0, offset));
        new1 = fmaxf(new1, __shfl_xor_sync(~0u, new1, offset));
      }
      // The maximum moves only where it grew by more than 2^kSlack: seldom, so that the sums are seldom scaled again.
      if ((new0 - max0) * scale <= kSlack) new0 = max0;
      if ((new1 - max1) * scale <= kSlack) new1 = max1;
      shrink0 = power_of_two((max0 - new0) * scale), shrink1 = power_of_two((max1 - new1) * scale);
      max0 = new0, max1 = new1;
      sum0 *= shrink0, sum1 *= shrink1;
      const float shift0 = max0 * scale, shift1 = max1 * scale;
#pragma unroll
      for (int i = 0; i < 64; i += 4) {
        s[i] = power_of_two(s[i] * scale - shift0), s[i + 1] = power_of_two(s[i + 1] * scale - shift0);
        s[i + 2] = power_of_two(s[i + 2] * scale - shift1), s[i + 3] = power_of_two(s[i + 3] * scale - shift1);
        sum0 += s[i] + s[i + 1], sum1 += s[i + 2] + s[i + 3];
      }
    };
    auto pack = [&](const float(&s)[64]) {
#pragma unroll
      for (int i = 0; i < 32; ++i) p[i] = pack_bf16(s[i * 2], s[i * 2 + 1]);
    };

    {
      float s[64];
      ask_scores(s);
      your_turn();
      wgmma_finish();
      done_keys();
      soften(s, 0);
      pack(s);
    }
#pragma unroll
    for (float& o : out) o = 0;
    for (int j = 1; j < w.key_tiles; ++j) {
      float s[64];
      ask_scores(s);
      ask_values();
      your_turn();
      asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
      done_keys();
      soften(s, j);
      wgmma_finish();
      done_values();
      if (__any_sync(~0u, shrink0 != 1 || shrink1 != 1))
#pragma unroll
        for (int i = 0; i < 64; i += 4) out[i] *= shrink0, out[i + 1] *= shrink0, out[i + 2] *= shrink1, out[i + 3] *= shrink1;
      pack(s);
    }
    my_turn();
    ask_values();
    your_turn();
    wgmma_finish();
    done_values();

#pragma unroll
    for (int offset = 1; offset < 4; offset <<= 1) {
      sum0 += __shfl_xor_sync(~0u, sum0, offset);
      sum1 += __shfl_xor_sync(~0u, sum1, offset);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int token = row0 + half * 8;
      const float inverse = 1.0f / (half ? sum1 : sum0);
      float amax = 0;
#pragma unroll
      for (int i = half * 2; i < 64; i += 4) {
        out[i] *= inverse, out[i + 1] *= inverse;
        amax = fmaxf(amax, fmaxf(fabsf(out[i]), fabsf(out[i + 1])));
      }
      amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, 1));
      amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, 2));
      const float s = activation_scale(amax, a.ue8m0), to_bytes = 1.0f / s;
      uint8_t* o = a.o + (size_t(token) * a.heads + w.head) * 128;
#pragma unroll
      for (int q = 0; q < 2; ++q) {  // 64 channels; lane t gets 16 of them
        uint32_t word[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* v = out + (q * 4 + i) * 8 + half * 2;
          word[i] = pack_e4m3(v[0] * to_bytes, v[1] * to_bytes, v[4] * to_bytes, v[5] * to_bytes);  // channels 2t, 2t + 1 of two eights
        }
        const uint4 bytes = join_eights(word, t);
        if (token < a.tokens) *reinterpret_cast<uint4*>(o + (q * 4 + t) * 16) = bytes;
      }
      if (t == 0 && token < a.tokens) a.o_scale[size_t(token) * a.heads + w.head] = s;
    }
  });
}

}  // namespace

cudaError_t chunk_attention(const ChunkAttention& a, cudaStream_t stream) {
  if (a.tokens == 0) return cudaSuccess;
  if (a.heads < 1 || a.q_first < 0 || a.q_first > INT32_MAX - a.tokens - kKeys) return cudaErrorInvalidValue;
  ChunkArgs args{};
  args.a = a, args.keys = a.q_first + a.tokens;
  const int processors = multiprocessors(), query_tiles = (a.tokens + kRows - 1) / kRows;
  args.group_heads = max(1, min(a.heads, 2 * processors / query_tiles));
  cudaError_t status = encode(args.q, {a.q, a.tokens, int64_t(a.heads) * 192, int64_t(a.heads) * 384, 2, kRows});
  if (status == cudaSuccess) status = encode(args.kv, {a.kv, args.keys, int64_t(a.heads) * 256, int64_t(a.heads) * 512, 2, kKeys});
  if (status == cudaSuccess) status = encode(args.rope_key, {a.rope_key, args.keys, 64, 128, 2, kKeys});
  if (status != cudaSuccess) return status;
  const int works = query_tiles * a.heads;
  return start(chunk_kernel, dim3(unsigned(works < processors ? works : processors)), 384, kSharedBytes, stream, true, args);
}

}  // namespace dsinfer::hopper
