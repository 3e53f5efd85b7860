// One decode step: a token, and with a prediction layer its drafts, for every sequence.
#include <algorithm>

#include "plan/step_model.hpp"

namespace dsinfer {
namespace {

class Decode {
 public:
  Decode(const StepModel& model, const OperatingPoint& at, double sequences)
      : m_(model), sequences_(sequences), context_(static_cast<double>(std::max<int64_t>(at.context, 1))),
        queries_(model.shape.prediction_layer ? 1.0 + at.draft_tokens : 1.0),
        skew_(at.skew >= 0 ? at.skew : model.shape.redundant_experts > 0 ? model.family.skew_balanced : model.family.skew) {}

  // `repeats` micro-batches of this size after one another, each hiding part of the other's exchange.
  Tally layer(bool moe, double repeats, double queries, std::map<std::string, std::string>* algorithms) const {
    Tally one;
    const double tokens = sequences_ * queries;
    m_.attention_projections(one, tokens);
    m_.absorbed_core(one, sequences_, queries, context_);
    m_.feed_forward(one, moe, tokens, skew_, m_.shape.dp > 1);
    m_.small_operations(one, tokens);
    m_.all_reduces(one, tokens, algorithms);
    if (moe) {
      m_.exchange(one, tokens, true, algorithms);
      // The exchange occupies no SM, and the shared expert needs nothing of it: the longer of both counts.
      Tally shared;
      m_.shared_expert(shared, tokens);
      one.hide_exchange(std::min(shared.total(), one.part(Part::all_to_all)));
    }
    Tally all;
    all.add(one, repeats);
    const double exchanged = all.part(Part::all_to_all);
    if (repeats > 1) all.hide_exchange(m_.curves.links.overlap * std::min(exchanged, all.total() - exchanged));
    return all;
  }

  double queries() const { return queries_; }
  double tokens() const { return sequences_ * queries_; }

  // Head, sampling, and the drafts: the prediction layer once for each, with its projection and the head again.
  Tally ending(double repeats, int drafts) const {
    Tally t, draft;
    m_.head(t, tokens());
    t.add(Part::other, Bound::launches, m_.family.step_fixed_us);
    if (drafts > 0) {
      const double hidden = static_cast<double>(m_.config.hidden_size);
      draft = layer(m_.config.n_routed_experts > 0, 1, 1, nullptr);
      m_.gemm(draft, Part::draft, 2 * hidden * hidden, m_.numerics.dense, sequences_, Bound::other_weights, Bound::other_math);
      m_.head(draft, sequences_);
      t.parts[static_cast<size_t>(Part::draft)] += drafts * draft.total();
      for (size_t i = 0; i < draft.reasons.size(); ++i) t.reasons[i] += drafts * draft.reasons[i];
      t.add(Part::draft, Bound::launches, m_.family.draft_fixed_us);
    }
    Tally all;
    all.add(t, repeats);
    return all;
  }

 private:
  const StepModel& m_;
  double sequences_, context_, queries_, skew_;
};

struct Flight {
  double batches = 1;    // really in flight: a batch of one sequence cannot be cut
  double repeats = 1;    // of them, done after one another by the same ranks (pp = 1)
  double sequences = 1;  // of one
};

Flight flight_of(const Shape& shape, const OperatingPoint& at) {
  Flight f;
  f.batches = static_cast<double>(std::min<int64_t>(shape.micro_batches, at.batch));
  f.sequences = static_cast<double>(at.batch) / f.batches;
  if (shape.pp == 1) f.repeats = f.batches;
  return f;
}

}  // namespace

StepTime decode_step(const ModelConfig& config, const Numerics& numerics, const Shape& shape, const Fleet& fleet, const OperatingPoint& at) {
  check_step(config, numerics, shape, fleet, at);
  const StepModel model(config, numerics, shape, fleet);
  const Flight flight = flight_of(shape, at);
  const Decode decode(model, at, flight.sequences);
  StepTime step;
  const Tally dense = decode.layer(false, flight.repeats, decode.queries(), &step.algorithms);
  const Tally moe = config.n_routed_experts > 0 ? decode.layer(true, flight.repeats, decode.queries(), &step.algorithms) : dense;
  Tally all;
  double slowest = 0;
  int64_t first = 0;
  const std::vector<int64_t> stages = stage_layers_of(config, shape);
  for (size_t s = 0; s < stages.size(); ++s) {
    Tally stage = layers_of_stage(config, {first, first + stages[s]}, dense, moe);
    if (s > 0) stage.add(Part::pipeline, Bound::hop, model.hop_us(decode.tokens(), static_cast<int64_t>(s)));
    if (s + 1 == stages.size()) stage.add(decode.ending(flight.repeats, shape.prediction_layer ? at.draft_tokens : 0), 1);
    slowest = std::max(slowest, stage.total());
    all.add(stage, 1);
    first += stages[s];
  }
  if (shape.pp > 1 && flight.batches * slowest > all.total()) all.add(Part::bubble, Bound::waiting, flight.batches * slowest - all.total());
  step.total_ms = all.total() / 1e3;
  step.interval_ms = step.total_ms / flight.batches;
  describe(step, all, model, at);
  return step;
}

StepTime decode_step(const ModelConfig& config, const Precisions& precisions, const Shape& shape, const Fleet& fleet, const OperatingPoint& at) {
  return decode_step(config, numerics_of(config, precisions, fleet.gpu, fleet.curves ? *fleet.curves : Curves::shipped()), shape, fleet, at);
}

std::vector<double> layer_seconds(const ModelConfig& config, const Precisions& precisions, const Shape& shape, const Fleet& fleet, const OperatingPoint& at) {
  const Numerics numerics = numerics_of(config, precisions, fleet.gpu, fleet.curves ? *fleet.curves : Curves::shipped());
  Shape open = shape;
  open.stage_layers.clear();  // the cut is what these seconds are for
  check_step(config, numerics, open, fleet, at);
  const StepModel model(config, numerics, open, fleet);
  const Flight flight = flight_of(open, at);
  const Decode decode(model, at, flight.sequences);
  const double dense = decode.layer(false, flight.repeats, decode.queries(), nullptr).total() / 1e6;
  const double moe = config.n_routed_experts > 0 ? decode.layer(true, flight.repeats, decode.queries(), nullptr).total() / 1e6 : dense;
  std::vector<double> seconds;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) seconds.push_back(config.is_moe(layer) ? moe : dense);
  return seconds;
}

}  // namespace dsinfer
