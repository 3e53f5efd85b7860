#include "weights/verify_node.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "core/bytes.hpp"

namespace dsinfer {
namespace {

// Blocks of one tensor, added up.
struct TensorFinding {
  ContentHash hash;
  bool hashed = true, zeros = true;
  int64_t bytes = 0, bad = 0, first_bad = -1;
  void add(const VerifyBlock& block, const BlockFinding& finding) {
    if (!finding.read) {
      hashed = false;
      return;
    }
    hash.add(finding.hash);
    zeros = zeros && finding.zeros;
    bytes += block.bytes();
    bad += finding.bad;
    if (first_bad < 0) first_bad = finding.first_bad;
  }
};

// Fewer zeros than this may be chance: a matrix of a toy.
constexpr int64_t kManyZeros = 4096;

void tell(const Survey& survey, const SurveyedTensor& tensor, const TensorFinding& found, ProblemList& problems) {
  const std::string& path = survey.file(tensor).path;
  const std::string where = found.bytes == tensor.end - tensor.begin ? "" : fmt::format(" in the {} bytes sampled", found.bytes);
  if (found.bad > 0)
    problems.add(fmt::format("{}: tensor {} holds {} values that are NaN or infinite{}{}, the first at element {} (byte {} of the file); fetch the file again", path, tensor.name, found.bad,
                             tensor.scale ? " or below zero" : "", where, found.first_bad, tensor.begin + found.first_bad * element_bytes(tensor.elements)));
  if (tensor.matrix && found.zeros && found.bytes >= kManyZeros)
    problems.add(fmt::format("{}: tensor {} holds nothing but zeros{}, as files do whose download never ended; fetch the file again", path, tensor.name, where));
}

std::string names_of(const std::vector<NodeFindings>& nodes, const std::vector<size_t>& some) {
  std::vector<std::string> names;
  for (const size_t node : some) names.push_back(nodes[node].host);
  return fmt::format("{}", fmt::join(names, ", "));
}

void tell_problems(const std::vector<NodeFindings>& nodes, ProblemList& all) {
  std::map<std::string_view, std::vector<size_t>> who;
  for (size_t node = 0; node < nodes.size(); ++node)
    for (const std::string& problem : nodes[node].problems) who[problem].push_back(node);
  int64_t more = 0;
  for (size_t node = 0; node < nodes.size(); ++node) {
    for (const std::string& problem : nodes[node].problems) {
      const std::vector<size_t>& told = who[problem];
      if (told.front() != node) continue;
      all.add(told.size() == nodes.size() ? problem : fmt::format("on {}: {}", names_of(nodes, told), problem));
    }
    more = std::max(more, nodes[node].more_problems);
  }
  if (more > 0) all.add(fmt::format("{} more problems of the same folder are not told", more));
}

// Groups of nodes with equal values, the largest first (the earliest of equals): it is taken for what is right.
template <class Value> std::vector<std::vector<size_t>> groups_of(const std::vector<size_t>& nodes, const Value& value) {
  std::vector<std::vector<size_t>> groups;
  for (const size_t node : nodes) {
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const auto& group) { return value(group.front()) == value(node); });
    if (same == groups.end()) groups.push_back({node});
    else same->push_back(node);
  }
  std::stable_sort(groups.begin(), groups.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
  return groups;
}

// Which files' headers differ from those of `reference`.
std::string other_files(const NodeFindings& reference, const NodeFindings& node) {
  const std::map<std::string, Hash128> expected(reference.files.begin(), reference.files.end()), found(node.files.begin(), node.files.end());
  std::vector<std::string> names;
  for (const auto& [name, hash] : expected)
    if (const auto at = found.find(name); at == found.end() || at->second != hash) names.push_back(name);
  for (const auto& [name, hash] : found)
    if (!expected.count(name)) names.push_back(name);
  if (names.empty()) return "config.json or the index";
  const size_t shown = std::min<size_t>(names.size(), 4);
  const std::string rest = names.size() > shown ? fmt::format(" and {} more files", names.size() - shown) : "";
  return fmt::format("{}{}", fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "), rest);
}

}  // namespace

std::string NodeFindings::pack() const {
  ByteWriter out;
  out.put_text(host);
  out.put_text(fingerprint);
  out.put<uint64_t>(files.size());
  for (const auto& [name, hash] : files) {
    out.put_text(name);
    out.put(hash);
  }
  out.put<uint64_t>(problems.size());
  for (const std::string& problem : problems) out.put_text(problem);
  out.put(more_problems);
  out.put(tensors);
  out.put(bytes_checked);
  out.put_all(hashes);
  out.put_all(hashed);
  return out.take();
}

NodeFindings NodeFindings::unpack(std::string_view bytes) {
  ByteReader in(bytes);
  NodeFindings node;
  node.host = in.get_text();
  node.fingerprint = in.get_text();
  for (auto left = in.get<uint64_t>(); left > 0; --left) {
    std::string name = in.get_text();
    node.files.emplace_back(std::move(name), in.get<Hash128>());
  }
  for (auto left = in.get<uint64_t>(); left > 0; --left) node.problems.push_back(in.get_text());
  node.more_problems = in.get<int64_t>();
  node.tensors = in.get<int64_t>();
  node.bytes_checked = in.get<int64_t>();
  node.hashes = in.get_all<Hash128>();
  node.hashed = in.get_all<uint8_t>();
  return node;
}

NodeFindings sum_up(const Survey& survey, std::span<const VerifyBlock> blocks, std::span<const BlockFinding> findings, const ProblemList& reading, const std::string& host) {
  std::vector<TensorFinding> tensors(survey.tensors.size());
  for (size_t i = 0; i < blocks.size(); ++i) tensors[static_cast<size_t>(blocks[i].tensor)].add(blocks[i], findings[i]);
  ProblemList problems = survey.problems;
  for (const std::string& problem : reading.texts()) problems.add(problem);
  NodeFindings node;
  for (size_t i = 0; i < tensors.size(); ++i) {
    tell(survey, survey.tensors[i], tensors[i], problems);
    node.hashes.push_back(tensors[i].hash.hash());
    node.hashed.push_back(tensors[i].hashed);
    node.bytes_checked += tensors[i].bytes;
  }
  node.host = host;
  node.fingerprint = survey.fingerprint;
  for (size_t i = 0; i < survey.headers.size(); ++i) node.files.emplace_back(survey.checkpoint->files()[i].name, survey.headers[i]);
  node.problems = problems.texts();
  node.more_problems = problems.more() + reading.more();
  node.tensors = static_cast<int64_t>(survey.tensors.size());
  return node;
}

ProblemList compare_nodes(const Survey& survey, const std::vector<NodeFindings>& nodes) {
  ProblemList problems;
  tell_problems(nodes, problems);
  std::vector<size_t> all(nodes.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  const auto by_fingerprint = groups_of(all, [&](size_t node) { return nodes[node].fingerprint; });
  for (size_t g = 1; g < by_fingerprint.size(); ++g) {
    const NodeFindings &reference = nodes[by_fingerprint[0].front()], &other = nodes[by_fingerprint[g].front()];
    problems.add(fmt::format("another checkpoint on {} than on {}: {} differ (fingerprints {} and {}); give all nodes the same files", names_of(nodes, by_fingerprint[g]),
                             names_of(nodes, by_fingerprint[0]), other_files(reference, other), other.fingerprint, reference.fingerprint));
  }
  // Tensor by tensor where the headers are those of node 0.
  std::vector<size_t> alike;
  for (const size_t node : all)
    if (nodes[node].files == nodes[0].files && nodes[node].hashes.size() == survey.tensors.size()) alike.push_back(node);
  for (size_t t = 0; t < survey.tensors.size() && alike.size() > 1; ++t) {
    std::vector<size_t> known;
    for (const size_t node : alike)
      if (nodes[node].hashed[t]) known.push_back(node);
    const auto groups = groups_of(known, [&](size_t node) { return nodes[node].hashes[t]; });
    for (size_t g = 1; g < groups.size(); ++g)
      problems.add(fmt::format("{}: tensor {} has another content on {} than on {}; fetch {} again where it is wrong", survey.file(survey.tensors[t]).path, survey.tensors[t].name,
                               names_of(nodes, groups[g]), names_of(nodes, groups[0]), survey.file(survey.tensors[t]).name));
  }
  return problems;
}

}  // namespace dsinfer
