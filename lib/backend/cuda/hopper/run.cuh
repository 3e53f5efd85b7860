/// The unit of grouped work, shared by the kernel that makes the list and those that read it.
#pragma once

namespace dsinfer::hopper {

/// One run of tokens that go through one expert. Positions first … first+count of the sorted (token, choice) pairs; count ≤ kRunTokens, or
/// 8 where T ≤ 8.
struct ExpertRun {
  int expert, first, count, pad;
};
constexpr int kRunTokens = 32;

}  // namespace dsinfer::hopper
