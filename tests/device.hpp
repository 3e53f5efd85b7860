/// The device that a test runs on: what DSINFER_TEST_DEVICE names, or the CPU. Where it names a GPU and there is none, all tests are skipped.
#pragma once
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "backend/backend.hpp"

namespace dsinfer {

inline std::string test_device() {
  const char* name = std::getenv("DSINFER_TEST_DEVICE");
  return name ? name : "cpu";
}

class DeviceIsThere : public testing::Environment {
  void SetUp() override {
    try {
      make_backend(test_device(), {});
    } catch (const Error& e) {
      if (e.code() != Error::not_found) throw;
      GTEST_SKIP() << "no GPU: skipped (" << e.what() << ")";
    }
  }
};
inline const auto* const device_is_there = testing::AddGlobalTestEnvironment(new DeviceIsThere);

}  // namespace dsinfer
