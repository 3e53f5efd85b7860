/// A library of the system that is opened at run time: NVML, libibverbs.
#pragma once
#include <string>

#include "dsinfer/export.hpp"

namespace dsinfer::topology {

/// Open while this lives; its symbols stay out of the process's own scope. False in a condition if it could not be opened.
class DSINFER_INTERNAL SharedLibrary {
 public:
  explicit SharedLibrary(const std::string& name);
  ~SharedLibrary();
  SharedLibrary(const SharedLibrary&) = delete;
  SharedLibrary& operator=(const SharedLibrary&) = delete;
  explicit operator bool() const { return handle_ != nullptr; }

  /// The symbol, of `version` where the library has it so; null if it is absent.
  void* symbol(const char* name, const char* version = nullptr) const;
  template <class Function>
  void find(Function*& function, const char* name, const char* version = nullptr) const {
    function = reinterpret_cast<Function*>(symbol(name, version));
  }
  std::string path() const;  ///< where the loader found it
  /// Why it could not be opened; "" when there is no such file.
  const std::string& error() const { return error_; }

 private:
  void* handle_ = nullptr;
  std::string error_;
};

}  // namespace dsinfer::topology
