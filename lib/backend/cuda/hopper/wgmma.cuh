/// Warpgroup matrix steps on shared memory, bf16, 128-byte swizzle. Layouts: PTX ISA, "Asynchronous warpgroup level matrix".
#pragma once
#include <cstdint>

// A step's operands: the list of its registers in PTX, and the sums that they stand for.
#define DSINFER_REGISTERS_4 "%0, %1, %2, %3"
#define DSINFER_REGISTERS_8 DSINFER_REGISTERS_4 ", %4, %5, %6, %7"
#define DSINFER_REGISTERS_16 DSINFER_REGISTERS_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define DSINFER_REGISTERS_32 DSINFER_REGISTERS_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define DSINFER_REGISTERS_64 DSINFER_REGISTERS_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define DSINFER_REGISTERS_128 DSINFER_REGISTERS_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define DSINFER_SUMS_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define DSINFER_SUMS_8(d, i) DSINFER_SUMS_4(d, i), DSINFER_SUMS_4(d, i + 4)
#define DSINFER_SUMS_16(d, i) DSINFER_SUMS_8(d, i), DSINFER_SUMS_8(d, i + 8)
#define DSINFER_SUMS_32(d, i) DSINFER_SUMS_16(d, i), DSINFER_SUMS_16(d, i + 16)
#define DSINFER_SUMS_64(d, i) DSINFER_SUMS_32(d, i), DSINFER_SUMS_32(d, i + 32)
#define DSINFER_SUMS_128(d, i) DSINFER_SUMS_64(d, i), DSINFER_SUMS_64(d, i + 64)

namespace dsinfer::hopper {

/// Descriptor of a 128-byte-swizzled tile whose 8-row groups are 1024 bytes apart; `leading` bytes between its 64-element columns (N-major
/// operands only).
__device__ inline uint64_t tile_descriptor(uint32_t shared_address, uint32_t leading) {
  return uint64_t((shared_address & 0x3ffffu) >> 4) | uint64_t(leading >> 4) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
/// The same of a K-major tile, from its address in 16-byte units: one addition in the loops that ask for many.
__device__ inline uint64_t tile_descriptor(uint32_t sixteenths) { return uint64_t(1024 >> 4 | 1u << 30) << 32 | (sixteenths | 1u << 16); }
__device__ inline void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_finish() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

/// d[64,256] += a[64,16] · b[16,256]; b K-major, or N-major with kTransposed.
template <int kTransposed>
__device__ inline void wgmma_256(float (&d)[128], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" DSINFER_REGISTERS_128 "}, %128, %129, p, 1, 1, 0, %131;\n}"
      : DSINFER_SUMS_128(d, 0)
      : "l"(a), "l"(b), "r"(int(accumulate)), "n"(kTransposed));
}

/// d[64,N] += a[64,16] · b[16,N], bf16, both K-major; N = 2 · registers.
__device__ inline void wgmma_bf16(float (&d)[4], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {" DSINFER_REGISTERS_4 "}, %4, %5, p, 1, 1, 0, 0;\n}"
      : DSINFER_SUMS_4(d, 0)
      : "l"(a), "l"(b), "r"(int(accumulate)));
}

__device__ inline void wgmma_bf16(float (&d)[8], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %10, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {" DSINFER_REGISTERS_8 "}, %8, %9, p, 1, 1, 0, 0;\n}"
      : DSINFER_SUMS_8(d, 0)
      : "l"(a), "l"(b), "r"(int(accumulate)));
}

__device__ inline void wgmma_bf16(float (&d)[16], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {" DSINFER_REGISTERS_16 "}, %16, %17, p, 1, 1, 0, 0;\n}"
      : DSINFER_SUMS_16(d, 0)
      : "l"(a), "l"(b), "r"(int(accumulate)));
}

__device__ inline void wgmma_bf16(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" DSINFER_REGISTERS_32 "}, %32, %33, p, 1, 1, 0, 0;\n}"
      : DSINFER_SUMS_32(d, 0)
      : "l"(a), "l"(b), "r"(int(accumulate)));
}

__device__ inline void wgmma_bf16(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" DSINFER_REGISTERS_64 "}, %64, %65, p, 1, 1, 0, 0;\n}"
      : DSINFER_SUMS_64(d, 0)
      : "l"(a), "l"(b), "r"(int(accumulate)));
}

/// d[64,N] += a[64,32] · b[32,N], E4M3, both K-major; N = 2 · registers.
__device__ inline void wgmma_fp8(float (&d)[4], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {" DSINFER_REGISTERS_4 "}, %4, %5, p, 1, 1;\n}"
      : DSINFER_SUMS_4(d, 0)
      : "l"(a), "l"(b), "r"(int(accumulate)));
}

__device__ inline void wgmma_fp8(float (&d)[8], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %10, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k32.f32.e4m3.e4m3 {" DSINFER_REGISTERS_8 "}, %8, %9, p, 1, 1;\n}"
      : DSINFER_SUMS_8(d, 0)
      : "l"(a), "l"(b), "r"(int(accumulate)));
}

__device__ inline void wgmma_fp8(float (&d)[16], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 {" DSINFER_REGISTERS_16 "}, %16, %17, p, 1, 1;\n}"
      : DSINFER_SUMS_16(d, 0)
      : "l"(a), "l"(b), "r"(int(accumulate)));
}

__device__ inline void wgmma_fp8(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {" DSINFER_REGISTERS_32 "}, %32, %33, p, 1, 1;\n}"
      : DSINFER_SUMS_32(d, 0)
      : "l"(a), "l"(b), "r"(int(accumulate)));
}

__device__ inline void wgmma_fp8(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {" DSINFER_REGISTERS_64 "}, %64, %65, p, 1, 1;\n}"
      : DSINFER_SUMS_64(d, 0)
      : "l"(a), "l"(b), "r"(int(accumulate)));
}

}  // namespace dsinfer::hopper
