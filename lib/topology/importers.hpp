/// One importer for each format that machines' tools print. An importer looks at text, takes what it knows and leaves the rest: a paste may
/// hold the output of several tools with prompts between, excerpts may begin and end anywhere.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "topology/names.hpp"
#include "topology/tree.hpp"

namespace dsinfer::topology {

/// What an importer is given, and where it leaves things. Each importer fills a Node of its own, with the facts of this text alone (only facts:
/// network, links and nvlink-by-rule are decided later); join() brings them together. Findings of importers: "truncated", "garbled", "unreadable".
struct Capture {
  std::string_view text;
  std::string name;   ///< of the file, for evidence and sources
  Node node;
};

struct Importer {
  const char* format;                           ///< "ibstat"
  bool (*recognises)(std::string_view text);    ///< by content; cheap; no false alarm on the other formats
  void (*read)(Capture& capture);               ///< never throws for bad text
};

/// All importers of text, in the order in which they are tried; every one that recognises a text reads it.
DSINFER_INTERNAL std::span<const Importer> importers();

/// A text as importers get it: UTF-8, lines ended by '\n', without terminal escapes and control characters.
DSINFER_INTERNAL std::string tidy_text(std::string_view text);
/// What one importer made of a text; `rank`: its place in the table, from 1. Of several files, what a lower rank states goes before a higher one.
struct Imported {
  Node node;
  std::string format;
  int rank = 0;
};
DSINFER_INTERNAL std::vector<Imported> import_parts(std::string_view text, const std::string& name);
/// What each importer that knows the text makes of it, in the table's order; an exception of one becomes a finding. Empty if none knows it.
DSINFER_INTERNAL std::vector<Node> import_capture(std::string_view text, const std::string& name);

// import_rdma.cpp (verbs tools), import_gids.cpp (show_gids, ibdev2netdev, rdma link, /dev/infiniband, fi_info)
DSINFER_INTERNAL extern const Importer kIbvDevinfo, kIbstat, kIbstatus, kShowGids, kIbdev2netdev, kRdmaLink, kUverbsListing, kFiInfo;
// import_ip.cpp, import_ip_json.cpp, import_ifconfig.cpp
DSINFER_INTERNAL extern const Importer kIpAddr, kIpBrief, kIpRoute, kIfconfig, kIpJson;
// import_tables.cpp (small tables in CSV), import_settings.cpp, import_nccl_log.cpp
DSINFER_INTERNAL extern const Importer kInterfacesCsv, kRailsCsv, kVersionsCsv, kGpusCsv, kSettings, kNcclLog, kNcclGraph;
// import_nvidia_smi.cpp, import_lspci.cpp
DSINFER_INTERNAL extern const Importer kSmiTopo, kSmiTable, kSmiQuery, kSmiNvlink, kLspci, kLspciTree;
// import_nccl_xml.cpp, import_hwloc_xml.cpp
DSINFER_INTERNAL extern const Importer kNcclXml, kHwlocXml;

/// A line of rails.csv: which HCA is on which rail, as a person wrote it down. Carried in Node::settings as {"rail:<hca>", "<role>|<subnet>|<yes|no|>",
/// origin}, so that join() and the JSON form need to know nothing of it; the netdev is among the port's netdevs.
struct RailFact {
  std::string hca, role, subnet;  ///< "rocep80s0", "rail0" or "out-of-band" (not for NCCL) or "", "10.32.16.0/24" or ""
  std::optional<bool> routed;     ///< to the other rails; nullopt: not said
};
DSINFER_INTERNAL std::vector<RailFact> rail_facts(const Node& node);

/// A table of several nodes (heading "node,"): one Node a line, with its name and what the columns say of its host. machines.cpp gives each to
/// the machine of that name; the first column is also the prefix of that node's files.
DSINFER_INTERNAL std::vector<Node> read_versions_csv(std::string_view text, const std::string& name);

/// True for what a launcher (Open MPI's mpirun) sets for its own ranks: no user's choice, and other on each node. probe_process.cpp
DSINFER_INTERNAL bool set_by_launcher(std::string_view variable);

/// Host names before the lines of an NCCL log ("host:pid:tid [rank] NCCL INFO"), in order of appearance; empty if no line has one.
DSINFER_INTERNAL std::vector<std::string> nccl_log_hosts(std::string_view text);
/// The log's lines by host, in order of appearance. Lines without a host go to the first (rank 0 prints the version alone); with no host at all
/// there is one part named "".
DSINFER_INTERNAL std::vector<std::pair<std::string, std::string>> split_nccl_log(std::string_view text);

/// Facts of a sysfs tree (sys/, proc/, dev/, etc/ below it): the live machine's or a captured one. `complete`: it was gathered whole.
DSINFER_INTERNAL Node read_sysfs(const Tree& tree, const std::string& name);

}  // namespace dsinfer::topology
