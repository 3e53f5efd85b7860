/// Warpgroup steps on E4M3 of the widths that fp8_wide.cuh tiles by. Layouts: PTX ISA, "Asynchronous warpgroup level matrix".
#pragma once
#include "wgmma.cuh"

#define DSINFER_REGISTERS_48 DSINFER_REGISTERS_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define DSINFER_REGISTERS_56                                                             \
  DSINFER_REGISTERS_32                                                                   \
      ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
      ", %48, %49, %50, %51, %52, %53, %54, %55"
#define DSINFER_REGISTERS_72 DSINFER_REGISTERS_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define DSINFER_REGISTERS_96                                                             \
  DSINFER_REGISTERS_64                                                                   \
      ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
      ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"

namespace dsinfer::hopper {

/// d[64,N] += a[64,32] · b[32,N], E4M3, both K-major; N = 2 · registers.
__device__ inline void wgmma_fp8(float (&d)[48], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %50, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n96k32.f32.e4m3.e4m3 {" DSINFER_REGISTERS_48 "}, %48, %49, p, 1, 1;\n}"
      : DSINFER_SUMS_32(d, 0), DSINFER_SUMS_16(d, 32)
      : "l"(a), "l"(b), "r"(int(accumulate)));
}

__device__ inline void wgmma_fp8(float (&d)[56], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %58, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n112k32.f32.e4m3.e4m3 {" DSINFER_REGISTERS_56 "}, %56, %57, p, 1, 1;\n}"
      : DSINFER_SUMS_32(d, 0), DSINFER_SUMS_16(d, 32), DSINFER_SUMS_8(d, 48)
      : "l"(a), "l"(b), "r"(int(accumulate)));
}

__device__ inline void wgmma_fp8(float (&d)[72], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %74, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n144k32.f32.e4m3.e4m3 {" DSINFER_REGISTERS_72 "}, %72, %73, p, 1, 1;\n}"
      : DSINFER_SUMS_64(d, 0), DSINFER_SUMS_8(d, 64)
      : "l"(a), "l"(b), "r"(int(accumulate)));
}

__device__ inline void wgmma_fp8(float (&d)[96], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n192k32.f32.e4m3.e4m3 {" DSINFER_REGISTERS_96 "}, %96, %97, p, 1, 1;\n}"
      : DSINFER_SUMS_64(d, 0), DSINFER_SUMS_32(d, 64)
      : "l"(a), "l"(b), "r"(int(accumulate)));
}

}  // namespace dsinfer::hopper
