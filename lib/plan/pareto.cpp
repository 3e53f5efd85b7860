/// The front of throughput against speed per user, thinned to what a person compares.
#include <algorithm>
#include <cmath>

#include "plan/search.hpp"

namespace dsinfer {
namespace {

constexpr size_t kMostPoints = 8;

double per_user(const Candidate& c) { return 1e3 / c.predicted.tpot_ms.value; }
double per_fleet(const Candidate& c) { return c.predicted.tokens_per_s.value; }

}  // namespace

// Ends stay; between them goes, again and again, the point whose neighbours are closest in ratio.
void thin(std::vector<Candidate>& front) {
  while (front.size() > kMostPoints) {
    size_t least = 1;
    double gap = INFINITY;
    for (size_t i = 1; i + 1 < front.size(); ++i) {
      const double here = std::log(per_fleet(front[i - 1]) / per_fleet(front[i + 1])) + std::log(per_user(front[i + 1]) / per_user(front[i - 1]));
      if (here < gap) gap = here, least = i;
    }
    front.erase(front.begin() + static_cast<std::ptrdiff_t>(least));
  }
}

std::vector<Candidate> pareto_front(const Question& q, const std::vector<Candidate>& candidates) {
  std::vector<const Candidate*> order;
  for (const Candidate& c : candidates)
    if (c.predicted.tpot_ms.value > 0 && c.predicted.tokens_per_s.value > 0) order.push_back(&c);
  std::stable_sort(order.begin(), order.end(), [&](const Candidate* a, const Candidate* b) {
    if (per_fleet(*a) != per_fleet(*b)) return per_fleet(*a) > per_fleet(*b);
    if (per_user(*a) != per_user(*b)) return per_user(*a) > per_user(*b);
    return better(q, *a, *b);
  });
  std::vector<Candidate> front;
  for (const Candidate* c : order)
    if (front.empty() || per_user(*c) > per_user(front.back())) front.push_back(*c);
  return front;
}

}  // namespace dsinfer
