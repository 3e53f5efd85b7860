#include "topology/reach.hpp"
#include "topology/verbs.hpp"
#ifdef DSINFER_VERBS
#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <functional>
#include <map>
#include <memory>

#include "core/bytes.hpp"
#include "core/wait.hpp"

namespace dsinfer::topology {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMessageBytes = 64;
using Line = std::array<uint8_t, kMessageBytes>;
/// The registered memory of one connection: the peer writes its call into `call` and its reply to ours into `reply`.
struct alignas(64) Mailbox {
  Line call, reply, outgoing, answer;
};
static_assert(sizeof(Mailbox) == 4 * kMessageBytes);

std::string error_text(int code) { return fmt::format("{} (errno {})", std::strerror(code), code); }
// Functions of libibverbs return the error's number, old ones -1 with errno.
int code_of(int result) { return result == -1 ? errno : result; }

Line message(int from, int to, int tag, uint8_t kind) {
  Line line;
  for (size_t i = 0; i < line.size(); ++i) line[i] = static_cast<uint8_t>(i * 31 + static_cast<size_t>(from) * 7 + static_cast<size_t>(to) * 13 + static_cast<size_t>(tag) * 17 + kind);
  line.back() = kind;  // never zero: the memory begins with zeros
  return line;
}
constexpr uint8_t kCall = 0x5a, kReply = 0xa5;

// The network card writes behind the compiler's back.
bool holds(const Line& memory, const Line& expected) {
  const volatile uint8_t* bytes = memory.data();
  for (size_t i = memory.size(); i-- > 0;) {
    if (bytes[i] != expected[i]) return false;
  }
  return true;
}

/// How to reach one end of a connection: made on one rank, used on another.
struct Address {
  uint32_t qp = 0, rkey = 0, mtu = 0;
  uint16_t lid = 0;
  uint64_t memory = 0;
  std::array<uint8_t, 16> gid{};
};

/// An opened device with what its connections share.
struct Device {
  const VerbsApi& api;
  ibv_context* context = nullptr;
  ibv_pd* pd = nullptr;
  std::string error;

  Device(const VerbsApi& verbs, ibv_device* device) : api(verbs) {
    errno = 0;
    context = api.open_device(device);
    if (!context) error = "the device cannot be opened: " + error_text(errno);
    if (context && !(pd = api.alloc_pd(context))) error = "no protection domain: " + error_text(errno);
  }
  ~Device() {
    if (pd) api.dealloc_pd(pd);
    if (context) api.close_device(context);
  }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
};

/// One end of a reliable connection between ports of two nodes, mostly of the same rail.
struct Connection {
  const VerbsApi& api;
  int peer = 0, rail = 0, remote_rail = 0;
  int tag() const { return std::min(rail, remote_rail) * 256 + std::max(rail, remote_rail); }  ///< the same at both ends
  std::string over, error;
  bool ok = false, replied = false;
  double round_trip_us = 0;
  Clock::time_point began{};
  std::unique_ptr<Mailbox> box = std::make_unique<Mailbox>();
  ibv_cq* cq = nullptr;
  ibv_mr* mr = nullptr;
  ibv_qp* qp = nullptr;
  ibv_port_attr port{};
  Address mine, theirs;
  uint8_t number = 1, sgid_index = 0, sl = 0, traffic_class = 0;

  explicit Connection(const VerbsApi& verbs) : api(verbs) { std::memset(box.get(), 0, sizeof *box); }
  ~Connection() {
    if (qp) api.destroy_qp(qp);
    if (mr) api.dereg_mr(mr);
    if (cq) api.destroy_cq(cq);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void open(Device& device, const Network& network, const ChosenPort& chosen);
  void connect(const Address& peers_end);
  void write(const Line& source, uint64_t target, uint32_t rkey);
  void poll();
  bool settled() const { return ok || !error.empty(); }
};

void Connection::open(Device& device, const Network& network, const ChosenPort& chosen) {
  if (!device.error.empty()) return void(error = device.error);
  number = static_cast<uint8_t>(std::clamp(chosen.port, 1, 255));
  if (const int code = api.query_port(device.context, number, &port)) return void(error = "the port does not answer: " + error_text(code_of(code)));
  sgid_index = static_cast<uint8_t>(std::clamp(network.gid_index.value_or(chosen.gid_index.value_or(0)), 0, 255));
  if (port.link_layer != IBV_LINK_LAYER_ETHERNET) sgid_index = 0;
  sl = static_cast<uint8_t>(std::clamp(network.ib_sl.value_or(0), 0, 15));
  traffic_class = static_cast<uint8_t>(std::clamp(network.ib_tc.value_or(0), 0, 255));
  ibv_gid gid{};
  if (api.query_gid && api.query_gid(device.context, number, sgid_index, &gid) == 0) std::copy(std::begin(gid.raw), std::end(gid.raw), mine.gid.begin());
  cq = api.create_cq(device.context, 16, nullptr, nullptr, 0);
  if (!cq) return void(error = "no completion queue: " + error_text(errno));
  mr = api.reg_mr(device.pd, box.get(), sizeof *box, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
  if (!mr) return void(error = "memory cannot be registered (limit on locked memory?): " + error_text(errno));
  ibv_qp_init_attr init{};
  init.send_cq = init.recv_cq = cq;
  init.qp_type = IBV_QPT_RC;
  init.cap.max_send_wr = 4;
  init.cap.max_recv_wr = init.cap.max_send_sge = init.cap.max_recv_sge = 1;
  qp = api.create_qp(device.pd, &init);
  if (!qp) return void(error = "no queue pair: " + error_text(errno));
  ibv_qp_attr state{};
  state.qp_state = IBV_QPS_INIT;
  state.port_num = number;
  state.qp_access_flags = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
  if (const int code = api.modify_qp(qp, &state, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS)) {
    return void(error = "ibv_modify_qp RESET→INIT: " + error_text(code_of(code)));
  }
  mine.qp = qp->qp_num;
  mine.rkey = mr->rkey;
  mine.mtu = port.active_mtu;
  mine.lid = port.lid;
  mine.memory = reinterpret_cast<uintptr_t>(box.get());
}

std::string route_words(int code) {
  if (code == ETIMEDOUT) return ": the peer's address could not be resolved, there is no route between these rails";
  if (code == EINVAL || code == ENODEV) return ": the GID index does not hold an address of this port";
  if (code == ENETUNREACH || code == EHOSTUNREACH) return ": there is no route to the peer's address";
  return "";
}

void Connection::connect(const Address& peers_end) {
  theirs = peers_end;
  ibv_qp_attr state{};
  state.qp_state = IBV_QPS_RTR;
  state.path_mtu = static_cast<ibv_mtu>(std::min(mine.mtu, theirs.mtu));  // as NCCL does
  state.dest_qp_num = theirs.qp;
  state.max_dest_rd_atomic = 1;
  state.min_rnr_timer = 12;
  state.ah_attr.port_num = number;
  state.ah_attr.sl = sl;
  if (port.link_layer == IBV_LINK_LAYER_ETHERNET) {
    state.ah_attr.is_global = 1;
    std::copy(theirs.gid.begin(), theirs.gid.end(), std::begin(state.ah_attr.grh.dgid.raw));
    state.ah_attr.grh.sgid_index = sgid_index;
    state.ah_attr.grh.hop_limit = 255;
    state.ah_attr.grh.traffic_class = traffic_class;
  } else {
    state.ah_attr.dlid = theirs.lid;
  }
  int code = api.modify_qp(qp, &state, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
  if (code) return void(error = "ibv_modify_qp INIT→RTR: " + error_text(code_of(code)) + route_words(code_of(code)));
  state = {};
  state.qp_state = IBV_QPS_RTS;
  state.timeout = 14;  // 67 ms; with 7 retries an error comes within about two seconds
  state.retry_cnt = 7;
  state.rnr_retry = 7;
  state.max_rd_atomic = 1;
  code = api.modify_qp(qp, &state, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
  if (code) error = "ibv_modify_qp RTR→RTS: " + error_text(code_of(code));
}

void Connection::write(const Line& source, uint64_t target, uint32_t rkey) {
  ibv_sge part{};
  part.addr = reinterpret_cast<uintptr_t>(source.data());
  part.length = kMessageBytes;
  part.lkey = mr->lkey;
  ibv_send_wr request{}, *bad = nullptr;
  request.sg_list = &part;
  request.num_sge = 1;
  request.opcode = IBV_WR_RDMA_WRITE;
  request.send_flags = IBV_SEND_SIGNALED;
  request.wr.rdma.remote_addr = target;
  request.wr.rdma.rkey = rkey;
  if (const int code = ibv_post_send(qp, &request, &bad)) error = "ibv_post_send: " + error_text(code_of(code));
}

void Connection::poll() {
  ibv_wc done{};
  while (error.empty() && ibv_poll_cq(cq, 1, &done) > 0) {
    if (done.status == IBV_WC_SUCCESS) continue;
    error = fmt::format("completion with status={} vendor err {}", static_cast<int>(done.status), done.vendor_err);
    if (done.status == IBV_WC_RETRY_EXC_ERR) error += ": retries exceeded, the cards do not reach each other";
    if (done.status == IBV_WC_REM_ACCESS_ERR || done.status == IBV_WC_LOC_PROT_ERR) error += ": memory protection";
  }
}

/// All connections of this node.
class Rails {
 public:
  Rails(World& world, const ReachTest& test, const std::string& library) : world_(world), test_(test), api_(library) {}
  ~Rails() {
    connections_.clear();
    devices_.clear();
    if (list_) api_.free_device_list(list_);
  }
  Rails(const Rails&) = delete;
  Rails& operator=(const Rails&) = delete;

  void open();
  std::string addresses() const;
  void connect(const std::vector<std::string>& all);
  void hear_of_failures(const std::vector<std::string>& all);
  void exchange();
  std::vector<Reach> results() const;

 private:
  Device* device(const std::string& name);
  void open_pair(int peer);
  void open_connection(int peer, const ChosenPort& mine, const ChosenPort& theirs);
  bool turn(Connection& connection);

  World& world_;
  const ReachTest& test_;
  VerbsApi api_;
  ibv_device** list_ = nullptr;
  int listed_ = 0;
  std::map<std::string, std::unique_ptr<Device>> devices_;
  std::vector<std::unique_ptr<Connection>> connections_;
};

Device* Rails::device(const std::string& name) {
  if (const auto known = devices_.find(name); known != devices_.end()) return known->second.get();
  for (int i = 0; list_ && i < listed_; ++i) {
    const char* listed = api_.device_name(list_[i]);
    if (listed && name == listed) return (devices_[name] = std::make_unique<Device>(api_, list_[i])).get();
  }
  return nullptr;
}

void Rails::open_connection(int peer, const ChosenPort& mine, const ChosenPort& theirs) {
  auto connection = std::make_unique<Connection>(api_);
  connection->peer = peer;
  connection->rail = mine.rail;
  connection->remote_rail = theirs.rail;
  connection->over = fmt::format("{} {}:{} → {}:{}", mine.rail == theirs.rail ? "rdma" : kCrossRail, mine.hca, mine.port, theirs.hca, theirs.port);
  if (Device* opened = device(mine.hca)) {
    connection->open(*opened, test_.cluster.nodes[static_cast<size_t>(test_.node)].network, mine);
  } else {
    connection->error = list_ ? "libibverbs does not list " + mine.hca : "libibverbs lists no device";
  }
  connections_.push_back(std::move(connection));
}

// Every rail to its like; and the first rail of the one to the second of the other, to learn whether rails are routed to each other.
void Rails::open_pair(int peer) {
  const auto& here = test_.cluster.nodes[static_cast<size_t>(test_.node)].network.ports;
  const auto& there = test_.cluster.nodes[static_cast<size_t>(peer)].network.ports;
  const auto find = [](const std::vector<ChosenPort>& ports, int rail) {
    const auto at = std::find_if(ports.begin(), ports.end(), [&](const ChosenPort& port) { return port.rail == rail; });
    return at == ports.end() ? nullptr : &*at;
  };
  for (const ChosenPort& mine : here) {
    if (const ChosenPort* theirs = find(there, mine.rail)) open_connection(peer, mine, *theirs);
  }
  const bool first = test_.node < peer;
  const ChosenPort *mine = find(here, first ? 0 : 1), *theirs = find(there, first ? 1 : 0);
  if (mine && theirs) open_connection(peer, *mine, *theirs);
}

void Rails::open() {
  if (test_.node < 0) return;
  if (api_.library && api_.can_connect()) list_ = api_.get_device_list(&listed_);
  for (const auto& [from, to] : reach_pairs(static_cast<int>(test_.cluster.nodes.size()))) {
    if (from == test_.node) open_pair(to);
  }
}

std::string Rails::addresses() const {
  ByteWriter out;
  out.put<int32_t>(test_.node);
  out.put<uint64_t>(connections_.size());
  for (const auto& connection : connections_) {
    out.put<int32_t>(connection->peer);
    out.put<int32_t>(connection->rail);
    out.put<int32_t>(connection->remote_rail);
    out.put_text(connection->error);
    out.put(connection->mine);
  }
  return out.take();
}

// The ends that other nodes made for us, by what they packed.
void Rails::connect(const std::vector<std::string>& all) {
  std::map<std::array<int, 3>, std::pair<std::string, Address>> remote;  // (node, its rail, ours) → why it failed there, else its address
  for (const std::string& bytes : all) {
    ByteReader in(bytes);
    const auto node = in.get<int32_t>();
    for (auto left = in.get<uint64_t>(); left > 0; --left) {
      const auto peer = in.get<int32_t>();
      const auto rail = in.get<int32_t>(), to_rail = in.get<int32_t>();
      std::string failed = in.get_text();
      const auto address = in.get<Address>();
      if (peer == test_.node) remote[{node, rail, to_rail}] = {std::move(failed), address};
    }
  }
  const auto deadline = Clock::now() + test_.timeout;  // without a route the kernel takes a second or more for each
  for (const auto& connection : connections_) {
    if (!connection->error.empty()) continue;
    if (const auto failure = world_.failure()) throw Error(*failure);
    if (Clock::now() >= deadline) {
      connection->error = fmt::format("not tried: connections before it took all of {} ms", test_.timeout.count());
      continue;
    }
    const auto end = remote.find({connection->peer, connection->remote_rail, connection->rail});
    if (end == remote.end()) {
      connection->error = "the peer did not open this rail";
    } else if (!end->second.first.empty()) {
      connection->error = "the peer's end: " + end->second.first;
    } else {
      connection->connect(end->second.second);
    }
  }
}

// After connect() the ranks meet once more: nobody writes to an end that is not ready, or waits for one that never will be.
void Rails::hear_of_failures(const std::vector<std::string>& all) {
  for (const std::string& bytes : all) {
    ByteReader in(bytes);
    const auto node = in.get<int32_t>();
    for (auto left = in.get<uint64_t>(); left > 0; --left) {
      const auto peer = in.get<int32_t>();
      const auto rail = in.get<int32_t>(), to_rail = in.get<int32_t>();
      const std::string failed = in.get_text();
      in.get<Address>();
      if (peer != test_.node || failed.empty()) continue;
      for (const auto& connection : connections_) {
        const bool same = connection->peer == node && connection->remote_rail == rail && connection->rail == to_rail;
        if (same && connection->error.empty()) connection->error = "the peer's end: " + failed;
      }
    }
  }
}

// Answers the peer's call if it is there, and looks whether ours was answered. True if something moved.
bool Rails::turn(Connection& c) {
  c.poll();
  if (!c.error.empty()) return false;
  if (!c.replied && holds(c.box->call, message(c.peer, test_.node, c.tag(), kCall))) {
    c.box->answer = message(test_.node, c.peer, c.tag(), kReply);
    c.write(c.box->answer, c.theirs.memory + offsetof(Mailbox, reply), c.theirs.rkey);
    return c.replied = true;
  }
  if (c.ok || !holds(c.box->reply, message(c.peer, test_.node, c.tag(), kReply))) return false;
  c.round_trip_us = std::chrono::duration<double, std::micro>(Clock::now() - c.began).count();
  return c.ok = true;
}

void Rails::exchange() {
  const auto deadline = Clock::now() + test_.timeout;
  for (const auto& c : connections_) {
    if (!c->error.empty()) continue;
    c->began = Clock::now();
    c->box->outgoing = message(test_.node, c->peer, c->tag(), kCall);
    c->write(c->box->outgoing, c->theirs.memory + offsetof(Mailbox, call), c->theirs.rkey);
  }
  Backoff backoff;
  while (true) {
    bool moved = false, waiting = false;
    for (const auto& c : connections_) moved = turn(*c) || moved;
    const auto now = Clock::now();
    for (const auto& c : connections_) {
      if (!c->settled() && now >= deadline) c->error = fmt::format("no reply within {} ms", test_.timeout.count());
      waiting = waiting || (c->error.empty() && !(c->ok && c->replied));
    }
    if (!waiting || now >= deadline + kReachGrace) return;
    if (const auto failure = world_.failure()) throw *failure;
    if (moved) backoff.reset();
    backoff.pause();
  }
}

std::vector<Reach> Rails::results() const {
  std::vector<Reach> results;
  for (const auto& c : connections_) results.push_back({test_.node, c->peer, c->over, c->ok, c->round_trip_us, c->ok ? "" : c->error});
  return results;
}

}  // namespace

std::vector<Reach> reach_rdma(World& world, const ReachTest& test, const std::string& verbs_library) {
  std::unique_ptr<Rails> rails;
  std::string mine;
  const auto phase = [&](const std::function<void()>& work) {
    in_agreement(world, [&] {
      work();
      mine = rails->addresses();
    });
    return world.all_gather(mine);
  };
  const std::vector<std::string> addresses = phase([&] {
    rails = std::make_unique<Rails>(world, test, verbs_library);
    rails->open();
  });
  const std::vector<std::string> failures = phase([&] { rails->connect(addresses); });
  in_agreement(world, [&] {
    rails->hear_of_failures(failures);
    rails->exchange();
  });
  return share_reach(world, rails->results());  // the ends stay until all have told
}

}  // namespace dsinfer::topology
#else
namespace dsinfer::topology {

std::vector<Reach> reach_rdma(World&, const ReachTest&, const std::string&) { return {}; }  // built without verbs.h

}  // namespace dsinfer::topology
#endif
