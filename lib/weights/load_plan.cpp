#include <algorithm>

#include "dsinfer/error.hpp"
#include "weights/layout.hpp"
#include "weights/load_terms.hpp"
#include "weights/load_run.hpp"
#include "weights/loader.hpp"
#include "weights/read_plan.hpp"

namespace dsinfer {
namespace {

// What a rank's staging and handing take at most, as LoadRun shares options.host_bytes out.
int64_t host_peak(const RankLoad& load, const LoadOptions& options) {
  return std::min(staging_share(load, options.host_bytes), load.bytes_read) + std::min(options.host_bytes / 4, load.bytes_sent) + std::min(options.host_bytes / 4, load.bytes_received);
}

}  // namespace

LoadPlan plan_load(const std::filesystem::path& model, const Plan& plan, const LoadOptions& options, int ranks_per_node) {
  if (ranks_per_node < 0) throw Error(Error::invalid_argument, "ranks_per_node is " + std::to_string(ranks_per_node) + ", expected 0 (all on one node) or more");
  check_options(options);
  const Checkpoint checkpoint(open_model(model, options), Headers::may_stand_alone);
  check_dummy(checkpoint.storage(), options);
  const ModelConfig config = read_config(checkpoint.storage());
  check_format(config, checkpoint.storage().name(), options.weights);
  const std::vector<TensorSpec> table = tensor_table(config);
  std::vector<StoredTensor> tensors = checkpoint.resolve(config, table);
  sort_by_place(tensors);
  std::vector<int> node_of(static_cast<size_t>(plan.world_size));
  if (ranks_per_node > 0) for (size_t rank = 0; rank < node_of.size(); ++rank) node_of[rank] = static_cast<int>(rank) / ranks_per_node;
  ReadPlanOptions blocks;
  blocks.format = options.weights;
  const bool in_files = options.method == ReadMethod::mmap;
  std::vector<StoredTensor> copied = tensors;
  if (in_files) std::erase_if(copied, [&](const StoredTensor& tensor) { return lies_as_held(tensor, options.weights); });
  const ReadPlan reads = make_read_plan(std::move(copied), config, plan, std::move(node_of), blocks);

  LoadPlan result;
  for (const CheckpointFile& file : checkpoint.files()) {
    result.files.push_back(file.name);
    result.file_bytes.push_back(file.size);
    result.files_cut_short += file.cut_short;
  }
  result.ranks = reads.ranks;
  for (const Chunk& chunk : reads.chunks) result.ranks[static_cast<size_t>(chunk.reader)].ranges.push_back({chunk.file, chunk.begin, chunk.end - chunk.begin});
  result.read_amplification = reads.amplification();
  for (size_t node = 0; node < reads.node_read.size(); ++node) {
    result.bytes_read += reads.node_read[node];
    result.bytes_needed += reads.node_needed[node];
  }
  for (RankLoad& rank : result.ranks) {
    const RankPlan part = plan.rank(rank.rank);
    rank.device_bytes = held_layout(shard_pieces(tensors, config, part), config, options.weights, in_files, absorbed_dtype(options)).buffer_bytes;
    rank.host_peak_bytes = host_peak(rank, options);
  }
  return result;
}

}  // namespace dsinfer
