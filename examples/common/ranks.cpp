#include "common/ranks.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "common/terminal.hpp"

namespace example {
namespace {

using std::chrono::milliseconds;

void say(const char* program, const std::string& what) {
  std::cout.flush();
  std::fprintf(stderr, "%s: %s\n", program, what.c_str());
  std::fflush(stderr);
}

// Ends this rank without finalising MPI, which would wait for ranks that may be gone; mpirun then ends the rest. Rank 0 speaks at once. The
// others leave it that moment, and then speak one after the other in case it is the one that hangs: the first to end takes all with it.
[[noreturn]] void end_rank(const char* program, dsinfer::World& world, const std::string& what, int status) {
  if (world.rank() > 0) {
    const auto end = std::chrono::steady_clock::now() + milliseconds(500 + 1000 * std::min(world.rank(), 30));
    while (std::chrono::steady_clock::now() < end) {
      world.failure();  // lets what was sent go out
      std::this_thread::sleep_for(milliseconds(20));
    }
  }
  say(program, what);
  restore_terminal();
  std::_Exit(status);
}

}  // namespace

int launcher_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (const char* value = std::getenv(name)) return std::atoi(value);
  }
  return -1;
}

int launcher_size() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"}) {
    if (const char* value = std::getenv(name); value && launcher_rank() >= 0) return std::max(1, std::atoi(value));
  }
  return 1;
}

int refuse_start(const char* program, const std::string& what) {
  if (launcher_rank() <= 0) say(program, what);
  return 2;
}

int run_ranks(const char* program, const std::function<int(dsinfer::World&)>& body, int failed) {
  std::unique_ptr<dsinfer::World> world;
  try {
    world = launcher_rank() >= 0 ? dsinfer::mpi_world() : dsinfer::single_world();
  } catch (const std::exception& e) {
    return refuse_start(program, e.what());
  }
  std::string failure;
  try {
    return body(*world);
  } catch (const std::exception& e) {
    failure = e.what();
    const std::optional<dsinfer::Error> notice = world->failure();
    if (notice) failure = notice->what();  // the same for all ranks, with the name of the one that failed first
  }
  if (world->size() > 1) end_rank(program, *world, failure, failed);
  say(program, failure);
  restore_terminal();
  return failed;
}

int run_rank_threads(const char* program, int ranks, const std::function<int(dsinfer::World&)>& body, int failed) {
  std::mutex guard;
  std::string failure;
  int status = 0;
  const auto run = [&](dsinfer::World& world) {
    try {
      const int mine = body(world);
      const std::lock_guard lock(guard);
      status = std::max(status, mine);
    } catch (const std::exception& e) {
      const auto* error = dynamic_cast<const dsinfer::Error*>(&e);
      if (!error || error->rank() < 0) world.report_failure(e.what());  // what names a rank is known to all
      const std::lock_guard lock(guard);
      if (failure.empty() || world.rank() == 0) failure = e.what();
    }
  };
  try {
    std::vector<std::thread> threads;
    for (std::unique_ptr<dsinfer::World>& world : dsinfer::thread_worlds(ranks))
      threads.emplace_back([&run, mine = std::move(world)] { run(*mine); });
    for (std::thread& thread : threads) thread.join();
  } catch (const std::exception& e) {
    failure = e.what();
  }
  if (failure.empty()) return status;
  say(program, failure);
  return failed;
}

}  // namespace example
