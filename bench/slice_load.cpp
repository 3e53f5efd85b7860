#include "slice_load.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "weights/loader.hpp"

namespace bench {

using namespace dsinfer;

namespace {

constexpr int64_t kPiece = int64_t{8} << 20;  // as load() reads
using Clock = std::chrono::steady_clock;

double gigabytes_per_s(int64_t bytes, Clock::time_point since) { return static_cast<double>(bytes) * 1e-9 / std::chrono::duration<double>(Clock::now() - since).count(); }

}  // namespace

double link_speed(Backend& backend) {
  constexpr int64_t kBlocks = 8, kPieces = 1024;
  const Buffer from = backend.staging(static_cast<size_t>(kBlocks * kPiece)), to = backend.allocate(static_cast<size_t>(kBlocks * kPiece));
  std::fill_n(from.data(), from.size(), std::byte{1});
  Clock::time_point start;
  for (int64_t i = -kBlocks; i < kPieces; ++i) {  // the first ones warm up
    const auto at = static_cast<size_t>((i + kBlocks) % kBlocks * kPiece);
    const uint64_t upload = backend.upload(to.view(DType::u8, {kPiece}, at), from.view(DType::u8, {kPiece}, at));
    if (i == -1 || i + 1 == kPieces) backend.await_upload(upload);
    if (i == -1) start = Clock::now();
  }
  return gigabytes_per_s(kPieces * kPiece, start);
}

double reading_speed(const std::filesystem::path& model, int threads) {
  const Checkpoint checkpoint(open_model(model, {}));
  struct Piece {
    Source* source;
    int64_t at, bytes;
  };
  std::vector<std::unique_ptr<Source>> sources;
  std::vector<Piece> pieces;
  int64_t total = 0;
  for (size_t file = 0; file < checkpoint.files().size() && total < int64_t{32} << 30; ++file) {
    sources.push_back(checkpoint.open(static_cast<int>(file)));
    for (int64_t at = 0; at < sources.back()->size(); at += kPiece) pieces.push_back({sources.back().get(), at, std::min(kPiece, sources.back()->size() - at)});
    total += sources.back()->size();
  }
  std::atomic<size_t> next = 0;
  std::vector<std::thread> running;
  const auto start = Clock::now();
  for (int i = 0; i < threads; ++i)
    running.emplace_back([&] {
      const Buffer out = host_pages(static_cast<size_t>(kPiece));
      for (size_t p = next++; p < pieces.size(); p = next++) pieces[p].source->read(pieces[p].at, {out.data(), static_cast<size_t>(pieces[p].bytes)});
    });
  for (std::thread& thread : running) thread.join();
  return gigabytes_per_s(total, start);
}

}  // namespace bench
