#include "weights/verify.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "comm/nodes.hpp"
#include "core/bytes.hpp"
#include "core/outcome.hpp"
#include "dsinfer/error.hpp"
#include "weights/dummy_storage.hpp"
#include "weights/loader.hpp"
#include "weights/verify_hashes.hpp"
#include "weights/verify_node.hpp"
#include "weights/rank_progress.hpp"

namespace dsinfer {
namespace {

/// One check, as one rank sees it.
class Verify {
 public:
  Verify(World& world, const VerifyOptions& options)
      : world_(world), options_(options), nodes_(share_nodes(world, options.node.empty() ? host_name() : options.node)), node_world_(world.split(nodes_.mine, world.rank())) {}

  VerifyReport run(const std::function<std::shared_ptr<Storage>()>& open) {
    const auto started = std::chrono::steady_clock::now();
    in_agreement(world_, [&] {
      agree_on_depth();
      survey_ = survey_checkpoint(open());
      blocks_ = verify_blocks(survey_, options_.depth);
      expect_one_copy();
    });
    read();
    in_agreement(world_, [&] { gather_node(); });
    std::vector<NodeFindings> nodes;
    const std::vector<std::string> all = world_.all_gather(nodes_.index == 0 ? findings_.pack() : "");
    VerifyReport report;
    in_agreement(world_, [&] {
      if (world_.rank() != 0) return;
      for (const int rank : nodes_.first_rank) nodes.push_back(NodeFindings::unpack(all[static_cast<size_t>(rank)]));
      report = judge(nodes);
      report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    });
    share(report);
    return report;
  }

 private:
  void agree_on_depth() {
    const std::string mine(1, static_cast<char>(options_.depth));
    const std::vector<std::string> all = world_.all_gather(mine);
    for (size_t rank = 0; rank < all.size(); ++rank)
      if (all[rank] != all[0]) throw Error(Error::invalid_argument, fmt::format("ranks disagree on the depth of the check: rank {} wants another than rank 0", rank));
  }

  // The ranks of a node share one copy: all must see the same.
  void expect_one_copy() {
    const std::vector<std::string> all = node_world_->all_gather(survey_.fingerprint);
    if (std::find_if(all.begin(), all.end(), [&](const std::string& fingerprint) { return fingerprint != all[0]; }) != all.end())
      throw Error(Error::io, fmt::format("{}: ranks of host {} see different checkpoints there: it changes, or they were given different folders; check it when it is at rest",
                                         survey_.checkpoint->storage().name(), nodes_.hosts[static_cast<size_t>(nodes_.mine)]));
  }

  void read() {
    const auto [first, last] = part_of_blocks(blocks_, nodes_.index, nodes_.ranks);
    const std::span<const VerifyBlock> mine = std::span(blocks_).subspan(first, last - first);
    int64_t bytes = 0;
    for (const VerifyBlock& block : mine) bytes += block.bytes();
    in_agreement(world_, [&] {
      RankProgress progress(world_, options_.progress, bytes, "checking the checkpoint");
      progress.tick(/*always=*/true);
      mine_ = read_blocks(survey_, mine, reading_, [&](int64_t done) { progress.advance(done); }, [&] { progress.tick(); }, world_.stall_timeout());
      progress.finish();
    });
  }

  // On the first rank of the node: what all of them found.
  void gather_node() {
    ByteWriter out;
    out.put_all(mine_);
    out.put<uint64_t>(reading_.texts().size());
    for (const std::string& text : reading_.texts()) out.put_text(text);
    std::vector<BlockFinding> findings;
    ProblemList problems;
    for (const std::string& bytes : node_world_->all_gather(out.take())) {
      if (nodes_.index != 0) continue;
      ByteReader in(bytes);
      const auto part = in.get_all<BlockFinding>();
      findings.insert(findings.end(), part.begin(), part.end());
      for (auto left = in.get<uint64_t>(); left > 0; --left) problems.add(in.get_text());
    }
    if (nodes_.index != 0) return;
    if (findings.size() != blocks_.size()) throw Error(Error::internal, "blocks of a check were lost between ranks");
    findings_ = sum_up(survey_, blocks_, findings, problems, nodes_.hosts[static_cast<size_t>(nodes_.mine)]);
  }

  // On rank 0.
  VerifyReport judge(const std::vector<NodeFindings>& nodes) {
    ProblemList problems = compare_nodes(survey_, nodes);
    VerifyReport report;
    report.fingerprint = nodes[0].fingerprint;
    report.tensors = nodes[0].tensors;
    for (const NodeFindings& node : nodes) report.bytes_checked += node.bytes_checked;
    if (options_.depth == VerifyDepth::full) {
      TensorHashes hashes;
      for (size_t i = 0; i < survey_.tensors.size(); ++i)
        if (nodes[0].hashed[i]) hashes.emplace(survey_.tensors[i].name, nodes[0].hashes[i]);
      if (hashes.size() == survey_.tensors.size()) report.content_hash = hash_of(hashes);
      if (!options_.hashes.empty()) compare_with_list(hashes, problems);
    }
    report.problems = problems.texts();
    if (problems.more() > 0) report.problems.push_back(fmt::format("{} more problems are not told", problems.more()));
    return report;
  }

  static std::string hash_of(const TensorHashes& hashes) {
    ContentHash all;
    for (const auto& [name, hash] : hashes) {
      all.add(name);
      all.add(hash);
    }
    return all.hash().hex();
  }

  void compare_with_list(const TensorHashes& hashes, ProblemList& problems) {
    try {
      std::error_code code;
      if (!std::filesystem::exists(options_.hashes, code)) {
        // A list of spoilt tensors would call them good the next time.
        if (problems.texts().empty()) write_hashes(options_.hashes, hashes, survey_.fingerprint);
        return;
      }
      const TensorHashes expected = read_hashes(options_.hashes);
      for (const SurveyedTensor& tensor : survey_.tensors) {
        const auto found = hashes.find(tensor.name), listed = expected.find(tensor.name);
        if (listed == expected.end())
          problems.add(fmt::format("{}: tensor {} is not in the list {}: it is of another checkpoint, or the tensor is new", survey_.file(tensor).path, tensor.name, options_.hashes.string()));
        else if (found != hashes.end() && found->second != listed->second)
          problems.add(fmt::format("{}: tensor {} has the hash {}, {} lists {}: its content has changed; fetch the file again", survey_.file(tensor).path, tensor.name, found->second.hex(),
                                   options_.hashes.string(), listed->second.hex()));
      }
      for (const auto& [name, hash] : expected)
        if (!survey_.checkpoint->find(name)) problems.add(fmt::format("{}: tensor {} of the list {} is missing", survey_.checkpoint->storage().name(), name, options_.hashes.string()));
    } catch (const Error& problem) {
      problems.add(problem.what());
    }
  }

  void share(VerifyReport& report) {
    ByteWriter out;
    out.put(report.tensors);
    out.put(report.bytes_checked);
    out.put(report.seconds);
    out.put_text(report.fingerprint);
    out.put_text(report.content_hash);
    out.put<uint64_t>(report.problems.size());
    for (const std::string& problem : report.problems) out.put_text(problem);
    const std::string bytes = world_.broadcast(out.take(), 0);
    ByteReader in(bytes);
    report.tensors = in.get<int64_t>();
    report.bytes_checked = in.get<int64_t>();
    report.seconds = in.get<double>();
    report.fingerprint = in.get_text();
    report.content_hash = in.get_text();
    report.problems.clear();
    for (auto left = in.get<uint64_t>(); left > 0; --left) report.problems.push_back(in.get_text());
  }

  World& world_;
  const VerifyOptions& options_;
  Nodes nodes_;
  std::unique_ptr<World> node_world_;
  Survey survey_;
  std::vector<VerifyBlock> blocks_;
  ProblemList reading_;
  std::vector<BlockFinding> mine_;
  NodeFindings findings_;
};

}  // namespace

VerifyReport verify_checkpoint(World& world, const std::function<std::shared_ptr<Storage>()>& open, const VerifyOptions& options) { return Verify(world, options).run(open); }

VerifyReport verify_checkpoint(World& world, const std::filesystem::path& model, VerifyDepth depth, const std::filesystem::path& hashes, const ProgressCallback& progress,
                               const std::filesystem::path& download_cache) {
  VerifyOptions options;
  options.depth = depth;
  options.hashes = hashes;
  options.progress = progress;
  LoadOptions storage;
  storage.progress = progress;
  storage.download_cache = download_cache;
  const auto open = [&] {
    refuse_dummy(model.string(), "verifying");
    return open_model(model, storage, &world);
  };
  return verify_checkpoint(world, open, options);
}

}  // namespace dsinfer
