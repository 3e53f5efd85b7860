#include "model/output_head.hpp"

#include "model/step_times.hpp"

namespace dsinfer {

OutputHead::OutputHead(Context& context, const WeightSet& weights, Blocks* blocks)
    : context_(context), blocks_(blocks), final_norm_(weights.vector("model.norm.weight")), head_(&weights.matrix("lm_head.weight")), wanted_(context.ws.logit_rows) {}

TensorView OutputHead::run(const BatchPart& part, std::span<const LogitAsk> asks, int64_t id_limit, LogitRows& answers) {
  StepLap lap;
  answers.hold({});
  Backend& backend = context_.backend;
  const Workspace& ws = context_.ws;
  std::vector<int32_t> wanted;
  int32_t first = 0;
  for (const Segment& segment : part.segments) {
    for (int32_t row : segment.logit_rows) wanted.push_back(first + row);
    first += segment.rows;
  }
  const auto count = static_cast<int64_t>(wanted.size());
  if (count == 0) return {};
  for (int64_t begin = 0; begin < count; begin += ws.logit_x.dim(0)) {
    const int64_t n = std::min(ws.logit_x.dim(0), count - begin);
    const TensorView x = ws.logit_x.rows(0, n), logits = ws.logits.rows(0, n);
    std::copy_n(wanted.begin() + begin, n, wanted_.data());
    wanted_.send(backend, n);
    backend.gather_rows(x, ws.x.rows(0, first), ws.logit_rows.rows(0, n));
    backend.rms_norm(x, x, final_norm_, static_cast<float>(context_.config.rms_norm_eps));
    if (!blocks_ || !blocks_->head(logits, x, *head_)) backend.linear(logits, x, *head_);
    lap(&StepTimes::head);
    if (context_.rank.tp == 1 && n == count && answers.survey(logits, asks, id_limit)) return {};
    if (context_.rank.tp_rank == 0) host_logits_.resize(static_cast<size_t>(count * context_.config.vocab_size));
    bring(logits, begin);
  }
  if (context_.rank.tp_rank != 0) return {};
  return TensorView::of(host_logits_.data(), {count, context_.config.vocab_size});
}

// Collective over tp: rows `begin` … of the host's logits := these slices, side by side.
void OutputHead::bring(TensorView logits, int64_t begin) {
  const RankPlan& rank = context_.rank;
  const int64_t n = logits.dim(0), slice = logits.dim(1), vocab = context_.config.vocab_size;
  if (rank.tp == 1) return context_.backend.copy(TensorView::of(host_logits_.data() + begin * vocab, {n, slice}), logits);
  TensorView all(context_.ws.logits_all.data, DType::f32, {rank.tp, n, slice}, context_.ws.logits_all.place);
  context_.groups.tp->all_gather(all, logits, context_.backend.stream());
  if (rank.tp_rank != 0) return;
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t part = 0; part < rank.tp; ++part) {
      float* out = host_logits_.data() + (begin + row) * vocab + part * slice;
      context_.backend.copy(TensorView::of(out, {1, slice}), all.rows(part, part + 1).reshape({n, slice}).rows(row, row + 1));
    }
  }
}

}  // namespace dsinfer
