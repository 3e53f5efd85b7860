/// Shard cache: a rank's weights as it holds them, in one file that the next start reads alone.
///
/// "rank-00003-of-00016.<key>.safetensors": the rank's buffer byte by byte behind a safetensors header, so that other tools can open it. What lies between the
/// tensors to align them are tensors named "#pad.<n>". The data begins on a page of the file and is read in blocks of 8 MiB, each of which has its hash in the
/// header's metadata; a hash of the header is there too.
#pragma once
#include <memory>
#include <optional>

#include "backend/backend.hpp"
#include "dsinfer/loader.hpp"
#include "storage/read_queue.hpp"
#include "weights/content_hash.hpp"
#include "weights/layout.hpp"
#include "weights/weight_set.hpp"

namespace dsinfer {

/// What a file was made of. Files of different keys lie side by side in one folder.
struct ShardKey {
  std::string checkpoint;        ///< Checkpoint::fingerprint()
  std::string plan, plan_spec;   ///< JSON; for a person
  int rank = 0, ranks = 1;       ///< of the World
  WeightFormat weights = WeightFormat::as_stored;
  const char* absorbed = "f32";  ///< dtype of the absorbed copies
  std::string layout;            ///< hash of the HeldLayout
  DSINFER_INTERNAL std::string hex() const;
  DSINFER_INTERNAL std::string file_name() const;
};
DSINFER_INTERNAL ShardKey shard_key(const Checkpoint& checkpoint, const Plan& plan, int world_rank, WeightFormat weights, const HeldLayout& layout);

/// Called after each block and now and then between; what they throw ends the work.
struct ShardWatch {
  std::function<void(int64_t)> advance;  ///< bytes just done
  std::function<void()> poll;
};

/// A file that was found and whose header is right.
class ShardFile {
 public:
  /// Nothing if the folder has no file for this rank. Throws bad_format, naming the file, what is wrong and how to renew it, for one that is truncated, edited,
  /// of another version of the library, or, where none has the key, made of another checkpoint, plan or format.
  DSINFER_INTERNAL static std::optional<ShardFile> find(const std::filesystem::path& folder, const ShardKey& key, const HeldLayout& layout);

  int64_t bytes() const { return static_cast<int64_t>(source_->size()); }
  struct Reading {
    IoEngine engine = IoEngine::automatic;
    int depth = 0;
    int64_t staging_bytes = int64_t{128} << 20;
    std::chrono::milliseconds stall{60000};
  };
  /// The weights, on the backend's memory. Every block is compared with its hash: bad_format naming the bytes and the tensor if they differ. Throws out_of_memory.
  /// `report`: gets method and host_peak_bytes; may be null.
  DSINFER_INTERNAL WeightSet read(const HeldLayout& layout, const ModelConfig& config, Backend& backend, const Reading& how, const ShardWatch& watch, LoadReport* report = nullptr) const;

 private:
  std::shared_ptr<Source> source_;
  int64_t data_begin_ = 0;
  std::vector<Hash128> blocks_;
};

/// Writes the file of `key`; whole or absent (NewFile). `weights` were built with `layout`. Gives its length. Throws io.
DSINFER_INTERNAL int64_t write_shard(const std::filesystem::path& folder, const ShardKey& key, const HeldLayout& layout, const WeightSet& weights, Backend& backend,
                                     const ShardWatch& watch);

}  // namespace dsinfer
