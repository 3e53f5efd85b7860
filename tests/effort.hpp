/// How much a test tries: everything in a plain build; under sanitizers, where time is ten times as long, what covers each case once.
#pragma once
#include <cstdlib>

namespace dsinfer::test {

/// DSINFER_LONG=1 in the environment asks for everything under sanitizers too.
inline bool everything_is_asked() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return std::getenv("DSINFER_LONG") != nullptr;
#else
  return true;
#endif
}

/// Rounds of a test that draws at random.
inline int rounds(int all) { return everything_is_asked() ? all : (all + 2) / 3; }

}  // namespace dsinfer::test
