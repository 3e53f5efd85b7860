/// SHA-256 (FIPS 180-4), to tell files of libraries apart.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "dsinfer/export.hpp"

namespace dsinfer {

/// Add bytes, then take the hash once.
class DSINFER_INTERNAL Sha256 {
 public:
  void add(std::string_view bytes);
  std::string hex();

 private:
  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> block_{};
  uint64_t length_ = 0;
};

}  // namespace dsinfer
