/// C functions of Fleet and the plan solver.
#include "handles.hpp"

using namespace dsinfer;
using namespace dsinfer::capi;

namespace {

Catalogue catalogue_of(const char* path) { return path ? Catalogue::with_file(path) : Catalogue::shipped(); }

SolveRequest solve_request(const dsinfer_solve_request* given) {
  const auto g = read_struct(given, offsetof(dsinfer_solve_request, reserved) + sizeof(int32_t), "request");
  SolveRequest out;
  out.workload = {g.input_len, g.output_len, g.prefix_hit, g.concurrency, g.rate};
  if (g.precision) out.precision = parse_precision(g.precision);
  if (g.cache) out.cache = parse_cache_precision(g.cache);
  out.utilization = g.utilization;
  out.max_len = g.max_len;
  if (g.overhead_bytes) out.overhead_bytes = static_cast<double>(g.overhead_bytes);
  if (g.ttft_ms != 0) out.ttft_ms = g.ttft_ms;
  if (g.tpot_ms != 0) out.tpot_ms = g.tpot_ms;
  if (g.objective != DSINFER_OBJECTIVE_THROUGHPUT && g.objective != DSINFER_OBJECTIVE_LATENCY)
    throw Error(Error::invalid_argument, "request.objective is " + std::to_string(g.objective) + ", expected DSINFER_OBJECTIVE_THROUGHPUT or _LATENCY");
  out.objective = g.objective == DSINFER_OBJECTIVE_LATENCY ? Objective::latency : Objective::throughput;
  if (g.judge) {
    out.judge = PlanRequest::parse(g.judge, 1);
    out.judge->world_size = 0;  // the whole fleet
  }
  out.prediction_layer = g.prediction_layer != 0;
  out.draft_acceptance = g.draft_acceptance;
  out.redundant_experts = g.redundant_experts;
  out.split_roles = g.split_roles != 0;
  out.top = g.top;
  return out;
}

const PlanAnswer& plan_at(const dsinfer_answer* answer, int32_t i) {
  const auto& plans = need(answer, "answer").answer.plans;
  if (i < 0 || static_cast<size_t>(i) >= plans.size()) throw Error(Error::invalid_argument, "plan " + std::to_string(i) + ", the answer has " + std::to_string(plans.size()));
  return plans[static_cast<size_t>(i)];
}

}  // namespace

dsinfer_status dsinfer_fleet_describe(int32_t nodes, int32_t gpus_per_node, const char* gpu, const char* between, const char* inside, const char* catalogue, dsinfer_fleet** fleet) {
  return guard([&] {
    give(fleet, "fleet", [&] {
      return new dsinfer_fleet{describe_fleet(catalogue_of(catalogue), nodes, gpus_per_node, need_text(gpu, "gpu"), need_text(between, "between"), inside ? inside : "")};
    });
  });
}

dsinfer_status dsinfer_fleet_from_cluster_json(dsinfer_text json, const char* catalogue, dsinfer_fleet** fleet) {
  return guard([&] { give(fleet, "fleet", [&] { return new dsinfer_fleet{fleet_of(catalogue_of(catalogue), Cluster::from_json(view(json, "json")))}; }); });
}

void dsinfer_fleet_destroy(dsinfer_fleet* fleet) { delete fleet; }

dsinfer_status dsinfer_solve(const dsinfer_config* config, const dsinfer_fleet* fleet, const dsinfer_solve_request* request, dsinfer_answer** answer) {
  return guard([&] {
    give(answer, "answer", [&] { return new dsinfer_answer{solve(need(config, "config").config, need(fleet, "fleet").fleet, solve_request(request))}; });
  });
}

dsinfer_status dsinfer_solve_nodes(const dsinfer_config* config, const dsinfer_fleet* fleet, const dsinfer_solve_request* request, int32_t max_nodes, dsinfer_answer** answer) {
  return guard([&] {
    give(answer, "answer", [&] { return new dsinfer_answer{nodes_for_rate(need(config, "config").config, need(fleet, "fleet").fleet, solve_request(request), max_nodes)}; });
  });
}

void dsinfer_answer_destroy(dsinfer_answer* answer) { delete answer; }

int32_t dsinfer_answer_feasible(const dsinfer_answer* answer) { return answer && answer->answer.feasible; }
int32_t dsinfer_answer_num_plans(const dsinfer_answer* answer) { return answer ? static_cast<int32_t>(answer->answer.plans.size()) : 0; }
int32_t dsinfer_answer_nodes(const dsinfer_answer* answer) { return answer ? answer->answer.fleet.nodes : 0; }

dsinfer_status dsinfer_answer_plan(const dsinfer_answer* answer, int32_t i, dsinfer_plan** plan) {
  return guard([&] { give(plan, "plan", [&] { return new dsinfer_plan{plan_at(answer, i).plan}; }); });
}

dsinfer_status dsinfer_answer_memory(const dsinfer_answer* answer, int32_t i, dsinfer_plan_memory* memory) {
  return guard([&] {
    const MemoryTable& m = plan_at(answer, i).memory;
    const dsinfer_plan_memory value = {sizeof(dsinfer_plan_memory), m.budget_bytes, m.weights_bytes_max, m.overhead_bytes, m.room_bytes, m.cache_bytes_per_token_max, m.kv_tokens_per_dp_rank};
    write_struct(memory, value, offsetof(dsinfer_plan_memory, kv_tokens_per_dp_rank) + sizeof(int64_t), "memory");
  });
}

dsinfer_status dsinfer_answer_prediction(const dsinfer_answer* answer, int32_t i, dsinfer_prediction* prediction) {
  return guard([&] {
    const PlanAnswer& plan = plan_at(answer, i);
    const Prediction& p = plan.predicted;
    dsinfer_prediction value = DSINFER_PREDICTION_INIT;
    value.ttft_ms = p.ttft_ms.value, value.tpot_ms = p.tpot_ms.value;
    value.tokens_per_s = p.tokens_per_s.value, value.tokens_per_s_per_gpu = p.tokens_per_s_per_gpu;
    value.prefill_tokens_per_s = p.prefill_tokens_per_s.value, value.requests_per_s = p.requests_per_s;
    value.batch_per_dp_rank = p.batch_per_dp_rank, value.concurrency = p.concurrency, value.chunk_tokens = p.chunk_tokens;
    value.feasible = plan.feasible, value.meets_limits = plan.meets_limits;
    value.confidence = static_cast<int32_t>(p.tpot_ms.confidence);
    write_struct(prediction, value, offsetof(dsinfer_prediction, reserved) + sizeof(int32_t), "prediction");
  });
}

dsinfer_status dsinfer_answer_text(const dsinfer_answer* answer, char* buffer, uint64_t capacity, uint64_t* needed) {
  return guard([&] { give_text(need(answer, "answer").answer.text(), buffer, capacity, needed); });
}
dsinfer_status dsinfer_answer_to_json(const dsinfer_answer* answer, char* buffer, uint64_t capacity, uint64_t* needed) {
  return guard([&] { give_text(need(answer, "answer").answer.to_json(), buffer, capacity, needed); });
}
dsinfer_status dsinfer_answer_svg(const dsinfer_answer* answer, char* buffer, uint64_t capacity, uint64_t* needed) {
  return guard([&] { give_text(need(answer, "answer").answer.svg(), buffer, capacity, needed); });
}
