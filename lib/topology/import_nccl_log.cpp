// NCCL_DEBUG=INFO logs of all versions, and the topology that NCCL_DEBUG_SUBSYS=GRAPH prints. A log is a witness: what NCCL took, what it could
// not open, which variables it saw, and how it failed.
#include <algorithm>
#include <array>
#include <cctype>
#include <unordered_map>

#include "topology/importers.hpp"
#include "topology/lines.hpp"
#include "topology/nccl_log_line.hpp"

namespace dsinfer::topology {
namespace {

// "[0]mlx5_0:1/RoCE" → "mlx5_0:1/RoCE"; "" for "[RO]" and other marks.
std::string_view entry_of(std::string_view word) {
  if (word.starts_with("[")) {
    const size_t close = word.find(']');
    if (close == word.npos) return "";
    const std::string_view inside = word.substr(1, close - 1);
    if (inside.empty() || !std::all_of(inside.begin(), inside.end(), [](unsigned char c) { return std::isdigit(c); })) return "";
    word.remove_prefix(close + 1);
  }
  while (!word.empty() && (word.back() == ';' || word.back() == ',')) word.remove_suffix(1);
  return word;
}

bool has(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

std::string_view after(std::string_view text, std::string_view part) {
  const size_t at = text.find(part);
  return at == text.npos ? "" : text.substr(at + part.size());
}

std::string_view in_quotes(std::string_view text) {
  const size_t open = text.find('\''), close = open == text.npos ? open : text.find('\'', open + 1);
  return close == text.npos ? "" : text.substr(open + 1, close - open - 1);
}

class NcclLog {
 public:
  explicit NcclLog(Capture& capture) : node_(capture.node), devices_(node_), remarks_(capture), origin_(capture.name + " (NCCL log)") {}

  void read(std::string_view text) {
    for (const std::string_view raw : split_lines(text)) {
      const LogLine line = log_line(raw.substr(0, 4000));
      if (!line.known) continue;
      if (node_.host.name.empty()) node_.host.name = line.host;
      message(line.message, raw);
    }
    finish();
  }

 private:
  void message(std::string_view text, std::string_view raw) {
    if (const std::string_view name = after(text, "Bootstrap : Using "); !name.empty()) return bootstrap(name);
    if (const std::string_view name = after(text, "Bootstrap: Using "); !name.empty()) return bootstrap(name);
    if (has(text, " set by environment to ") || (text.starts_with("NCCL_") && has(text, " set to "))) return setting(text);
    if (text.starts_with("NCCL version ")) return version(text);
    if (text.starts_with("cudaDriverVersion ")) return cuda(text);
    if (text.starts_with("NET/IB") || text.starts_with("NET/ IB")) return verbs(text, raw);
    if (text.starts_with("NET/Socket")) return sockets(text);
    if (text.starts_with("NET/Plugin") || text.starts_with("NET/OFI") || text.starts_with("NET/FasTrak") || text.starts_with("NET/GPUDirectTCPX")) plugin(text);
    if (text.starts_with("Using network ") && network_.empty()) network_ = clean_text(text.substr(14, 64));
    if (has(text, " via NET/")) channel(text, raw);
    if (text.starts_with("NVLS multicast support is available")) node_.nvlink = true;  // NVSwitch does it, nothing else
    trouble(text, raw);
  }

  // "eth0:10.0.0.1<0>", in old versions "[0]eth0:10.0.0.1<0>".
  Interface* interface(std::string_view word) {
    const std::string_view entry = entry_of(word);
    const size_t colon = entry.find(':');
    if (colon == entry.npos) return nullptr;
    Interface* made = devices_.interface(entry.substr(0, colon));
    if (!made) return nullptr;
    std::string_view ip = entry.substr(colon + 1);
    ip = ip.substr(0, ip.find('<'));
    if (const auto address = address_with_prefix(ip)) add_address(*made, *address);
    made->up = true;  // NCCL takes running ones only
    return made;
  }

  void bootstrap(std::string_view text) {
    const auto words = words_of(text);
    Interface* made = words.empty() ? nullptr : interface(words[0]);
    if (made) made->bootstrap = true;
    else remarks_.garbled(text);
  }

  void setting(std::string_view text) {
    const std::string_view name = text.substr(0, text.find(' '));
    std::string_view value = after(text, " set by environment to ");
    if (value.empty()) value = after(text, " set to ");
    value = trim(value);
    if (!value.empty() && value.back() == '.') value.remove_suffix(1);
    if (!name.starts_with("NCCL_") || value.empty() || node_.settings.size() >= 1024) return;
    const std::string clean_name = clean_text(name.substr(0, 64));
    if (settings_.emplace(clean_name, true).second) node_.settings.push_back({clean_name, clean_text(value.substr(0, 1024)), origin_});
  }

  // "NCCL version 2.21.5+cuda12.4": the number behind the plus is what it was built with.
  void version(std::string_view text) {
    const std::string_view number = text.substr(13, text.find_first_of("+ \t", 13) - 13);
    if (number.empty() || !std::isdigit(static_cast<unsigned char>(number[0])) || number.size() > 32) return;
    if (node_.host.nccl_version.empty()) node_.host.nccl_version = clean_text(number);
  }

  void cuda(std::string_view text) {  // 12080 = 12.8
    const auto number = leading_integer(text.substr(18));
    if (number && *number >= 1000 && *number < 1000000) node_.host.cuda_driver_version = std::to_string(*number / 1000) + "." + std::to_string(*number % 1000 / 10);
  }

  void verbs(std::string_view text, std::string_view raw) {
    if (has(text, "No device found")) {
      none_found_ = true;
    } else if (const std::string_view name = trim(after(text, "Unable to open device ")); !name.empty()) {
      Hca* hca = devices_.hca(name.substr(0, name.find_first_of(" .:,")));
      if (hca) hca->openable = false;
      remarks_.add("device-not-openable", Severity::warning, "NCCL could not open a verbs device.", raw,
                   "Pass /dev/infiniband into the container and check its permissions.");
    } else if (has(text, " provider=") && has(text, " speed=")) {
      details(text);
    } else if (const std::string_view list = after(text, "Using "); !list.empty()) {
      ports(list);
    } else if (has(text, "GPU Direct RDMA")) {
      gpu_direct(text, raw);
    } else {
      trouble(text, raw);
    }
  }

  void ports(std::string_view list) {
    const auto words = words_of(list);
    for (size_t i = 0; i < words.size(); ++i) {
      if (words[i] == "OOB") {
        if (i + 1 < words.size()) interface(words[i + 1]);
        return;
      }
      const std::string_view entry = entry_of(words[i]);
      const size_t slash = entry.find('/');
      if (slash != entry.npos) port(entry.substr(0, slash), entry.substr(slash + 1));
    }
  }

  // "mlx5_0:1" and "RoCE", "IB/SHARP". NCCL keeps ports only that it could open and that are active.
  HcaPort* port(std::string_view device, std::string_view layer) {
    const size_t colon = device.rfind(':');
    const auto number = colon == device.npos ? std::nullopt : integer_of(device.substr(colon + 1));
    Hca* hca = number ? devices_.hca(device.substr(0, colon)) : nullptr;
    HcaPort* made = hca ? Devices::port(*hca, *number) : nullptr;
    if (!made) return nullptr;
    hca->openable = true;
    made->state = PortState::active;
    made->link_layer = stated_link_layer(layer.substr(0, layer.find('/')));
    return made;
  }

  // "NET/IB: [0] mlx5_0:uverbs0:1/IB provider=Mlx5 speed=400000 context=0x… pciPath=/sys/devices/…/0000:1b:00.0 ar=1"
  void details(std::string_view text) {
    const auto words = words_of(text);
    for (const std::string_view word : words) {
      const size_t slash = word.find('/');
      const size_t first = word.find(':'), last = word.substr(0, slash).rfind(':');
      if (slash == word.npos || slash == 0 || first == last || last == word.npos || word.starts_with("NET/")) continue;
      HcaPort* made = port(std::string(word.substr(0, first)) + std::string(word.substr(last, slash - last)), word.substr(slash + 1));
      if (!made) return;
      const auto speed = leading_integer(after(text, " speed="));
      if (speed && *speed > 0 && *speed <= 10'000'000) made->rate_gbps = static_cast<double>(*speed) / 1000;
      const std::string_view path = after(text, " pciPath=").substr(0, after(text, " pciPath=").find(' '));
      const std::string bus_id = bus_id_of(path.substr(path.rfind('/') + 1));
      // NCCL sets the function digit to 0, so other ports of the card show the same: only the first port's is known to be right.
      if (!bus_id.empty() && !path.empty()) bus_ids_.emplace(bus_id, std::string(word.substr(0, first)));
      return;
    }
  }

  void sockets(std::string_view text) {
    for (const std::string_view word : words_of(after(text, "Using "))) interface(word);
  }

  void plugin(std::string_view text) {
    auto& host = node_.host;
    for (const std::string_view loaded : {"Loaded net plugin ", "Using external net plugin ", "Initialized NET plugin "}) {
      const std::string_view name = after(text, loaded);
      if (!name.empty()) host.net_plugin = clean_text(trim(name.substr(0, name.find_first_of("(,"))).substr(0, 64));
    }
    if (text.starts_with("NET/FasTrak") && host.net_plugin.empty()) host.net_plugin = "FasTrak";
    if (text.starts_with("NET/GPUDirectTCPX") && host.net_plugin.empty()) host.net_plugin = "GPUDirectTCPX";
    if (text.starts_with("NET/OFI") && host.net_plugin.empty()) host.net_plugin = "AWS Libfabric";
    std::string_view provider = after(text, "Selected Provider is ");
    if (provider.empty()) provider = after(text, "Selected provider is ");
    provider = provider.substr(0, provider.find_first_of(" (,;"));
    auto& providers = host.fabric_providers;
    if (!provider.empty() && providers.size() < 16 && std::find(providers.begin(), providers.end(), provider) == providers.end())
      providers.push_back(clean_text(provider.substr(0, 64)));
  }

  void gpu_direct(std::string_view text, std::string_view raw) {
    const bool off = has(text, "Disabled");
    const std::string name = clean_text(in_quotes(text));
    if (off) {
      remarks_.add("gdr-off", Severity::warning, "NCCL has no GPUDirect RDMA" + (name.empty() ? std::string() : " on " + name) + ".", raw,
                   "Load nvidia-peermem or use a driver and kernel with DMA-BUF.");
    }
  }

  void channel(std::string_view text, std::string_view raw) {
    const bool direct = has(text, "/GDRDMA");
    (direct ? direct_ : staged_) += 1;
    if (!direct && staged_line_.empty() && has(text, "NET/IB")) staged_line_ = raw;
  }

  void trouble(std::string_view text, std::string_view raw) {
    if (const LogTrouble* known = known_trouble(text)) remarks_.add(known->code, known->severity, known->text, raw, known->advice);
  }

  void finish() {
    if (none_found_) {
      // Of a machine whose list of HCAs NCCL was told, it only says that none of those named is usable.
      node_.rdma_absent = true;
      node_.hcas_complete = !settings_.contains("NCCL_IB_HCA");
    }
    if (direct_ == 0 && !staged_line_.empty()) {
      remarks_.add("gdr-unused", Severity::info, "Channels over InfiniBand or RoCE go through host memory (no /GDRDMA).", staged_line_,
                   "Check peer memory, and how far the NIC is from the GPU.");
    }
    for (const auto& [bus_id, name] : bus_ids_) {
      if (Hca* hca = devices_.hca(name); hca && hca->bus_id.empty()) hca->bus_id = bus_id;
    }
    // A plug-in that failed to start is not the one in use.
    if (network_ == "IB" || network_ == "Socket") node_.host.net_plugin.clear();
    if (node_.host.net_plugin == "IB" || node_.host.net_plugin == "Socket") node_.host.net_plugin.clear();
  }

  Node& node_;
  Devices devices_;
  Remarks remarks_;
  std::string origin_, network_;
  std::string_view staged_line_;
  std::unordered_map<std::string, bool> settings_;
  std::unordered_map<std::string, std::string> bus_ids_;
  bool none_found_ = false;
  int direct_ = 0, staged_ = 0;
};

bool is_nccl_log(std::string_view text) {
  return any_line(text, [](std::string_view line) { return log_line(line).known; });
}

void read_nccl_log(Capture& capture) {
  const auto parts = split_nccl_log(capture.text);
  if (parts.size() > 1) {
    Remarks(capture).add("several-hosts", Severity::info, "The log is of several hosts; only the first is read.", parts[0].first + ", " + parts[1].first,
                         "Give each host's lines in a file of its own.");
  }
  NcclLog(capture).read(parts.size() > 1 ? std::string_view(parts[0].second) : capture.text);
}

// GRAPH --------------------------------------------------------------------------------------------------------------------------------------
// "+ PCI[24.0] - GPU/84000 (4)", below it "+ NVL[370.8] - NVS/0"; "Pattern 4, crossNic 0, …, type NVL/PIX".

bool is_graph_line(std::string_view line) {
  for (const std::string_view link : {"+ PCI[", "+ NVL[", "+ NET[", "+ SYS[", "+ C2C["}) {
    if (has(line, link)) return true;
  }
  return has(line, "Pattern ") && has(line, "crossNic ") && has(line, "type ");
}

bool is_nccl_graph(std::string_view text) { return any_line(text, is_graph_line); }

void read_nccl_graph(Capture& capture) {
  bool nvlink = false, begun = false, whole = false;
  int gpus = 0;
  for (const std::string_view line : split_lines(capture.text)) {
    if (has(line, "=== System :")) begun = true, whole = false;
    else if (begun && has(line, "==========")) whole = true;
    if (has(line, "+ NVL[") || (has(line, "crossNic ") && has(line, "type NVL/"))) nvlink = true;
    if (has(line, "- GPU/")) ++gpus;
  }
  // A part proves NVLink by showing it; only the whole print proves that there is none.
  if (nvlink) capture.node.nvlink = true;
  else if (whole && gpus >= 2) capture.node.nvlink = false;
}

}  // namespace

const Importer kNcclLog{"NCCL log", is_nccl_log, read_nccl_log};
const Importer kNcclGraph{"NCCL graph", is_nccl_graph, read_nccl_graph};

}  // namespace dsinfer::topology
