// Discovery and choice: one line a case with the median time. `bench_topology` probes this machine, chooses for 1,024 nodes of 8 GPUs, and writes
// their forms; `bench_topology FOLDER …` also imports what was captured there.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "dsinfer/cluster.hpp"
#include "machines.hpp"

using namespace dsinfer;

namespace {

using Clock = std::chrono::steady_clock;

void time_case(const std::string& name, int rounds, const std::function<void()>& call) {
  call();
  std::vector<double> ms;
  for (int i = 0; i < rounds; ++i) {
    const auto begin = Clock::now();
    call();
    ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
  }
  std::sort(ms.begin(), ms.end());
  std::printf("%-48s %10.2f ms median  %10.2f ms worst of %d\n", name.c_str(), ms[ms.size() / 2], ms.back(), rounds);
}

// Facts of 1,024 machines, without what was decided.
Cluster large_cluster(int num_nodes) {
  Cluster cluster;
  for (int i = 0; i < num_nodes; ++i) {
    Node node = dgx_node("n" + std::to_string(i), i);
    node.network = {};
    node.links.clear();
    cluster.nodes.push_back(std::move(node));
    cluster.node_of_rank.insert(cluster.node_of_rank.end(), 8, i);
  }
  return cluster;
}

}  // namespace

int main(int argc, char** argv) {
  time_case("probe_node", 10, [] { probe_node(); });
  for (int i = 1; i < argc; ++i) time_case(std::string("import_machines ") + argv[i], 5, [&] { import_machines(argv[i]); });

  Cluster cluster = large_cluster(1024);
  time_case("choose_network, 1024 nodes x 8 GPUs", 5, [&] { choose_network(cluster); });
  std::string json;
  time_case("to_json, 1024 nodes", 3, [&] { json = cluster.to_json(); });
  std::printf("%-48s %10.2f MB\n", "  its size", static_cast<double>(json.size()) * 1e-6);
  time_case("from_json, 1024 nodes", 3, [&] { Cluster::from_json(json); });
  time_case("text, 1024 nodes", 3, [&] { cluster.text(); });
  time_case("svg, 1024 nodes", 3, [&] { cluster.svg(); });
}
