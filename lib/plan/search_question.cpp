/// What a question must keep to before anything is searched, and what its silence means.
#include <fmt/format.h>

#include <cmath>

#include "dsinfer/error.hpp"
#include "plan/search.hpp"

namespace dsinfer {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 30;     // of a request; products with bytes stay far from 2^63
constexpr int64_t kMostRequests = int64_t{1} << 40;
constexpr int64_t kMostGpus = 1 << 17;                // larger than any cluster, and answered in seconds
constexpr double kMostUtilization = 0.95;             // the rest is for what no allocator sees: context growth, NCCL, fragmentation

[[noreturn]] void refuse(const std::string& what) { throw Error(Error::invalid_argument, what); }

void whole(const char* field, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) refuse(fmt::format("{} is {}, expected {} … {}", field, value, least, most));
}
void number(const char* field, double value, double least, double most) {
  if (!(value >= least && value <= most)) refuse(fmt::format("{} is {}, expected {} … {}", field, value, least, most));
}
void limit(const char* field, const std::optional<double>& value) {
  if (value && !(*value > 0 && *value < 1e12)) refuse(fmt::format("{} is {}, expected more than 0 milliseconds", field, *value));
}

void check_fleet(const Fleet& fleet) {
  whole("nodes", fleet.nodes, 1, kMostGpus);
  whole("gpus_per_node", fleet.gpus_per_node, 1, kMostGpus);
  const int64_t gpus = int64_t{fleet.nodes} * fleet.gpus_per_node;
  if (gpus > kMostGpus) refuse(fmt::format("nodes · gpus_per_node = {}·{} = {}, expected {} at most", fleet.nodes, fleet.gpus_per_node, gpus, kMostGpus));
  if (static_cast<int64_t>(fleet.gpus.size()) != gpus) refuse(fmt::format("the fleet lists {} GPUs, nodes · gpus_per_node is {}", fleet.gpus.size(), gpus));
  whole("memory_bytes of the GPU", fleet.gpu.memory_bytes, 1, int64_t{1} << 50);
  number("memory_gb_per_s of the GPU", fleet.gpu.memory_gb_per_s, 1e-3, 1e9);
}

}  // namespace

void check_request(const ModelConfig& config, const Fleet& fleet, const SolveRequest& request) {
  if (config.num_hidden_layers < 1 || config.num_attention_heads < 1) refuse("the model config is empty; load one first");
  check_fleet(fleet);
  const Workload& load = request.workload;
  whole("input_len", load.input_len, 1, kMostTokens);
  whole("output_len", load.output_len, 1, kMostTokens);
  number("prefix_hit", load.prefix_hit, 0, 1);
  whole("concurrency", load.concurrency, 0, kMostRequests);
  number("rate", load.rate, 0, 1e12);
  if (!(request.utilization > 0 && request.utilization <= 1)) refuse(fmt::format("utilization is {}, expected more than 0, and 0.95 at most", request.utilization));
  whole("max_len", request.max_len, 1, kMostTokens);
  if (request.overhead_bytes) number("overhead_bytes", *request.overhead_bytes, 0, 1e15);
  limit("ttft_ms", request.ttft_ms), limit("tpot_ms", request.tpot_ms);
  number("draft_acceptance", request.draft_acceptance, 0, 16);
  if (request.draft_acceptance > 0 && !request.prediction_layer) refuse(fmt::format("draft_acceptance is {}, but prediction_layer is off", request.draft_acceptance));
  if (request.prediction_layer && config.num_nextn_predict_layers < 1) refuse("prediction_layer is on, but the model has none (num_nextn_predict_layers = 0)");
  whole("redundant_experts", request.redundant_experts, 0, 1 << 16);
  if (request.redundant_experts > 0 && config.n_routed_experts == 0) refuse("redundant_experts: the model has no routed experts");
  whole("top", request.top, 1, 1000);
  if (request.judge && request.judge->world_size != 0) whole("world_size of the plan", request.judge->world_size, 1, kMostGpus);
}

SolveRequest settled(const ModelConfig& config, const Fleet& fleet, SolveRequest request) {
  const Precisions precisions = precisions_for(config, fleet, request);
  request.precision = precisions.weights;
  request.cache = precisions.cache;
  if (request.objective == Objective::latency && request.workload.concurrency == 0 && request.workload.rate == 0) request.workload.concurrency = 1;
  return request;
}

Question question_of(const ModelConfig& config, const Fleet& fleet, const SolveRequest& request) {
  Question q{config, fleet, request, precisions_for(config, fleet, request), 1, 1};
  const Workload& load = request.workload;
  q.input_len = std::max<int64_t>(1, std::llround(static_cast<double>(load.input_len) * (1 - load.prefix_hit)));
  q.sequence_len = load.input_len + load.output_len;
  return q;
}

std::optional<RejectedPlan> refused_outright(const Question& q) {
  if (auto refused = refuse_precision(q.config, q.precisions, q.fleet.gpu)) return RejectedPlan{"any", std::move(refused->rule), std::move(refused->detail)};
  if (q.request.utilization > kMostUtilization) {
    const double memory = static_cast<double>(q.fleet.gpu.memory_bytes);
    return RejectedPlan{"any", "utilization", fmt::format("utilization {} leaves {:.2f} GB of {:.2f} GB for context, NCCL and graphs of others; {} at most",
                                                          q.request.utilization, memory * (1 - q.request.utilization) / 1e9, memory / 1e9, kMostUtilization)};
  }
  return std::nullopt;
}

}  // namespace dsinfer
