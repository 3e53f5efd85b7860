#include "model/handshake.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "comm/nodes.hpp"
#include "comm/same_fields.hpp"
#include "core/bytes.hpp"
#include "core/outcome.hpp"
#include "dsinfer/version.hpp"

namespace dsinfer {

void check_same_everywhere(World& world, const ForwardOptions& options, const std::string& model_fingerprint) {
  check_same_fields(world, {
      {"library version", DSINFER_VERSION},
      {"model folder's content (config, index, headers)", model_fingerprint},
      {"plan", options.plan ? options.plan->spec() + " " + options.plan->to_json() : "none given"},
      {"device", options.device.substr(0, options.device.find(':'))},
      {"max_tokens", std::to_string(options.max_tokens)},
      {"max_sequences", std::to_string(options.max_sequences)},
      {"max_len", std::to_string(options.max_len)},
      {"page_size", std::to_string(options.page_size)},
      {"num_pages", std::to_string(options.num_pages)},
      {"cache (0 automatic, 1 f32, 2 bf16, 3 fp8)", std::to_string(static_cast<int>(options.cache))},
      {"w8a8", options.w8a8 ? "on" : "off"},
      {"format of the weights held (0 as stored, 1 bf16, 2 fp8)", std::to_string(static_cast<int>(options.load.weights))},
      {"absorbed copies of kv_b_proj in BF16", options.load.absorbed_bf16 ? "yes" : "no"},
      {"weights left in mapped files", options.load.method == ReadMethod::mmap ? "yes" : "no"},
  });
}

Plan agree_on_plan(World& world, const ModelConfig& config, const std::optional<Plan>& given) {
  std::string json;
  in_agreement(world, [&] {
    if (world.rank() != 0) return;
    PlanRequest request;
    request.world_size = world.size();
    const Plan plan = given ? *given : solve(config, request);
    if (plan.world_size != world.size()) {
      throw Error(Error::plan_refused, fmt::format("the plan {} is for {} ranks, but {} are running; start mpirun -np {} or change the plan", plan.spec(),
                                                   plan.world_size, world.size(), plan.world_size));
    }
    if (plan.replicas != 1) {
      throw Error(Error::plan_refused, fmt::format("the plan has replicas={}; an engine is one replica: split the world first", plan.replicas));
    }
    json = plan.to_json();
  });
  json = world.broadcast(json, 0);
  return Plan::from_json(json, config);
}

HostShare share_host(World& world) {
  const Nodes nodes = share_nodes(world);
  return {nodes.ranks, nodes.index, nodes.hosts[static_cast<size_t>(nodes.mine)]};
}

int64_t agree_on_pages(World& world, const HostShare& share, const MemoryNeed& need, int64_t available, int64_t wanted, int64_t automatic) {
  ByteWriter out;
  out.put(need.weights + need.activations);
  out.put(need.cache_page);
  out.put(available);
  out.put_text(share.host);
  struct HostNeed { int64_t fixed = 0, page = 0, available = 0; };
  std::map<std::string, HostNeed> hosts;
  for (const std::string& bytes : world.all_gather(out.take())) {
    ByteReader in(bytes);
    const auto fixed = in.get<int64_t>(), page = in.get<int64_t>(), there = in.get<int64_t>();
    HostNeed& host = hosts[in.get_text()];
    host.fixed += fixed;
    host.page += page;
    host.available = there;
  }
  constexpr double gb = 1e9;
  int64_t pages = wanted > 0 ? wanted : automatic;
  for (const auto& [name, host] : hosts) {
    // Without a wish the cache takes at most half of what the weights leave; a page too many would be found out only when it is touched.
    const int64_t room = std::max<int64_t>(0, host.available - host.fixed);
    if (wanted <= 0 && host.page > 0) pages = std::min(pages, room / 2 / host.page);
    const int64_t needed = host.fixed + host.page * std::max<int64_t>(pages, 1);
    if (pages < 1 || needed > host.available) {
      throw Error(Error::out_of_memory,
                  fmt::format("not enough memory on host {}: weights and activations of its ranks need {:.2f} GB, {} cache pages {:.2f} GB, {:.2f} GB are free; "
                              "use more hosts, fewer cache pages or a shorter max_len",
                              name, static_cast<double>(host.fixed) / gb, std::max<int64_t>(pages, 1),
                              static_cast<double>(host.page * std::max<int64_t>(pages, 1)) / gb, static_cast<double>(host.available) / gb));
    }
  }
  return pages;
}

}  // namespace dsinfer
