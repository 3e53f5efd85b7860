/// A warp's 16 queries as the register operand of the matrix unit.
#pragma once
#include "device.cuh"
#include "prefill.hpp"

namespace dsinfer::hopper {

/// Lane 4g + t: of rows g and g + 8, channels 2t, 2t + 1 of each eight; fragment k has channels 16 k … 16 k + 15.
struct QueryTile {
  uint32_t fragment[12][4];

  /// From a tile of 64 channels a column of `column_bytes`, 128-byte swizzle; row0: of the warp.
  __device__ void load(uint32_t tile, int column_bytes, int row0, int lane) {
    const int row = row0 + lane % 16;
#pragma unroll
    for (int k = 0; k < 12; ++k) {
      const uint32_t at = tile + k / 4 * column_bytes + row * 128 + ((k % 4 * 2 + lane / 16) ^ row % 8) * 16;
      uint32_t(&f)[4] = fragment[k];
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3])
                   : "r"(at)
                   : "memory");
    }
  }
};

/// The angles of those queries' rope channels.
struct QueryAngles {
  float2 turn[4][4];  // cos, sin of the pair in each register of fragments 8 … 11

  /// Tokens row0 + g, row0 + g + 8; those behind the last, and those of positions below 0, are not turned.
  __device__ void load(const ChunkAttention& a, int row0, int lane) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int token = row0 + lane / 4 + half * 8, position = token < a.tokens ? a.positions[token] : -1;
      const float2* row = reinterpret_cast<const float2*>(a.rope + size_t(max(position, 0)) * 64) + lane % 4;
#pragma unroll
      for (int i = 0; i < 8; ++i) turn[i / 2][i % 2 * 2 + half] = position < 0 ? float2{1, 0} : row[i * 4];
    }
  }
  __device__ void apply(QueryTile& q) const {
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float x = bf16_low(q.fragment[8 + k][i]), y = bf16_high(q.fragment[8 + k][i]), c = turn[k][i].x, s = turn[k][i].y;
        q.fragment[8 + k][i] = pack_bf16(x * c - y * s, x * s + y * c);
      }
  }
};

}  // namespace dsinfer::hopper
