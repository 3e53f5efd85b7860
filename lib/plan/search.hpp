/// The inside of solve(): the question with all decided that is the same for every plan, candidates, and how they are timed and compared.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "plan/shape.hpp"

namespace dsinfer {

/// References: used within one call of solve() alone.
struct Question {
  const ModelConfig& config;
  const Fleet& fleet;
  const SolveRequest& request;      ///< checked; precision and cache are set
  Precisions precisions;
  int64_t input_len = 1;            ///< tokens to compute of a prompt, those found in the cache taken off
  int64_t sequence_len = 1;         ///< positions that a request holds at its end
  int64_t gpus() const { return fleet.num_gpus(); }
};

/// Throws invalid_argument naming the field that makes no sense.
DSINFER_INTERNAL void check_request(const ModelConfig& config, const Fleet& fleet, const SolveRequest& request);
/// The request with its silent choices made: precision as the GPU can compute the checkpoint, the cache in BF16, one user where latency counts.
DSINFER_INTERNAL SolveRequest settled(const ModelConfig& config, const Fleet& fleet, SolveRequest request);
DSINFER_INTERNAL Question question_of(const ModelConfig& config, const Fleet& fleet, const SolveRequest& settled_request);
/// What no plan can cure: FP8 on a GPU without FP8 units, a utilisation that leaves too little outside.
DSINFER_INTERNAL std::optional<RejectedPlan> refused_outright(const Question& question);

/// A plan on its way through the search.
struct Candidate {
  Shape shape;
  MemoryTable memory;
  bool fits = false;
  Prediction predicted;
  bool meets_limits = true;
  double excess = 1;                ///< by how much the worst limit is missed, as a factor; 1 = none
  std::string missed;               ///< which and by how much
};

/// Legal shapes of one replica with at most `most_ranks` ranks, uncut, in a fixed order. Only `exact_ranks` if that is not 0.
/// Structure bounds their number whatever the fleet: ep · moe_tp = tp · dp, where ep divides the experts and moe_tp an expert's width.
DSINFER_INTERNAL std::vector<Shape> legal_units(const Question& question, int64_t most_ranks, int64_t exact_ranks = 0);
/// Degrees of `ranks` GPUs that a person would think of and that a rule refuses: one for each rule and wording.
std::vector<RejectedPlan> refused_shapes(const Question& question, int64_t ranks);

/// Bytes of layers for shapes that come one after the other: neighbours differ in depth alone, and have the same.
class LayerBytesOf {
 public:
  explicit LayerBytesOf(const Question& question) : q_(question) {}
  std::shared_ptr<const LayerBytes> operator()(const Shape& shape);

 private:
  const Question& q_;
  int64_t tp_ = 0, dp_ = 0, ep_ = 0;
  std::shared_ptr<const LayerBytes> bytes_;
};

/// Cuts the stages so that the fullest rank is lightest, and fills in the memory table.
Candidate weigh(const Question& question, Shape shape, const LayerBytes& bytes);
DSINFER_INTERNAL Candidate weigh(const Question& question, Shape shape);
/// The same degrees with the fastest of the cuts that are as light; nothing if that is the same cut.
std::optional<Candidate> weigh_fastest(const Question& question, const Candidate& lightest, const LayerBytes& bytes);

/// Finds the operating point: batch and chunk within limits, memory and load; fills in `predicted`.
DSINFER_INTERNAL void operate(const Question& question, Candidate& candidate);
/// The same at a given batch of each DP rank.
DSINFER_INTERNAL void operate_at(const Question& question, Candidate& candidate, int64_t batch);
/// Prediction at the largest batch that memory and load allow, limits aside: no operating point of `candidate` delivers more.
double most_tokens_per_s(const Question& question, const Candidate& candidate);
/// Sequences on a DP rank at most: memory, load and what an engine would schedule.
int64_t most_batch(const Question& question, const Candidate& candidate);
/// The batches up to `most` that are tried: nested, so that more memory only adds to them.
std::vector<int64_t> batch_steps(int64_t most);

/// The order of the answer: fits, meets the limits, objective; then fewer nodes under the experts, lower tp, pp, dp, ep.
DSINFER_INTERNAL bool better(const Question& question, const Candidate& a, const Candidate& b);
/// Nodes over which the experts of a stage spread.
int64_t expert_nodes(const Fleet& fleet, const Shape& shape);

struct Found {
  std::vector<Candidate> best;      ///< `keep` at most, best first; the lightest misfits if none fits
  std::vector<Candidate> pareto;
  std::vector<Candidate> misfits;   ///< legal, too big; closest first
  std::vector<Candidate> dominated; ///< fit, but are not among the best; best first
  int64_t considered = 0, legal = 0, fitting = 0;
};
/// `prune`: skip what cannot win any more; the result is the same without, later. `front`: fill in `pareto` too.
DSINFER_INTERNAL Found search_plans(const Question& question, int64_t keep, bool front, bool prune = true);
/// Whether any plan fits at all.
bool anything_fits(const Question& question);
/// `count` nodes like the first of `fleet`; its own from `first` on where there are so many.
Fleet nodes_of(const Fleet& fleet, int first, int count);
/// The front of tokens a second against tokens a second for each user, the highest throughput first.
std::vector<Candidate> pareto_front(const Question& question, const std::vector<Candidate>& candidates);
/// Eight points of a front at most, both ends among them.
void thin(std::vector<Candidate>& front);

/// Plan rank → index in Fleet::gpus: tp inside an NVLink island, then dp inside a node, pp across the slowest cut.
DSINFER_INTERNAL std::vector<int> map_ranks(const Fleet& fleet, const Shape& shape);
/// The shape that a judged request means, or why there is none.
struct Given { Shape shape; std::optional<Refused> refused; };
DSINFER_INTERNAL Given given_shape(const Question& question, const PlanRequest& judge);

/// Degrees, cut, map and numbers as the caller gets them.
PlanAnswer finish(const Question& question, const Candidate& candidate, std::string why);

/// The least changes that would make it feasible, or remarks on what is left unused.
std::vector<Advice> advise(const Question& question, const Found& found);
/// Prefill and decode on separate nodes, where that delivers more.
std::optional<SplitRoles> split_roles(const Question& question, const Found& found);

/// The answer in one sentence.
std::string verdict(const SolveAnswer& answer);
/// "85.1 GB", "344k", "2.75M": as the documents print them.
std::string gigabytes(int64_t bytes);
std::string short_count(double value);

}  // namespace dsinfer
