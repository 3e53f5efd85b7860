#include "weights/loader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <string_view>

#include "comm/nodes.hpp"
#include "weights/dummy_storage.hpp"
#include "weights/load_run.hpp"
#include "weights/load_terms.hpp"
#include "weights/rank_progress.hpp"
#include "weights/shard_cache_load.hpp"

namespace dsinfer {

IoEngine io_engine(ReadMethod method) {
  switch (method) {
    case ReadMethod::uring: return IoEngine::uring;
    case ReadMethod::direct: return IoEngine::direct;
    case ReadMethod::pread: return IoEngine::pread;
    case ReadMethod::automatic: case ReadMethod::mmap: break;  // what cannot be mapped is read
  }
  return IoEngine::automatic;
}

StorageOptions storage_options(const LoadOptions& options) {
  StorageOptions storage;
  storage.cache = options.download_cache;
  return storage;
}

std::shared_ptr<Storage> open_model(const std::filesystem::path& model, const LoadOptions& options, World* world) {
  StorageOptions storage = storage_options(options);
  storage.keep_going = [progress = options.progress, world] {
    if (const std::optional<Error> failed = world ? world->failure() : std::nullopt) throw *failed;
    return !progress || progress({});
  };
  if (world) {  // a server is no more patient than the ranks
    const auto limit = std::chrono::duration_cast<std::chrono::seconds>(world->stall_timeout()).count();
    storage.stall_seconds = static_cast<int>(std::clamp<int64_t>(limit, 1, storage.stall_seconds));
  }
  return open_weights(model.string(), storage);
}

ModelConfig read_config(Storage& storage) { return ModelConfig::parse(read_text(storage, "config.json"), storage.name() + "/config.json"); }

namespace {

void check_mmap(const Backend& backend, const LoadOptions& options) {
  if (std::string_view(backend.name()) != "cpu")
    throw Error(Error::unsupported, fmt::format("the {} backend needs weights in its own memory, mmap leaves them in host files; choose automatic", backend.name()));
  if (!options.shard_cache.empty())
    throw Error(Error::invalid_argument, "mmap leaves weights in the checkpoint's files, and a shard cache is read in their place; choose one of the two");
}

// The files that this rank reads or maps.
std::vector<int> files_of(const ReadPlan& reads, int rank, const std::vector<ShardPiece>& pieces, bool in_files) {
  std::vector<int> files;
  for (const Chunk& chunk : reads.chunks)
    if (chunk.reader == rank && (files.empty() || files.back() != chunk.file)) files.push_back(chunk.file);
  if (in_files)
    for (const ShardPiece& piece : pieces) files.push_back(piece.range.file);
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  return files;
}

// Where a storage keeps copies: beginning at another file on every rank, so that the ranks of a node share the fetching out. Collective: a rank that has its
// files waits for the others here, where their progress counts; a load would take them for stalled.
void fetch_files(World& world, const Checkpoint& checkpoint, const std::vector<int>& files, const ProgressCallback& callback) {
  int64_t bytes = 0;
  if (checkpoint.storage().keeps_copies())
    for (const int file : files) bytes += checkpoint.files()[static_cast<size_t>(file)].size;
  RankProgress progress(world, callback, bytes, "fetching the model's files");
  if (progress.all_bytes() == 0) return;
  progress.tick(/*always=*/true);
  for (size_t i = 0; bytes > 0 && i < files.size(); ++i) {
    const CheckpointFile& file = checkpoint.files()[static_cast<size_t>(files[(i + static_cast<size_t>(world.rank())) % files.size()])];
    int64_t told = 0;
    const auto advance = [&](int64_t done) {
      if (done > told) progress.advance(done - told), told = done;
    };
    checkpoint.storage().fetch(file.name, [&](int64_t done, int64_t) {
      advance(std::min(done, file.size));
      progress.tick();
      return true;
    });
    advance(file.size);
  }
  progress.finish();
}

}  // namespace

RankWeights load_rank(World& world, const Checkpoint& checkpoint, const Plan& plan, Backend& backend, const LoadOptions& options) {
  check_options(options);
  const auto started = std::chrono::steady_clock::now();
  check_dummy(checkpoint.storage(), options);
  const bool in_files = options.method == ReadMethod::mmap;
  if (in_files) check_mmap(backend, options);
  const RankPlan rank = plan.rank(world.rank());
  const ModelConfig config = read_config(checkpoint.storage());  // the plan's may be that of the weights as held
  const std::vector<TensorSpec> table = tensor_table(config);
  std::vector<StoredTensor> tensors = checkpoint.resolve(config, table);
  sort_by_place(tensors);
  const std::vector<ShardPiece> pieces = shard_pieces(tensors, config, rank);
  if (!options.shard_cache.empty())
    if (auto kept = load_cached(world, checkpoint, plan, config, pieces, backend, options)) return std::move(*kept);
  const auto make_landing = [&] { return Landing::make(checkpoint, pieces, config, rank, backend, options.weights, in_files, absorbed_dtype(options)); };
  std::unique_ptr<Landing> landing;
  if (!in_files) landing = make_landing();  // before files are fetched: there may be no room; files to be mapped must be there
  if (in_files) std::erase_if(tensors, [&](const StoredTensor& tensor) { return lies_as_held(tensor, options.weights); });
  ReadPlanOptions blocks;
  blocks.format = options.weights;
  const ReadPlan reads = make_read_plan(std::move(tensors), config, plan, share_nodes(world).of_rank, blocks);
  fetch_files(world, checkpoint, files_of(reads, world.rank(), pieces, in_files), options.progress);
  if (in_files) landing = make_landing();
  const auto mail = world.split(0, world.rank());
  mail->set_stall_timeout(world.stall_timeout());
  RankWeights loaded;
  {
    LoadOptions reading = options;
    if (is_dummy(checkpoint.storage())) reading.method = ReadMethod::pread;  // whatever is asked for is made, and nothing beyond it for the sake of alignment
    LoadRun run({checkpoint, reads, config, plan, *mail, pieces, *landing, backend, reading});
    run.run();
    loaded.report.bytes_read = run.bytes_read();
    loaded.report.bytes_received = run.bytes_received();
    loaded.report.host_peak_bytes = run.host_peak_bytes();
    loaded.report.method = is_dummy(checkpoint.storage()) ? "dummy weights" : in_files ? "mmap, " + run.method() : run.method();
  }
  loaded.weights = landing->finish([&] {
    if (const std::optional<Error> failed = world.failure()) throw *failed;
  });
  loaded.report.bytes_held = loaded.weights.bytes();
  loaded.report.bytes_mapped = landing->layout().mapped_bytes;
  loaded.report.read_amplification = reads.amplification();
  loaded.report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return loaded;
}

}  // namespace dsinfer
