// What three ranks see when rank 2 of four fails in the way that the argument names. Each prints its verdict; the exit code of mpirun
// says nothing here, for after a failure MPI is not finalised.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <thread>

#include "comm/comm.hpp"
#include "core/wait.hpp"
#include "dsinfer/world.hpp"

using namespace dsinfer;
using namespace std::chrono_literals;

namespace {

constexpr int kBad = 2;

struct Expected {
  Error::Code code;
  const char* words;
};

/// The error that a collective on a split of the job ends with on this rank.
bool sees(World& world, Comm& comm, const Expected& expected) {
  std::string found = "nothing was thrown";
  const auto begin = std::chrono::steady_clock::now();
  try {
    float x = 0;
    for (;;) comm.all_reduce(TensorView::of(&x, {1}), {});
  } catch (const Error& e) {
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    found = std::string(code_name(e.code())) + " after " + std::to_string(seconds) + " s: " + e.what();
    if (e.code() == expected.code && std::strstr(e.what(), expected.words) && e.rank() == kBad && !e.host().empty() && seconds < 20) return true;
  }
  std::fprintf(stderr, "rank %d: expected %s with \"%s\", found %s\n", world.rank(), code_name(expected.code), expected.words, found.c_str());
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string scene = argc > 1 ? argv[1] : "";
  std::unique_ptr<World> world = mpi_world();
  world->set_stall_timeout(2s);
  std::unique_ptr<World> part = world->split(0, world->rank());
  std::unique_ptr<Comm> comm = make_host_comm(*part);
  const int rank = world->rank();
  // Nobody fails before all others are where the failure shall find them.
  if (rank == kBad)
    for (int heard = 0; heard + 1 < world->size(); ++heard) wait_until(*world, "the other ranks", [&] { return world->receive().has_value(); });
  else
    world->post(kBad, "here");

  bool good = true;
  if (scene == "reported") {
    if (rank == kBad) {
      std::this_thread::sleep_for(100ms);
      part->report_failure("memory on fire");
    }
    good = sees(*world, *comm, {Error::group_failed, "memory on fire"});
    good = sees(*part, *comm, {Error::group_failed, "memory on fire"}) && good;
  } else if (scene == "silent") {
    if (rank == kBad) {
      kill(getpid(), SIGSTOP);
      return 0;
    }
    good = sees(*world, *comm, {Error::stalled, "all_reduce"});
  } else if (scene == "left") {
    if (rank == kBad) {
      // As an application that returns from the block which holds its World, and goes on with other things.
      comm.reset();
      part.reset();
      world.reset();
      std::this_thread::sleep_for(30s);
      return 1;
    }
    good = sees(*world, *comm, {Error::group_failed, "destroyed its World"});
  } else if (scene == "exception") {
    if (rank == kBad) {
      try {
        const std::unique_ptr<World> mine = std::move(world);
        throw std::runtime_error("unhandled by the code that owned the World");
      } catch (const std::runtime_error&) {
      }
      std::this_thread::sleep_for(30s);
      return 1;
    }
    good = sees(*world, *comm, {Error::group_failed, "exception"});
  } else {
    return 2;
  }
  if (good) std::fprintf(stderr, "rank %d saw what it should\n", rank);
  std::this_thread::sleep_for(2s);  // the first to end makes mpirun end the rest: let all speak
  _exit(good ? 0 : 1);
}
