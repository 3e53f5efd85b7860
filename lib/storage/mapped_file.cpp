#include "storage/mapped_file.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "dsinfer/error.hpp"
#include "storage/local_file.hpp"

namespace dsinfer {

MappedFile::MappedFile(const Source& source) : size_(source.size()) {
  if (!source.path())
    throw Error(Error::unsupported, fmt::format("{}: is no local file, so it cannot be mapped; choose another method than mmap, or a local copy", source.name()));
  if (size_ == 0) return;
  const std::shared_ptr<LocalFile> file = local_file(source);
  if (!file) throw Error(Error::io, fmt::format("{}: cannot be opened to be mapped: this process may have no more descriptors; raise the limit (ulimit -n)", source.name()));
  void* memory = ::mmap(nullptr, static_cast<size_t>(size_), PROT_READ, MAP_SHARED, file->descriptor(), 0);
  if (memory == MAP_FAILED) throw Error(Error::io, fmt::format("{}: cannot be mapped: {}; choose another method than mmap", source.name(), std::strerror(errno)));
  data_ = static_cast<std::byte*>(memory);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(data_, static_cast<size_t>(size_));
}

}  // namespace dsinfer
