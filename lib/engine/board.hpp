/// EngineBoard: what the thread that drives an engine and the threads that ask it have in common.
#pragma once
#include <mutex>
#include <string>

#include "dsinfer/engine.hpp"
#include "dsinfer/error.hpp"

namespace dsinfer {

/// All of it under the mutex; `down` may be read without by the thread that drives.
struct EngineBoard {
  mutable std::mutex mutex;
  EngineStats stats;
  std::string failure;  ///< text of what ended the group
  bool down = false;

  void fail(const char* text) {
    const std::lock_guard lock(mutex);
    failure = text;
  }
  void check_failure() const {
    const std::lock_guard lock(mutex);
    if (!failure.empty()) throw Error(Error::group_failed, failure);
  }
};

}  // namespace dsinfer
