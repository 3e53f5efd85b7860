/// SolveAnswer as JSON. Keys are stable; what is not known is null or absent.
#include "core/json.hpp"
#include "plan/search.hpp"

namespace dsinfer {
namespace {

constexpr int kAnswerVersion = 1;

OrderedJson parts(const std::map<std::string, double>& milliseconds) {
  OrderedJson json = OrderedJson::object();
  for (const auto& [part, ms] : milliseconds) json[part] = ms;
  return json;
}

OrderedJson memory_json(const MemoryTable& m) {
  OrderedJson json;
  json["budget_bytes"] = m.budget_bytes;
  json["weights_bytes_max"] = m.weights_bytes_max;
  json["weights_bytes_by_stage"] = m.weights_bytes_by_stage;
  json["weights_by_kind"] = m.weights_by_kind;
  json["overhead_bytes"] = m.overhead_bytes;
  json["absorbed_bytes"] = m.absorbed_bytes;
  json["activation_bytes"] = m.activation_bytes;
  json["communication_bytes"] = m.communication_bytes;
  json["context_bytes"] = m.context_bytes;
  json["reserve_bytes"] = m.reserve_bytes;
  json["room_bytes"] = m.room_bytes;
  json["cache_bytes_per_token_max"] = m.cache_bytes_per_token_max;
  json["kv_tokens_per_dp_rank"] = m.kv_tokens_per_dp_rank;
  json["tightest_stage"] = m.tightest_stage;
  return json;
}

OrderedJson predicted_json(const Prediction& p) {
  OrderedJson json;
  json["ttft_ms"] = p.ttft_ms.value;
  json["tpot_ms"] = p.tpot_ms.value;
  json["tokens_per_s"] = p.tokens_per_s.value;
  json["tokens_per_s_per_gpu"] = p.tokens_per_s_per_gpu;
  json["tokens_per_s_per_user"] = p.tpot_ms.value > 0 ? 1e3 / p.tpot_ms.value : 0;
  json["prefill_tokens_per_s"] = p.prefill_tokens_per_s.value;
  json["requests_per_s"] = p.requests_per_s;
  json["batch_per_dp_rank"] = p.batch_per_dp_rank;
  json["concurrency"] = p.concurrency;
  json["chunk_tokens"] = p.chunk_tokens;
  json["parts"] = {{"decode_ms", parts(p.decode_ms)}, {"prefill_ms", parts(p.prefill_ms)}};
  json["bottleneck"] = p.bottleneck;
  json["algorithms"] = p.algorithms;
  json["confidence"] = {{"ttft_ms", confidence_name(p.ttft_ms.confidence)}, {"tpot_ms", confidence_name(p.tpot_ms.confidence)},
                        {"tokens_per_s", confidence_name(p.tokens_per_s.confidence)}, {"prefill_tokens_per_s", confidence_name(p.prefill_tokens_per_s.confidence)}};
  return json;
}

OrderedJson plan_json(const PlanAnswer& answer, bool whole) {
  const Plan& plan = answer.plan;
  OrderedJson json;
  json["spec"] = plan.spec();
  json["tp"] = plan.tp, json["pp"] = plan.pp, json["dp"] = plan.dp, json["ep"] = plan.ep;
  json["moe_tp"] = plan.moe_tp, json["replicas"] = plan.replicas, json["micro_batches"] = plan.micro_batches;
  json["gpus"] = plan.world_size;
  json["feasible"] = answer.feasible;
  json["meets_limits"] = answer.meets_limits;
  if (!answer.why.empty()) json["why"] = answer.why;
  json["stages"] = OrderedJson::array();
  for (const StageAnswer& stage : answer.stages) json["stages"].push_back({{"first_layer", stage.first_layer}, {"layers", stage.layers}, {"weights_bytes", stage.weights_bytes}});
  json["memory"] = memory_json(answer.memory);
  json["predicted"] = answer.feasible ? predicted_json(answer.predicted) : OrderedJson();
  if (!whole) return json;
  json["rank_map"] = answer.rank_map;
  json["plan"] = OrderedJson::parse(plan.to_json());
  return json;
}

OrderedJson fleet_json(const Fleet& fleet) {
  const auto link = [](const LinkKind& kind) {
    return OrderedJson{{"id", kind.id}, {"transport", kind.transport}, {"gb_per_s", kind.gb_per_s}, {"latency_us", kind.latency_us}, {"confidence", confidence_name(kind.confidence)}};
  };
  OrderedJson json;
  json["nodes"] = fleet.nodes;
  json["gpus_per_node"] = fleet.gpus_per_node;
  json["gpu"] = {{"id", fleet.gpu.id}, {"memory_bytes", fleet.gpu.memory_bytes}, {"compute_capability", fleet.gpu.compute_capability}, {"fp8_units", fleet.gpu.fp8_units},
                 {"memory_gb_per_s", fleet.gpu.memory_gb_per_s}, {"bf16_tflops", fleet.gpu.bf16_tflops}, {"fp8_tflops", fleet.gpu.fp8_tflops}, {"source", fleet.gpu.source}};
  json["inside"] = link(fleet.inside);
  json["between"] = link(fleet.between);
  json["nics_per_node"] = fleet.nics_per_node;
  json["node_names"] = fleet.node_names;
  json["notes"] = fleet.notes;
  return json;
}

template <class T> OrderedJson optional_json(const std::optional<T>& value) { return value ? OrderedJson(*value) : OrderedJson(); }

OrderedJson request_json(const SolveRequest& request) {
  const Workload& load = request.workload;
  OrderedJson json;
  json["input_len"] = load.input_len, json["output_len"] = load.output_len, json["prefix_hit"] = load.prefix_hit;
  json["concurrency"] = load.concurrency, json["rate"] = load.rate;
  json["precision"] = request.precision ? OrderedJson(precision_name(*request.precision)) : OrderedJson();
  json["cache"] = request.cache ? OrderedJson(cache_precision_name(*request.cache)) : OrderedJson();
  json["utilization"] = request.utilization;
  json["max_len"] = request.max_len;
  json["overhead_bytes"] = optional_json(request.overhead_bytes);
  json["ttft_ms"] = optional_json(request.ttft_ms), json["tpot_ms"] = optional_json(request.tpot_ms);
  json["objective"] = request.objective == Objective::latency ? "latency" : "throughput";
  json["prediction_layer"] = request.prediction_layer, json["draft_acceptance"] = request.draft_acceptance;
  json["redundant_experts"] = request.redundant_experts;
  return json;
}

}  // namespace

std::string SolveAnswer::to_json() const {
  OrderedJson json;
  json["dsinfer_answer"] = kAnswerVersion;
  json["feasible"] = feasible;
  json["verdict"] = verdict(*this);
  json["plans"] = OrderedJson::array();
  for (const PlanAnswer& plan : plans) json["plans"].push_back(plan_json(plan, true));
  json["pareto"] = OrderedJson::array();
  for (const PlanAnswer& plan : pareto) json["pareto"].push_back(plan_json(plan, false));
  if (roles)
    json["roles"] = {{"prefill", plan_json(roles->prefill, true)}, {"decode", plan_json(roles->decode, true)}, {"requests_per_s", roles->requests_per_s},
                     {"tokens_per_s", roles->tokens_per_s}, {"tokens_per_s_per_gpu", roles->tokens_per_s_per_gpu}, {"why", roles->why}};
  json["rejected"] = OrderedJson::array();
  for (const RejectedPlan& r : rejected) json["rejected"].push_back({{"plan", r.plan}, {"rule", r.rule}, {"detail", r.detail}});
  json["advice"] = OrderedJson::array();
  for (const Advice& a : advice) json["advice"].push_back({{"change", a.change}, {"text", a.text}, {"plan", a.plan}});
  json["environment"] = fleet.environment;
  json["environment_reasons"] = fleet.environment_reasons;
  json["fleet"] = fleet_json(fleet);
  json["request"] = request_json(request);
  json["plans_considered"] = plans_considered, json["plans_legal"] = plans_legal, json["plans_fitting"] = plans_fitting;
  return json.dump(2, ' ', false, OrderedJson::error_handler_t::replace);  // names of nodes may be anything
}

}  // namespace dsinfer
