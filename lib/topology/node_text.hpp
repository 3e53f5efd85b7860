/// One node on a terminal page. hardware_text.cpp shows what it has, network_text.cpp what was decided and found.
#pragma once
#include "topology/names.hpp"
#include "topology/page.hpp"

namespace dsinfer::topology {

void write_hardware(Page& page, const Node& node);
void write_network(Page& page, const Node& node);
void write_findings(Page& page, const std::vector<Finding>& findings, bool name_nodes);

/// "mlx5_0:1" → why it was dropped; nullptr if it was not. Also asks for the device as a whole.
const Reason* drop_reason(const Network& network, const std::string& hca, int port);
bool is_chosen(const Network& network, const Hca& hca, int port);
/// "roce over 8 ports of 400 Gb/s", "socket over eth0: no-rdma-device", "unknown".
std::string network_line(const Node& node);

}  // namespace dsinfer::topology
