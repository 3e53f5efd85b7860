// Times of collectives: α + β over the links that the ranks really use, the cheapest algorithm first. Ranks fill nodes in order: tp innermost, then dp, then pp.
#include <algorithm>
#include <cmath>

#include "plan/step_model.hpp"

namespace dsinfer {
namespace {

// Where a group of ranks lies, and what its links carry in bytes a microsecond.
struct Group {
  double ranks = 1, inside = 1, nodes = 1;
  double inside_rate = 0, between_rate = 0;  // specification × what is not the algorithm's
  double inside_latency = 0, between_latency = 0;
  bool nvlink = false, socket = false;
};

double nodes_of(double ranks, const Fleet& fleet) {
  // Nodes that are joined by NVLink itself are one.
  if (fleet.between.transport == "nvlink") return 1;
  return std::ceil(ranks / fleet.gpus_per_node);
}

Group group_of(double ranks, const StepModel& m) {
  Group g;
  g.ranks = ranks;
  g.nodes = nodes_of(ranks, m.fleet);
  g.inside = std::ceil(ranks / g.nodes);
  g.nvlink = m.fleet.inside.transport == "nvlink";
  g.inside_rate = m.fleet.inside.gb_per_s * 1e3;
  g.inside_latency = m.fleet.inside.latency_us;
  if (g.nvlink && g.nodes == 1 && ranks > m.fleet.gpus_per_node) {
    g.inside_rate = std::min(g.inside_rate, m.fleet.between.gb_per_s * 1e3);
    g.inside_latency = std::max(g.inside_latency, m.fleet.between.latency_us);
  }
  // One host bridge carries what all GPUs of a box without NVLink send.
  const LinkCurves& l = m.curves.links;
  if (!g.nvlink && !is_host(m.fleet.gpu)) g.inside_rate *= l.pcie_share / std::pow(std::max(g.inside, 2.0) / 2, l.pcie_crowding);
  g.socket = m.fleet.between.transport == "socket";
  g.between_rate = m.fleet.between.gb_per_s * 1e3 * (g.socket ? l.socket_share : l.between_share);
  g.between_latency = m.fleet.between.latency_us + (g.socket ? l.socket_fixed_us : 0);
  return g;
}

struct Choice {
  double us = 0;
  const char* algorithm = "";
};

Choice cheaper(const Choice& a, const Choice& b) { return b.us < a.us ? b : a; }

// A collective library's ring or tree; between nodes: reduce-scatter inside, exchange among the GPUs of one index over their own NICs, gather inside.
double library_all_reduce(double bytes, const Group& g, const StepModel& m) {
  const LinkCurves& l = m.curves.links;
  const double fixed = is_host(m.fleet.gpu) ? 0 : g.nvlink ? l.nccl_fixed_us : l.pcie_fixed_us;
  const double local = g.inside > 1 ? 2 * (g.inside - 1) / g.inside * bytes / (g.inside_rate * (g.nvlink ? l.nccl_share : 1)) : 0;
  if (g.nodes <= 1) return fixed + g.inside_latency + local;
  const double hops = 2 * std::ceil(std::log2(g.nodes));
  const double wire = 2 * (g.nodes - 1) / g.nodes * (bytes / g.inside) / g.between_rate;
  return fixed + g.inside_latency + hops * (g.between_latency + l.nccl_hop_us) + local + wire;
}

Choice all_reduce(double bytes, const Group& g, const StepModel& m) {
  if (g.ranks <= 1) return {};
  const LinkCurves& l = m.curves.links;
  Choice best{library_all_reduce(bytes, g, m), g.nodes > 1 ? "hierarchical ring" : is_host(m.fleet.gpu) ? "shared memory" : "ring"};
  if (g.nodes > 1 || !g.nvlink) return best;
  const double direct = g.inside_rate * l.direct_share;
  best = cheaper(best, {l.one_shot_fixed_us + g.inside_latency + (g.ranks - 1) * bytes / direct, "one-shot"});
  return cheaper(best, {l.two_shot_fixed_us + g.inside_latency + 2 * (g.ranks - 1) / g.ranks * bytes / direct, "two-shot"});
}

// Nodes that hold an expert of a token. With group-limited routing over whole groups a node: hypergeometric; else experts as drawn one by one.
double nodes_reached(const ModelConfig& c, double nodes) {
  const double groups = static_cast<double>(c.n_group), chosen = static_cast<double>(c.topk_group);
  const double per_node = groups / nodes;
  if (c.n_group > 1 && nodes <= groups && per_node == std::floor(per_node)) {
    double missed = 1;  // C(groups - per_node, chosen) / C(groups, chosen)
    for (int64_t i = 0; i < c.topk_group; ++i) missed *= std::max(groups - per_node - static_cast<double>(i), 0.0) / (groups - static_cast<double>(i));
    return std::min(nodes * (1 - missed), chosen);
  }
  return nodes * (1 - std::pow(1 - 1 / nodes, static_cast<double>(c.num_experts_per_tok)));
}

}  // namespace

void StepModel::all_reduces(Tally& tally, double tokens, std::map<std::string, std::string>* algorithms) const {
  if (tp <= 1) return;
  const Group g = group_of(tp, *this);
  const Choice one = all_reduce(tokens * static_cast<double>(config.hidden_size) * 2, g, *this);
  // After attention and after the feed-forward layer (where tokens went to other ranks: the gather of what came back).
  tally.add(Part::all_reduce, g.nodes > 1 ? Bound::reduce_between : Bound::reduce_inside, 2 * one.us);
  if (algorithms) (*algorithms)["all_reduce"] = one.algorithm;
}

void StepModel::exchange(Tally& tally, double tokens, bool captured, std::map<std::string, std::string>* algorithms) const {
  if (dp <= 1 || config.n_routed_experts <= 0) return;
  const LinkCurves& l = curves.links;
  const Group g = group_of(tp * dp, *this);
  const double hidden = static_cast<double>(config.hidden_size), sent = tokens / tp;  // tp ranks share the sending
  const double there_and_back = hidden * (numerics.dispatch_bytes + 2);
  const double copies = static_cast<double>(config.num_experts_per_tok) * moe_tp;
  const double away = 1 - 1 / g.nodes;

  // Low latency: each copy goes straight to its expert's rank.
  const double start = l.low_latency_fixed_us + g.inside_latency + (g.nodes > 1 ? (g.between_latency + l.low_latency_hop_us) * (1 + std::log2(g.nodes) / 2) : 0);
  const double near = (1 - away) * (1 - 1 / g.inside) * copies * sent * there_and_back / (g.inside_rate * l.low_latency_share);
  const double far = g.nodes > 1 ? away * copies * sent * there_and_back / g.between_rate : 0;
  Choice best{2 * start + std::max(near, far), "low-latency"};

  // Normal: once to each node, then on by its links.
  const double reached = nodes_reached(config, g.nodes) * std::min(moe_tp, g.inside);
  const double ranks_reached = std::min(g.ranks * (1 - std::pow(1 - 1 / g.ranks, copies)), g.ranks);
  const double fan_out = ranks_reached * (1 - 1 / g.inside) * sent * there_and_back / (g.inside_rate * l.normal_share);
  const double remote = g.nodes > 1 ? reached * away * sent * there_and_back / (g.between_rate * l.normal_between_share) : 0;
  best = cheaper(best, {2 * (start - l.low_latency_fixed_us + (captured ? l.normal_eager_us : l.normal_fixed_us)) + std::max(fan_out, remote), "normal"});

  // All tokens to all ranks, partial sums back: the two halves of a ring all-reduce of the whole group's tokens, each a collective of its own.
  best = cheaper(best, {library_all_reduce(tokens * dp * hidden * 2, g, *this) + (g.nvlink ? l.nccl_fixed_us : l.pcie_fixed_us), "all-gather + reduce-scatter"});
  tally.add(Part::all_to_all, g.nodes > 1 ? Bound::exchange_between : Bound::exchange_inside, best.us);
  if (algorithms) (*algorithms)["all_to_all"] = best.algorithm;
}

double StepModel::hop_us(double tokens, int64_t boundary) const {
  const int64_t ranks = shape.tp * shape.dp, first = boundary * ranks;  // first rank of the stage that receives
  const int64_t per_node = fleet.between.transport == "nvlink" ? shape.ranks() : fleet.gpus_per_node;
  const bool leaves = (first - ranks) / per_node != first / per_node;
  const Group g = group_of(leaves ? static_cast<double>(fleet.gpus_per_node + 1) : 2, *this);
  const double bytes = tokens * static_cast<double>(config.hidden_size) * 2 / tp;  // each tensor-parallel rank sends its part
  return leaves ? curves.links.nccl_hop_us + g.between_latency + bytes / g.between_rate : curves.links.nccl_hop_us + g.inside_latency + bytes / g.inside_rate;
}

}  // namespace dsinfer
