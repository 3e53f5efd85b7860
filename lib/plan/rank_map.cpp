/// Which GPU runs which rank. Degrees nest: what talks most often sits closest.
#include <algorithm>
#include <set>
#include <tuple>

#include "plan/search.hpp"

namespace dsinfer {
namespace {

// Coordinates of a plan rank, as Plan lays them out.
struct Place { int64_t replica, pp, dp, tp; };
Place place_of(const Shape& s, int64_t rank) { return {rank / s.ranks(), rank / (s.dp * s.tp) % s.pp, rank / s.tp % s.dp, rank % s.tp}; }
int64_t rank_of(const Shape& s, const Place& p) { return ((p.replica * s.pp + p.pp) * s.dp + p.dp) * s.tp + p.tp; }

/// GPUs in node order, islands of a node together.
std::vector<int> by_island(const Fleet& fleet) {
  std::vector<int> order(fleet.gpus.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    const FleetGpu &x = fleet.gpus[static_cast<size_t>(a)], &y = fleet.gpus[static_cast<size_t>(b)];
    return std::tie(x.node, x.island) < std::tie(y.node, y.island);
  });
  return order;
}

/// Leaves out GPUs so that no tp group straddles two islands, as far as there are GPUs to spare.
std::vector<int> whole_groups(const Fleet& fleet, const std::vector<int>& order, const Shape& shape) {
  std::vector<int> out;
  size_t spare = order.size() - static_cast<size_t>(shape.ranks() * shape.replicas);
  const auto home = [&](size_t i) { const FleetGpu& g = fleet.gpus[static_cast<size_t>(order[i])]; return std::pair(g.node, g.island); };
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin;
    while (end < order.size() && home(end) == home(begin)) ++end;
    const size_t left_over = std::min((end - begin) % static_cast<size_t>(shape.tp), spare);
    for (size_t i = begin; i < end - left_over; ++i) out.push_back(order[i]);
    spare -= left_over;
    begin = end;
  }
  return out;
}

// The plan's own order: tp, dp, pp, replica from the inside; or stages of one dp rank side by side.
std::vector<int> lay(const Shape& shape, const std::vector<int>& order, bool stages_inside) {
  const int64_t world = shape.ranks() * shape.replicas;
  std::vector<int> map(static_cast<size_t>(world));
  for (int64_t i = 0; i < world; ++i) {
    Place p = place_of(shape, i);
    if (stages_inside) p = {i / shape.ranks(), i / shape.tp % shape.pp, i / (shape.tp * shape.pp) % shape.dp, i % shape.tp};
    map[static_cast<size_t>(rank_of(shape, p))] = order[static_cast<size_t>(i)];
  }
  return map;
}

/// What crosses what, most expensive first: tp groups that leave a node, then an island; nodes under the experts of the stages; hops between nodes.
auto crossings(const Fleet& fleet, const Shape& shape, const std::vector<int>& map) {
  int64_t leave_node = 0, leave_island = 0, spread = 0, hops = 0;
  const auto gpu = [&](int64_t rank) -> const FleetGpu& { return fleet.gpus[static_cast<size_t>(map[static_cast<size_t>(rank)])]; };
  const int64_t world = shape.ranks() * shape.replicas, stage = shape.tp * shape.dp;
  for (int64_t first = 0; first < world; first += shape.tp) {
    bool node = false, island = false;
    for (int64_t i = 1; i < shape.tp; ++i) {
      node |= gpu(first + i).node != gpu(first).node;
      island |= gpu(first + i).island != gpu(first).island;
    }
    leave_node += node, leave_island += island;
  }
  for (int64_t first = 0; first < world; first += stage) {
    std::set<int> nodes;
    for (int64_t i = 0; i < stage; ++i) nodes.insert(gpu(first + i).node);
    spread += static_cast<int64_t>(nodes.size());
  }
  for (int64_t rank = 0; rank < world; ++rank)
    if (place_of(shape, rank).pp > 0) hops += gpu(rank).node != gpu(rank - stage).node;
  return std::tuple(leave_node, leave_island, spread, hops);
}

}  // namespace

std::vector<int> map_ranks(const Fleet& fleet, const Shape& shape) {
  const std::vector<int> order = by_island(fleet), whole = whole_groups(fleet, order, shape);
  std::vector<int> best = lay(shape, order, false);
  for (const std::vector<int>& other : {lay(shape, whole, false), lay(shape, whole, true)})
    if (crossings(fleet, shape, other) < crossings(fleet, shape, best)) best = other;
  return best;
}

}  // namespace dsinfer
