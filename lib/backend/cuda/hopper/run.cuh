/// The unit of grouped work, shared by the kernel that makes the list and those that read it.
#pragma once

#include <cstdint>

namespace dsinfer::hopper {

/// One run of tokens that go through one expert. Positions first … first+count of the sorted (token, choice) pairs; count ≤
/// run_tokens_for(T).
struct ExpertRun {
  int expert, first, count, pad;
};
constexpr int kRunTokens = 32;
constexpr int kGemmRunTokens = 160;  // 4096 tokens give each of 256 experts 128 ± 11: one run, its weights read once
constexpr int kManyTokens = 512;     // above, the kernels of prefill take over from those of decode
constexpr int run_tokens_for(int64_t tokens) { return tokens <= 8 ? 8 : tokens <= kManyTokens ? kRunTokens : kGemmRunTokens; }

}  // namespace dsinfer::hopper
