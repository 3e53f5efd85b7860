// Loading against what the disk and the page cache give. bench/load_peers.py runs this, fio and Python's loaders on the same files in one go.
//   bench_load make FOLDER [GB]                      a seeded checkpoint of that size (default 8.5), once
//   bench_load cold FOLDER                           drops its files from the page cache
//   bench_load load FOLDER RANKS METHOD [PLAN [DEVICE]]  load() by RANKS threads, by default tp=RANKS on cpu: one line of JSON
//   bench_load copy FOLDER THREADS fresh|huge|touched  parallel pread into one buffer, freshly mapped, with huge pages, or touched before: the same
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "dsinfer/loader.hpp"
#include "load_checkpoint.hpp"

namespace {

using namespace dsinfer;
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr int64_t kBlock = int64_t{8} << 20;  // as load() reads

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::vector<fs::path> weight_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  if (files.empty()) throw std::runtime_error(folder.string() + ": no safetensors files; bench_load make writes some");
  return files;
}

void drop(const fs::path& folder) {
  for (const fs::path& file : weight_files(folder)) {
    const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fdatasync(fd) != 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0) throw std::runtime_error(file.string() + ": cannot be dropped from the page cache");
    close(fd);
  }
}

// A line of /proc/self/status in bytes: "VmHWM", "VmRSS".
int64_t status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key + ":")) return std::atoll(line.c_str() + key.size() + 1) * 1024;
  return 0;
}

int64_t bytes_read_by_kernel() {
  std::ifstream io("/proc/self/io");
  std::string key;
  int64_t value = 0;
  while (io >> key >> value) if (key == "rchar:") return value;
  return 0;
}

ReadMethod method_of(const std::string& name) {
  if (name == "auto") return ReadMethod::automatic;
  if (name == "uring") return ReadMethod::uring;
  if (name == "direct") return ReadMethod::direct;
  if (name == "pread") return ReadMethod::pread;
  if (name == "mmap") return ReadMethod::mmap;
  throw std::runtime_error("method \"" + name + "\": expected auto, uring, direct, pread or mmap");
}

Json time_load(const fs::path& folder, int ranks, const std::string& method, const std::string& spec, const std::string& device) {
  const ModelConfig config = ModelConfig::load(folder);
  const Plan plan = solve(config, PlanRequest::parse(spec.empty() ? "tp=" + std::to_string(ranks) : spec, ranks));
  LoadOptions options;
  options.method = method_of(method);
  std::vector<std::unique_ptr<World>> worlds = thread_worlds(ranks);
  std::vector<LoadReport> reports(worlds.size());
  std::vector<std::string> errors(worlds.size());
  const int64_t resident = status_bytes("VmRSS"), read = bytes_read_by_kernel();
  const auto start = Clock::now();
  std::vector<std::unique_ptr<LoadedWeights>> weights(worlds.size());  // all held until all are there
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < worlds.size(); ++rank)
    threads.emplace_back([&, rank] {
      try {
        weights[rank] = std::make_unique<LoadedWeights>(load(*worlds[rank], folder, plan, options, device));
        reports[rank] = weights[rank]->report();
      } catch (const std::exception& e) {
        worlds[rank]->report_failure(e.what());
        errors[rank] = e.what();
      }
    });
  for (std::thread& thread : threads) thread.join();
  const double seconds = since(start);
  for (const std::string& error : errors) if (!error.empty()) throw std::runtime_error(error);
  int64_t bytes = 0, held = 0, peak = 0;
  for (const LoadReport& report : reports) bytes += report.bytes_read, held += report.bytes_held, peak = std::max(peak, report.host_peak_bytes);
  const int64_t extra = std::max<int64_t>(0, status_bytes("VmHWM") - resident - held);
  return {{"seconds", seconds}, {"bytes", bytes}, {"gb_per_s", static_cast<double>(bytes) / seconds * 1e-9}, {"after_device_seconds", reports[0].seconds}, {"ranks", ranks}, {"plan", plan.spec()}, {"method", reports[0].method},
          {"held_bytes", held}, {"extra_bytes_per_rank", extra / ranks}, {"reported_peak_bytes", peak}, {"rchar", bytes_read_by_kernel() - read}};
}

Json time_copy(const fs::path& folder, int count, const std::string& kind) {
  if (kind != "fresh" && kind != "huge" && kind != "touched") throw std::runtime_error("buffer \"" + kind + "\": expected fresh, huge or touched");
  struct Block { int fd; int64_t from, to, bytes; };
  std::vector<Block> blocks;
  int64_t total = 0;
  for (const fs::path& file : weight_files(folder)) {
    const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw std::runtime_error(file.string() + ": cannot be opened");
    const auto size = static_cast<int64_t>(fs::file_size(file));
    for (int64_t at = 0; at < size; at += kBlock) blocks.push_back({fd, at, total + at, std::min(kBlock, size - at)});
    total += size;
  }
  void* map = mmap(nullptr, static_cast<size_t>(total), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) throw std::runtime_error("no memory for the buffer");
  auto* buffer = static_cast<char*>(map);
  if (kind == "huge") madvise(map, static_cast<size_t>(total), MADV_HUGEPAGE);
  if (kind == "touched") std::memset(buffer, 1, static_cast<size_t>(total));
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  const auto start = Clock::now();
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i)
    threads.emplace_back([&] {
      for (size_t b = next++; b < blocks.size(); b = next++)
        for (int64_t done = 0; done < blocks[b].bytes;) {
          const ssize_t got = pread(blocks[b].fd, buffer + blocks[b].to + done, static_cast<size_t>(blocks[b].bytes - done), blocks[b].from + done);
          if (got <= 0) { failed = true; return; }
          done += got;
        }
    });
  for (std::thread& thread : threads) thread.join();
  const double seconds = since(start);
  if (failed) throw std::runtime_error("a read failed");
  return {{"seconds", seconds}, {"bytes", total}, {"gb_per_s", static_cast<double>(total) / seconds * 1e-9}, {"threads", count}, {"buffer", kind}};
}

int run(const std::vector<std::string>& words) {
  const auto word = [&](size_t i, const char* otherwise) { return i < words.size() ? words[i] : std::string(otherwise); };
  if (words.size() < 2) throw std::runtime_error("usage: bench_load make|cold|load|copy FOLDER …");
  if (words[0] == "make") std::printf("%lld\n", static_cast<long long>(bench::make_load_checkpoint(words[1], std::stod(word(2, "8.5")))));
  else if (words[0] == "cold") drop(words[1]);
  else if (words[0] == "load") std::printf("%s\n", time_load(words[1], std::stoi(word(2, "1")), word(3, "auto"), word(4, ""), word(5, "cpu")).dump().c_str());
  else if (words[0] == "copy") std::printf("%s\n", time_copy(words[1], std::stoi(word(2, "1")), word(3, "fresh")).dump().c_str());
  else throw std::runtime_error(words[0] + ": expected make, cold, load or copy");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run({argv + 1, argv + argc});
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_load: %s\n", e.what());
    return 1;
  }
}
