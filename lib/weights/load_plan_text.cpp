#include <fmt/format.h>

#include <algorithm>

#include "core/json.hpp"
#include "dsinfer/loader.hpp"

namespace dsinfer {
namespace {

std::string size_text(int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes >= 1000000000) return fmt::format("{:.2f} GB", value / 1e9);
  if (bytes >= 1000000) return fmt::format("{:.1f} MB", value / 1e6);
  return fmt::format("{:.1f} kB", value / 1e3);
}

}  // namespace

void LoadPlan::estimate(double node_bytes_per_second) {
  std::vector<int64_t> nodes;
  for (const RankLoad& rank : ranks) {
    nodes.resize(std::max(nodes.size(), static_cast<size_t>(rank.node) + 1));
    nodes[static_cast<size_t>(rank.node)] += rank.bytes_read;
  }
  const bool known = node_bytes_per_second > 0 && !nodes.empty();
  bytes_per_second = known ? node_bytes_per_second : 0;
  seconds_estimate = known ? static_cast<double>(*std::max_element(nodes.begin(), nodes.end())) / node_bytes_per_second : -1;
}

std::string LoadPlan::text() const {
  int nodes = 0;
  for (const RankLoad& rank : ranks) nodes = std::max(nodes, rank.node + 1);
  std::string out = fmt::format("{} file{}, {} rank{} on {} node{}: {} read, amplification {:.4f}\n", files.size(), files.size() == 1 ? "" : "s", ranks.size(), ranks.size() == 1 ? "" : "s",
                                nodes, nodes == 1 ? "" : "s", size_text(bytes_read), read_amplification);
  if (files_cut_short > 0) out += fmt::format("{} of {} files hold their header alone or not all of their data: fetch them before loading\n", files_cut_short, files.size());
  if (seconds_estimate >= 0) out += fmt::format("about {:.1f} s at {:.2f} GB/s a node\n", seconds_estimate, bytes_per_second / 1e9);
  out += "rank node      reads    of which handed on   gets from others   host peak     weights\n";
  for (const RankLoad& rank : ranks)
    out += fmt::format("{:>4} {:>4} {:>10} {:>20} {:>18} {:>11} {:>11}\n", rank.rank, rank.node, size_text(rank.bytes_read), size_text(rank.bytes_sent), size_text(rank.bytes_received),
                       size_text(rank.host_peak_bytes), size_text(rank.device_bytes));
  return out;
}

std::string LoadPlan::to_json(bool with_ranges) const {
  Json out = {{"read_amplification", read_amplification}, {"bytes_read", bytes_read}, {"bytes_needed", bytes_needed}, {"files_cut_short", files_cut_short}};
  out["seconds_estimate"] = seconds_estimate >= 0 ? Json(seconds_estimate) : Json(nullptr);
  out["bytes_per_second"] = bytes_per_second > 0 ? Json(bytes_per_second) : Json(nullptr);
  for (size_t file = 0; file < files.size(); ++file) out["files"].push_back({{"name", files[file]}, {"bytes", file_bytes[file]}});
  for (const RankLoad& rank : ranks) {
    Json one = {{"rank", rank.rank}, {"node", rank.node}, {"bytes_read", rank.bytes_read}, {"bytes_needed", rank.bytes_needed}, {"bytes_sent", rank.bytes_sent},
                {"bytes_received", rank.bytes_received}, {"host_peak_bytes", rank.host_peak_bytes}, {"device_bytes", rank.device_bytes}};
    if (with_ranges)
      for (const ReadRange& range : rank.ranges) one["ranges"].push_back({range.file, range.offset, range.bytes});
    out["ranks"].push_back(std::move(one));
  }
  return out.dump(2);
}

std::string LoadReport::to_json() const {
  return Json{{"read_amplification", read_amplification}, {"bytes_read", bytes_read}, {"bytes_received", bytes_received}, {"device_bytes", bytes_held},
              {"bytes_mapped", bytes_mapped}, {"host_peak_bytes", host_peak_bytes}, {"seconds", seconds}, {"from_shard_cache", from_shard_cache}, {"method", method}}.dump(2);
}

std::string VerifyReport::to_json() const {
  return Json{{"good", good()}, {"tensors", tensors}, {"bytes_checked", bytes_checked}, {"seconds", seconds}, {"fingerprint", fingerprint},
              {"content_hash", content_hash.empty() ? Json(nullptr) : Json(content_hash)}, {"problems", problems}}.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace dsinfer
