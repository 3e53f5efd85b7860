/// What every kernel here leans on: warp sums, the tensor-core step of a warp, streaming loads, dependent launches.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace dsinfer::hopper {

using bf16 = __nv_bfloat16;

__device__ inline float warp_sum(float v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(~0u, v, offset);
  return v;
}

/// 16 bytes that are read once: past L1.
__device__ inline uint4 load_once(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}

/// 16 bytes to shared memory without waiting, past L1, all of their line into L2; zeros unless valid.
__device__ inline void copy16(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

/// c[16,8] += a[16,16] · b[16,8], bf16 operands, f32 sums.
__device__ inline void mma_bf16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// Four 8×8 bf16 matrices of a warp to shared memory; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void store_matrices(uint32_t to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

/// Ordinary accesses to shared memory before it come before those that wgmma and the copy engine make after the barrier that follows.
__device__ inline void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// Barriers 1 … 15 of a block, for some of its threads: who syncs waits until that many have arrived or synced.
__device__ inline void named_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ inline void named_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

/// Programmatic dependent launch: the next kernel's blocks may start now / the kernels before this one are done and their writes visible.
/// Before wait_for_producers a kernel may read weights only; mla_kernel also what calls before the last one wrote.
__device__ inline void let_dependents_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ inline void wait_for_producers() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

/// E4M3 of x / scale with the floor and clamp of DeepSeek's act_quant: scale = max(amax, 1e-4) / 448, or the next power of two.
__device__ inline float activation_scale(float amax, bool ue8m0) {
  const float scale = fmaxf(amax, 1e-4f) / 448.0f;
  if (!ue8m0) return scale;
  const uint32_t bits = __float_as_uint(scale);
  return __uint_as_float((bits + 0x7fffffu) & 0x7f800000u);
}
__device__ inline uint32_t pack_e4m3(float a, float b, float c, float d) {
  const auto low = __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
  const auto high = __nv_cvt_float2_to_fp8x2(make_float2(c, d), __NV_SATFINITE, __NV_E4M3);
  return uint32_t(low) | uint32_t(high) << 16;
}
__device__ inline uint32_t pack_bf16(float a, float b) {
  __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<uint32_t*>(&v);
}
/// silu(gate) · up of two neighbours.
__device__ inline uint32_t swiglu(const float* gate, const float* up) {
  return pack_bf16(__fdividef(gate[0], 1.0f + __expf(-gate[0])) * up[0], __fdividef(gate[1], 1.0f + __expf(-gate[1])) * up[1]);
}
__device__ inline float bf16_low(uint32_t v) { return __uint_as_float(v << 16); }
__device__ inline float bf16_high(uint32_t v) { return __uint_as_float(v & 0xffff0000u); }

/// Starts `kernel`; with `early`, its blocks may be resident before the kernels ahead of it end (every kernel here waits for them itself).
/// kCluster blocks share a cluster.
template <int kCluster = 1, class... Params, class... Args>
cudaError_t start(void (*kernel)(Params...), dim3 grid, int threads, size_t shared_bytes, cudaStream_t stream, bool early, Args... args) {
  if (shared_bytes > 48 * 1024) {
    const cudaError_t raised =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
    if (raised != cudaSuccess) return raised;
  }
  cudaLaunchAttribute attributes[2]{};
  int count = 0;
  if (early) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (kCluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = kCluster;
    attributes[count].val.clusterDim.y = attributes[count].val.clusterDim.z = 1;
    ++count;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = unsigned(count);
  return cudaLaunchKernelEx(&config, kernel, Params(args)...);
}

/// Multiprocessors of the current device.
inline int multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

}  // namespace dsinfer::hopper
