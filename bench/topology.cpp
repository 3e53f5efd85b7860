// Discovery and choice: one line a case with the median time. `bench_topology` probes this machine, chooses for 1,024 nodes of 8 GPUs, and writes
// their forms; `bench_topology --nodes N FOLDER …` takes another number, and also imports what was captured there.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
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
  std::fflush(stdout);
}

// Facts of many machines, without what was decided.
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
  int num_nodes = 1024, first = 1;
  if (argc > 2 && std::strcmp(argv[1], "--nodes") == 0) num_nodes = std::max(1, std::atoi(argv[2])), first = 3;
  time_case("probe_node", 10, [] { probe_node(); });
  for (int i = first; i < argc; ++i) time_case(std::string("import_machines ") + argv[i], 5, [&] { import_machines(argv[i]); });

  const std::string nodes = std::to_string(num_nodes) + " nodes";
  Cluster cluster = large_cluster(num_nodes);
  time_case("choose_network, " + nodes + " x 8 GPUs", 5, [&] { choose_network(cluster); });
  std::string json;
  time_case("to_json, " + nodes, 3, [&] { json = cluster.to_json(); });
  std::printf("%-48s %10.2f MB\n", "  its size", static_cast<double>(json.size()) * 1e-6);
  time_case("from_json, " + nodes, 3, [&] { Cluster::from_json(json); });
  time_case("text, " + nodes, 3, [&] { cluster.text(); });
  time_case("svg, " + nodes, 3, [&] { cluster.svg(); });
}
