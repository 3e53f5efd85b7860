#include "weights/verify_content.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "dsinfer/error.hpp"
#include "weights/block_reads.hpp"

namespace dsinfer {
namespace {

constexpr int64_t kBlock = int64_t{8} << 20;       // of a full check: long enough for any disk
constexpr int64_t kStaging = int64_t{128} << 20;   // 15 blocks on their way
constexpr int64_t kSample = 4096;                  // a sector, or a page of the cache
constexpr int64_t kWhole = int64_t{4} << 20;       // scales up to this are read whole by a quick check; DeepSeek-V3's have 32 KB at most, with int4 groups 2 MB
constexpr int64_t kCostOfRead = int64_t{64} << 10;  // what a disk reads while it turns to another place

uint64_t seed_of(std::string_view name) { return content_hash(name).low; }

// Places of samples: one in each of a few equal parts.
void add_samples(std::vector<VerifyBlock>& blocks, int index, const SurveyedTensor& tensor) {
  const int64_t bytes = tensor.end - tensor.begin;
  const int64_t places = bytes < (int64_t{1} << 20) ? 1 : bytes < (int64_t{16} << 20) ? 2 : 4;
  uint64_t random = seed_of(tensor.name);
  for (int64_t i = 0; i < places; ++i) {
    const int64_t begin = bytes / places * i, room = bytes / places - kSample;
    random = random * 6364136223846793005u + 1442695040888963407u;  // Knuth's MMIX
    const int64_t at = (begin + static_cast<int64_t>((random >> 16) % static_cast<uint64_t>(room + 1))) / 8 * 8;  // whole elements
    blocks.push_back({index, tensor.begin + at, tensor.begin + at + kSample});
  }
}

void add_all(std::vector<VerifyBlock>& blocks, int index, const SurveyedTensor& tensor) {
  for (int64_t at = tensor.begin; at < tensor.end; at += kBlock) blocks.push_back({index, at, std::min(at + kBlock, tensor.end)});
}

template <class Bits> Bits bits_at(const std::byte* bytes, int64_t i) {
  Bits bits;
  std::memcpy(&bits, bytes + i * static_cast<int64_t>(sizeof bits), sizeof bits);
  return bits;
}

// Elements for which `bad` holds; the loop has no exit, so that it becomes vector instructions.
template <class Bits, class Bad> void count_bad(BlockFinding& finding, std::span<const std::byte> bytes, const Bad& bad) {
  const auto count = static_cast<int64_t>(bytes.size() / sizeof(Bits));
  constexpr int64_t kStep = 4096;
  for (int64_t begin = 0; begin < count; begin += kStep) {
    const int64_t end = std::min(count, begin + kStep);
    uint32_t found = 0;
    for (int64_t i = begin; i < end; ++i) found += bad(bits_at<Bits>(bytes.data(), i));
    finding.bad += found;
    if (found == 0 || finding.first_bad >= 0) continue;
    for (int64_t i = begin; finding.first_bad < 0; ++i)
      if (bad(bits_at<Bits>(bytes.data(), i))) finding.first_bad = i;
  }
}

// NaN or infinite: all bits of the exponent. Below zero: the sign, unless it is -0.
template <class Bits> void count_bad(BlockFinding& finding, std::span<const std::byte> bytes, Bits exponent, bool scale) {
  constexpr Bits kSign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
  if (scale) count_bad<Bits>(finding, bytes, [=](Bits bits) { return static_cast<uint32_t>((bits & exponent) == exponent) | static_cast<uint32_t>(bits > kSign); });
  else count_bad<Bits>(finding, bytes, [=](Bits bits) { return static_cast<uint32_t>((bits & exponent) == exponent); });
}

bool all_zero(std::span<const std::byte> bytes) { return bytes.empty() || (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0); }

/// Files of the blocks on their way, and those that are given up.
class Files {
 public:
  Files(const Survey& survey, ProblemList& problems) : survey_(survey), problems_(problems), failures_(survey.checkpoint->files().size()) {}

  // None: not to be read.
  std::shared_ptr<Source> of(const SurveyedTensor& tensor) {
    if (failures_[static_cast<size_t>(tensor.file)] >= kPatience) return nullptr;
    if (open_ == tensor.file) return source_;
    try {
      source_ = survey_.checkpoint->open(tensor.file);
      open_ = tensor.file;
    } catch (const Error& problem) {
      if (problem.code() == Error::cancelled) throw;
      open_ = -1;
      failures_[static_cast<size_t>(tensor.file)] = kPatience;
      problems_.add(problem.what());
      return nullptr;
    }
    return source_;
  }

  void failed(const SurveyedTensor& tensor, const std::exception_ptr& error) {
    try {
      std::rethrow_exception(error);
    } catch (const Error& problem) {
      if (problem.code() == Error::cancelled) throw;
      problems_.add(fmt::format("tensor {} cannot be read: {}", tensor.name, problem.what()));
    }
    if (++failures_[static_cast<size_t>(tensor.file)] == kPatience) problems_.add(fmt::format("{}: was given up after {} failures", survey_.file(tensor).path, kPatience));
  }

 private:
  static constexpr int kPatience = 4;  // failures of one file; a bad disk takes seconds for each
  const Survey& survey_;
  ProblemList& problems_;
  std::vector<int> failures_;
  std::shared_ptr<Source> source_;
  int open_ = -1;
};

}  // namespace

std::vector<VerifyBlock> verify_blocks(const Survey& survey, VerifyDepth depth) {
  std::vector<VerifyBlock> blocks;
  for (size_t i = 0; i < survey.tensors.size(); ++i) {
    const SurveyedTensor& tensor = survey.tensors[i];
    const int64_t bytes = tensor.end - tensor.begin;
    const bool whole = depth == VerifyDepth::full || bytes <= 2 * kSample || (tensor.scale && bytes <= kWhole);
    if (whole) add_all(blocks, static_cast<int>(i), tensor);
    else add_samples(blocks, static_cast<int>(i), tensor);
  }
  return blocks;
}

std::pair<size_t, size_t> part_of_blocks(const std::vector<VerifyBlock>& blocks, int index, int parts) {
  int64_t total = 0;
  for (const VerifyBlock& block : blocks) total += block.bytes() + kCostOfRead;
  // A block belongs to the part in which it begins.
  std::pair<size_t, size_t> part{blocks.size(), blocks.size()};
  const int64_t begin = total / parts * index, end = index + 1 == parts ? total + 1 : total / parts * (index + 1);
  int64_t at = 0;
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (at >= begin && part.first == blocks.size()) part.first = i;
    if (at >= end) {
      part.second = i;
      break;
    }
    at += blocks[i].bytes() + kCostOfRead;
  }
  part.first = std::min(part.first, part.second);
  return part;
}

BlockFinding look_at(const SurveyedTensor& tensor, const VerifyBlock& block, std::span<const std::byte> bytes) {
  BlockFinding finding;
  finding.read = true;
  finding.hash = content_hash(bytes);
  finding.zeros = all_zero(bytes);
  switch (tensor.elements) {
    case Elements::raw: break;
    case Elements::f64: count_bad<uint64_t>(finding, bytes, uint64_t{0x7ff0000000000000}, tensor.scale); break;
    case Elements::f32: count_bad<uint32_t>(finding, bytes, uint32_t{0x7f800000}, tensor.scale); break;
    case Elements::bf16: count_bad<uint16_t>(finding, bytes, uint16_t{0x7f80}, tensor.scale); break;
    case Elements::f16: count_bad<uint16_t>(finding, bytes, uint16_t{0x7c00}, tensor.scale); break;
    case Elements::e4m3: count_bad<uint8_t>(finding, bytes, uint8_t{0x7f}, tensor.scale); break;  // NaN alone; 0x7e is 448
    case Elements::e5m2: count_bad<uint8_t>(finding, bytes, uint8_t{0x7c}, tensor.scale); break;
  }
  if (finding.first_bad >= 0) finding.first_bad += (block.begin - tensor.begin) / element_bytes(tensor.elements);
  return finding;
}

std::vector<BlockFinding> read_blocks(const Survey& survey, std::span<const VerifyBlock> blocks, ProblemList& problems, const std::function<void(int64_t)>& advance,
                                      const std::function<void()>& poll, std::chrono::milliseconds stall) {
  std::vector<BlockFinding> findings(blocks.size());
  if (blocks.empty()) return findings;
  Files files(survey, problems);
  int64_t longest = 0;
  for (const VerifyBlock& block : blocks) longest = std::max(longest, block.bytes());
  // Where copies are kept, the files behind a URL are local ones.
  bool remote = survey.checkpoint->storage().folder() == nullptr;
  try {
    remote = remote && survey.checkpoint->open(survey.tensors[static_cast<size_t>(blocks.front().tensor)].file)->path() == nullptr;
  } catch (const Error&) {  // reading it will say why
  }
  BlockReads reads(IoEngine::automatic, 0, remote, longest, kStaging, stall);
  const auto tensor_of = [&](size_t i) -> const SurveyedTensor& { return survey.tensors[static_cast<size_t>(blocks[i].tensor)]; };
  const auto next = [&](size_t i) {
    std::shared_ptr<Source> source = files.of(tensor_of(i));
    // What is missing of a file that was cut short is told by its header.
    if (source && blocks[i].end > source->size()) source = nullptr;
    if (!source) advance(blocks[i].bytes());
    return BlockRead{std::move(source), blocks[i].begin, blocks[i].bytes()};
  };
  const auto look = [&](size_t i, std::span<const std::byte> bytes, const std::exception_ptr& error) {
    if (error) files.failed(tensor_of(i), error);
    else findings[i] = look_at(tensor_of(i), blocks[i], bytes);
    advance(blocks[i].bytes());
  };
  reads.run(blocks.size(), next, look, poll);
  return findings;
}

}  // namespace dsinfer
