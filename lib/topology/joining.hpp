/// Parts of join(): devices of one kind brought together, and the words for what a source left open.
#pragma once
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "topology/names.hpp"

namespace dsinfer::topology {

/// Names of devices in one source → in the joined node.
using Names = std::map<std::string, std::string>;

/// Takes a fact where there was none.
template <class T>
void fill(T& into, const T& from, const T& unknown = T{}) {
  if (into == unknown) into = from;
}

inline void add_once(std::vector<std::string>& list, const std::string& text) {
  if (std::find(list.begin(), list.end(), text) == list.end()) list.push_back(text);
}

/// join_gpus.cpp: by bus id, UUID and the driver's number; a numbered list without bus ids meets a list of PCI functions in PCI order.
void join_gpus(Node& node, const std::vector<Node>& parts, std::vector<Names>& names);
/// join_hcas.cpp: by verbs name and bus id; `order` is the order in which sources are believed.
void join_hcas(Node& node, const std::vector<Node>& parts, const std::vector<size_t>& order, std::vector<Names>& names);
/// Whether some pair of GPUs has NVLink; nullopt where nothing tells.
std::optional<bool> judge_nvlink(const Node& node, const std::vector<Node>& parts);

}  // namespace dsinfer::topology
