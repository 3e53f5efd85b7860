// One prefill step: a chunk of prompt tokens on every DP rank.
#include <algorithm>

#include "plan/step_model.hpp"

namespace dsinfer {
namespace {

Tally prefill_layer(const StepModel& m, bool moe, double tokens, double context, double skew, std::map<std::string, std::string>* algorithms) {
  Tally t;
  m.attention_projections(t, tokens);
  m.prefill_core(t, tokens, context);
  m.feed_forward(t, moe, tokens, skew, false);
  m.small_operations(t, tokens);
  m.all_reduces(t, tokens, algorithms);
  if (!moe) return t;
  m.exchange(t, tokens, false, algorithms);
  // Two halves of the chunk, each computed while the other is exchanged. What is hidden is taken from the exchange.
  const double exchanged = t.part(Part::all_to_all);
  t.hide_exchange(m.curves.links.overlap * std::min(exchanged, t.total() - exchanged));
  return t;
}

}  // namespace

StepTime prefill_step(const ModelConfig& config, const Numerics& numerics, const Shape& shape, const Fleet& fleet, const OperatingPoint& at) {
  check_step(config, numerics, shape, fleet, at);
  const StepModel model(config, numerics, shape, fleet);
  const double tokens = static_cast<double>(at.chunk), context = static_cast<double>(std::max<int64_t>(at.context, 1));
  const double skew = at.skew >= 0 ? at.skew : shape.redundant_experts > 0 ? model.family.skew_balanced : model.family.skew;
  StepTime step;
  const Tally dense = prefill_layer(model, false, tokens, context, skew, &step.algorithms);
  const Tally moe = config.n_routed_experts > 0 ? prefill_layer(model, true, tokens, context, skew, &step.algorithms) : dense;
  Tally all;
  double slowest = 0;
  int64_t first = 0;
  const std::vector<int64_t> stages = stage_layers_of(config, shape);
  for (size_t s = 0; s < stages.size(); ++s) {
    Tally stage = layers_of_stage(config, {first, first + stages[s]}, dense, moe);
    if (s > 0) stage.add(Part::pipeline, Bound::hop, model.hop_us(tokens, static_cast<int64_t>(s)));
    if (s + 1 == stages.size()) {
      model.head(stage, 1);  // the last position of each prompt: few rows, so that the matrix's bytes decide
      stage.add(Part::other, Bound::launches, model.family.step_fixed_us);
    }
    // The host launches layer by layer and runs ahead of the device, unless the chunk is so small that the device waits for it.
    const double launched = model.family.prefill_launch_us * static_cast<double>(stages[s]);
    if (launched > stage.total()) stage.add(Part::other, Bound::launches, launched - stage.total());
    slowest = std::max(slowest, stage.total());
    all.add(stage, 1);
    first += stages[s];
  }
  step.total_ms = all.total() / 1e3;
  step.interval_ms = slowest / 1e3;
  describe(step, all, model, at);
  return step;
}

StepTime prefill_step(const ModelConfig& config, const Precisions& precisions, const Shape& shape, const Fleet& fleet, const OperatingPoint& at) {
  return prefill_step(config, numerics_of(config, precisions, fleet.gpu, fleet.curves ? *fleet.curves : Curves::shipped()), shape, fleet, at);
}

}  // namespace dsinfer
