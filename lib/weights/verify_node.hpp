/// What the ranks of one node found out about their copy of a checkpoint, as one message to the others.
#pragma once
#include "weights/verify_content.hpp"

namespace dsinfer {

struct NodeFindings {
  std::string host, fingerprint;
  std::vector<std::pair<std::string, Hash128>> files;  ///< names and hashes of their headers
  std::vector<std::string> problems;
  int64_t more_problems = 0, tensors = 0, bytes_checked = 0;
  std::vector<Hash128> hashes;    ///< of the tensors of Survey::tensors, of what was looked at
  std::vector<uint8_t> hashed;    ///< whether a tensor's hash is there: all of its blocks could be read

  DSINFER_INTERNAL std::string pack() const;
  DSINFER_INTERNAL static NodeFindings unpack(std::string_view bytes);
};

/// `findings`: of all blocks. `problems`: of reading them.
DSINFER_INTERNAL NodeFindings sum_up(const Survey& survey, std::span<const VerifyBlock> blocks, std::span<const BlockFinding> findings, const ProblemList& problems, const std::string& host);

/// All nodes' problems, then what differs between them, each with the names of its nodes. `survey`: node 0's.
DSINFER_INTERNAL ProblemList compare_nodes(const Survey& survey, const std::vector<NodeFindings>& nodes);

}  // namespace dsinfer
