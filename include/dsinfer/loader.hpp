/// Loading: which bytes of a checkpoint each rank reads, reading them once, and what can be asked before, during and after.
///
/// A model is named by its folder or a URL: "/models/DeepSeek-R1", "http(s)://host/path", "s3://bucket/prefix" (AWS_* environment and ~/.aws files;
/// AWS_ENDPOINT_URL for other S3-compatible stores), "hf://org/repo[@revision]" (HF_TOKEN, HF_ENDPOINT). Wherever a std::filesystem::path names a model here or
/// in forward.hpp, a URL may stand in it. "dummy:///folder?seed=1": config.json and tokenizer of a local folder, and weights made up from the seed.
#pragma once
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dsinfer/plan.hpp"
#include "dsinfer/world.hpp"

namespace dsinfer {

/// Told during loading, on the thread that loads; with all fields 0 while a server is waited for and nothing is known yet. Return false to cancel: all ranks
/// then throw Error::cancelled. Files that are fetched into the download cache are told of first, from 0 to all, then the load, from 0 to all.
struct LoadProgress {
  int64_t bytes_done = 0, bytes_total = 0;  ///< landed on this rank, of what it will hold of the files
  double seconds = 0;                       ///< since the load began
  // Over all ranks; on rank 0 alone (elsewhere this rank's own), a fraction of a second old.
  int64_t all_bytes_done = 0, all_bytes_total = 0;
  double bytes_per_second = 0;              ///< over all ranks, in the last seconds
  double seconds_left = -1;                 ///< at that rate; -1 = not known yet
  int slowest_rank = 0;                     ///< the one with the smallest part done
  std::vector<double> rank_part;            ///< part done of each rank, 0 … 1; rank 0 alone
};
using ProgressCallback = std::function<bool(const LoadProgress&)>;

/// What linear weights are held as. as_stored: as the checkpoint has them. bf16: FP8 blocks are decoded (GPUs without FP8 units). fp8: BF16, F16 and F32 weights
/// that an FP8 checkpoint would quantise are quantised in 128×128 blocks (scale = largest magnitude / 448).
enum class WeightFormat : uint8_t { as_stored, bf16, fp8 };

/// The config of a model whose weights are held so: what plans of it must keep to. bf16: no FP8 blocks, so no rule about them; fp8: blocks of 128×128 where
/// the checkpoint has none. Ask solve() with it for a plan to load in that format.
DSINFER_API ModelConfig held_config(const ModelConfig& stored, WeightFormat weights);

/// How files are read. automatic picks by what the system has and whether the bytes lie in the page cache. mmap leaves matrices that are held as they
/// are stored in their local files (CPU backend only): nothing of them is read before it is used, and ranks of one machine share the pages. The files must not be
/// changed while the weights live; one that is cut short ends the process (SIGBUS).
enum class ReadMethod : uint8_t { automatic, uring, direct, pread, mmap };

struct LoadOptions {
  WeightFormat weights = WeightFormat::as_stored;
  ReadMethod method = ReadMethod::automatic;
  int depth = 0;                       ///< reads in flight of a rank, 1024 at most; 0 = 32 over the ranks of a node, each at least 4
  int64_t host_bytes = int64_t{192} << 20;  ///< staging memory of a rank at most; at least 8 MiB
  bool absorbed_bf16 = false;          ///< the copies of kv_b_proj that decoding reads are held in BF16, not F32 (Engine and Forward choose it by themselves)
  std::filesystem::path shard_cache;   ///< folder of save_shards(): each rank reads its own file alone, if every rank has one. Empty: none
  std::filesystem::path download_cache;///< of hf:// files and of the words of remote models; empty = $DSINFER_CACHE, else ~/.cache/dsinfer
  ProgressCallback progress;
};

/// Memory that one rank holds under a plan, in bytes; exact (the engine asserts it against what it allocated).
struct RankMemory {
  int64_t weight_bytes = 0;           ///< weights, scales and absorbed copies
  int64_t cache_bytes_per_token = 0;  ///< paged latent cache over this rank's layers
  int64_t read_bytes = 0;             ///< bytes of tensor data that this rank needs of the checkpoint
};

/// From headers alone (no weights are read). `folder` holds config.json and safetensors files.
DSINFER_API RankMemory rank_memory(const std::filesystem::path& folder, const Plan& plan, int world_rank, WeightFormat weights = WeightFormat::as_stored);

/// Consecutive bytes of one file that one rank reads.
struct ReadRange {
  int file = 0;                       ///< index into LoadPlan::files
  int64_t offset = 0, bytes = 0;
  bool operator==(const ReadRange&) const = default;
};

struct RankLoad {
  int rank = 0, node = 0;
  int64_t bytes_read = 0;             ///< from the files
  int64_t bytes_needed = 0;           ///< of the files, by this rank
  int64_t bytes_sent = 0, bytes_received = 0;  ///< handed on to and got from other ranks
  int64_t host_peak_bytes = 0;        ///< beyond the weights: staging and the largest table on the way
  int64_t device_bytes = 0;           ///< weights as held, with alignment
  std::vector<ReadRange> ranges;      ///< in the order of reading
};

/// Who reads what. The same on every rank; made from headers alone.
struct DSINFER_API LoadPlan {
  std::vector<std::string> files;     ///< names in the model's folder
  std::vector<int64_t> file_bytes;    ///< sizes, headers included
  std::vector<RankLoad> ranks;
  int64_t bytes_read = 0;             ///< over all ranks
  int64_t bytes_needed = 0;           ///< over all nodes: what the ranks of a node need, each byte once
  double read_amplification = 1;      ///< the worst node's bytes read / bytes needed
  int files_cut_short = 0;            ///< files that hold their header but not all their data: such a plan can be looked at, not loaded
  double seconds_estimate = -1;       ///< of the slowest node, after probe_storage(); -1 = not asked
  double bytes_per_second = 0;        ///< that it was made with
  void estimate(double node_bytes_per_second);  ///< sets both, from what probe_storage() gave; 0 or less: not known
  std::string text() const;           ///< for a person
  std::string to_json(bool with_ranges = false) const;
};

/// Pure but for reading headers. `ranks_per_node`: consecutive World ranks of one node; 0 = all on one. Throws what a load would throw for bad
/// checkpoints, but for data that is missing behind whole headers, which is counted in files_cut_short.
DSINFER_API LoadPlan plan_load(const std::filesystem::path& model, const Plan& plan, const LoadOptions& options = {}, int ranks_per_node = 0);

/// Reads parts of the model's files, spread over them, for about `seconds`; gives bytes per second of this node. 0 where there is nothing to read.
DSINFER_API double probe_storage(const std::filesystem::path& model, const LoadOptions& options = {}, double seconds = 2);

/// What a load was.
struct DSINFER_API LoadReport {
  int64_t bytes_read = 0, bytes_received = 0, bytes_held = 0;  ///< of this rank
  int64_t bytes_mapped = 0;           ///< that stay in mapped files, beside bytes_held
  int64_t host_peak_bytes = 0;
  double seconds = 0;
  double read_amplification = 1;
  bool from_shard_cache = false;
  std::string method;                 ///< "io_uring, O_DIRECT", "pread", "https", …
  std::string to_json() const;        ///< its fields by their names; bytes_held as device_bytes, as in LoadPlan
};

/// One tensor of loaded weights.
struct LoadedTensor {
  std::string name;                   ///< as in the checkpoint; absorbed copies end in "#key_up", "#value_up"
  std::string dtype;                  ///< F32, BF16, F16, F8_E4M3, U8 (int4 pairs)
  std::vector<int64_t> shape, stride; ///< of this rank's part; strides in elements
  const std::byte* data = nullptr;    ///< host memory, or device memory on a device
};

/// A rank's weights, loaded for their own sake (Engine and Forward load by themselves). Owns the memory.
class DSINFER_API LoadedWeights {
 public:
  LoadedWeights(LoadedWeights&&) noexcept;
  LoadedWeights& operator=(LoadedWeights&&) noexcept;
  ~LoadedWeights();
  const LoadReport& report() const;
  std::vector<LoadedTensor> tensors() const;  ///< sorted by name; valid as long as this lives

 private:
  friend DSINFER_API LoadedWeights load(World&, const std::filesystem::path&, const Plan&, const LoadOptions&, const std::string&);
  struct Impl;
  explicit LoadedWeights(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Collective: each rank reads its part of the plan, hands on what others need. Ranks of one host form a node. Throws on all ranks what one rank throws:
/// cancelled, io, stalled (nothing moved for world.stall_timeout()), bad_format, out_of_memory.
DSINFER_API LoadedWeights load(World& world, const std::filesystem::path& model, const Plan& plan, const LoadOptions& options = {}, const std::string& device = "cpu");

/// Collective: loads, and writes each rank's part to `folder`, one file a rank, keyed by checkpoint, plan and format. A file is whole or absent whatever
/// happens; a file of the same key is replaced. The next load() with LoadOptions::shard_cache = folder reads its own file alone; stale, foreign or edited files
/// are refused by name (bad_format). Progress is told twice over: of loading, then of writing.
DSINFER_API LoadReport save_shards(World& world, const std::filesystem::path& model, const Plan& plan, const std::filesystem::path& folder, const LoadOptions& options = {});

enum class VerifyDepth : uint8_t {
  quick,  ///< headers, sizes, shapes, dtypes, index, scales finite, samples of the content finite
  full    ///< quick, and every byte: a hash of each tensor, compared over nodes, with the hub's where it is known, and with a list of an earlier run
};

struct DSINFER_API VerifyReport {
  int64_t tensors = 0, bytes_checked = 0;
  double seconds = 0;
  std::string fingerprint;            ///< of config, index and headers, hex
  std::string content_hash;           ///< full: over all tensors' hashes, hex; else empty
  std::vector<std::string> problems;  ///< each names file, tensor and what to do; empty = good
  bool good() const { return problems.empty(); }
  std::string to_json() const;        ///< its fields by their names, and `good`
};

/// Collective; the ranks share the work, and every rank gets the whole report. Each node looks at its own copy: nodes whose copies differ are a problem that
/// names them. `hashes`: a file of an earlier full run to compare with; written if it does not exist; empty = none. `download_cache`: as in LoadOptions; copies
/// that it holds are what is checked, other files are read over the network. Throws only where nothing can be said (no such folder, cancelled, a rank lost).
DSINFER_API VerifyReport verify_checkpoint(World& world, const std::filesystem::path& model, VerifyDepth depth, const std::filesystem::path& hashes = {},
                                           const ProgressCallback& progress = {}, const std::filesystem::path& download_cache = {});

/// A local folder with the model's small files (config.json, tokenizer, templates), for a remote model a part of the download cache; the folder itself else.
DSINFER_API std::filesystem::path local_model_files(const std::filesystem::path& model, const LoadOptions& options = {});

/// A config for planning, from tensors' headers: what no shape shows is a released model's of the same shapes, or was given. Not for running.
struct ModelOutline {
  ModelConfig config;
  std::vector<std::string> assumed;  ///< a sentence for each value that no header shows
};
/// `checkpoint`: a model's folder or URL without config.json, or a single safetensors file; headers without their data will do. `experts_per_token`:
/// num_experts_per_tok where the model is no released one; 0 = not given. Throws not_found, bad_format naming file and tensor, unsupported naming the key to give.
DSINFER_API ModelOutline outline_model(const std::filesystem::path& checkpoint, int64_t experts_per_token = 0);

}  // namespace dsinfer
