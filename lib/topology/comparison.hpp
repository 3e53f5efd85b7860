/// The comparison of nodes, shared by the files that fill it.
#pragma once
#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "topology/checks.hpp"

namespace dsinfer::topology {

/// The cluster, each node's own choice, and the findings so far.
struct Comparison {
  const Cluster& cluster;
  const std::vector<OwnChoice>& own;
  std::vector<Finding> findings;

  void add(Severity severity, std::string code, std::vector<std::string> nodes, std::string text, std::vector<std::string> evidence,
           std::string advice) {
    findings.push_back({std::move(code), severity, std::move(nodes), std::move(text), std::move(evidence), std::move(advice)});
  }
  /// One value of each node ("" = it does not say); a finding if they differ.
  template <class F>
  void compare(F value_of, Severity severity, const char* code, const char* text, const char* advice) {
    Classes classes;
    for (size_t i = 0; i < cluster.nodes.size(); ++i) classes.add(value_of(i), cluster.nodes[i].name);
    if (classes.differ()) add(severity, code, classes.odd_ones(), text, classes.evidence(""), advice);
  }
  /// The same for each rail, as one finding.
  template <class F>
  void compare_rails(F value_of, Severity severity, const char* code, const char* text, const char* advice) {
    size_t rails = 0;
    for (const OwnChoice& choice : own) rails = std::max(rails, choice.ports.size());
    std::set<std::string> nodes;
    std::vector<std::string> evidence;
    for (size_t rail = 0; rail < rails; ++rail) {
      Classes classes;
      for (size_t i = 0; i < own.size(); ++i) {
        if (rail < own[i].ports.size()) classes.add(value_of(i, own[i].ports[rail]), cluster.nodes[i].name);
      }
      if (!classes.differ()) continue;
      for (const std::string& node : classes.odd_ones()) nodes.insert(node);
      for (std::string& line : classes.evidence("rail " + std::to_string(rail) + ":")) evidence.push_back(std::move(line));
    }
    constexpr size_t kMostLines = 32;
    if (evidence.size() > kMostLines) evidence.resize(kMostLines);
    if (!nodes.empty()) add(severity, code, {nodes.begin(), nodes.end()}, text, evidence, advice);
  }
};

/// host_checks.cpp: settings, GPUs, versions, memory, firmware, host ids.
void compare_settings(Comparison& comparison);
void compare_hosts(Comparison& comparison);

}  // namespace dsinfer::topology
