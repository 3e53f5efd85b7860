/// Brings what several sources say of one machine together, and answers the questions that the choice asks of the result.
#pragma once
#include <string>
#include <vector>

#include "topology/names.hpp"

namespace dsinfer::topology {

/// One Node of many partial ones, by device name and bus id. Earlier sources go before later ones where both state a fact; a stated link layer
/// or port state goes before one concluded from a name or a netdev. Labels: GPUn where some source numbers the GPUs by a matrix or driver, else the bus id.
DSINFER_INTERNAL Node join(std::vector<Node> parts, const std::string& name);

/// Distance between two devices of the node, named by label, HCA name or bus id: as a source states it, else from the PCI tree.
DSINFER_INTERNAL PathKind distance(const Node& node, const std::string& a, const std::string& b);

}  // namespace dsinfer::topology
