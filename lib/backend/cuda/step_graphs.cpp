#include "backend/cuda/step_graphs.hpp"

#include "dsinfer/error.hpp"

namespace dsinfer::cuda {

StepGraphs::~StepGraphs() {
  for (auto& [key, graph] : graphs_) if (graph.exec) cudaGraphExecDestroy(graph.exec);
}

void StepGraphs::run(const StepKey& key, const std::function<void()>& step) {
  if (key.empty()) return step();
  Graph& graph = graphs_[{key.bucket, key.slot}];
  if (!graph.exec && graph.clean) graph.exec = capture(step);
  if (graph.exec) return check(cudaGraphLaunch(graph.exec, device_.stream()), "a captured step");
  const uint64_t before = device_.transfers();
  step();
  graph.clean = device_.transfers() == before;
}

cudaGraphExec_t StepGraphs::capture(const std::function<void()>& step) {
  check(cudaStreamBeginCapture(device_.stream(), cudaStreamCaptureModeThreadLocal), "capturing a step");
  cudaGraph_t graph = nullptr;
  try {
    step();
  } catch (...) {
    cudaStreamEndCapture(device_.stream(), &graph);
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  check(cudaStreamEndCapture(device_.stream(), &graph), "capturing a step");
  cudaGraphExec_t exec = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "making a captured step");
  return exec;
}

}  // namespace dsinfer::cuda
