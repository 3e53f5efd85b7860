// What tests/shard_cache_kills.py kills: saves the shards of a model, or loads it, on threads.
//   shard_cache_worker MODEL RANKS save|load|none CACHE [CANCEL_AT]
// save: save_shards() into CACHE. load: from CACHE where it is whole. none: from the model. CANCEL_AT: the callback of rank 0 says no after so many bytes.
// Prints "<hash of all ranks' weights> <ranks that came from the cache>"; exit status 0, 3 = cancelled, 1 = any other error, whose text is printed.
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <thread>

#include "dsinfer/config.hpp"
#include "dsinfer/error.hpp"
#include "dsinfer/loader.hpp"
#include "weights/content_hash.hpp"

namespace {

using namespace dsinfer;

std::string hash_of(const LoadedWeights& weights) {
  ContentHash hash;
  for (const LoadedTensor& tensor : weights.tensors()) {
    int64_t bytes = tensor.dtype == "F32" ? 4 : tensor.dtype == "BF16" || tensor.dtype == "F16" ? 2 : 1;
    for (const int64_t dim : tensor.shape) bytes *= dim;
    hash.add(tensor.name + tensor.dtype);
    hash.add(std::span(tensor.data, static_cast<size_t>(bytes)));
  }
  return hash.hash().hex();
}

struct Run {
  std::string model, mode, cache;
  int ranks = 1;
  int64_t cancel_at = -1;
  std::mutex mutex;
  std::vector<std::string> hashes;
  int from_cache = 0, code = 0;
  std::string error;

  void rank(World& world) {
    try {
      LoadOptions options;
      int64_t before = 0, last = 0;  // a callback's bytes start anew when saving follows loading
      if (cancel_at >= 0 && world.rank() == 0)
        options.progress = [&](const LoadProgress& progress) {
          if (progress.bytes_done < last) before += last;
          last = progress.bytes_done;
          return before + last < cancel_at;
        };
      const Plan plan = solve(ModelConfig::load(model), PlanRequest::parse("tp=" + std::to_string(ranks), ranks));
      if (mode == "save") save_shards(world, model, plan, cache, options);
      if (mode == "load") options.shard_cache = cache;
      if (mode == "save") return;
      const LoadedWeights weights = load(world, model, plan, options);
      const std::lock_guard lock(mutex);
      hashes[static_cast<size_t>(world.rank())] = hash_of(weights);
      from_cache += weights.report().from_shard_cache;
    } catch (const Error& e) {
      const std::lock_guard lock(mutex);
      code = e.code() == Error::cancelled ? 3 : 1;
      error = e.what();
    }
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) return 2;
  Run run;
  run.model = argv[1];
  run.ranks = std::atoi(argv[2]);
  run.mode = argv[3];
  run.cache = argv[4];
  if (argc > 5) run.cancel_at = std::atoll(argv[5]);
  run.hashes.resize(static_cast<size_t>(run.ranks));
  std::vector<std::thread> threads;
  for (auto& world : thread_worlds(run.ranks)) threads.emplace_back([&run, w = std::shared_ptr<World>(std::move(world))]() mutable { run.rank(*w); });
  for (std::thread& thread : threads) thread.join();
  ContentHash all;
  for (const std::string& hash : run.hashes) all.add(hash);
  std::cout << (run.code ? run.error : all.hash().hex() + " " + std::to_string(run.from_cache)) << "\n";
  return run.code;
}
