#include "backend/operands.hpp"

#include <fmt/format.h>

#include "dsinfer/error.hpp"

namespace dsinfer {

void refuse_operands(const char* op, NamedViews views, Place place) {
  std::string text = fmt::format("{}: shapes or dtypes do not fit together:", op);
  for (const auto& [name, view] : views) {
    text += fmt::format(" {} {} {}", name, view->rank ? view->shape_text() : "absent", view->rank ? dtype_name(view->dtype) : "");
    if (view->rank && !view->contiguous()) text += " strided";
    if (view->place != place) text += place == Place::host ? " on a device" : " on the host";
  }
  throw Error(Error::internal, text);
}

}  // namespace dsinfer
