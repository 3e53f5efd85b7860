/// A World between processes that share a folder and nothing else: ranks in different network namespaces, without MPI. For tests: it polls files.
#pragma once
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "dsinfer/world.hpp"

namespace dsinfer::test {

class FileWorld : public World {
 public:
  FileWorld(std::filesystem::path folder, int rank, int size) : folder_(std::move(folder)), rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const char* kind() const override { return "files"; }

  std::vector<std::string> all_gather(std::string_view bytes) override {
    const int meeting = meetings_++;
    write(name(meeting, rank_), bytes);
    std::vector<std::string> all;
    for (int rank = 0; rank < size_; ++rank) all.push_back(wait_for(name(meeting, rank)));
    return all;
  }
  std::string broadcast(std::string_view bytes, int root) override { return all_gather(rank_ == root ? bytes : "")[static_cast<size_t>(root)]; }
  std::unique_ptr<World> split(int, int) override { throw Error(Error::unsupported, "no splits here"); }
  void post(int, std::string_view) override { throw Error(Error::unsupported, "no messages here"); }
  std::optional<Message> receive() override { return std::nullopt; }
  void report_failure(std::string_view text) noexcept override {
    try {
      if (!failure()) write("failure", text);
    } catch (...) {
    }
  }
  std::optional<Error> failure() override {
    if (!std::filesystem::exists(folder_ / "failure")) return std::nullopt;
    return Error(Error::group_failed, read("failure"));
  }

 private:
  static std::string name(int meeting, int rank) { return std::to_string(meeting) + "." + std::to_string(rank); }
  std::string read(const std::string& file) const {
    std::ostringstream text;
    text << std::ifstream(folder_ / file, std::ios::binary).rdbuf();
    return text.str();
  }
  void write(const std::string& file, std::string_view bytes) const {
    const auto fresh = folder_ / (file + ".part" + std::to_string(rank_));
    std::ofstream(fresh, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    std::filesystem::rename(fresh, folder_ / file);
  }
  std::string wait_for(const std::string& file) {
    const auto deadline = std::chrono::steady_clock::now() + stall_timeout();
    while (!std::filesystem::exists(folder_ / file)) {
      if (const auto failed = failure()) throw *failed;
      if (std::chrono::steady_clock::now() > deadline) throw Error(Error::stalled, "no rank wrote " + file);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return read(file);
  }

  std::filesystem::path folder_;
  int rank_, size_, meetings_ = 0;
};

}  // namespace dsinfer::test
