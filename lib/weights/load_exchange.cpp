// LoadRun's dealings with other ranks: what it read for them goes out, what they read for it comes in.
#include <fmt/format.h>

#include "dsinfer/error.hpp"
#include "weights/load_run.hpp"

namespace dsinfer {

bool LoadRun::hand_on() {
  bool any = false;
  for (size_t i = 0; i < serving_.size();) {
    const size_t number = serving_[i];
    Slot& slot = slots_[number];
    any |= serve(slot);
    if (!slot.peers.empty()) {
      ++i;
      continue;
    }
    give_back(number);
    serving_.erase(serving_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return any;
}

bool LoadRun::serve(Slot& slot) {
  bool any = false;
  std::vector<int> left;
  for (const int peer : slot.peers) {
    const Chunk& c = chunk(slot.chunk);
    if (!handing_.may_send(peer, c.end - c.begin)) {
      left.push_back(peer);
      continue;
    }
    handing_.send(peer, slot.chunk, payload(slot, peer));
    any = true;
  }
  slot.peers = std::move(left);
  return any;
}

// The peer's rows and columns of each part, one after the other.
std::string LoadRun::payload(const Slot& slot, int peer) const {
  const Chunk& c = chunk(slot.chunk);
  const RankPlan plan = task_.plan.rank(peer);
  std::string bytes;
  for (int64_t i = c.first_part; i < c.first_part + c.num_parts; ++i) {
    const ChunkPart& p = part(i);
    if (!holds(p, peer)) continue;
    const Cut theirs = part_for(task_.reads, p, task_.config, plan);
    const int64_t size = dtype_size(tensor(p).dtype), row_bytes = task_.reads.row_bytes(tensor(p)), width = theirs.cols.size() * size;
    const auto* from = reinterpret_cast<const char*>(slot.block->data() + (task_.reads.offset(p) - slot.base) + (theirs.rows.begin - p.begin) * row_bytes);
    if (width == row_bytes) {
      bytes.append(from, static_cast<size_t>(theirs.rows.size() * row_bytes));
      continue;
    }
    for (int64_t r = 0; r < theirs.rows.size(); ++r) bytes.append(from + r * row_bytes + theirs.cols.begin * size, static_cast<size_t>(width));
  }
  return bytes;
}

void LoadRun::hold_back_or_take(int64_t index, std::string_view payload) {
  if (chunk(index).phase > phase_) held_back_.emplace_back(index, payload); else take(index, payload);
}

void LoadRun::take(int64_t index, std::string_view payload) {
  const Chunk& c = chunk(index);
  for (int64_t i = c.first_part; i < c.first_part + c.num_parts; ++i) {
    const ChunkPart& p = part(i);
    if (!holds(p, rank_)) continue;
    const Cut mine = part_for(task_.reads, p, task_.config, rank_plan_);
    const auto bytes = static_cast<size_t>(mine.elements() * dtype_size(tensor(p).dtype));
    if (bytes > payload.size()) throw Error(Error::internal, fmt::format("rank {}: a part of chunk {} came cut short", rank_, index));
    land(p, mine, std::as_bytes(std::span(payload.substr(0, bytes))), /*staged=*/false);
    payload.remove_prefix(bytes);
    received_ += static_cast<int64_t>(bytes);
    received_in_phase_ += static_cast<int64_t>(bytes);
    landed_ += static_cast<int64_t>(bytes);
  }
}

}  // namespace dsinfer
