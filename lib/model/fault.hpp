/// Fault: a failure that is asked for, so that tests and operators can rehearse one.
#pragma once
#include <cstdint>

#include "dsinfer/export.hpp"

namespace dsinfer {

struct Fault {
  int rank = -1;  ///< none
  uint64_t step = 0;
  /// DSINFER_FAULT=RANK:STEP makes that rank throw in the middle of that step. Throws invalid_argument for any other form.
  DSINFER_INTERNAL static Fault from_environment();
  bool strikes(int at_rank, uint64_t at_step) const { return rank == at_rank && step == at_step; }
};

}  // namespace dsinfer
