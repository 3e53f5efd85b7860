#include "core/buffer.hpp"

#include <sys/mman.h>

#include <fmt/format.h>

namespace dsinfer {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

size_t up_to_huge(size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

}  // namespace

Buffer host_buffer(size_t bytes) {
  if (bytes == 0) return {};
  // Small pages cost a fault each 4 KiB: more than the copy that fills them. What a huge page may waste is little beside four of them.
  const bool huge = bytes >= 4 * kHugePage && bytes <= SIZE_MAX - 2 * kHugePage;
  const size_t room = huge ? up_to_huge(bytes) + kHugePage : bytes;
  // Anonymous pages come zeroed and are touched by whoever writes first, so they land on the writer's NUMA node.
  void* memory = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    throw Error(Error::out_of_memory, fmt::format("the host has no room for a buffer of {} bytes ({:.1f} GB); use more ranks or a smaller cache",
                                                  bytes, static_cast<double>(bytes) / 1e9));
  }
  auto* data = static_cast<std::byte*>(memory);
  if (huge) {
    data += up_to_huge(reinterpret_cast<uintptr_t>(data)) - reinterpret_cast<uintptr_t>(data);
    madvise(data, up_to_huge(bytes), MADV_HUGEPAGE);  // refused where the kernel has none
  }
  return Buffer(data, bytes, Place::host, [memory, room](std::byte*) { munmap(memory, room); });
}

}  // namespace dsinfer
