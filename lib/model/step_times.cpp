#include "model/step_times.hpp"

namespace dsinfer {

StepTimes*& watched_step_times() {
  static thread_local StepTimes* times = nullptr;
  return times;
}

}  // namespace dsinfer
