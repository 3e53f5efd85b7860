#include "weights/load_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "core/wait.hpp"
#include "dsinfer/error.hpp"
#include "storage/local_file.hpp"
#include "weights/dummy_storage.hpp"
#include "weights/loader.hpp"

namespace dsinfer {
namespace {

constexpr int64_t kLongPart = int64_t{64} << 10;  // read to its place by itself; shorter ones come together
constexpr int64_t kBypass = int64_t{1} << 20;     // from here on, reading past the page cache pays for its alignment

constexpr int64_t kLongestRead = ReadPlanOptions{}.own_block + 2 * 4096;          // a chunk and its page's edges

// Reads in flight: enough for a fast array from one rank; many ranks of a node share them out. Weights that are made up take a core each: half of the cores, as more gain
// nothing (on 16 cores to an H100, 61.9 GB in 1.39 s with 8 at once, 1.35 s with 12, 1.39 s with 15).
int depth_of(const LoadTask& task) {
  if (task.options.depth > 0) return task.options.depth;
  const int at_once = is_dummy(task.checkpoint.storage()) ? std::max(1, static_cast<int>(std::thread::hardware_concurrency() / 2)) : 32;
  const std::vector<int>& nodes = task.reads.node_of;
  const auto ranks = std::count(nodes.begin(), nodes.end(), nodes[static_cast<size_t>(task.world.rank())]);
  return std::max<int>(4, at_once / static_cast<int>(ranks));
}

bool remote(const LoadTask& task) {
  return task.checkpoint.storage().folder() == nullptr && !task.reads.chunks.empty() && task.checkpoint.open(task.reads.chunks.front().file)->path() == nullptr;
}

}  // namespace

LoadRun::LoadRun(const LoadTask& task)
    : task_(task), rank_(task.world.rank()), rank_plan_(task.plan.rank(rank_)), expected_(task.reads.ranks[static_cast<size_t>(rank_)].bytes_received),
      staging_(task.backend, staging_share(task.reads.ranks[static_cast<size_t>(rank_)], task.options.host_bytes), task.landing.place() == Place::device ? kLongestRead : 0),
      handing_(task.world, task.options.host_bytes / 4), queue_(make_read_queue(io_engine(task.options.method), depth_of(task), remote(task))) {
  for (size_t i = 0; i < task_.pieces.size(); ++i) piece_of_[task_.pieces[i].tensor.spec] = static_cast<int>(i);
  expected_by_phase_.resize(static_cast<size_t>(task_.reads.phases));
  for (size_t i = 0; i < task_.reads.chunks.size(); ++i) {
    const Chunk& c = task_.reads.chunks[i];
    if (c.reader == rank_) {
      mine_.push_back(static_cast<int64_t>(i));
      continue;
    }
    if (!c.shared) continue;
    for (int64_t p = c.first_part; p < c.first_part + c.num_parts; ++p) {
      if (!holds(part(p), rank_)) continue;
      expected_by_phase_[static_cast<size_t>(c.phase)] += part_for(task_.reads, part(p), task_.config, rank_plan_).elements() * dtype_size(tensor(part(p)).dtype);
    }
  }
  total_ = task_.reads.ranks[static_cast<size_t>(rank_)].bytes_needed;
  slots_.resize(static_cast<size_t>(2 * queue_->depth()));
  for (size_t i = slots_.size(); i-- > 0;) idle_.push_back(i);
}

bool LoadRun::holds(const ChunkPart& p, int rank) const {
  const auto& set = task_.reads.holder_sets[static_cast<size_t>(p.holders)];
  return std::binary_search(set.begin(), set.end(), rank);
}

const std::shared_ptr<Source>& LoadRun::source(int file) {
  auto& source = sources_[file];
  if (!source) source = task_.checkpoint.open(file);
  return source;
}

// A read that the system still holds when the load is given up keeps its source and its memory.
void LoadRun::read(const std::shared_ptr<Source>& from, int64_t offset, std::span<std::byte> out, uint64_t tag, std::shared_ptr<void> memory) {
  bytes_read_ += static_cast<int64_t>(out.size());
  queue_->submit({from.get(), offset, out, tag, std::make_shared<std::pair<std::shared_ptr<Source>, std::shared_ptr<void>>>(from, std::move(memory))});
}

void LoadRun::run() {
  Backoff backoff;
  report(true);
  while (!finished()) {
    bool moved = staging_.reclaim();
    moved |= submit();
    moved |= collect();
    moved |= hand_on();
    const Handing::Heard heard = handing_.poll([&](int64_t index, int, std::string_view payload) { hold_back_or_take(index, payload); });
    moved |= heard == Handing::Heard::work;
    advance_phase();
    report(false);
    if (const std::optional<Error> failed = task_.world.failure()) throw *failed;
    check_stall(moved, moved || heard == Handing::Heard::signs);
    if (moved) {
      backoff.reset();
    } else if (in_flight_ > 0) {
      queue_->wait(staging_.uploading() ? 50 : handing_.bytes_on_the_way() > 0 || received_ < expected_ ? 200 : 2000);
    } else {
      backoff.pause();
    }
  }
  staging_.await_uploads();
  report(true);
  check_files();
}

// A file that somebody wrote to in place meanwhile may be a mixture of two.
void LoadRun::check_files() const {
  for (const auto& [number, source] : sources_) {
    const std::shared_ptr<LocalFile> file = source->path() ? local_file(*source) : nullptr;
    if (!file || file_version(file->descriptor()) == source->version()) continue;
    throw Error(Error::io, fmt::format("{}: was written to while it was read (size and time of change {}, now {}); load again when nobody writes to it", source->name(),
                                       source->version(), file_version(file->descriptor())));
  }
}

bool LoadRun::finished() const {
  return ended_ && (rank_ != 0 || handing_.all_ended());
}

// Parts of a later phase wait until all of this one have landed: they stand on them.
void LoadRun::advance_phase() {
  while (true) {
    const bool own_done = in_flight_ == 0 && serving_.empty() && (next_ == mine_.size() || chunk(mine_[next_]).phase > phase_);
    if (!own_done || received_in_phase_ < expected_by_phase_[static_cast<size_t>(phase_)]) return;
    if (phase_ + 1 == task_.reads.phases) break;
    ++phase_;
    received_in_phase_ = 0;
    auto held = std::move(held_back_);
    held_back_.clear();
    for (const auto& [index, payload] : held) hold_back_or_take(index, payload);
  }
  if (ended_ || !handing_.all_acknowledged()) return;
  ended_ = true;
  if (rank_ != 0) handing_.send_end();
}

bool LoadRun::submit() {
  bool any = false;
  while (next_ < mine_.size() && !idle_.empty() && in_flight_ < queue_->depth() && chunk(mine_[next_]).phase <= phase_) {
    if (!submit_chunk(mine_[next_])) break;
    ++next_;
    any = true;
  }
  return any;
}

bool LoadRun::submit_chunk(int64_t index) {
  const Chunk& c = chunk(index);
  const std::shared_ptr<Source>& from = source(c.file);
  const int64_t length = c.end - c.begin;
  const bool in_place = !c.shared && (length < kBypass || queue_->alignment() == 1 || bytes_in_page_cache(*from, c.begin, length) * 10 >= length * 9);
  const int64_t align = in_place || length < kBypass ? 1 : queue_->alignment();
  const int64_t begin = c.begin / align * align, end = (c.end + align - 1) / align * align;
  auto block = staging_.take(end - begin);
  if (!block) return false;
  const size_t number = idle_.back();
  idle_.pop_back();
  Slot& slot = slots_[number];
  slot = {index, 0, begin, std::move(block), std::vector<char>(static_cast<size_t>(c.num_parts)), {}, 0};
  in_flight_ += 1;
  if (in_place) submit_parts(slot, number); else submit_whole(slot, end, number);
  return true;
}

void LoadRun::submit_whole(Slot& slot, int64_t end, uint64_t tag) {
  slot.reads_left = 1;
  read(source(chunk(slot.chunk).file), slot.base, {slot.block->data(), static_cast<size_t>(end - slot.base)}, tag, slot.block);
}

// Long parts go where they stay; what lies between them comes together.
void LoadRun::submit_parts(Slot& slot, uint64_t tag) {
  const Chunk& c = chunk(slot.chunk);
  struct Piece {
    int64_t offset;
    std::span<std::byte> out;
    std::shared_ptr<void> memory;
  };
  std::vector<Piece> reads;  // counted before the first is submitted: it may end at once
  int64_t run_begin = -1, run_end = -1;
  const auto flush = [&] {
    if (run_begin >= 0) reads.push_back({run_begin, {slot.block->data() + (run_begin - slot.base), static_cast<size_t>(run_end - run_begin)}, slot.block});
    run_begin = -1;
  };
  for (int64_t i = 0; i < c.num_parts; ++i) {
    const ChunkPart& p = part(c.first_part + i);
    const int64_t offset = task_.reads.offset(p), bytes = (p.end - p.begin) * task_.reads.row_bytes(tensor(p));
    std::byte* place = nullptr;
    if (bytes >= kLongPart) {
      const Portion own = portion(p, {p.begin, p.end});
      place = task_.landing.direct(own.piece, own.begin, own.end);
    }
    if (place) {
      flush();
      slot.landed[static_cast<size_t>(i)] = 1;
      reads.push_back({offset, {place, static_cast<size_t>(bytes)}, task_.landing.memory()});
    } else {
      if (run_begin < 0) run_begin = offset;
      run_end = offset + bytes;
    }
  }
  flush();
  slot.reads_left = static_cast<int>(reads.size());
  for (Piece& piece : reads) read(source(c.file), piece.offset, piece.out, tag, std::move(piece.memory));
}

bool LoadRun::collect() {
  bool any = false;
  while (const std::optional<Done> done = queue_->poll()) {
    any = true;
    read_moved_ = Clock::now();
    if (done->error) std::rethrow_exception(done->error);
    Slot& slot = slots_[done->tag];
    if (--slot.reads_left > 0) continue;
    --in_flight_;
    read_done(slot);
    if (slot.peers.empty()) give_back(done->tag);
    else serving_.push_back(done->tag);
    staging_.reclaim();
    submit();  // landing took a while: what could be read meanwhile shall be under way
  }
  return any;
}

void LoadRun::give_back(size_t number) {
  Slot& slot = slots_[number];
  staging_.give_back(std::move(slot.block), slot.upload);
  idle_.push_back(number);
}

void LoadRun::read_done(Slot& slot) {
  const Chunk& c = chunk(slot.chunk);
  land_own(slot);
  if (!c.shared) return;
  for (int64_t p = c.first_part; p < c.first_part + c.num_parts; ++p)
    for (const int rank : task_.reads.holder_sets[static_cast<size_t>(part(p).holders)])
      if (rank != rank_) slot.peers.push_back(rank);
  std::sort(slot.peers.begin(), slot.peers.end());
  slot.peers.erase(std::unique(slot.peers.begin(), slot.peers.end()), slot.peers.end());
  // Not all readers begin with rank 0.
  const auto first = std::upper_bound(slot.peers.begin(), slot.peers.end(), rank_);
  std::rotate(slot.peers.begin(), first, slot.peers.end());
}

void LoadRun::land_own(Slot& slot) {
  const Chunk& c = chunk(slot.chunk);
  for (int64_t i = 0; i < c.num_parts; ++i) {
    const ChunkPart& p = part(c.first_part + i);
    if (!holds(p, rank_)) continue;
    const Cut mine = part_for(task_.reads, p, task_.config, rank_plan_);
    const int64_t size = dtype_size(tensor(p).dtype), bytes = mine.elements() * size;
    landed_ += bytes;
    if (slot.landed[static_cast<size_t>(i)]) {
      const Portion own = portion(p, {p.begin, p.end});
      task_.landing.arrived(own.piece, own.begin, own.end);
      continue;
    }
    const std::byte* rows = slot.block->data() + (task_.reads.offset(p) - slot.base);
    const int64_t row_bytes = task_.reads.row_bytes(tensor(p)), width = mine.cols.size() * size;
    if (width == row_bytes) {
      slot.upload = std::max(slot.upload, land(p, mine, {rows, static_cast<size_t>(bytes)}, /*staged=*/true));
      continue;
    }
    std::string dense(static_cast<size_t>(bytes), '\0');
    for (int64_t r = 0; r < mine.rows.size(); ++r)
      std::memcpy(dense.data() + r * width, rows + (mine.rows.begin - p.begin + r) * row_bytes + mine.cols.begin * size, static_cast<size_t>(width));
    land(p, mine, std::as_bytes(std::span(dense)), /*staged=*/false);
  }
}

LoadRun::Portion LoadRun::portion(const ChunkPart& p, const Range& rows) const {
  const int piece = piece_of_.at(tensor(p).spec);
  const int64_t first = task_.pieces[static_cast<size_t>(piece)].cut.rows.begin;
  return {piece, rows.begin - first, rows.end - first};
}

// The upload that still reads from `bytes`, if any.
uint64_t LoadRun::land(const ChunkPart& p, const Cut& mine, std::span<const std::byte> bytes, bool staged) {
  const Portion own = portion(p, mine.rows);
  if (staged) return task_.landing.take_staged(own.piece, own.begin, own.end, bytes);
  task_.landing.take(own.piece, own.begin, own.end, bytes);
  return 0;
}

}  // namespace dsinfer
