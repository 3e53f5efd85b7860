/// Handing: parts of chunks from the ranks that read them to those that need them, with credits, so that no rank's mailbox overflows.
#pragma once
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "dsinfer/world.hpp"

namespace dsinfer {

/// One per rank and load, over a World of its own. Nothing here waits.
class Handing {
 public:
  /// `inbound`: bytes that all others together may have on the way to one rank; shared out evenly.
  Handing(World& world, int64_t inbound);

  /// Whether `bytes` may go to `peer` now: its credit is not used up. One message is always allowed when none is on the way.
  bool may_send(int peer, int64_t bytes) const;
  /// The parts of chunk `chunk` that are `peer`'s.
  void send(int peer, int64_t chunk, std::string_view payload);
  void send_progress(int64_t done, int64_t total);  ///< to rank 0
  void send_beat();                                 ///< to all: this rank moves
  void send_end();                                  ///< to rank 0: nothing more will come from here

  using TakeData = std::function<void(int64_t chunk, int from, std::string_view payload)>;
  enum class Heard : uint8_t { nothing, signs, work };  ///< signs: of life or progress; work: data or acknowledgements
  /// Takes what has arrived.
  Heard poll(const TakeData& take);

  bool all_acknowledged() const { return unacknowledged_ == 0; }
  int64_t bytes_on_the_way() const { return unacknowledged_; }
  int64_t peak_bytes() const { return peak_; }
  std::vector<int> waited_for() const;              ///< peers that have not acknowledged all
  // Rank 0 alone.
  struct Part { int64_t done = 0, total = 0; bool ended = false; };
  const std::vector<Part>& parts() const { return parts_; }
  bool all_ended() const { return ended_ == static_cast<int>(parts_.size()) - 1; }

 private:
  World& world_;
  int64_t credit_;
  std::vector<int64_t> sent_;  // to each peer, not acknowledged
  std::vector<Part> parts_;
  int64_t unacknowledged_ = 0, peak_ = 0;
  int ended_ = 0;
};

}  // namespace dsinfer
