#include "weights/load_terms.hpp"

#include <fmt/format.h>

#include "comm/same_fields.hpp"
#include "dsinfer/error.hpp"
#include "weights/dummy_storage.hpp"

namespace dsinfer {

void check_same_load(World& world, const Checkpoint& checkpoint, const Plan& plan, const LoadOptions& options) {
  check_same_fields(world, {{"the model's content (config, index, headers)", checkpoint.fingerprint()},
                            {"the plan", plan.spec() + " " + plan.to_json()},
                            {"the format of the weights held (0 as stored, 1 bf16, 2 fp8)", std::to_string(static_cast<int>(options.weights))},
                            {"absorbed copies of kv_b_proj in BF16", options.absorbed_bf16 ? "yes" : "no"},
                            {"weights left in mapped files", options.method == ReadMethod::mmap ? "yes" : "no"}});
}

void check_options(const LoadOptions& options) {
  constexpr int64_t kLeastStaging = int64_t{8} << 20;
  constexpr int kMostReads = 1024;
  if (options.host_bytes < kLeastStaging) throw Error(Error::invalid_argument, fmt::format("host_bytes is {}, expected {} at least", options.host_bytes, kLeastStaging));
  if (options.depth < 0 || options.depth > kMostReads) throw Error(Error::invalid_argument, fmt::format("depth is {}, expected 0 (as it suits) to {}", options.depth, kMostReads));
}

void check_format(const ModelConfig& config, const std::string& model, WeightFormat weights) {
  if (config.int4 && weights != WeightFormat::as_stored)
    throw Error(Error::unsupported, fmt::format("{} holds 4-bit weights, which are loaded as stored only; leave the weights' format out", model));
}

// Dummy weights come from no disk, and a cache of them would be read as slowly as they are made quickly.
void check_dummy(const Storage& storage, const LoadOptions& options) {
  if (!is_dummy(storage)) return;
  if (options.method != ReadMethod::automatic && options.method != ReadMethod::pread)
    throw Error(Error::invalid_argument, "dummy weights lie in no file that io_uring, O_DIRECT or mmap could take them from; choose automatic");
  if (!options.shard_cache.empty()) throw Error(Error::invalid_argument, "dummy weights are made up, not read: a shard cache has no sense with them; leave it out");
}

}  // namespace dsinfer
