#include <charconv>

#include "backend/cpu/cpu_backend.hpp"
#include "core/component.hpp"

namespace dsinfer {

std::unique_ptr<Backend> make_backend(const std::string& device, const BackendOptions& options) {
  if (device == "cpu") return std::make_unique<CpuBackend>(options);
  const std::string cuda = "cuda";
  if (device == cuda) return cuda_component().backend(0, options);
  if (device.starts_with(cuda + ":")) {
    int index = -1;
    const char *begin = device.data() + cuda.size() + 1, *end = device.data() + device.size();
    const auto [stop, error] = std::from_chars(begin, end, index);
    if (error == std::errc() && stop == end && index >= 0) return cuda_component().backend(index, options);
  }
  throw Error(Error::invalid_argument, "device \"" + device + "\" is unknown; use cpu, cuda, or cuda:N with a device number N");
}

}  // namespace dsinfer
