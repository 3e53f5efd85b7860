/// Attention of a prefill chunk in the expanded form.
#include "device.cuh"
#include "prefill.hpp"
#include "tma.cuh"
#include "wgmma.cuh"

namespace dsinfer::hopper {
namespace {

constexpr int kRows = 128, kKeys = 128, kStages = 2;  // of a block's tile
constexpr int kColumnBytes = 128 * 128;               // 128 rows of 64 channels: the unit of the swizzle
constexpr int kQueryBytes = 3 * kColumnBytes, kKeyBytes = 3 * kColumnBytes, kValueBytes = 2 * kColumnBytes;
constexpr size_t kSharedBytes = 1024 + kQueryBytes + kStages * (kKeyBytes + kValueBytes) + 8 * (2 + 4 * kStages);
static_assert(kSharedBytes <= 227 * 1024);

struct ChunkArgs {
  CUtensorMap q, kv, rope_key;  // [T, heads · 192], [S, heads · 256], [S, 64] in boxes of 64 by 128
  ChunkAttention a;
  int keys, group_heads;  // heads whose tiles are in flight together: their keys and values stay in L2
};

/// d[64,128] += a[64,16] · b[16,128], bf16, a in registers and b N-major.
__device__ void wgmma_values(float (&d)[64], const uint32_t* a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" DSINFER_REGISTERS_64 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
               : DSINFER_SUMS_64(d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// A block, as long as there is work: 128 queries of one head against all keys that they may see, 128 at a time. Two warpgroups of 64
// queries; one warp of the third copies. A warpgroup asks for the scores of the next keys before the values of these, so that the matrix
// unit works through its softmax, and the two ask in turns. Online softmax (Milakov & Gimelshein 2018); order and turns as in
// FlashAttention-3 (Shah et al. 2024).
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
  auto my_turn = [&] { asm volatile("bar.sync %0, 256;" ::"r"(group + 1) : "memory"); };
  auto your_turn = [&] { asm volatile("bar.arrive %0, 256;" ::"r"((group ^ 1) + 1) : "memory"); };
  if (group == 1) your_turn();
  RingPlace<1> query_place;
  RingPlace<kStages> key_place, value_place;
  const float scale = a.scale * 1.44269504f;  // exp(x) = 2^(x log2 e)
  each_work([&](const Work& w) {
    float out[64], max0 = -INFINITY, max1 = -INFINITY, sum0 = 0, sum1 = 0;  // of rows g and g + 8 of the warp's 16
    uint32_t p[32];                                                         // probabilities, as the a operand
    const int row0 = w.tile * kRows + group * 64 + warp * 16 + g;
    auto ask_scores = [&](float(&s)[64]) {
      barrier_wait(key_full + key_place.stage * 8, key_place.parity);
      my_turn();
      const uint32_t tile = keys + key_place.stage * kKeyBytes;
      wgmma_begin();
#pragma unroll
      for (int c = 0; c < 3; ++c)
#pragma unroll
        for (int k = 0; k < 4; ++k)
          wgmma_bf16(s, tile_descriptor(query + c * kColumnBytes + group * 64 * 128 + k * 32, 16),
                       tile_descriptor(tile + c * kColumnBytes + k * 32, 16), c + k > 0);
      wgmma_commit();
    };
    auto ask_values = [&] {
      barrier_wait(value_full + value_place.stage * 8, value_place.parity);
      const uint32_t tile = values + value_place.stage * kValueBytes;
      wgmma_begin();
#pragma unroll
      for (int k = 0; k < 8; ++k) wgmma_values(out, p + k * 4, tile_descriptor(tile + k * 2048, kColumnBytes));
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
      shrink0 = exp2f((max0 - new0) * scale), shrink1 = exp2f((max1 - new1) * scale);
      max0 = new0, max1 = new1;
      sum0 *= shrink0, sum1 *= shrink1;
      const float shift0 = max0 * scale, shift1 = max1 * scale;
#pragma unroll
      for (int i = 0; i < 64; i += 4) {
        s[i] = exp2f(s[i] * scale - shift0), s[i + 1] = exp2f(s[i + 1] * scale - shift0);
        s[i + 2] = exp2f(s[i + 2] * scale - shift1), s[i + 3] = exp2f(s[i + 3] * scale - shift1);
        sum0 += s[i] + s[i + 1], sum1 += s[i + 2] + s[i + 3];
      }
    };
    auto pack = [&](const float(&s)[64]) {
#pragma unroll
      for (int i = 0; i < 32; ++i) p[i] = pack_bf16(s[i * 2], s[i * 2 + 1]);
    };

    barrier_wait(query_full, query_place.parity);
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
#pragma unroll
      for (int i = 0; i < 64; i += 4) out[i] *= shrink0, out[i + 1] *= shrink0, out[i + 2] *= shrink1, out[i + 3] *= shrink1;
      pack(s);
    }
    if (lane == 0) barrier_arrive(query_empty);
    query_place.next();
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
      const float s = activation_scale(amax, a.ue8m0);
      uint8_t* o = a.o + (size_t(token) * a.heads + w.head) * 128;
#pragma unroll
      for (int q = 0; q < 2; ++q) {  // 64 channels; lane t gets 16 of them
        uint32_t word[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* v = out + (q * 4 + i) * 8 + half * 2;
          word[i] = pack_e4m3(v[0] / s, v[1] / s, v[4] / s, v[5] / s);  // channels 2t, 2t + 1 of two eights
        }
        transpose_quad(word, t);
        if (token < a.tokens)
          *reinterpret_cast<uint4*>(o + (q * 4 + t) * 16) =
              uint4{__byte_perm(word[0], word[1], 0x5410), __byte_perm(word[2], word[3], 0x5410), __byte_perm(word[0], word[1], 0x7632),
                    __byte_perm(word[2], word[3], 0x7632)};
      }
      if (t == 0 && token < a.tokens) a.o_scale[size_t(token) * a.heads + w.head] = s;
    }
  });
}

// q_b[t,h,128:] turned by the token's angle, in place. A warp: eight heads of a token, 16 bytes a lane at a time.
__global__ void __launch_bounds__(256) rotate_kernel(bf16* q_b, const float* rope, const int* positions, int tokens, int heads) {
  wait_for_producers();
  let_dependents_start();
  const int64_t unit = int64_t(blockIdx.x) * 256 + threadIdx.x;  // eight channels
  const int64_t row = unit / 8;
  if (row >= int64_t(tokens) * heads) return;
  const int position = positions[row / heads], pair = int(unit % 8) * 4;
  if (position < 0) return;
  uint4* at = reinterpret_cast<uint4*>(q_b + row * 192 + 128 + pair * 2);
  const uint4 in = *at;
  const float4* turn = reinterpret_cast<const float4*>(rope + size_t(position) * 64 + pair * 2);
  const float4 low = turn[0], high = turn[1];
  auto turned = [](uint32_t xy, float c, float s) {
    const float x = bf16_low(xy), y = bf16_high(xy);
    return pack_bf16(x * c - y * s, x * s + y * c);
  };
  *at = uint4{turned(in.x, low.x, low.y), turned(in.y, low.z, low.w), turned(in.z, high.x, high.y), turned(in.w, high.z, high.w)};
}

// A warp a key: 16 latents a lane; the rope key.
__global__ void __launch_bounds__(256) key_rows_kernel(const __grid_constant__ KeyRows a, int keys) {
  wait_for_producers();
  let_dependents_start();
  const int key = int(blockIdx.x) * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (key >= keys) return;
  const bool fp8 = a.format == KvFormat::kFp8;
  const uint8_t* row =
      static_cast<const uint8_t*>(a.cache) + (size_t(a.block_table[key / 64]) * 64 + key % 64) * (fp8 ? kFp8KvRowBytes : kBf16KvRowBytes);
  float v[16];
  if (fp8) {
    const uint4 u = *reinterpret_cast<const uint4*>(row + lane * 16);
    const float s = reinterpret_cast<const float*>(row + 512)[lane / 8];
    const uint32_t words[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      __nv_fp8_e4m3 bytes[4];
      *reinterpret_cast<uint32_t*>(bytes) = words[i];
#pragma unroll
      for (int j = 0; j < 4; ++j) v[i * 4 + j] = float(bytes[j]) * s;
    }
  } else {
    const uint4* from = reinterpret_cast<const uint4*>(row + lane * 32);
    const uint4 u[2] = {from[0], from[1]};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t words[4] = {u[i].x, u[i].y, u[i].z, u[i].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) v[i * 8 + j * 2] = bf16_low(words[j]), v[i * 8 + j * 2 + 1] = bf16_high(words[j]);
    }
  }
  float amax = 0;
#pragma unroll
  for (const float x : v) amax = fmaxf(amax, fabsf(x));
#pragma unroll
  for (int offset = 4; offset > 0; offset >>= 1) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, offset));
  const float s = activation_scale(amax, a.ue8m0);
  uint32_t packed[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) packed[i] = pack_e4m3(v[i * 4] / s, v[i * 4 + 1] / s, v[i * 4 + 2] / s, v[i * 4 + 3] / s);
  *reinterpret_cast<uint4*>(a.latent + size_t(key) * 512 + lane * 16) = uint4{packed[0], packed[1], packed[2], packed[3]};
  if (lane % 8 == 0) a.latent_scale[size_t(key) * 4 + lane / 8] = s;
  reinterpret_cast<uint32_t*>(a.rope_key + size_t(key) * 64)[lane] = reinterpret_cast<const uint32_t*>(row + (fp8 ? 528 : 1024))[lane];
}

constexpr int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

cudaError_t rotate_queries(bf16* q_b, const float* rope, const int* positions, int tokens, int heads, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  const int64_t units = int64_t(tokens) * heads * 8;
  return start(rotate_kernel, dim3(unsigned((units + 255) / 256)), 256, 0, stream, true, q_b, rope, positions, tokens, heads);
}

cudaError_t key_rows(const KeyRows& a, int keys, cudaStream_t stream) {
  if (keys == 0) return cudaSuccess;
  return start(key_rows_kernel, dim3(unsigned((keys + 7) / 8)), 256, 0, stream, true, a, keys);
}

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

int64_t prefill_workspace(int64_t keys, int heads) {
  return aligned(keys * heads * 512) + aligned(keys * 512) + aligned(keys * 16) + aligned(keys * 128);
}

cudaError_t prefill_segment(const PrefillSegment& a, cudaStream_t stream) {
  if (a.tokens == 0) return cudaSuccess;
  const int keys = a.q_first + a.tokens;
  auto* work = static_cast<uint8_t*>(a.work);
  auto take = [&](int64_t bytes) {
    uint8_t* taken = work;
    work += aligned(bytes);
    return taken;
  };
  auto* kv = reinterpret_cast<bf16*>(take(int64_t(keys) * a.heads * 512));
  uint8_t* latent = take(int64_t(keys) * 512);
  auto* latent_scale = reinterpret_cast<float*>(take(int64_t(keys) * 16));
  auto* rope_key = reinterpret_cast<bf16*>(take(int64_t(keys) * 128));
  cudaError_t status = rotate_queries(a.q_b, a.rope, a.positions, a.tokens, a.heads, stream);
  if (status == cudaSuccess) status = key_rows({latent, latent_scale, rope_key, a.cache, a.block_table, a.ue8m0, a.format}, keys, stream);
  if (status == cudaSuccess) status = fp8_linear(kv, {latent, latent_scale}, a.kv_b, keys, a.heads * 256, 512, stream);
  if (status != cudaSuccess) return status;
  return chunk_attention({a.o, a.o_scale, a.q_b, kv, rope_key, a.tokens, a.heads, a.q_first, a.scale, a.ue8m0}, stream);
}

}  // namespace dsinfer::hopper
