// MpiComm: host tensors between MPI processes. Bytes are copied into stages that this class owns, exchanged by Isend and Irecv, and
// tested in the one wait loop; after a failure the stages are kept for MPI, which cannot be told to let go of them.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>

#include "comm/host_comm.hpp"
#include "comm/mpi_fabric.hpp"

namespace dsinfer {
namespace {

constexpr std::chrono::milliseconds kGrace(200);  // for what a rank sent before it left

class MpiComm : public HostComm {
 public:
  explicit MpiComm(MailWorld& world) : HostComm(world), fabric_(std::static_pointer_cast<MpiFabric>(world.share_fabric())) {
    // A split only for its number: tags that no other Comm between any two of these ranks uses.
    const std::unique_ptr<World> numbered = world.split(0, world.rank());
    tag_ = fabric_->tensor_tag(mail_world(*numbered).context());
    received_.resize(static_cast<size_t>(world.size()));
  }

 protected:
  std::span<const std::byte* const> exchange(const char* operation, std::span<const std::byte> bytes, std::span<const Piece> to,
                                             std::span<const size_t> from) override {
    size_t expected = 0;
    for (const size_t n : from) expected += aligned(n);
    std::byte* const in = receive_stage_.need(expected);
    std::byte* const out = send_stage_.need(bytes.size());
    if (!bytes.empty()) std::memcpy(out, bytes.data(), bytes.size());
    try {
      {
        const MpiTurn turn;
        size_t offset = 0;
        for (size_t i = 1; i < from.size(); ++i) {  // nearest first, so that not all ranks begin with rank 0
          const size_t p = (static_cast<size_t>(rank()) + i) % from.size();
          received_[p] = in + offset;
          start_receive(in + offset, from[p], static_cast<int>(p), tag_);
          offset += aligned(from[p]);
        }
        for (size_t i = 1; i < to.size(); ++i) {
          const size_t p = (static_cast<size_t>(rank()) + to.size() - i) % to.size();
          start_send(out + to[p].offset, to[p].bytes, static_cast<int>(p));
        }
      }
      finish(operation);
    } catch (...) {
      give_up();
      throw;
    }
    return received_;
  }

  void send_bytes(std::span<const std::byte> bytes, int peer) override { fabric_->send_copy(job_rank(peer), tag_ + 1, bytes); }

  void recv_bytes(std::span<std::byte> bytes, int peer) override {
    std::byte* const in = receive_stage_.need(bytes.size());
    try {
      {
        const MpiTurn turn;
        if (bytes.empty()) start_message(in, 0, peer, tag_ + 1);  // an empty send is a message too
        start_receive(in, bytes.size(), peer, tag_ + 1);
      }
      finish("recv");
    } catch (...) {
      give_up();
      throw;
    }
    if (!bytes.empty()) std::memcpy(bytes.data(), in, bytes.size());
  }

 private:
  /// Bytes that only grow, uninitialised.
  struct Stage {
    std::unique_ptr<std::byte[]> memory;
    size_t capacity = 0;
    std::byte* need(size_t bytes) {
      if (bytes > capacity) {
        memory.reset();
        capacity = bytes + bytes / 4;
        memory = std::make_unique_for_overwrite<std::byte[]>(capacity);
      }
      return memory.get();
    }
  };
  struct Flight {
    int peer = 0;
    bool receiving = false;
    size_t bytes = 0;
  };

  static size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }
  int job_rank(int peer) const { return world_.members()[static_cast<size_t>(peer)]; }

  /// Small exchanges go in pieces below OpenMPI's eager limit of 4096 bytes between processes of a host: a longer message takes another
  /// turn of both ranks, which costs most where ranks share cores (16 ranks on 2 busy cores, broadcast of 32 KB: 10 ms whole, 0.4 ms
  /// in pieces; of 1 MB: 35 ms whole, 57 ms in pieces).
  size_t piece_bytes(size_t bytes, int tag) const { return tag == tag_ && bytes <= 32768 ? 3968 : MpiFabric::kMostBytes; }

  void start_message(std::byte* data, size_t bytes, int peer, int tag) {
    flights_.push_back({peer, true, bytes});
    check_mpi(MPI_Irecv(data, static_cast<int>(bytes), MPI_BYTE, job_rank(peer), tag, fabric_->comm(), &requests_.emplace_back(MPI_REQUEST_NULL)), "MPI_Irecv");
  }
  void start_receive(std::byte* data, size_t bytes, int peer, int tag) {
    for (const size_t piece = piece_bytes(bytes, tag); bytes;) {
      const size_t n = std::min(bytes, piece);
      start_message(data, n, peer, tag);
      data += n;
      bytes -= n;
    }
  }
  void start_send(const std::byte* data, size_t bytes, int peer) {
    for (const size_t piece = piece_bytes(bytes, tag_); bytes;) {
      const size_t n = std::min(bytes, piece);
      flights_.push_back({peer, false, n});
      check_mpi(MPI_Isend(data, static_cast<int>(n), MPI_BYTE, job_rank(peer), tag_, fabric_->comm(), &requests_.emplace_back(MPI_REQUEST_NULL)), "MPI_Isend");
      data += n;
      bytes -= n;
    }
  }

  /// Waits until all that was started has arrived and left.
  void finish(const char* operation) {
    polls_ = 0;
    left_at_.reset();
    wait(operation, [&] { return missing(); }, [&] { return test(operation); });
    requests_.clear();
    flights_.clear();
  }

  bool test(const char* operation) {
    if (requests_.empty()) return true;
    completed_.resize(requests_.size());
    statuses_.resize(requests_.size());
    int count = 0, status = MPI_SUCCESS;
    {
      const MpiTurn turn;
      status = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count, completed_.data(), statuses_.data());
    }
    if (count == MPI_UNDEFINED) return true;  // none is left
    if (status != MPI_SUCCESS && status != MPI_ERR_IN_STATUS) check_mpi(status, "MPI_Testsome");
    for (int i = 0; i < count; ++i) {
      const Flight& flight = flights_[static_cast<size_t>(completed_[static_cast<size_t>(i)])];
      const MPI_Status& end = statuses_[static_cast<size_t>(i)];
      if (status == MPI_ERR_IN_STATUS && end.MPI_ERROR != MPI_SUCCESS && end.MPI_ERROR != MPI_ERR_PENDING) {
        int kind = MPI_SUCCESS;
        MPI_Error_class(end.MPI_ERROR, &kind);
        if (kind != MPI_ERR_TRUNCATE) check_mpi(end.MPI_ERROR, operation);
        throw_mismatch(operation, flight.peer, flight.bytes + 1, flight.bytes);
      }
      int bytes = 0;
      if (flight.receiving) MPI_Get_count(&end, MPI_BYTE, &bytes);
      if (flight.receiving && static_cast<size_t>(bytes) != flight.bytes)
        throw_mismatch(operation, flight.peer, static_cast<size_t>(bytes), flight.bytes);
    }
    progress_ += static_cast<uint64_t>(count);
    if (++polls_ % 64 == 0) look_for_leavers(operation);
    return std::all_of(requests_.begin(), requests_.end(), [](MPI_Request r) { return r == MPI_REQUEST_NULL; });
  }

  std::vector<int> missing() const {
    std::vector<int> peers;
    for (size_t i = 0; i < requests_.size(); ++i)
      if (requests_[i] != MPI_REQUEST_NULL && std::find(peers.begin(), peers.end(), flights_[i].peer) == peers.end()) peers.push_back(flights_[i].peer);
    std::sort(peers.begin(), peers.end());
    return peers;
  }

  /// A peer that said goodbye sends no more. What it sent before has been matched by then; a grace without movement covers the copying.
  void look_for_leavers(const char* operation) {
    const auto now = std::chrono::steady_clock::now();
    const auto grace = std::min<std::chrono::milliseconds>(kGrace, world_.stall_timeout() / 4);
    for (const int peer : missing()) {
      if (!fabric_->left(job_rank(peer))) continue;
      if (!left_at_ || moved_ != progress_) left_at_ = now, moved_ = progress_;
      if (now - *left_at_ > grace) world_.throw_left(peer, operation);
    }
  }

  void give_up() {
    std::vector<std::unique_ptr<std::byte[]>> memory;
    memory.push_back(std::move(send_stage_.memory));
    memory.push_back(std::move(receive_stage_.memory));
    send_stage_.capacity = receive_stage_.capacity = 0;
    abandon(std::move(memory));
  }

  std::shared_ptr<MpiFabric> fabric_;
  int tag_ = 0;
  Stage send_stage_, receive_stage_;
  std::vector<const std::byte*> received_;
  std::vector<MPI_Request> requests_;
  std::vector<Flight> flights_;
  std::vector<int> completed_;
  std::vector<MPI_Status> statuses_;
  uint64_t polls_ = 0, moved_ = 0;
  std::optional<std::chrono::steady_clock::time_point> left_at_;  ///< when a peer that is waited for was seen to have left
};

}  // namespace

std::unique_ptr<Comm> make_mpi_comm(World& world) { return std::make_unique<MpiComm>(mail_world(world)); }

}  // namespace dsinfer
