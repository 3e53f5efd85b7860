#include "model/fault.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <string_view>

#include "dsinfer/error.hpp"

namespace dsinfer {

Fault Fault::from_environment() {
  const char* value = std::getenv("DSINFER_FAULT");
  if (!value) return {};
  const std::string_view text = value;
  const size_t colon = text.find(':');
  Fault fault;
  const auto whole = [](std::string_view digits, auto& number) {
    const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    return code == std::errc() && end == digits.data() + digits.size() && number >= 0;
  };
  if (colon == std::string_view::npos || !whole(text.substr(0, colon), fault.rank) || !whole(text.substr(colon + 1), fault.step)) {
    constexpr size_t kShown = 60;
    throw Error(Error::invalid_argument, fmt::format("DSINFER_FAULT is \"{}\", expected RANK:STEP, two numbers from 0 on such as 2:4, or nothing at all", text.substr(0, kShown)));
  }
  return fault;
}

}  // namespace dsinfer
