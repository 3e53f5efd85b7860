#include "model/expert_exchange.hpp"

#include <numeric>

namespace dsinfer {

ExpertExchange::ExpertExchange(const Context& context) {
  const auto stage = static_cast<size_t>(context.groups.stage->size());
  send_counts_.resize(stage);
  recv_counts_.resize(stage);
  rows_to_.resize(stage);
  experts_per_slice_ = context.config.n_routed_experts / context.rank.ep;
  for (std::vector<int64_t>& rows : rows_to_) rows.reserve(static_cast<size_t>(context.ws.x.dim(0)));
  meta_.resize(static_cast<size_t>(context.ws.x.dim(0) * 2 * context.config.num_experts_per_tok));
}

namespace {

// Expert ids, then the bits of their weights: one row of meta.
void write_meta(int32_t* meta, Context& context, int64_t row, int64_t k) {
  std::memcpy(meta, context.experts.data() + row * k, static_cast<size_t>(k) * 4);
  std::memcpy(meta + k, context.weights.data() + row * k, static_cast<size_t>(k) * 4);
}

}  // namespace

void ExpertExchange::run(Context& context, int64_t rows, const OwnExperts& own_experts) {
  context.experts.fetch(context.backend, rows);
  context.weights.fetch(context.backend, rows);
  if (context.rank.dp > 1) return run_exact(context, rows, own_experts);
  const int64_t k = context.config.num_experts_per_tok;
  for (int64_t row = 0; row < rows; ++row) write_meta(meta_.data() + row * 2 * k, context, row, k);
  own_experts(context.ws.branch.rows(0, rows), context.ws.h.rows(0, rows), meta_.data(), rows);
}

// Adds to send_counts_ the ranks that hold any of a row's experts: every cut of each slice once.
void ExpertExchange::route_row(const RankPlan& rank, const int32_t* experts, int64_t k) {
  for (int64_t j = 0; j < k; ++j) {
    const int64_t slice = experts[j] / experts_per_slice_;
    bool seen = false;
    for (int64_t i = 0; i < j; ++i) seen = seen || experts[i] / experts_per_slice_ == slice;
    if (seen) continue;
    for (int64_t cut = 0; cut < rank.moe_tp; ++cut) ++send_counts_[static_cast<size_t>(slice * rank.moe_tp + cut)];
  }
}

void ExpertExchange::run_exact(Context& context, int64_t rows, const OwnExperts& own_experts) {
  const RankPlan& rank = context.rank;
  const Workspace& ws = context.ws;
  Comm& stage = *context.groups.stage;
  const Stream stream = context.backend.stream();
  const int64_t k = context.config.num_experts_per_tok, me = stage.rank();

  // Which own rows go where. Row i of the dp rank belongs to tp rank i mod tp.
  for (std::vector<int64_t>& list : rows_to_) list.clear();
  for (int64_t row = rank.tp_rank; row < rows; row += rank.tp) {
    std::fill(send_counts_.begin(), send_counts_.end(), 0);
    route_row(rank, context.experts.data() + row * k, k);
    for (size_t peer = 0; peer < send_counts_.size(); ++peer) if (send_counts_[peer]) rows_to_[peer].push_back(row);
  }
  int64_t sent = 0;
  for (size_t peer = 0; peer < rows_to_.size(); ++peer) {
    send_counts_[peer] = static_cast<int64_t>(rows_to_[peer].size());
    for (int64_t row : rows_to_[peer]) {
      context.backend.copy(ws.send_rows.rows(sent, sent + 1), ws.h.rows(row, row + 1));
      write_meta(ws.send_meta.row<int32_t>(sent), context, row, k);
      ++sent;
    }
  }
  const int64_t peers = stage.size();
  stage.all_to_all(TensorView::of(recv_counts_.data(), {peers, 1}), TensorView::of(send_counts_.data(), {peers, 1}), stream);
  const int64_t received = std::accumulate(recv_counts_.begin(), recv_counts_.end(), int64_t{0});
  const TensorView in = ws.recv_rows.rows(0, received), meta = ws.recv_meta.rows(0, received), out = ws.result_rows.rows(0, received);
  stage.all_to_all_rows(in, recv_counts_, ws.send_rows.rows(0, sent), send_counts_, stream);
  stage.all_to_all_rows(meta, recv_counts_, ws.send_meta.rows(0, sent), send_counts_, stream);

  context.backend.zero(out);
  const int64_t block = ws.x.dim(0);  // the pair buffers hold this many rows' experts
  for (int64_t begin = 0; begin < received; begin += block) {
    const int64_t end = std::min(begin + block, received);
    own_experts(out.rows(begin, end), in.rows(begin, end), meta.row<int32_t>(begin), end - begin);
  }
  stage.all_to_all_rows(ws.returned_rows.rows(0, sent), send_counts_, out, recv_counts_, stream);

  // Contributions are added in the order of the ranks that made them.
  int64_t at = 0;
  for (const std::vector<int64_t>& list : rows_to_) {
    for (int64_t row : list) {
      context.backend.add(ws.branch.rows(row, row + 1), ws.returned_rows.rows(at, at + 1));
      ++at;
    }
  }
  context.stats.expert_rows_sent += static_cast<uint64_t>(sent - send_counts_[static_cast<size_t>(me)]);
  context.stats.expert_rows_received += static_cast<uint64_t>(received - recv_counts_[static_cast<size_t>(me)]);
}

}  // namespace dsinfer
