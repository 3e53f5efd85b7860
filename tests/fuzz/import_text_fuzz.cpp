// Any bytes as what a tool printed, to each importer of text, whether it knows them or not, tidied as importers get them and raw.
#include "topology/importers.hpp"

using namespace dsinfer::topology;

namespace {

void read(const Importer& importer, std::string_view text) {
  importer.recognises(text);
  Capture capture{text, "input", {}};
  importer.read(capture);
  rail_facts(capture.node);
}

}  // namespace

// A first byte below 32 that is no white space chooses one importer, so that the fuzzer can go deep at the price of one.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Importer all[] = {kIbvDevinfo, kIbstat,   kIbstatus, kShowGids,       kIbdev2netdev, kRdmaLink,    kUverbsListing, kFiInfo,   kIpAddr,  kIpBrief,
                                 kIpRoute,    kIfconfig, kIpJson,   kInterfacesCsv, kRailsCsv,     kVersionsCsv, kGpusCsv,       kSettings, kNcclLog, kNcclGraph};
  constexpr size_t count = std::size(all);
  std::string_view text(reinterpret_cast<const char*>(data), size);
  if (size > 0 && data[0] < count && data[0] != '\t' && data[0] != '\n') {
    text.remove_prefix(1);
    read(all[data[0]], text);
    return 0;
  }
  const std::string tidy = tidy_text(text);
  for (const Importer& importer : all) {
    read(importer, tidy);
    read(importer, text);
  }
  read_versions_csv(tidy, "input");
  split_nccl_log(text);
  nccl_log_hosts(text);
  return 0;
}
