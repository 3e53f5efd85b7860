#include "weights/shard_cache.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "dsinfer/error.hpp"
#include "weights/block_reads.hpp"
#include "weights/checkpoint.hpp"
#include "weights/new_file.hpp"
#include "weights/shard_cache_header.hpp"
#include "weights/weight_set_builder.hpp"

namespace dsinfer {
namespace {

constexpr int64_t kSyncEvery = int64_t{512} << 20;  // dirty pages stay few, and no single sync is long

[[noreturn]] void refuse(const std::string& file, const std::string& why) {
  throw Error(Error::bad_format, fmt::format("shard cache {}: {}; remove the file and save the shards again, or load without the cache", file, why));
}

std::string header_of(Source& source) {
  const std::string json = read_safetensors_text(source);
  std::string header(8 + json.size(), '\0');
  source.read(0, std::as_writable_bytes(std::span(header).first(8)));
  std::copy(json.begin(), json.end(), header.begin() + 8);
  return header;
}

// Files of this rank with other keys.
std::vector<std::filesystem::path> other_files(const std::filesystem::path& folder, const ShardKey& key) {
  std::vector<std::filesystem::path> files;
  const std::string prefix = fmt::format("rank-{:05}-of-", key.rank);
  std::error_code code;
  for (const auto& entry : std::filesystem::directory_iterator(folder, code)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(prefix) && name.ends_with(".safetensors")) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  if (code && code != std::errc::no_such_file_or_directory) throw Error(Error::io, fmt::format("shard cache {}: cannot be looked at: {}", folder.string(), code.message()));
  return files;
}

// Why none of the files will do: the one that differs least speaks for all.
[[noreturn]] void refuse_others(const std::vector<std::filesystem::path>& files, const ShardKey& key) {
  std::vector<std::string> least;
  std::string name;
  for (const auto& path : files) {
    std::vector<std::string> differences = {"it cannot be read"};
    try {
      differences = shard_differences(header_of(*open_file(path)), key);
    } catch (const Error& e) {
      differences = {e.what()};
    }
    if (differences.empty()) differences = {"its name was changed"};
    if (!name.empty() && differences.size() >= least.size()) continue;
    name = path.string();
    least = std::move(differences);
  }
  refuse(name, fmt::format("was made of something else: {}", fmt::join(least, ", ")));
}

}  // namespace

ShardKey shard_key(const Checkpoint& checkpoint, const Plan& plan, int world_rank, WeightFormat weights, const HeldLayout& layout) {
  const auto absorbing = std::find_if(layout.tensors.begin(), layout.tensors.end(), [](const HeldTensor& t) { return t.key_up_bytes > 0; });
  const char* absorbed = dtype_name(absorbing == layout.tensors.end() ? DType::f32 : absorbing->absorbed_dtype);
  return {checkpoint.fingerprint(), plan.to_json(), plan.spec(), world_rank, plan.world_size, weights, absorbed, hash_layout(layout)};
}

std::optional<ShardFile> ShardFile::find(const std::filesystem::path& folder, const ShardKey& key, const HeldLayout& layout) {
  const std::filesystem::path path = folder / key.file_name();
  std::error_code code;
  const std::filesystem::file_status status = std::filesystem::status(folder, code);
  if (std::filesystem::exists(status) && !std::filesystem::is_directory(status)) throw Error(Error::invalid_argument, folder.string() + ": the shard cache is no folder");
  const bool there = std::filesystem::exists(path, code);
  if (code) throw Error(Error::io, fmt::format("shard cache {}: cannot be looked at: {}; load without the cache, or name another folder", path.string(), code.message()));
  if (!there) {
    const auto others = other_files(folder, key);
    if (others.empty()) return std::nullopt;
    refuse_others(others, key);
  }
  ShardFile file;
  try {
    file.source_ = open_file(path);
    const std::string header = header_of(*file.source_);
    file.data_begin_ = static_cast<int64_t>(header.size());
    file.blocks_ = check_shard_header(header, key, layout);
  } catch (const Error& e) {
    if (e.code() != Error::bad_format) throw;
    refuse(path.string(), e.what());
  }
  if (const int64_t expected = file.data_begin_ + layout.buffer_bytes; file.source_->size() != expected)
    refuse(path.string(), fmt::format("has {} bytes, expected {}", file.source_->size(), expected));
  return file;
}

WeightSet ShardFile::read(const HeldLayout& layout, const ModelConfig& config, Backend& backend, const Reading& how, const ShardWatch& watch, LoadReport* report) const {
  const auto there = static_cast<int64_t>(backend.available_bytes());
  if (layout.buffer_bytes > there)
    throw Error(Error::out_of_memory, fmt::format("the weights of {} need {} bytes ({:.2f} GB) on {}, {} bytes ({:.2f} GB) are there; split the model over more ranks (tp, pp or ep), or free memory",
                                                  source_->name(), layout.buffer_bytes, static_cast<double>(layout.buffer_bytes) / 1e9, backend.name(), there, static_cast<double>(there) / 1e9));
  const auto buffer = std::make_shared<Buffer>(backend.allocate(static_cast<size_t>(std::max<int64_t>(layout.buffer_bytes, 1))));
  const bool host = buffer->place() == Place::host;
  const auto block_bytes = [&](size_t i) { return std::min(kShardBlock, layout.buffer_bytes - static_cast<int64_t>(i) * kShardBlock); };
  BlockReads reads(how.engine, how.depth, /*remote=*/false, std::min(kShardBlock, layout.buffer_bytes), how.staging_bytes, how.stall, host ? nullptr : &backend);
  const auto next = [&](size_t i) {
    const int64_t at = static_cast<int64_t>(i) * kShardBlock;
    return BlockRead{source_, data_begin_ + at, block_bytes(i), host ? buffer->data() + at : nullptr, buffer};
  };
  const auto look = [&](size_t i, std::span<const std::byte> bytes, const std::exception_ptr& error) {
    if (error) std::rethrow_exception(error);
    const int64_t at = static_cast<int64_t>(i) * kShardBlock;
    if (content_hash(bytes) != blocks_[i])
      refuse(source_->name(), fmt::format("bytes {} to {} (from tensor {} on) are not what was written", data_begin_ + at, data_begin_ + at + block_bytes(i), tensor_at(layout, at)));
    if (!host)
      reads.keep(backend.upload(TensorView(buffer->data() + at, DType::u8, {block_bytes(i)}, buffer->place()), TensorView(const_cast<std::byte*>(bytes.data()), DType::u8, {block_bytes(i)})));
    if (watch.advance) watch.advance(block_bytes(i));
  };
  reads.run(blocks_.size(), next, look, watch.poll);
  if (report) report->method = reads.text(), report->host_peak_bytes = data_begin_ + reads.staging_bytes();  // the header and its blocks on their way
  return WeightSetBuilder::build(layout, std::move(*buffer), config);
}

int64_t write_shard(const std::filesystem::path& folder, const ShardKey& key, const HeldLayout& layout, const WeightSet& weights, Backend& backend, const ShardWatch& watch) {
  const Buffer& buffer = WeightSetBuilder::buffer(weights);
  std::error_code code;
  std::filesystem::create_directories(folder, code);
  if (code) throw Error(Error::io, fmt::format("{}: cannot be created: {}", folder.string(), code.message()));
  std::vector<Hash128> hashes(static_cast<size_t>(count_blocks(layout)));
  const auto begin = static_cast<int64_t>(shard_header(key, layout, hashes).size());
  NewFile file(folder / key.file_name(), begin + layout.buffer_bytes);
  std::vector<std::byte> window;
  int64_t unsynced = 0;
  for (size_t i = 0; i < hashes.size(); ++i) {
    const int64_t at = static_cast<int64_t>(i) * kShardBlock, bytes = std::min(kShardBlock, layout.buffer_bytes - at);
    std::span<const std::byte> block(buffer.data() + at, static_cast<size_t>(bytes));
    if (buffer.place() != Place::host) {
      window.resize(static_cast<size_t>(bytes));
      backend.copy(TensorView(window.data(), DType::u8, {bytes}), TensorView(buffer.data() + at, DType::u8, {bytes}, buffer.place()));
      block = window;
    }
    hashes[i] = content_hash(block);
    file.write(begin + at, block);
    if ((unsynced += bytes) >= kSyncEvery) {
      file.sync();
      unsynced = 0;
    }
    if (watch.advance) watch.advance(bytes);
    if (watch.poll) watch.poll();
  }
  // The header comes last: before it there is nothing that could be taken for a file.
  file.write(0, shard_header(key, layout, hashes));
  file.commit();
  return begin + layout.buffer_bytes;
}

}  // namespace dsinfer
