#include "weights/load_terms.hpp"

#include <fmt/format.h>

#include "comm/same_fields.hpp"
#include "dsinfer/error.hpp"

namespace dsinfer {

void check_same_load(World& world, const Checkpoint& checkpoint, const Plan& plan, const LoadOptions& options) {
  check_same_fields(world, {{"the model's content (config, index, headers)", checkpoint.fingerprint()},
                            {"the plan", plan.spec() + " " + plan.to_json()},
                            {"the format of the weights held (0 as stored, 1 bf16, 2 fp8)", std::to_string(static_cast<int>(options.weights))},
                            {"weights left in mapped files", options.method == ReadMethod::mmap ? "yes" : "no"}});
}

void check_format(const ModelConfig& config, const std::string& model, WeightFormat weights) {
  if (config.int4 && weights != WeightFormat::as_stored)
    throw Error(Error::unsupported, fmt::format("{} holds 4-bit weights, which are loaded as stored only; leave the weights' format out", model));
}

}  // namespace dsinfer
