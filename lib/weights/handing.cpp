#include "weights/handing.hpp"

#include <algorithm>

#include "core/bytes.hpp"

namespace dsinfer {
namespace {

enum class Kind : uint8_t { data, acknowledged, progress, beat, end };

std::string head(Kind kind) { return std::string(1, static_cast<char>(kind)); }

}  // namespace

Handing::Handing(World& world, int64_t inbound)
    : world_(world), credit_(inbound / std::max(1, world.size() - 1)), sent_(static_cast<size_t>(world.size())), parts_(static_cast<size_t>(world.size())) {}

bool Handing::may_send(int peer, int64_t bytes) const {
  const int64_t on_the_way = sent_[static_cast<size_t>(peer)];
  return on_the_way == 0 || on_the_way + bytes <= credit_;
}

void Handing::send(int peer, int64_t chunk, std::string_view payload) {
  ByteWriter out;
  out.put(Kind::data);
  out.put(chunk);
  std::string bytes = out.take();
  bytes.append(payload);
  world_.post(peer, bytes);
  const auto size = static_cast<int64_t>(payload.size());
  sent_[static_cast<size_t>(peer)] += size;
  unacknowledged_ += size;
  peak_ = std::max(peak_, unacknowledged_);
}

void Handing::send_progress(int64_t done, int64_t total) {
  ByteWriter out;
  out.put(Kind::progress);
  out.put(done);
  out.put(total);
  world_.post(0, out.take());
}

void Handing::send_beat() {
  for (int peer = 0; peer < world_.size(); ++peer)
    if (peer != world_.rank()) world_.post(peer, head(Kind::beat));
}

void Handing::send_end() { world_.post(0, head(Kind::end)); }

Handing::Heard Handing::poll(const TakeData& take) {
  Heard heard = Heard::nothing;
  while (const std::optional<Message> message = world_.receive()) {
    ByteReader in(message->bytes);
    const auto from = static_cast<size_t>(message->from);
    const auto kind = in.get<Kind>();
    heard = std::max(heard, kind == Kind::data || kind == Kind::acknowledged ? Heard::work : Heard::signs);
    switch (kind) {
      case Kind::data: {
        const auto chunk = in.get<int64_t>();
        take(chunk, message->from, in.rest());
        ByteWriter out;
        out.put(Kind::acknowledged);
        out.put(static_cast<int64_t>(in.rest().size()));
        world_.post(message->from, out.take());
        break;
      }
      case Kind::acknowledged: {
        const auto bytes = in.get<int64_t>();
        sent_[from] -= bytes;
        unacknowledged_ -= bytes;
        break;
      }
      case Kind::progress:
        parts_[from].done = in.get<int64_t>();
        parts_[from].total = in.get<int64_t>();
        break;
      case Kind::beat: break;
      case Kind::end:
        parts_[from].ended = true;
        ++ended_;
        break;
    }
  }
  return heard;
}

std::vector<int> Handing::waited_for() const {
  std::vector<int> peers;
  for (size_t peer = 0; peer < sent_.size(); ++peer) if (sent_[peer] > 0) peers.push_back(static_cast<int>(peer));
  return peers;
}

}  // namespace dsinfer
