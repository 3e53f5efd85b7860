// One rank of a job whose ranks live in different network namespaces:  netns_rank FOLDER RANK SIZE [milliseconds for a pair], or under
// mpirun netns_rank mpi.
// Rank 0 prints the cluster as JSON. All ranks must have seen the same.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string_view>

#include "dsinfer/cluster.hpp"
#include "file_world.hpp"

int main(int argc, char** argv) {
  const bool mpi = argc == 2 && std::string_view(argv[1]) == "mpi";
  if (argc < 4 && !mpi) return 2;
  const std::unique_ptr<dsinfer::World> made =
      mpi ? dsinfer::mpi_world() : std::make_unique<dsinfer::test::FileWorld>(argv[1], std::atoi(argv[2]), std::atoi(argv[3]));
  dsinfer::World& world = *made;
  world.set_stall_timeout(std::chrono::seconds(30));
  try {
    dsinfer::GatherOptions options;
    options.probe.nccl_library = "";  // hundreds of megabytes to hash for nothing
    if (argc > 4) options.reach_timeout = std::chrono::milliseconds(std::atoi(argv[4]));
    const std::string json = dsinfer::gather(world, options).to_json();
    for (const std::string& other : world.all_gather(json)) {
      if (other != json) throw std::runtime_error("the ranks saw different clusters");
    }
    if (world.rank() == 0) std::puts(json.c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d: %s\n", world.rank(), error.what());
    world.report_failure(error.what());
    return 1;
  }
  return 0;
}
