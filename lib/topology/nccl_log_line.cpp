#include "topology/nccl_log_line.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <unordered_map>

#include "topology/lines.hpp"

namespace dsinfer::topology {
namespace {

bool digits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
}

std::string_view last_word(std::string_view text) {
  text = trim(text);
  const size_t space = text.find_last_of(" \t");
  return space == text.npos ? text : text.substr(space + 1);
}

// "node1:1234:1250" → "node1"; also "[default0]:node1:1234:1250" and "[1,0]<stdout>:node1:1234:1250"; "" if it is no such word.
std::string_view host_of(std::string_view word) {
  for (int i = 0; i < 2; ++i) {
    const size_t colon = word.rfind(':');
    if (colon == word.npos || !digits(word.substr(colon + 1))) return "";
    word = word.substr(0, colon);
  }
  const size_t colon = word.find_last_of(":>]");
  return colon == word.npos ? word : word.substr(colon + 1);
}

// What stands before "NCCL INFO": launcher's marks, time, host:pid:tid, [rank], file:line.
std::string_view host_before(std::string_view prefix) {
  prefix = trim(prefix.substr(prefix.size() > 400 ? prefix.size() - 400 : 0));
  for (int i = 0; i < 3 && !prefix.empty(); ++i) {
    const std::string_view word = last_word(prefix);
    const size_t colon = word.find(".c");
    const bool place = colon != word.npos && word.find(':', colon) != word.npos, rank = word.front() == '[' && word.back() == ']' && word.find(':') == word.npos;
    if (!place && !rank) return host_of(word);
    prefix = trim(prefix.substr(0, prefix.size() - word.size()));
  }
  return "";
}

constexpr size_t kMostHosts = 1024;

constexpr std::array<LogTrouble, 26> kTroubles = {{
    {"Detected mixed local Net device counts", "hca-count-differs", Severity::error, "NCCL found different numbers of network devices for its ranks.",
     "Use the same HCAs on all nodes."},
    {"Mismatched NCCL version detected", "nccl-version-differs", Severity::error, "Ranks run different versions of NCCL.", "Install one NCCL everywhere."},
    {"Message truncated : received", "nccl-version-differs", Severity::error, "Ranks disagree on a message's size: different NCCL versions or settings.",
     "Install one NCCL everywhere and set the same NCCL variables."},
    {"device is incompatible with the local", "link-layer-differs", Severity::error, "Ports of different link layers were paired.",
     "Choose InfiniBand ports only, or Ethernet ports only, on all nodes."},
    {"Attempted to merge incompatible devices", "mixed-link-layer", Severity::error, "NCCL was to join ports of different link layers.", "Set NCCL_NET_MERGE_LEVEL=LOC."},
    {"status=12", "ib-retry-exceeded", Severity::error, "A peer did not answer over RDMA (status 12: retries exceeded).",
     "Check that the ports reach each other: subnet, VLAN, GID, UDP 4791, MTU of the switches."},
    {"with error 12", "ib-retry-exceeded", Severity::error, "A peer did not answer over RDMA (error 12: retries exceeded).",
     "Check that the ports reach each other: subnet, VLAN, GID, UDP 4791, MTU of the switches."},
    {"Got completion*status=4", "ib-local-protection", Severity::error, "An RDMA transfer failed on this machine (status 4: local protection).",
     "Look at ACS, the IOMMU and the peer memory module."},
    {"Got completion*with error 4", "ib-local-protection", Severity::error, "An RDMA transfer failed on this machine (error 4: local protection).",
     "Look at ACS, the IOMMU and the peer memory module."},
    {"Got completion*status=5", "ib-flushed", Severity::info, "An RDMA transfer was flushed after an earlier error.", "Look at the earlier line."},
    {"ibv_modify_qp*Connection timed out", "ib-peer-unresolved", Severity::error, "The address of the RDMA peer could not be resolved.",
     "There is no route between these rails: check subnets, or keep rails apart (NCCL_CROSS_NIC=0, equal HCA order)."},
    {"ibv_modify_qp*No such device", "gid-index-wrong", Severity::error, "The GID index in use is not valid on this port.", "Unset NCCL_IB_GID_INDEX."},
    {"ibv_modify_qp*Invalid argument", "gid-index-wrong", Severity::error, "The connection's parameters were refused, mostly for a wrong GID index.",
     "Unset NCCL_IB_GID_INDEX."},
    {"ibv_*Cannot allocate memory", "memlock-too-small", Severity::error, "Memory could not be registered: the limit of locked memory is too small.",
     "Raise it: ulimit -l unlimited, docker --ulimit memlock=-1, or CAP_IPC_LOCK."},
    {"Failed to open libibverbs", "verbs-library-missing", Severity::warning, "NCCL could not load libibverbs.", "Install libibverbs1 and the provider libraries."},
    {"No IP interface found", "no-socket-interface", Severity::error, "NCCL found no IP interface; without one InfiniBand cannot be set up either.",
     "Check NCCL_SOCKET_IFNAME and the addresses."},
    {"no socket interface found", "no-socket-interface", Severity::error, "NCCL found no socket interface for its bootstrap.", "Check NCCL_SOCKET_IFNAME and the addresses."},
    {"No socket interface found", "no-socket-interface", Severity::error, "NCCL found no socket interface for its bootstrap.", "Check NCCL_SOCKET_IFNAME and the addresses."},
    {"*No route to host", "socket-unreachable", Severity::error, "A peer cannot be reached over sockets.", "Choose a socket interface in a subnet that all nodes share."},
    {"onnect*Connection refused", "socket-unreachable", Severity::error, "A peer refused a connection.", "Check the interface that it bound, and firewalls."},
    {"onnect*Connection timed out", "socket-unreachable", Severity::error, "A peer did not answer.", "Check subnets and firewalls between the nodes."},
    {"Error while creating shared memory segment", "shm-too-small", Severity::error, "Shared memory ran out.", "Give the container more of it: --shm-size or an emptyDir of medium Memory."},
    {"Failed to initialize any NET plugin", "no-network", Severity::error, "No network could be initialised.", "Check NCCL_NET and NCCL_NET_PLUGIN."},
    {"system not yet initialized", "fabric-manager-missing", Severity::error, "CUDA reports that the NVSwitch fabric is not set up.", "Start nvidia-fabricmanager."},
    {"ibv_*Operation not permitted", "device-not-openable", Severity::warning, "A verbs call was not permitted.", "Check the container's device rules."},
    {"Duplicate GPU detected", "duplicate-gpu", Severity::error, "Two ranks use one GPU.", "Give each rank its own GPU."},
}};

bool matches(std::string_view message, std::string_view pattern) {
  size_t from = 0;
  while (!pattern.empty()) {
    const size_t star = pattern.find('*');
    const std::string_view part = pattern.substr(0, star);
    const size_t at = message.find(part, from);
    if (at == message.npos) return false;
    from = at + part.size();
    pattern.remove_prefix(star == pattern.npos ? pattern.size() : star + 1);
  }
  return true;
}

}  // namespace

LogLine log_line(std::string_view text) {
  LogLine line;
  constexpr std::array<std::string_view, 4> levels = {"NCCL INFO ", "NCCL WARN ", "NCCL ERROR ", "NCCL ABORT "};
  for (size_t i = 0; i < levels.size(); ++i) {
    const size_t at = text.find(levels[i]);
    if (at == text.npos || (at > 0 && text[at - 1] != ' ' && text[at - 1] != '\t' && text[at - 1] != ']')) continue;
    return {true, i > 0, host_before(text.substr(0, at)), trim(text.substr(at + levels[i].size()))};
  }
  // The version is printed without a level, after launchers' marks at most: "NCCL version 2.21.5+cuda12.4".
  const size_t at = text.find("NCCL version ");
  const bool number = at != text.npos && at + 13 < text.size() && std::isdigit(static_cast<unsigned char>(text[at + 13]));
  const bool dotted = number && text.find('.', at) != text.npos;
  if (dotted && (at == 0 || text[at - 1] == ' ' || text[at - 1] == '>' || text[at - 1] == ':')) {
    line.known = at == 0 || !host_before(text.substr(0, at)).empty() || text[at - 1] != ' ';
    line.host = host_before(text.substr(0, at));
    line.message = trim(text.substr(at));
  }
  return line;
}

const LogTrouble* known_trouble(std::string_view message) {
  for (const LogTrouble& trouble : kTroubles) {
    if (matches(message, trouble.pattern)) return &trouble;
  }
  return nullptr;
}

std::vector<std::string> nccl_log_hosts(std::string_view text) {
  std::vector<std::string> hosts;
  for (auto& [host, lines] : split_nccl_log(text)) {
    if (!host.empty()) hosts.push_back(std::move(host));
  }
  return hosts;
}

std::vector<std::pair<std::string, std::string>> split_nccl_log(std::string_view text) {
  std::vector<std::pair<std::string, std::string>> parts;
  std::unordered_map<std::string, size_t> index;
  std::string nameless;
  for (const std::string_view raw : split_lines(text)) {
    const LogLine line = log_line(raw.substr(0, 4000));
    if (!line.known) continue;
    if (line.host.empty()) {
      (nameless += raw) += '\n';
      continue;
    }
    const std::string host = clean_text(line.host.substr(0, 128));
    auto found = index.find(host);
    if (found == index.end()) {
      if (parts.size() >= kMostHosts) continue;
      found = index.emplace(host, parts.size()).first;
      parts.emplace_back(host, "");
    }
    (parts[found->second].second += raw) += '\n';
  }
  if (parts.empty() && !nameless.empty()) parts.emplace_back("", std::move(nameless));
  else if (!nameless.empty()) parts[0].second += nameless;
  return parts;
}

}  // namespace dsinfer::topology
