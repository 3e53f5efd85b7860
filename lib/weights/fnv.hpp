/// FNV-1a, 128 bits: tells checkpoints apart, resists no attacker. Source: Fowler, Noll, Vo; draft-eastlake-fnv.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "dsinfer/export.hpp"

namespace dsinfer {

class Fnv128 {
 public:
  void add(std::string_view bytes) {
    for (const char byte : bytes) hash_ = (hash_ ^ static_cast<uint8_t>(byte)) * kPrime;
  }
  DSINFER_INTERNAL std::string hex() const;

 private:
  __extension__ typedef unsigned __int128 Wide;
  static constexpr Wide kPrime = (Wide{1} << 88) + 0x13b;
  Wide hash_ = (Wide{0x6c62272e07bb0142} << 64) + 0x62b821756295c58d;
};

}  // namespace dsinfer
