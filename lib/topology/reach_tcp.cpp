#include <net/if.h>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "core/bytes.hpp"
#include "topology/reach.hpp"

namespace dsinfer::topology {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kTokenBytes = 16;
constexpr size_t kHelloBytes = kTokenBytes + sizeof(int32_t);  // the target's token, who calls
constexpr size_t kLargeBytes = 48 << 10;                       // more than the largest frame, jumbo ones too
constexpr int kMostStrangers = 64;                             // connections beside the expected ones that have not said the token
constexpr std::chrono::milliseconds kStrangerPatience{500};    // a caller speaks as soon as it is connected
constexpr std::chrono::milliseconds kAcceptPause{100};         // after the process ran out of files

std::string error_text(int code) { return fmt::format("{} (errno {})", std::strerror(code), code); }

class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// An address of an interface, in the order of preference: IPv4, IPv6, link-local IPv6, which needs the interface's own name beside it.
enum class Family : uint8_t { v4, v6, v6_link };

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
};

std::optional<Family> family_of(const std::string& ip) {
  in_addr v4;
  in6_addr v6;
  if (inet_pton(AF_INET, ip.c_str(), &v4) == 1) return Family::v4;
  if (inet_pton(AF_INET6, ip.c_str(), &v6) != 1) return std::nullopt;
  return IN6_IS_ADDR_LINKLOCAL(&v6) ? Family::v6_link : Family::v6;
}

SocketAddress socket_address(const std::string& ip, uint16_t port, const std::string& ifname) {
  SocketAddress result;
  sockaddr_in v4{};
  sockaddr_in6 v6{};
  if (inet_pton(AF_INET, ip.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    std::memcpy(&result.storage, &v4, result.size = sizeof v4);
  } else if (inet_pton(AF_INET6, ip.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    if (IN6_IS_ADDR_LINKLOCAL(&v6.sin6_addr)) v6.sin6_scope_id = if_nametoindex(ifname.c_str());
    std::memcpy(&result.storage, &v6, result.size = sizeof v6);
  }
  return result;
}

/// Where one node listens: its own entry on every rank.
struct Endpoint {
  std::string ifname, error;
  std::string token, answer;  ///< what a caller must say, and what only the right listener can reply
  struct Door {
    std::string ip;
    uint16_t port = 0;
  };
  std::array<Door, 3> doors;  ///< by Family; empty ip: none

  std::string pack() const {
    ByteWriter out;
    out.put_text(ifname);
    out.put_text(error);
    out.put_text(token);
    out.put_text(answer);
    for (const Door& door : doors) {
      out.put_text(door.ip);
      out.put(door.port);
    }
    return out.take();
  }
  static Endpoint unpack(std::string_view bytes) {
    Endpoint endpoint;
    ByteReader in(bytes);
    endpoint.ifname = in.get_text();
    endpoint.error = in.get_text();
    endpoint.token = in.get_text();
    endpoint.answer = in.get_text();
    for (Door& door : endpoint.doors) {
      door.ip = in.get_text();
      door.port = in.get<uint16_t>();
    }
    return endpoint;
  }
};

std::string random_bytes(size_t size) {
  std::string bytes(size, '\0');
  if (getrandom(bytes.data(), size, GRND_NONBLOCK) != static_cast<ssize_t>(size)) {  // early boot: unequal is enough, strangers do not attack
    const auto now = std::chrono::system_clock::now().time_since_epoch().count() ^ static_cast<int64_t>(getpid()) << 40;
    std::memcpy(bytes.data(), &now, std::min(size, sizeof now));
  }
  return bytes;
}

/// The listening sockets of this node.
struct Listeners {
  Endpoint endpoint;
  std::vector<Socket> sockets;

  void open(const Node& node);

 private:
  bool listen_on(Endpoint::Door& door, const std::string& ip);
};

bool Listeners::listen_on(Endpoint::Door& door, const std::string& ip) {
  const SocketAddress address = socket_address(ip, 0, endpoint.ifname);
  Socket socket(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  SocketAddress bound;
  bound.size = sizeof bound.storage;
  if (!socket || bind(socket.fd(), reinterpret_cast<const sockaddr*>(&address.storage), address.size) != 0 || listen(socket.fd(), 512) != 0 ||
      getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&bound.storage), &bound.size) != 0) {
    if (endpoint.error.empty()) endpoint.error = fmt::format("cannot listen on {} of {}: {}", ip, endpoint.ifname, error_text(errno));
    return false;
  }
  in_port_t port = 0;
  if (bound.storage.ss_family == AF_INET) port = reinterpret_cast<const sockaddr_in*>(&bound.storage)->sin_port;
  if (bound.storage.ss_family == AF_INET6) port = reinterpret_cast<const sockaddr_in6*>(&bound.storage)->sin6_port;
  door = {ip, ntohs(port)};
  sockets.push_back(std::move(socket));
  return true;
}

void Listeners::open(const Node& node) {
  endpoint.ifname = node.network.socket_ifname;
  endpoint.token = random_bytes(kTokenBytes);
  endpoint.answer = random_bytes(kTokenBytes);
  const auto chosen = std::find_if(node.interfaces.begin(), node.interfaces.end(), [&](const Interface& i) { return i.name == endpoint.ifname; });
  if (endpoint.ifname.empty() || chosen == node.interfaces.end()) {
    endpoint.error = endpoint.ifname.empty() ? node.name + " has no socket interface" : node.name + " has no interface " + endpoint.ifname;
    return;
  }
  for (const Address& address : chosen->addresses) {
    const auto family = family_of(address.ip);
    if (!family) continue;
    Endpoint::Door& door = endpoint.doors[static_cast<size_t>(*family)];
    if (door.ip.empty()) listen_on(door, address.ip);
  }
  if (!sockets.empty()) endpoint.error.clear();
  if (sockets.empty() && endpoint.error.empty()) endpoint.error = endpoint.ifname + " of " + node.name + " has no address";
}

/// One connection, made or accepted. Each side sends what is in `out` and expects `want` bytes.
struct Connection {
  Socket socket;
  int result = -1;    ///< made by us: index of its Reach; accepted: -1
  int caller = -1;    ///< accepted: the node that calls, once it said so
  enum class Stage { connecting, hello, large, done, failed } stage = Stage::connecting;
  std::string out, in;
  size_t sent = 0;
  Clock::time_point began{};
};

// The kind of address that both have, the preferred one first; nothing where they have none in common.
std::optional<Family> common_family(const Endpoint& a, const Endpoint& b) {
  for (const Family family : {Family::v4, Family::v6, Family::v6_link}) {
    if (!a.doors[static_cast<size_t>(family)].ip.empty() && !b.doors[static_cast<size_t>(family)].ip.empty()) return family;
  }
  return std::nullopt;
}

// Whether `a` will call `b` at all.
bool calls(const Endpoint& a, const Endpoint& b) {
  const auto family = common_family(a, b);
  return a.error.empty() && b.error.empty() && family && a.doors[static_cast<size_t>(*family)].ip != b.doors[static_cast<size_t>(*family)].ip;
}

/// All conversations of this node until they are through or time is.
class Echo {
 public:
  Echo(World& world, const ReachTest& test, const Listeners& listeners, const std::vector<Endpoint>& endpoints)
      : world_(world), test_(test), listeners_(listeners), endpoints_(endpoints) {}
  std::vector<Reach> run();

 private:
  void call(int to);
  void fail(Connection& connection, const std::string& error);
  void step(Connection& connection, short events);
  bool flush(Connection& connection);
  bool fill(Connection& connection);
  void heard(Connection& connection);
  void heard_as_caller(Connection& connection);
  void heard_as_callee(Connection& connection);
  void accept_all(const Socket& listener, Clock::time_point now);
  int unproven() const;
  void drop_strangers(Clock::time_point now);
  bool over(Clock::time_point now) const;
  void wait();

  World& world_;
  const ReachTest& test_;
  const Listeners& listeners_;
  const std::vector<Endpoint>& endpoints_;
  std::vector<Connection> connections_;
  std::vector<Reach> results_;
  std::vector<bool> served_ = std::vector<bool>(test_.cluster.nodes.size(), false);
  int expected_ = 0;
  Clock::time_point deadline_{}, accept_again_{};
};

void Echo::call(int to) {
  const Endpoint &mine = listeners_.endpoint, &theirs = endpoints_[static_cast<size_t>(to)];
  Reach reach{test_.node, to, "socket " + (mine.ifname.empty() ? "?" : mine.ifname), false, 0, ""};
  const auto refuse = [&](const std::string& error) {
    reach.error = error;
    results_.push_back(std::move(reach));
  };
  if (!mine.error.empty() || !theirs.error.empty()) return refuse(mine.error.empty() ? theirs.error : mine.error);
  const auto common = common_family(mine, theirs);
  if (!common) return refuse(fmt::format("no address family in common with {} there", theirs.ifname));
  const Endpoint::Door &from = mine.doors[static_cast<size_t>(*common)], &door = theirs.doors[static_cast<size_t>(*common)];
  reach.over += " → " + door.ip;
  if (from.ip == door.ip) return refuse("both nodes have the same address " + door.ip);
  const SocketAddress source = socket_address(from.ip, 0, mine.ifname), target = socket_address(door.ip, door.port, mine.ifname);
  Connection connection;
  connection.socket = Socket(::socket(target.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int fd = connection.socket.fd();
  if (fd < 0 || bind(fd, reinterpret_cast<const sockaddr*>(&source.storage), source.size) != 0) return refuse(error_text(errno));
  const int now = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &now, sizeof now);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&target.storage), target.size) != 0 && errno != EINPROGRESS) return refuse(error_text(errno));
  ByteWriter caller;
  caller.put<int32_t>(test_.node);
  connection.out = theirs.token + caller.take();
  connection.result = static_cast<int>(results_.size());
  results_.push_back(std::move(reach));
  connections_.push_back(std::move(connection));
}

void Echo::fail(Connection& connection, const std::string& error) {
  connection.stage = Connection::Stage::failed;
  connection.socket = Socket();
  if (connection.result >= 0) results_[static_cast<size_t>(connection.result)].error = error;
}

// False: the connection is gone.
bool Echo::flush(Connection& connection) {
  while (connection.sent < connection.out.size()) {
    const ssize_t put = send(connection.socket.fd(), connection.out.data() + connection.sent, connection.out.size() - connection.sent, MSG_NOSIGNAL);
    if (put > 0) {
      connection.sent += static_cast<size_t>(put);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return true;
    } else if (errno != EINTR) {
      fail(connection, error_text(errno));
      return false;
    }
  }
  connection.out.clear();
  connection.sent = 0;
  return true;
}

bool Echo::fill(Connection& connection) {
  std::array<char, 16384> buffer;
  while (true) {
    const ssize_t got = recv(connection.socket.fd(), buffer.data(), buffer.size(), 0);
    if (got > 0) {
      connection.in.append(buffer.data(), static_cast<size_t>(got));
      if (connection.in.size() > 2 * kLargeBytes) return fail(connection, "somebody else answers there: too many bytes came back"), false;
      continue;
    }
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
    heard(connection);  // what came before the end counts
    if (connection.stage == Connection::Stage::done || connection.stage == Connection::Stage::failed) return false;
    const bool early = connection.stage == Connection::Stage::hello;
    return fail(connection, got < 0 ? error_text(errno) : early ? "somebody else answers there: the connection was closed without the right answer" : "the peer closed the connection"), false;
  }
}

void Echo::heard_as_caller(Connection& connection) {
  Reach& reach = results_[static_cast<size_t>(connection.result)];
  const Endpoint& peer = endpoints_[static_cast<size_t>(reach.to)];
  if (connection.stage == Connection::Stage::hello && connection.in.size() >= kTokenBytes) {
    if (connection.in.compare(0, kTokenBytes, peer.answer) != 0) return fail(connection, "somebody else answers there: a wrong answer came back");
    reach.round_trip_us = std::chrono::duration<double, std::micro>(Clock::now() - connection.began).count();
    connection.in.erase(0, kTokenBytes);
    connection.stage = Connection::Stage::large;
    connection.out.assign(kLargeBytes, 'd');
  }
  if (connection.stage == Connection::Stage::large && connection.in.size() >= kLargeBytes) {
    reach.ok = true;
    connection.stage = Connection::Stage::done;
    connection.socket = Socket();
  }
}

void Echo::heard_as_callee(Connection& connection) {
  if (connection.stage == Connection::Stage::hello && connection.in.size() >= kHelloBytes) {
    const int caller = ByteReader(std::string_view(connection.in).substr(kTokenBytes)).get<int32_t>();
    if (connection.in.compare(0, kTokenBytes, listeners_.endpoint.token) != 0 || caller < 0 || caller >= static_cast<int>(served_.size())) {
      return fail(connection, "");
    }
    connection.caller = caller;
    connection.in.erase(0, kHelloBytes);
    connection.out += listeners_.endpoint.answer;
    connection.stage = Connection::Stage::large;
  }
  if (connection.stage == Connection::Stage::large && connection.in.size() >= kLargeBytes) {
    connection.out += connection.in.substr(0, kLargeBytes);
    connection.in.clear();
    connection.stage = Connection::Stage::done;  // once it is all sent
  }
}

void Echo::heard(Connection& connection) { connection.result >= 0 ? heard_as_caller(connection) : heard_as_callee(connection); }

void Echo::step(Connection& connection, short events) {
  using Stage = Connection::Stage;
  if (connection.stage == Stage::connecting) {
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(connection.socket.fd(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
    if (error != 0) return fail(connection, error_text(error));
    if (!(events & POLLOUT)) return;
    connection.stage = Stage::hello;
    connection.began = Clock::now();
  }
  if (!flush(connection)) return;
  if (connection.stage != Stage::done && (events & (POLLIN | POLLHUP | POLLERR))) {
    if (!fill(connection)) return;
    heard(connection);
  }
  if (!connection.socket || !flush(connection)) return;
  if (connection.result < 0 && connection.stage == Stage::done && connection.out.empty()) {
    served_[static_cast<size_t>(connection.caller)] = true;
    connection.socket = Socket();
  }
}

// Accepted, and not yet known as one of our nodes.
int Echo::unproven() const {
  return static_cast<int>(std::count_if(connections_.begin(), connections_.end(), [](const Connection& c) { return c.result < 0 && c.caller < 0 && c.socket; }));
}

void Echo::accept_all(const Socket& listener, Clock::time_point now) {
  for (int room = kMostStrangers + expected_ - unproven(); room > 0; --room) {
    Connection connection;
    connection.socket = Socket(accept4(listener.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!connection.socket) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) accept_again_ = now + kAcceptPause;
      return;
    }
    connection.stage = Connection::Stage::hello;
    connection.began = now;
    connections_.push_back(std::move(connection));
  }
}

// Where places or files are short, who is silent goes; otherwise patience costs nothing, and a slow network may need it.
void Echo::drop_strangers(Clock::time_point now) {
  if (now < accept_again_ || unproven() >= kMostStrangers + expected_) {
    for (Connection& c : connections_) {
      if (c.result < 0 && c.caller < 0 && now - c.began > kStrangerPatience) fail(c, "");
    }
  }
  std::erase_if(connections_, [](const Connection& c) { return c.result < 0 && !c.socket; });
}

bool Echo::over(Clock::time_point now) const {
  if (now >= deadline_ + kReachGrace) return true;
  const bool talking = std::any_of(connections_.begin(), connections_.end(), [](const Connection& c) {
    return c.result >= 0 && c.stage != Connection::Stage::done && c.stage != Connection::Stage::failed;
  });
  return !talking && std::count(served_.begin(), served_.end(), true) >= expected_;
}

void Echo::wait() {
  std::vector<pollfd> waiting;
  std::vector<size_t> who;
  const auto now = Clock::now();
  drop_strangers(now);
  // A listener with a caller that cannot be taken would wake us without end.
  const bool room = now >= accept_again_ && unproven() < kMostStrangers + expected_;
  const size_t listeners = room ? listeners_.sockets.size() : 0;
  for (size_t i = 0; i < listeners; ++i) waiting.push_back({listeners_.sockets[i].fd(), POLLIN, 0});
  for (size_t i = 0; i < connections_.size(); ++i) {
    const Connection& c = connections_[i];
    if (!c.socket) continue;
    const bool write = c.stage == Connection::Stage::connecting || !c.out.empty();
    const bool read = c.stage != Connection::Stage::done;  // what comes after the end would wake us without end
    waiting.push_back({c.socket.fd(), static_cast<short>((read ? POLLIN : 0) | (write ? POLLOUT : 0)), 0});
    who.push_back(i);
  }
  constexpr int kTurnMs = 20;  // the World wants to be looked after meanwhile
  if (poll(waiting.data(), waiting.size(), kTurnMs) <= 0) return;
  for (size_t i = 0; i < who.size(); ++i) {
    if (waiting[listeners + i].revents) step(connections_[who[i]], waiting[listeners + i].revents);
  }
  for (size_t i = 0; i < listeners; ++i) {
    if (waiting[i].revents) accept_all(listeners_.sockets[i], now);
  }
}

std::vector<Reach> Echo::run() {
  deadline_ = Clock::now() + test_.timeout;
  for (const auto& [from, to] : reach_pairs(static_cast<int>(endpoints_.size()))) {
    if (from == test_.node) call(to);
    if (to == test_.node && calls(endpoints_[static_cast<size_t>(from)], listeners_.endpoint)) ++expected_;
  }
  while (true) {
    const auto now = Clock::now();
    if (over(now)) break;
    if (const auto failure = world_.failure()) throw *failure;
    if (now >= deadline_) {
      for (Connection& c : connections_) {
        if (c.result < 0 || c.stage == Connection::Stage::done || c.stage == Connection::Stage::failed) continue;
        fail(c, fmt::format("{} within {} ms", c.stage == Connection::Stage::connecting ? "no answer to connect" : c.stage == Connection::Stage::hello
                            ? "connected, but no reply" : "small messages pass, large ones do not come back", test_.timeout.count()));
      }
    }
    wait();
  }
  return std::move(results_);
}

}  // namespace

std::vector<Reach> reach_tcp(World& world, const ReachTest& test) {
  Listeners listeners;
  std::string packed;
  in_agreement(world, [&] {
    if (test.node < 0) return;
    listeners.open(test.cluster.nodes[static_cast<size_t>(test.node)]);
    ByteWriter out;
    out.put<int32_t>(test.node);
    packed = out.take() + listeners.endpoint.pack();
  });
  std::vector<Endpoint> endpoints(test.cluster.nodes.size());
  for (const std::string& bytes : world.all_gather(packed)) {
    if (bytes.empty()) continue;
    const auto node = ByteReader(bytes).get<int32_t>();
    endpoints.at(static_cast<size_t>(node)) = Endpoint::unpack(std::string_view(bytes).substr(sizeof(int32_t)));
  }
  std::vector<Reach> mine;
  in_agreement(world, [&] {
    if (test.node >= 0) mine = Echo(world, test, listeners, endpoints).run();
  });
  return share_reach(world, mine);
}

}  // namespace dsinfer::topology
