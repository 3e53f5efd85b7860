/// The parts of a decode step, each alone: what the engine's step is compared with.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "cache/kv_cache.hpp"
#include "model/block_layers.hpp"
#include "weights/loader.hpp"

namespace bench {

/// Holds the weights of a model on one rank, and what its layers' blocks need.
class SliceParts {
 public:
  SliceParts(dsinfer::World& world, dsinfer::ForwardOptions options);
  const dsinfer::LoadReport& report() const { return loaded_->report; }
  dsinfer::Backend& backend() const { return *backend_; }
  bool has_blocks() const { return blocks_ != nullptr; }
  /// Microseconds of each part of a step of `batch` sequences at position `kv`: embed, dense, moe (all its layers in a chain), head, survey_greedy, survey_drawn, answer (of greedy
  /// rows, back on the host).
  std::map<std::string, double> time(int64_t batch, int64_t kv);

 private:
  struct Inputs;
  double chain(const Inputs& in, int key, size_t first, size_t last, dsinfer::TensorView from);
  template <class Work> double repeat(int times, Work work);
  void sync();

  dsinfer::ForwardOptions options_;
  std::unique_ptr<dsinfer::Backend> backend_;
  std::unique_ptr<dsinfer::Blocks> blocks_;
  dsinfer::ModelConfig config_;
  dsinfer::RankPlan rank_;
  std::unique_ptr<dsinfer::RankWeights> loaded_;
  std::unique_ptr<dsinfer::BlockLayers> layers_;
  std::unique_ptr<dsinfer::KvCache> cache_;
  std::vector<dsinfer::Buffer> held_;
  dsinfer::TensorView rope_;
};

}  // namespace bench
