// The kernel's own count of what was read (rchar of /proc/self/io): ranks of one machine read each byte of a checkpoint once, whatever the plan.
#include <gtest/gtest.h>

#include <fstream>

#include "checkpoint_writer.hpp"
#include "dsinfer/loader.hpp"
#include "ranks.hpp"
#include "scratch_folder.hpp"

namespace dsinfer {
namespace {

using test::on_ranks;

constexpr int kRanks = 16;

int64_t bytes_read_by_this_process() {
  std::ifstream io("/proc/self/io");
  std::string key;
  int64_t value = 0;
  while (io >> key >> value) if (key == "rchar:") return value;
  return -1;
}

// Wide enough that data outweighs what else is read: 53 MB in 5 files.
std::string config_json() {
  return testing_support::tiny_config_json({{"hidden_size", 512}, {"moe_intermediate_size", 256}, {"intermediate_size", 1024}, {"vocab_size", 4096}});
}

// Written by the first test, on rank 0.
const std::string& checkpoint() {
  static const ScratchFolder scratch;
  static const std::string folder = scratch.path("model");
  if (!std::filesystem::exists(folder)) testing_support::write_checkpoint(folder, config_json(), {.shards = 5});
  return folder;
}

class ReadOnce : public testing::TestWithParam<const char*> {
 protected:
  // Sum of what the processes that the ranks live in counted while `work` ran. Ranks as threads share one count.
  template <class Work> static int64_t counted(World& world, bool processes, Work&& work) {
    world.all_gather("");
    const int64_t before = bytes_read_by_this_process();
    world.all_gather("");
    work();
    world.all_gather("");
    const int64_t mine = bytes_read_by_this_process() - before;
    int64_t sum = 0;
    for (const std::string& bytes : world.all_gather(std::to_string(mine))) sum += std::stoll(bytes);
    return processes ? sum : mine;
  }
};

TEST_P(ReadOnce, BySixteenRanksOfOneMachine) {
  if (bytes_read_by_this_process() < 0) GTEST_SKIP() << "/proc/self/io does not count here";
  if (test::most_ranks() < kRanks) GTEST_SKIP() << "needs " << kRanks << " ranks";
  on_ranks(kRanks, [](World& world) {
    const std::string folder = world.broadcast(world.rank() == 0 ? checkpoint() : "", 0);
    const Plan plan = solve(ModelConfig::load(folder), PlanRequest::parse(GetParam(), kRanks));
    const LoadPlan reads = plan_load(folder, plan);
    int64_t files = 0;
    for (const int64_t bytes : reads.file_bytes) files += bytes;
    LoadOptions options;
    options.method = ReadMethod::pread;
    const bool processes = std::string(world.kind()) == "mpi";
    const int64_t headers = counted(world, processes, [&] { plan_load(folder, plan); });  // config, index and headers on each rank
    std::optional<LoadedWeights> loaded;
    const int64_t all = counted(world, processes, [&] { loaded.emplace(load(world, folder, plan, options)); });
    if (world.rank() != 0) return;
    RecordProperty("rchar", std::to_string(all));
    std::printf("%s: %lld bytes in files, %lld planned, kernel counts %lld for the load, %lld for headers\n", GetParam(), static_cast<long long>(files),
                static_cast<long long>(reads.bytes_read), static_cast<long long>(all), static_cast<long long>(headers));
    EXPECT_GE(all, reads.bytes_read);
    EXPECT_LE(all - headers, reads.bytes_read + reads.bytes_read / 50) << "data read more than once";
    EXPECT_LE(static_cast<double>(all), 1.05 * static_cast<double>(files)) << "headers and configs on the way weigh too much";
    EXPECT_EQ(loaded->report().read_amplification, 1);
  });
}

INSTANTIATE_TEST_SUITE_P(UnderEveryKindOfPlan, ReadOnce, testing::Values("dp=16,ep=16", "tp=16,ep=1", "tp=2,pp=2,dp=4,ep=8", "tp=4,dp=4,ep=4", "pp=4,tp=4,ep=4"),
                         [](const auto& tested) {
                           std::string name = tested.param;
                           std::erase_if(name, [](char c) { return c == '=' || c == ','; });
                           return name;
                         });

}  // namespace
}  // namespace dsinfer
