#include "weights/shard_cache_load.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "dsinfer/error.hpp"
#include "weights/dummy_storage.hpp"
#include "weights/load_terms.hpp"
#include "weights/rank_progress.hpp"
#include "weights/shard_cache.hpp"

namespace dsinfer {
namespace {

double seconds_since(std::chrono::steady_clock::time_point started) { return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count(); }

ShardWatch watch_of(RankProgress& progress) {
  return {[&](int64_t bytes) { progress.advance(bytes); }, [&] { progress.tick(); }};
}

}  // namespace

std::optional<RankWeights> load_cached(World& world, const Checkpoint& checkpoint, const Plan& plan, const ModelConfig& config, const std::vector<ShardPiece>& pieces, Backend& backend,
                                       const LoadOptions& options) {
  const auto started = std::chrono::steady_clock::now();
  const HeldLayout layout = held_layout(pieces, config, options.weights, false, absorbed_dtype(options));
  const auto file = ShardFile::find(options.shard_cache, shard_key(checkpoint, plan, world.rank(), options.weights, layout), layout);
  const std::vector<std::string> found = world.all_gather(file ? "found" : "");
  if (std::find(found.begin(), found.end(), "") != found.end()) return std::nullopt;
  RankWeights loaded;
  ShardFile::Reading how;
  how.engine = io_engine(options.method);
  how.depth = options.depth;
  how.staging_bytes = std::min(how.staging_bytes, options.host_bytes);
  how.stall = world.stall_timeout();
  RankProgress progress(world, options.progress, layout.buffer_bytes, "loading from the shard cache");
  progress.tick(/*always=*/true);
  loaded.weights = file->read(layout, config, backend, how, watch_of(progress), &loaded.report);
  progress.finish();
  loaded.report.bytes_read = file->bytes();
  loaded.report.bytes_held = loaded.weights.bytes();
  loaded.report.from_shard_cache = true;
  loaded.report.seconds = seconds_since(started);
  return loaded;
}

LoadReport save_shards(World& world, const std::filesystem::path& model, const Plan& plan, const std::filesystem::path& folder, const LoadOptions& options) {
  const auto started = std::chrono::steady_clock::now();
  LoadReport report;
  in_agreement(world, [&] {
    if (plan.world_size != world.size())
      throw Error(Error::plan_refused, fmt::format("the plan {} is for {} ranks, but {} are here", plan.spec(), plan.world_size, world.size()));
    refuse_dummy(model.string(), "saving shards");
    LoadOptions from_files = options;
    from_files.shard_cache.clear();
    if (options.method == ReadMethod::mmap) throw Error(Error::invalid_argument, "shards are copies of weights, which mmap leaves in their files; choose another method to save them");
    const auto backend = make_backend("cpu", {});
    const Checkpoint checkpoint(open_model(model, options, &world));
    const ModelConfig config = read_config(checkpoint.storage());
    const RankPlan rank = plan.rank(world.rank());
    const std::vector<TensorSpec> table = tensor_table(config);
    const HeldLayout layout = held_layout(shard_pieces(checkpoint.resolve(config, table), config, rank), config, options.weights, false, absorbed_dtype(options));
    const ShardKey key = shard_key(checkpoint, plan, world.rank(), options.weights, layout);
    check_same_load(world, checkpoint, plan, options);
    RankWeights loaded = load_rank(world, checkpoint, plan, *backend, from_files);
    RankProgress progress(world, options.progress, layout.buffer_bytes, "saving shards");
    progress.tick(/*always=*/true);
    write_shard(folder, key, layout, loaded.weights, *backend, watch_of(progress));
    progress.finish();
    report = loaded.report;
  });
  report.seconds = seconds_since(started);
  return report;
}

}  // namespace dsinfer
