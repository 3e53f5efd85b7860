// Any bytes are either refused with an Error or become a Cluster that survives its own JSON.
#include <cstdint>
#include <string_view>

#include "dsinfer/cluster.hpp"
#include "dsinfer/error.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dsinfer;
  Cluster cluster;
  try {
    cluster = Cluster::from_json({reinterpret_cast<const char*>(data), size});
  } catch (const Error&) {
    return 0;
  }
  const std::string json = cluster.to_json();
  if (Cluster::from_json(json).to_json() != json) __builtin_trap();
  return 0;
}
