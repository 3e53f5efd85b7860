/// Checkpoint: the safetensors files of a model folder as one set of named tensors. Reads headers only.
#pragma once
#include <filesystem>
#include <functional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "config/tensors.hpp"
#include "dsinfer/error.hpp"
#include "storage/storage.hpp"
#include "weights/fnv.hpp"
#include "weights/safetensors.hpp"

namespace dsinfer {

/// Where a tensor (or one expert's slice of a fused one) lies.
struct Location {
  int file = 0;  ///< index into Checkpoint::files()
  TensorEntry entry;
};

/// A tensor of the table, found and checked. `spec` points into the table it was resolved from.
struct StoredTensor {
  const TensorSpec* spec = nullptr;
  Location at;
  DType dtype = DType::f32;
};

/// A file of a checkpoint.
struct CheckpointFile {
  std::string name;         ///< in the folder
  std::string path;         ///< with the folder, for errors
  int64_t size = 0;         ///< as its header describes it
  bool cut_short = false;   ///< the header is whole, data is missing (Headers::may_stand_alone)
  std::string version;      ///< Source::version() when its header was read
  bool local = false;       ///< it was a local file then
};

/// Whether files must hold the data that their headers describe.
enum class Headers : uint8_t { with_data, may_stand_alone };

/// Where a check that goes on after a problem puts it. Without one the first problem is thrown.
using Problems = std::function<void(const Error&)>;

class DSINFER_INTERNAL Checkpoint {
 public:
  /// model.safetensors, or the shards that model.safetensors.index.json names. Throws not_found for an absent folder or shard, bad_format
  /// for an index that contradicts the files or names a tensor twice, and for a tensor that lies in two shards.
  explicit Checkpoint(const std::filesystem::path& model, Headers headers = Headers::with_data);
  /// With `problems` what can be read of a spoilt checkpoint is there, and each thing wrong was told once; only a folder without weights throws.
  explicit Checkpoint(std::shared_ptr<Storage> storage, Headers headers = Headers::with_data, const Problems& problems = {});

  const Location* find(const std::string& name) const;
  const std::unordered_map<std::string, Location>& tensors() const { return tensors_; }
  const std::vector<CheckpointFile>& files() const { return files_; }
  Storage& storage() const { return *storage_; }
  /// Throws io where the file has changed since its header was read: its tensors may lie elsewhere by now.
  std::unique_ptr<Source> open(int file) const;
  /// Fingerprint of what must be equal on all ranks before loading: config.json's text, index, headers. Hex.
  std::string fingerprint() const;

  /// Every tensor of `table` that the main layers use, checked: present, of the table's shape, of a dtype that can be used. The file's dtypes are
  /// trusted over the config: scales are needed exactly where a weight is F8_E4M3. Experts may be fused as transformers 5 writes them.
  /// With `problems` it gives what is sound; tensors of files that could not be read are not told again.
  std::vector<StoredTensor> resolve(const ModelConfig& config, const std::vector<TensorSpec>& table, const Problems& problems = {}) const;

 private:
  using Wanted = std::unordered_map<std::string, std::string>;  // tensor → file, as the index says
  void read_index(const std::string& index, const Problems& problems);
  void add_file(const std::string& file, const Wanted* wanted, const Problems& problems);
  void lose(const std::string& file, const Wanted& wanted);
  StoredTensor stored(const TensorSpec& spec, const ModelConfig& config) const;
  std::optional<Location> locate(const TensorSpec& spec, const ModelConfig& config) const;
  DType usable_dtype(const TensorSpec& spec, const Location& at, const ModelConfig& config) const;

  std::shared_ptr<Storage> storage_;
  Headers headers_;
  std::vector<CheckpointFile> files_;
  Fnv128 header_hash_;  // of the headers' texts, with names and sizes of the files
  std::unordered_map<std::string, Location> tensors_;
  std::unordered_set<std::string> lost_;  // tensors that the index places in files that could not be read
  bool all_lost_ = false;                 // the one file could not be read
};

}  // namespace dsinfer
