// What the storage of a model gives: blocks from all over its files, many in flight, for a short time.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "backend/backend.hpp"
#include "dsinfer/error.hpp"
#include "storage/read_queue.hpp"
#include "weights/dummy_storage.hpp"
#include "weights/loader.hpp"

namespace dsinfer {
namespace {

constexpr int64_t kBlock = int64_t{8} << 20;
constexpr double kPatience = 60;  // seconds, as long as a load waits

struct Piece {
  Source* source;
  int64_t offset, bytes;
};

// Blocks in an order that strides over all files, so that a part that lies in memory or on a fast disk does not speak for the rest.
std::vector<Piece> places(const std::vector<std::unique_ptr<Source>>& sources) {
  std::vector<Piece> all, mixed;
  for (const auto& source : sources)
    for (int64_t offset = 0; offset < source->size(); offset += kBlock) all.push_back({source.get(), offset, std::min(kBlock, source->size() - offset)});
  constexpr size_t kStride = 61;  // prime, so that every block comes once unless the number of blocks is a multiple of it
  const size_t stride = all.size() % kStride == 0 ? 1 : kStride;
  for (size_t i = 0; i < all.size(); ++i) mixed.push_back(all[i * stride % all.size()]);
  return mixed;
}

}  // namespace

double probe_storage(const std::filesystem::path& model, const LoadOptions& options, double seconds) {
  if (!(seconds > 0) || seconds > 600) throw Error(Error::invalid_argument, "the probe's seconds are " + std::to_string(seconds) + ", expected more than 0, at most 600");
  refuse_dummy(model.string(), "probing the storage");
  const Checkpoint checkpoint(open_model(model, options), Headers::may_stand_alone);
  std::vector<std::unique_ptr<Source>> sources;
  for (size_t file = 0; file < checkpoint.files().size(); ++file) sources.push_back(checkpoint.open(static_cast<int>(file)));
  const auto queue = make_read_queue(IoEngine::automatic, options.depth, !sources.empty() && sources.front()->path() == nullptr);
  const std::vector<Piece> blocks = places(sources);
  std::vector<std::shared_ptr<Buffer>> memory;
  std::vector<uint64_t> idle;
  for (int i = 0; i < queue->depth(); ++i) {
    memory.push_back(std::make_shared<Buffer>(host_pages(static_cast<size_t>(kBlock))));
    idle.push_back(static_cast<uint64_t>(i));
  }
  using Clock = std::chrono::steady_clock;
  const auto started = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - started).count(); };
  int64_t done = 0;
  std::vector<int64_t> bytes(memory.size());
  size_t next = 0, in_flight = 0;
  double last = 0;
  while (in_flight > 0 || (next < blocks.size() && elapsed() < seconds)) {
    while (!idle.empty() && next < blocks.size() && elapsed() < seconds) {
      const uint64_t slot = idle.back();
      idle.pop_back();
      const Piece& place = blocks[next++];
      bytes[slot] = place.bytes;
      // An aligned length reaches past the end of the file by less than the alignment.
      const int64_t align = queue->alignment(), length = (place.bytes + align - 1) / align * align;
      queue->submit({place.source, place.offset, {memory[slot]->data(), static_cast<size_t>(length)}, slot, memory[slot]});
      ++in_flight;
    }
    while (const std::optional<Done> read = queue->poll()) {
      if (read->error) std::rethrow_exception(read->error);
      done += bytes[read->tag];
      last = elapsed();
      idle.push_back(read->tag);
      --in_flight;
    }
    if (in_flight > 0) queue->wait(1000);
    if (in_flight > 0 && elapsed() - std::max(last, seconds) > kPatience)
      throw Error(Error::stalled, fmt::format("{}: nothing came for {} s while {} blocks of its files were read; look at the disk or the network that it lies on", checkpoint.storage().name(), kPatience, in_flight));
  }
  return last > 0 ? static_cast<double>(done) / last : 0;
}

}  // namespace dsinfer
