/// What the checks of one node and of all nodes share.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "topology/choice.hpp"

namespace dsinfer::topology {

/// What a node would use if it were alone: the choice before the peers were asked.
struct OwnChoice {
  Transport transport = Transport::unknown;
  LinkLayer link_layer = LinkLayer::unknown;
  std::vector<ChosenPort> ports;
};

/// Findings between nodes; `own` holds each node's choice before one transport was made for all.
std::vector<Finding> check_cluster(const Cluster& cluster, const std::vector<OwnChoice>& own);

/// user_checks.cpp: the user's settings against the facts.
std::vector<Finding> check_user_settings(const Node& node);

/// True if a check of ours makes findings of this code, so that a new choice replaces them.
bool is_check_code(const std::string& code);

/// Nodes by what they say; a node that says nothing ("") is left out.
class Classes {
 public:
  void add(const std::string& value, const std::string& node);
  bool differ() const { return nodes_.size() > 1; }
  bool empty() const { return nodes_.empty(); }
  /// The nodes that are not of the largest class; all of them if no class is larger than the others together.
  std::vector<std::string> odd_ones() const;
  /// "8: n0, n1, n2 … (1022 nodes)", largest class first, at most `most` lines.
  std::vector<std::string> evidence(const std::string& what, size_t most = 8) const;

 private:
  std::map<std::string, std::vector<std::string>> nodes_;
};

/// "n0, n1, n2 … (1022 nodes)".
std::string some_names(const std::vector<std::string>& names);

}  // namespace dsinfer::topology
