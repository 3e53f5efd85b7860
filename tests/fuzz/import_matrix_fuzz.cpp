// Any bytes as what nvidia-smi and lspci print: each importer also gets texts that it does not recognise.
#include "dsinfer/cluster.hpp"
#include "topology/importers.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string plain = dsinfer::topology::tidy_text({reinterpret_cast<const char*>(data), size});
  for (const auto& importer : dsinfer::topology::importers()) {
    const std::string_view format = importer.format;
    if (!format.starts_with("nvidia-smi") && !format.starts_with("lspci")) continue;
    dsinfer::topology::Capture capture{plain, "input", {}};
    importer.recognises(plain);
    importer.read(capture);
    dsinfer::Cluster cluster;
    cluster.nodes.push_back(std::move(capture.node));
    dsinfer::Cluster::from_json(cluster.to_json());
  }
  return 0;
}
