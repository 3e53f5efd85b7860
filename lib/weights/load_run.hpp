/// LoadRun: one rank's part of a ReadPlan carried out: reads in flight, handing on, landing.
#pragma once
#include <chrono>
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "storage/read_queue.hpp"
#include "weights/handing.hpp"
#include "weights/landing.hpp"
#include "weights/progress_rate.hpp"
#include "weights/read_plan.hpp"
#include "weights/staging.hpp"

namespace dsinfer {

/// What a LoadRun works on; all of it outlives the run.
struct LoadTask {
  const Checkpoint& checkpoint;
  const ReadPlan& reads;
  const ModelConfig& config;                ///< of the checkpoint
  const Plan& plan;
  World& world;                             ///< of the load alone: its posts are taken by it
  const std::vector<ShardPiece>& pieces;    ///< of this rank
  Landing& landing;
  Backend& backend;                         ///< that the landing is of
  const LoadOptions& options;
};

/// Of LoadOptions::host_bytes: all of it for reads where nothing is handed on, else half, and a quarter each for what goes out and what comes in.
inline int64_t staging_share(const RankLoad& load, int64_t host_bytes) { return load.bytes_sent + load.bytes_received > 0 ? host_bytes / 2 : host_bytes; }

class LoadRun {
 public:
  explicit LoadRun(const LoadTask& task);
  /// Collective over task.world. Throws on this rank alone; the caller's phase tells the others.
  void run();
  int64_t host_peak_bytes() const { return staging_.peak() + handing_.peak_bytes(); }
  int64_t bytes_read() const { return bytes_read_; }
  int64_t bytes_received() const { return received_; }
  std::string method() const { return queue_->text(); }

 private:
  using Clock = std::chrono::steady_clock;
  // A chunk between its first read and its last part handed on.
  struct Slot {
    int64_t chunk = -1;
    int reads_left = 0;
    int64_t base = 0;                          // file offset of the block's first byte
    std::shared_ptr<Buffer> block;
    std::vector<char> landed;                  // parts that were read to their place
    std::vector<int> peers;                    // still to be served
    uint64_t upload = 0;                       // the last that reads from the block
  };

  const Chunk& chunk(int64_t i) const { return task_.reads.chunks[static_cast<size_t>(i)]; }
  const ChunkPart& part(int64_t i) const { return task_.reads.parts[static_cast<size_t>(i)]; }
  const StoredTensor& tensor(const ChunkPart& p) const { return task_.reads.tensors[static_cast<size_t>(p.tensor)]; }
  bool holds(const ChunkPart& p, int rank) const;
  const std::shared_ptr<Source>& source(int file);
  void read(const std::shared_ptr<Source>& from, int64_t offset, std::span<std::byte> out, uint64_t tag, std::shared_ptr<void> memory);

  bool submit();                               // as many chunks as there is room for; whether any
  bool submit_chunk(int64_t index);
  void submit_whole(Slot& slot, int64_t end, uint64_t tag);
  void submit_parts(Slot& slot, uint64_t tag);
  bool collect();
  void read_done(Slot& slot);
  bool hand_on();
  bool serve(Slot& slot);
  std::string payload(const Slot& slot, int peer) const;
  void land_own(Slot& slot);
  void give_back(size_t number);               // a slot whose chunk is done with
  void take(int64_t index, std::string_view payload);
  void hold_back_or_take(int64_t index, std::string_view payload);
  struct Portion {
    int piece;
    int64_t begin, end;                        // rows, counted from the piece's first
  };
  Portion portion(const ChunkPart& p, const Range& rows) const;
  uint64_t land(const ChunkPart& p, const Cut& mine, std::span<const std::byte> bytes, bool staged);
  void advance_phase();
  void report(bool always);
  void check_stall(bool moved, bool heard);
  void check_files() const;
  bool finished() const;

  LoadTask task_;
  int rank_;
  RankPlan rank_plan_;
  int64_t expected_;                           // bytes from other ranks
  std::unordered_map<const TensorSpec*, int> piece_of_;
  std::vector<int64_t> mine_;                  // chunks that this rank reads, in order
  std::vector<int64_t> expected_by_phase_;
  Staging staging_;
  Handing handing_;
  std::unordered_map<int, std::shared_ptr<Source>> sources_;
  std::vector<Slot> slots_;
  std::vector<size_t> idle_;                   // slots without a chunk
  std::deque<size_t> serving_;                 // read, and to be handed on
  std::vector<std::pair<int64_t, std::string>> held_back_;  // of a later phase
  size_t next_ = 0;
  int in_flight_ = 0, phase_ = 0;
  int64_t received_ = 0, received_in_phase_ = 0, bytes_read_ = 0, landed_ = 0, total_ = 0;
  Clock::time_point started_ = Clock::now(), reported_{}, told_{}, beaten_{}, read_moved_ = Clock::now(), moved_ = Clock::now();
  bool moved_since_beat_ = false, ended_ = false;
  ProgressRate rate_;
  std::unique_ptr<ReadQueue> queue_;           // goes first: what it reads into must be there still
};

}  // namespace dsinfer
