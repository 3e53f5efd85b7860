/// Prefill and decode on separate nodes: xPyD by the rates of each role.
#include <fmt/format.h>

#include <algorithm>

#include "plan/operating.hpp"

namespace dsinfer {
namespace {

constexpr size_t kBestOfEachRole = 16;  // pairs of these are tried

/// A replica in one role: requests a second that it serves.
struct Role {
  Candidate candidate;
  double requests_per_s = 0;
};

std::optional<Role> prefilling(const Question& q, Candidate c) {
  operate_at(q, c, 1);
  const double each = c.predicted.prefill_tokens_per_s.value / static_cast<double>(c.shape.replicas) / static_cast<double>(q.input_len);
  if (q.request.ttft_ms && c.predicted.ttft_ms.value > *q.request.ttft_ms) return std::nullopt;
  return Role{std::move(c), each};
}

std::optional<Role> decoding(const Question& q, Candidate c) {
  const std::vector<int64_t> sizes = batch_steps(most_batch(q, c));
  const Operation operation(q, c);
  const auto over = std::partition_point(sizes.begin(), sizes.end(), [&](int64_t batch) { return !q.request.tpot_ms || operation.decode_ms(batch) <= *q.request.tpot_ms; });
  if (over == sizes.begin()) return std::nullopt;
  const int64_t batch = *std::prev(over);
  operation.operate_at(c, batch);
  const double ms = operation.decode_ms(batch);
  c.predicted.tpot_ms.value = ms;
  return Role{std::move(c), static_cast<double>(c.shape.dp * batch) / (ms / 1e3 * static_cast<double>(q.request.workload.output_len))};
}

void keep_best(std::vector<Role>& roles) {
  std::stable_sort(roles.begin(), roles.end(), [](const Role& a, const Role& b) {
    return a.requests_per_s * static_cast<double>(b.candidate.shape.ranks()) > b.requests_per_s * static_cast<double>(a.candidate.shape.ranks());
  });
  if (roles.size() > kBestOfEachRole) roles.resize(kBestOfEachRole);
}

PlanAnswer part(const Question& q, Candidate c, int first, int nodes, int64_t replicas, const char* role) {
  const Fleet fleet = nodes_of(q.fleet, first, nodes);
  const Question there{q.config, fleet, q.request, q.precisions, q.input_len, q.sequence_len};
  c.shape.replicas = replicas;
  return finish(there, c, fmt::format("{} on {} nodes, {} replicas", role, nodes, replicas));
}

}  // namespace

std::optional<SplitRoles> split_roles(const Question& q, const Found& found) {
  if (q.fleet.nodes < 2) return std::nullopt;
  std::vector<Role> prefill, decode;
  for (const auto* list : {&found.best, &found.dominated}) {
    for (const Candidate& c : *list) {
      if (!c.fits || c.shape.ranks() > q.gpus() - q.fleet.gpus_per_node) continue;
      if (auto role = prefilling(q, c)) prefill.push_back(std::move(*role));
      if (auto role = decoding(q, c)) decode.push_back(std::move(*role));
    }
  }
  keep_best(prefill), keep_best(decode);
  struct { double rate = 0; const Role* p = nullptr; const Role* d = nullptr; int nodes = 0; int64_t x = 0, y = 0; } best;
  for (const Role& p : prefill) {
    for (const Role& d : decode) {
      for (int nodes = 1; nodes < q.fleet.nodes; ++nodes) {
        const int64_t x = nodes * int64_t{q.fleet.gpus_per_node} / p.candidate.shape.ranks();
        const int64_t y = (q.fleet.nodes - nodes) * int64_t{q.fleet.gpus_per_node} / d.candidate.shape.ranks();
        const double rate = std::min(static_cast<double>(x) * p.requests_per_s, static_cast<double>(y) * d.requests_per_s);
        if (rate > best.rate) best = {rate, &p, &d, nodes, x, y};
      }
    }
  }
  const double together = found.best.front().predicted.requests_per_s;
  if (!best.p || (best.rate <= together && found.best.front().meets_limits)) return std::nullopt;
  SplitRoles out;
  out.prefill = part(q, best.p->candidate, 0, best.nodes, best.x, "prefill");
  out.decode = part(q, best.d->candidate, best.nodes, q.fleet.nodes - best.nodes, best.y, "decode");
  out.requests_per_s = best.rate;
  out.tokens_per_s = best.rate * static_cast<double>(q.request.workload.output_len);
  out.tokens_per_s_per_gpu = out.tokens_per_s / static_cast<double>(q.gpus());
  out.why = fmt::format("{}P{}D: {:.2f} requests/s against {:.2f} on shared GPUs", best.x, best.y, best.rate, together);
  return out;
}

}  // namespace dsinfer
