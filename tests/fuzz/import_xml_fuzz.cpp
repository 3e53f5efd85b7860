// Any bytes as the XML of NCCL or hwloc: parts of machines, findings, never an exception; what came out can be stored and read again.
#include "dsinfer/cluster.hpp"
#include "topology/importers.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const auto* format : {"NCCL topology XML", "hwloc XML"}) {
    const std::string plain = dsinfer::topology::tidy_text(text);
    for (const auto& importer : dsinfer::topology::importers()) {
      if (importer.format != std::string_view(format) || !importer.recognises(plain)) continue;
      dsinfer::topology::Capture capture{plain, "input", {}};
      importer.read(capture);
      dsinfer::Cluster cluster;
      cluster.nodes.push_back(std::move(capture.node));
      dsinfer::Cluster::from_json(cluster.to_json());
    }
  }
  return 0;
}
