#include "topology/shared_library.hpp"

#include <dlfcn.h>
#include <link.h>

namespace dsinfer::topology {

SharedLibrary::SharedLibrary(const std::string& name) {
  if (name.empty()) return;
  handle_ = dlopen(name.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (handle_) return;
  const char* text = dlerror();
  error_ = text ? text : "";
  // The loader names the file that it misses: this one is plainly absent, one that it depends on is worth telling.
  if (error_.rfind(name + ": cannot open shared object file: No such file", 0) == 0) error_.clear();
}

SharedLibrary::~SharedLibrary() {
  if (handle_) dlclose(handle_);
}

void* SharedLibrary::symbol(const char* name, const char* version) const {
  if (!handle_) return nullptr;
  void* found = version ? dlvsym(handle_, name, version) : nullptr;
  return found ? found : dlsym(handle_, name);
}

std::string SharedLibrary::path() const {
  link_map* map = nullptr;
  if (!handle_ || dlinfo(handle_, RTLD_DI_LINKMAP, &map) != 0 || !map || !map->l_name) return "";
  return map->l_name;
}

}  // namespace dsinfer::topology
