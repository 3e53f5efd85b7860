/// StepGraphs: steps captured as CUDA graphs and replayed, by key.
#pragma once
#include <functional>
#include <map>

#include "backend/backend.hpp"
#include "backend/cuda/device.hpp"

namespace dsinfer::cuda {

/// Driven by the backend's thread, with the device current.
class StepGraphs {
 public:
  explicit StepGraphs(Device& device) : device_(device) {}
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;
  void run(const StepKey& key, const std::function<void()>& step);

 private:
  struct Graph {
    bool clean = false;  ///< the last eager step moved nothing between host and device
    cudaGraphExec_t exec = nullptr;
  };
  cudaGraphExec_t capture(const std::function<void()>& step);

  Device& device_;
  std::map<std::pair<int, int>, Graph> graphs_;
};

}  // namespace dsinfer::cuda
