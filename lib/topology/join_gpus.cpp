// GPUs of several sources as one list, and whether they have NVLink.
#include <numeric>
#include <set>

#include "topology/joining.hpp"
#include "topology/pci_order.hpp"

namespace dsinfer::topology {
namespace {

/// A source's GPU.
struct Seen {
  size_t part;
  const Gpu* gpu;
};

/// Sets of sightings that are one GPU.
class Groups {
 public:
  explicit Groups(size_t count) : parent_(count) { std::iota(parent_.begin(), parent_.end(), size_t{0}); }
  size_t of(size_t i) {
    while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
    return i;
  }
  void unite(size_t a, size_t b) {  // the earlier sighting leads
    a = of(a), b = of(b);
    if (a != b) parent_[std::max(a, b)] = std::min(a, b);
  }

 private:
  std::vector<size_t> parent_;
};

void join_gpu(Gpu& into, const Gpu& from) {
  fill(into.index, from.index, -1);
  for (auto field : {&Gpu::bus_id, &Gpu::name, &Gpu::uuid, &Gpu::fabric_state}) fill(into.*field, from.*field);
  fill(into.memory_bytes, from.memory_bytes);
  if (into.compute_major == 0) into.compute_major = from.compute_major, into.compute_minor = from.compute_minor;
  fill(into.numa, from.numa, -1);
  for (auto field : {&Gpu::mig, &Gpu::gdr, &Gpu::dma_buf}) fill(into.*field, from.*field);
  fill(into.pcie_gb_per_s, from.pcie_gb_per_s);
  if (into.nvlinks.empty()) into.nvlinks = from.nvlinks;
}

/// One united list with, for each sighting, its place in it.
struct United {
  std::vector<Gpu> gpus;
  std::vector<size_t> place;
};

// Sightings that share a bus id or a UUID are one GPU; the driver's number joins those whose bus ids do not contradict it.
United unite(const std::vector<Seen>& seen) {
  Groups groups(seen.size());
  std::map<std::string, size_t> by_key;
  for (size_t i = 0; i < seen.size(); ++i) {
    for (const std::string& key : {seen[i].gpu->bus_id, seen[i].gpu->uuid}) {
      if (!key.empty()) groups.unite(by_key.emplace(key, i).first->second, i);
    }
  }
  std::map<size_t, std::string> bus_of;
  for (size_t i = 0; i < seen.size(); ++i) fill(bus_of[groups.of(i)], seen[i].gpu->bus_id);
  std::map<int, size_t> by_index;
  for (size_t i = 0; i < seen.size(); ++i) {
    if (seen[i].gpu->index < 0) continue;
    const size_t other = groups.of(by_index.emplace(seen[i].gpu->index, i).first->second), mine = groups.of(i);
    if (other == mine) continue;
    const std::string a = bus_of[other], b = bus_of[mine];
    if (!a.empty() && !b.empty() && a != b) continue;
    groups.unite(other, mine);
    bus_of[groups.of(mine)] = a.empty() ? b : a;
  }
  United united{{}, std::vector<size_t>(seen.size())};
  std::map<size_t, size_t> place;
  for (size_t i = 0; i < seen.size(); ++i) {
    const auto [it, fresh] = place.emplace(groups.of(i), united.gpus.size());
    if (fresh) united.gpus.emplace_back();
    united.place[i] = it->second;
    Gpu& gpu = united.gpus[it->second];
    join_gpu(gpu, *seen[i].gpu);
    const std::string& label = seen[i].gpu->label;  // a number of the driver or a matrix goes before a bus id
    if (gpu.label.empty() && bus_id_of(label).empty()) gpu.label = label;
  }
  return united;
}

// A matrix numbers GPUs, lspci lists functions; the driver numbers in PCI order. Where the counts differ (a container that sees some of
// the host's GPUs) the driver's list is the answer and the functions left over are no GPUs of this machine's.
void pair_numbered(United& united) {
  std::vector<size_t> numbered, functions;
  for (size_t i = 0; i < united.gpus.size(); ++i) {
    const Gpu& gpu = united.gpus[i];
    if (gpu.index >= 0 && gpu.bus_id.empty()) numbered.push_back(i);
    if (gpu.index < 0 && gpu.label.empty() && !gpu.bus_id.empty()) functions.push_back(i);
  }
  if (numbered.empty() || functions.empty()) return;
  std::sort(numbered.begin(), numbered.end(), [&](size_t a, size_t b) { return united.gpus[a].index < united.gpus[b].index; });
  std::sort(functions.begin(), functions.end(),
            [&](size_t a, size_t b) { return pci_before(united.gpus[a].bus_id, united.gpus[b].bus_id); });
  std::vector<size_t> target(united.gpus.size());
  std::iota(target.begin(), target.end(), size_t{0});
  std::set<size_t> gone(functions.begin(), functions.end());
  if (numbered.size() == functions.size()) {
    for (size_t k = 0; k < numbered.size(); ++k) {
      join_gpu(united.gpus[numbered[k]], united.gpus[functions[k]]);
      target[functions[k]] = numbered[k];
    }
  }
  std::vector<size_t> moved(united.gpus.size(), SIZE_MAX);
  std::vector<Gpu> kept;
  for (size_t i = 0; i < united.gpus.size(); ++i) {
    if (gone.contains(i)) continue;
    moved[i] = kept.size();
    kept.push_back(united.gpus[i]);
  }
  for (size_t& place : united.place) place = place == SIZE_MAX ? SIZE_MAX : moved[target[place]];
  united.gpus = std::move(kept);
}

void order_and_label(United& united) {
  std::vector<size_t> order(united.gpus.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const Gpu &x = united.gpus[a], &y = united.gpus[b];
    if (x.index >= 0 && y.index >= 0) return x.index < y.index;
    if ((x.index >= 0) != (y.index >= 0)) return x.index >= 0;
    return !x.bus_id.empty() && !y.bus_id.empty() && pci_before(x.bus_id, y.bus_id);
  });
  std::vector<size_t> moved(order.size());
  std::vector<Gpu> sorted;
  std::set<std::string> taken;
  for (size_t k = 0; k < order.size(); ++k) {
    moved[order[k]] = k;
    Gpu gpu = united.gpus[order[k]];
    if (gpu.label.empty()) gpu.label = gpu.bus_id;
    if (gpu.label.empty()) gpu.label = "GPU" + std::to_string(gpu.index >= 0 ? gpu.index : static_cast<int>(k));
    const std::string base = gpu.label;
    for (size_t again = 2; !taken.insert(gpu.label).second; ++again) gpu.label = base + "#" + std::to_string(again);
    sorted.push_back(std::move(gpu));
  }
  for (size_t& place : united.place) place = place == SIZE_MAX ? SIZE_MAX : moved[place];
  united.gpus = std::move(sorted);
}

bool named(const Gpu& gpu, std::initializer_list<std::string_view> words) {
  return std::any_of(words.begin(), words.end(), [&](std::string_view word) {
    for (size_t at = gpu.name.find(word); at != gpu.name.npos; at = gpu.name.find(word, at + 1)) {
      const size_t end = at + word.size();
      const bool starts = at == 0 || !std::isalnum(static_cast<unsigned char>(gpu.name[at - 1]));
      const bool ends = end == gpu.name.size() || !std::isalnum(static_cast<unsigned char>(gpu.name[end]));
      if (starts && ends) return true;
    }
    return false;
  });
}

// Models that have no NVLink connector at all.
bool never_nvlink(const Gpu& gpu) {
  return named(gpu, {"T4", "A2", "A10", "A10G", "A16", "L4", "L40", "L40S", "L20", "L2", "Ada", "GB10"}) ||
         gpu.name.find("RTX 40") != gpu.name.npos || gpu.name.find("RTX 50") != gpu.name.npos || gpu.name.find("GTX 16") != gpu.name.npos ||
         gpu.name.find("GTX 10") != gpu.name.npos;
}

// Every pair of GPUs is in the matrix.
bool all_pairs_stated(const Node& node) {
  std::set<std::pair<std::string, std::string>> stated;
  std::set<std::string> labels;
  for (const Gpu& gpu : node.gpus) labels.insert(gpu.label);
  for (const Path& path : node.paths) {
    if (path.a != path.b && labels.contains(path.a) && labels.contains(path.b)) stated.insert(std::minmax(path.a, path.b));
  }
  return stated.size() == labels.size() * (labels.size() - 1) / 2;
}

}  // namespace

void join_gpus(Node& node, const std::vector<Node>& parts, std::vector<Names>& names) {
  std::vector<Seen> seen;
  for (size_t i = 0; i < parts.size(); ++i) {
    for (const Gpu& gpu : parts[i].gpus) seen.push_back({i, &gpu});
  }
  United united = unite(seen);
  pair_numbered(united);
  order_and_label(united);
  for (size_t i = 0; i < seen.size(); ++i) {
    if (united.place[i] == SIZE_MAX) continue;
    const std::string& label = united.gpus[united.place[i]].label;
    for (const std::string& alias : {seen[i].gpu->label, seen[i].gpu->bus_id}) {
      if (!alias.empty()) names[seen[i].part].emplace(alias, label);
    }
  }
  node.gpus = std::move(united.gpus);
}

std::optional<bool> judge_nvlink(const Node& node, const std::vector<Node>& parts) {
  if (node.gpus_complete && node.gpus.size() <= 1) return false;  // no pair
  const auto peer = [&](const Path& path) { return path.kind == PathKind::nvlink && path.a != path.b; };
  if (std::any_of(node.paths.begin(), node.paths.end(), peer)) return true;
  for (const Gpu& gpu : node.gpus) {
    for (const NvLink& link : gpu.nvlinks) {
      const bool self = !link.remote_bus_id.empty() && link.remote_bus_id == gpu.bus_id;
      if (link.count > 0 && !self && link.remote != NvLink::Remote::cpu) return true;
    }
  }
  std::optional<bool> said;
  for (const Node& part : parts) {
    if (part.nvlink && (!said || *part.nvlink)) said = part.nvlink;
  }
  if (said) return said;
  if (!node.gpus_complete) return std::nullopt;
  const auto without = static_cast<size_t>(std::count_if(node.gpus.begin(), node.gpus.end(), never_nvlink));
  if (without + 1 >= node.gpus.size() || all_pairs_stated(node)) return false;
  return std::nullopt;
}

}  // namespace dsinfer::topology
