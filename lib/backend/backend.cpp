#include "backend/backend.hpp"

#include <new>

namespace dsinfer {

Buffer host_pages(size_t bytes) {
  constexpr std::align_val_t kPage{4096};  // what reads past the page cache ask for
  if (bytes == 0) return {};
  auto* memory = static_cast<std::byte*>(::operator new(bytes, kPage, std::nothrow));
  if (!memory) throw Error(Error::out_of_memory, "the host has no room for " + std::to_string(bytes) + " bytes of staging memory");
  return Buffer(memory, bytes, Place::host, [](std::byte* p) { ::operator delete(p, kPage); });
}

Buffer Backend::staging(size_t bytes) { return host_pages(bytes); }

uint64_t Backend::upload(TensorView dst, TensorView src) {
  copy(dst, src);
  return 0;
}

}  // namespace dsinfer
