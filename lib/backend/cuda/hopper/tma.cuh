/// Bulk tensor copies into swizzled tiles, and the barriers that count them. PTX ISA: "mbarrier", "cp.async.bulk.tensor", "setmaxnreg".
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace dsinfer::hopper {

/// Rows of `width` elements as boxes of 128 bytes by box_rows, 128-byte swizzle; what lies outside reads as zero. Base and stride 16-byte
/// aligned.
struct RowsMap {
  const void* data;
  int64_t rows, width, stride_bytes;
  int element_bytes, box_rows;  // 1: bytes, 2: bf16
};
/// The driver's encoder, found at run time: nothing links the driver. cudaErrorNotSupported where there is none.
cudaError_t encode(CUtensorMap& map, const RowsMap& rows);

__device__ inline void barrier_init(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
/// After the inits, before the block's barrier: the copy engine sees them.
__device__ inline void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void barrier_wait(uint32_t barrier, int parity) {
  asm volatile(
      "{\n.reg .pred p;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra WAIT;\nDONE:\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ inline void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// Arrives, and holds the phase until `bytes` more have been copied.
__device__ inline void barrier_expect(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/// Bytes as they lie; a multiple of 16.
__device__ inline void copy_bytes(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes),
               "r"(barrier)
               : "memory");
}
/// One box; column in elements.
__device__ inline void copy_box(uint32_t to, const CUtensorMap& map, int column, int row, uint32_t barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
               "l"(&map), "r"(column), "r"(row), "r"(barrier)
               : "memory");
}
/// A box that gives way in L2 first, to what is read again later.
__device__ inline void copy_box_once(uint32_t to, const CUtensorMap& map, int column, int row, uint32_t barrier) {
  constexpr uint64_t kEvictFirst = 0x12f0000000000000;  // what createpolicy.fractional.L2::evict_first gives for all of it
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(barrier), "l"(kEvictFirst)
      : "memory");
}
/// Back to memory; a thread's stores are complete, or done with shared memory, by the groups in which it committed them.
__device__ inline void store_bytes(void* to, uint32_t from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes) : "memory");
}
__device__ inline void store_box(const CUtensorMap& map, int column, int row, uint32_t from) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(column), "r"(row), "r"(from)
               : "memory");
}
__device__ inline void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
__device__ inline void await_store_reads() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

template <int kRegisters>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// Place in a ring of kStages tiles, and the parity of its barriers there.
template <int kStages>
struct RingPlace {
  int stage = 0, parity = 0;
  __device__ void next() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

/// Lane t of four neighbours gets word t of each of them, in their order.
__device__ inline void transpose_quad(uint32_t (&v)[4], int t) {
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t other = __shfl_xor_sync(~0u, t & 1 ? v[i] : v[i + 1], 1);
    (t & 1 ? v[i] : v[i + 1]) = other;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t other = __shfl_xor_sync(~0u, t & 2 ? v[i] : v[i + 2], 2);
    (t & 2 ? v[i] : v[i + 2]) = other;
  }
}

/// Of 64 channels of E4M3 in eights, word i of lane t of four neighbours has channels 2t and 2t + 1 of the eights 2i and 2i + 1; gives the
/// eights 2t and 2t + 1.
__device__ inline uint4 join_eights(uint32_t (&word)[4], int t) {
  transpose_quad(word, t);
  return {__byte_perm(word[0], word[1], 0x5410), __byte_perm(word[2], word[3], 0x5410), __byte_perm(word[0], word[1], 0x7632),
          __byte_perm(word[2], word[3], 0x7632)};
}

}  // namespace dsinfer::hopper
