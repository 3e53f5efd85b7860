// How long solve() takes: 16 GPUs under 50 ms, 128 under 1 s, 8,192 under 30 s on two cores. Usage: bench_solver [config.json]
#include <fmt/format.h>

#include <chrono>

#include "dsinfer/error.hpp"
#include "dsinfer/solver.hpp"

namespace {

using namespace dsinfer;

void run(const ModelConfig& config, int nodes, const char* what, const SolveRequest& request) {
  const Fleet fleet = describe_fleet(Catalogue::shipped(), nodes, 8, "h100-80g", "ib400x8");
  const auto begin = std::chrono::steady_clock::now();
  const SolveAnswer answer = solve(config, fleet, request);
  const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  fmt::print("{:>5} GPUs  {:<26} {:>9.1f} ms  {:>5} legal plans, {:>5} fit, best {}\n", fleet.num_gpus(), what, ms, answer.plans_legal, answer.plans_fitting,
             answer.plans.empty() ? "none" : answer.plans.front().plan.spec());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const ModelConfig config = ModelConfig::load(argc > 1 ? argv[1] : DSINFER_CONFIG);
    SolveRequest free, limited, latency;
    limited.tpot_ms = 40, limited.ttft_ms = 2000;
    latency.objective = Objective::latency;
    for (const int nodes : {2, 16, 1024}) run(config, nodes, "throughput", free), run(config, nodes, "TPOT 40 ms, TTFT 2 s", limited), run(config, nodes, "latency", latency);
  } catch (const Error& e) {
    fmt::print(stderr, "bench_solver: {}\n", e.what());
    return 1;
  }
}
