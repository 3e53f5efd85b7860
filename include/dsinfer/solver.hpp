/// The plan solver: which TP × PP × DP × EP to run on a fleet, why, what it will deliver, and what was refused and why.
/// Pure: no GPU, no MPI, no clock; the same question gives the same answer. Bytes are bytes, GB/s 10^9 bytes a second one way.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dsinfer/cluster.hpp"
#include "dsinfer/config.hpp"
#include "dsinfer/export.hpp"
#include "dsinfer/plan.hpp"

namespace dsinfer {

/// What a number stands on, worst first when several are combined.
enum class Confidence { specification, interpolated, measured };

/// How weights are held and computed with. fp8_bf16: stored in FP8 blocks, computed in BF16 (GPUs without FP8 units).
enum class Precision { fp8, fp8_bf16, bf16, int4 };
/// The latent cache: 2 B, 1 B, or 1 B with scales and a BF16 rope part (656 B for 576 values).
enum class CachePrecision { bf16, fp8, fp8_scaled };

/// A kind of GPU. The catalogue holds the known ones; a user's file adds or replaces some.
struct GpuKind {
  std::string id;                  ///< "h20-96g"
  std::vector<std::string> names;  ///< what drivers call it: "NVIDIA H20", "H20-3e"
  std::vector<std::string> pci;    ///< vendor and device on the bus: "10de:2329"; where a source gives no name
  int64_t memory_bytes = 0;        ///< as the driver reports it (NVML), not the marketing figure
  double compute_capability = 0;   ///< 9.0; 0 for other makers
  bool fp8_units = false;
  double memory_gb_per_s = 0;      ///< specification
  double bf16_tflops = 0, fp8_tflops = 0;  ///< dense; fp8 0 = none
  double nvlink_gb_per_s = 0;      ///< one way, to all peers together; 0 = none
  double pcie_gb_per_s = 0;        ///< one way
  std::string curves;              ///< efficiency curves that describe it: "hopper", "ampere", …
  std::string source;
};

/// What joins GPUs: inside a node or between nodes.
struct LinkKind {
  std::string id;                  ///< "nvlink", "pcie", "roce400x8"
  std::string transport;           ///< "nvlink", "pcie", "memory" (between CPUs of a host), "ib", "roce", "socket"
  double gb_per_s = 0;             ///< one way, for each GPU while all use it; 0 in the catalogue: what the GPU or the word says
  double gbps = 0;                 ///< Gb/s of one NIC; 0: the word has to say
  int nics = 1;                    ///< a node
  double latency_us = 0;           ///< of a small message
  Confidence confidence = Confidence::specification;
  std::string source;
};

/// A place for a rank.
struct FleetGpu {
  int node = 0;
  std::string label;               ///< "GPU3"
  int island = 0;                  ///< NVLink island inside the node; GPUs of one reach each other by NVLink
  bool operator==(const FleetGpu&) const = default;
};

/// What share of their specification the kernels and collectives reach (opaque; lib/plan/data/curves.json is the shipped set).
struct Curves;
/// The shipped curves with the numbers of a JSON file of the same form in place of them: what was measured on the user's machine.
/// Throws bad_format naming file and key.
DSINFER_API std::shared_ptr<const Curves> load_curves(const std::filesystem::path& file);

/// The machine as the solver sees it: equal GPUs, in nodes.
struct Fleet {
  int nodes = 1, gpus_per_node = 1;
  GpuKind gpu;
  LinkKind inside, between;        ///< between: per GPU, NICs shared fairly
  int nics_per_node = 0;
  std::vector<std::string> node_names;
  std::vector<FleetGpu> gpus;      ///< nodes × gpus_per_node, in node order
  std::map<std::string, std::string> environment;  ///< of the network, where a cluster was discovered
  std::map<std::string, std::string> environment_reasons;  ///< why, by variable
  std::vector<std::string> notes;  ///< what was assumed, what differs between nodes
  std::shared_ptr<const Curves> curves;  ///< measured ones; null: the shipped
  int num_gpus() const { return nodes * gpus_per_node; }
};

/// Known GPUs and links. Values; the shipped one is compiled in.
struct DSINFER_API Catalogue {
  std::vector<GpuKind> gpus;
  std::vector<LinkKind> links;
  static const Catalogue& shipped();
  /// The shipped one with the entries of a JSON file added or replaced, by id. The file has the form of lib/plan/data: {"format": "dsinfer-catalogue-1",
  /// "gpus": [{"id": "mine-48g", "like": "l20-48g", "names": ["What Drivers Print"], "memory_mib": 46000, …}], "links": [{"id": "backbone", "transport": "roce",
  /// "gb_per_s": 12.5, "latency_us": 7}]}; what an entry leaves out is as in the one it is like. Throws bad_format naming file and key.
  static Catalogue with_file(const std::filesystem::path& file);
  /// Throws not_found naming the ids that there are.
  const GpuKind& gpu(std::string_view id) const;
  /// The kind whose names match what a driver reports, memory deciding between variants; nullptr if none does.
  const GpuKind* match(std::string_view driver_name, int64_t memory_bytes) const;
  /// The kind that has this PCI vendor and device; nullptr if none does.
  const GpuKind* match_pci(uint32_t vendor, uint32_t device) const;
  /// "nvlink", "pcie", or transport + Gb/s + "x" + NICs a node: "roce400x8", "ib200x1", "erdma", "socket25x1".
  LinkKind link(std::string_view id, int gpus_per_node) const;
};

/// From words: nodes × gpus of one kind, joined inside by what the kind has unless `inside` says otherwise.
DSINFER_API Fleet describe_fleet(const Catalogue& catalogue, int nodes, int gpus_per_node, std::string_view gpu, std::string_view between, std::string_view inside = "");
/// From a discovered or stored cluster. Mixed GPUs: the least of each figure, said in notes. Throws plan_refused for a cluster without GPUs
/// that are known, naming them; CPU-only nodes become the kind "cpu".
DSINFER_API Fleet fleet_of(const Catalogue& catalogue, const Cluster& cluster);

struct Workload {
  int64_t input_len = 2048, output_len = 512;  ///< tokens of a request
  double prefix_hit = 0;                       ///< share of the input found in the cache, 0 … 1
  int64_t concurrency = 0;                     ///< requests in flight over all replicas; 0 = as many as memory and limits allow
  double rate = 0;                             ///< requests a second to sustain; 0 = not asked
};

enum class Objective { throughput, latency };

struct SolveRequest {
  Workload workload;
  std::optional<Precision> precision;          ///< absent: the checkpoint's, as the GPU can compute it
  std::optional<CachePrecision> cache;         ///< absent: bf16
  double utilization = 0.9;                    ///< of the memory that the driver reports; more than 0.95 is refused
  int64_t max_len = 4096;                      ///< a DP rank has to hold at least one sequence of this length
  std::optional<double> overhead_bytes;        ///< in place of our own sum of activations, buffers, context and reserve
  std::optional<double> ttft_ms, tpot_ms;      ///< limits
  Objective objective = Objective::throughput;
  std::optional<PlanRequest> judge;            ///< judge this plan alone (world_size 0 = the whole fleet)
  bool prediction_layer = false;               ///< hold the MTP layer and draft with it
  double draft_acceptance = 0;                 ///< tokens accepted a step beyond the first, with prediction_layer
  int redundant_experts = 0;                   ///< slots more than n_routed_experts
  bool split_roles = false;                    ///< also consider prefill and decode on separate nodes
  int top = 5;                                 ///< plans in the answer
};

/// Bytes of the fullest rank, and by stage.
struct MemoryTable {
  int64_t budget_bytes = 0;                    ///< utilization × memory
  int64_t weights_bytes_max = 0;               ///< weights and scales of the fullest rank, without absorbed copies
  std::vector<int64_t> weights_bytes_by_stage;
  int64_t absorbed_bytes = 0, activation_bytes = 0, communication_bytes = 0, context_bytes = 0, reserve_bytes = 0;
  int64_t overhead_bytes = 0;                  ///< the five above, or what the request said
  int64_t cache_bytes_per_token_max = 0;       ///< of one rank of the stage with most layers
  int64_t room_bytes = 0;                      ///< budget − weights − overhead on the fullest rank; negative: does not fit
  int64_t kv_tokens_per_dp_rank = 0;           ///< least over the stages; not multiplied by dp
  int tightest_stage = 0;
  std::map<std::string, int64_t> weights_by_kind;  ///< of the fullest rank: "attention", "experts", "shared", "dense", "embedding", "router", "norms", "mtp"
};

/// One number and what it stands on.
struct Estimate {
  double value = 0;
  Confidence confidence = Confidence::specification;
};

struct Prediction {
  Estimate ttft_ms, tpot_ms;
  Estimate tokens_per_s;                       ///< output tokens a second, all replicas
  double tokens_per_s_per_gpu = 0;
  Estimate prefill_tokens_per_s;               ///< input tokens a second when only prefilling
  double requests_per_s = 0;
  int64_t batch_per_dp_rank = 0;               ///< sequences decoding together on one DP rank
  int64_t concurrency = 0;                     ///< over all replicas
  int64_t chunk_tokens = 0;                    ///< prefill chunk
  std::map<std::string, double> decode_ms, prefill_ms;  ///< parts: "attention", "experts", "dense", "head", "all_to_all", "all_reduce", "pipeline", "bubble", "other"
  std::string bottleneck;                      ///< "expert weights from memory", "all-to-all between nodes", …
  std::map<std::string, std::string> algorithms;  ///< collective → algorithm: "all_reduce": "one-shot"
};

struct StageAnswer {
  int64_t first_layer = 0, layers = 0;
  int64_t weights_bytes = 0;
};

struct PlanAnswer {
  Plan plan;                                   ///< straight into the engine
  std::vector<StageAnswer> stages;
  MemoryTable memory;
  Prediction predicted;
  bool feasible = false, meets_limits = false;
  std::vector<std::string> rank_map;           ///< plan rank → "node/GPUn"
  std::string why;                             ///< one sentence
};

struct RejectedPlan {
  std::string plan;                            ///< "tp=32,pp=1,dp=1,ep=1"
  std::string rule;                            ///< "fp8-block", "memory", "dominated", …; stable
  std::string detail;                          ///< numbers
};

struct Advice {
  std::string change;                          ///< "precision", "nodes", "utilization", "max_len", …
  std::string text;
  std::string plan;                            ///< what would then run
};

/// Prefill on some GPUs and decode on others, each with its own plan and replicas.
struct SplitRoles {
  PlanAnswer prefill, decode;
  double requests_per_s = 0, tokens_per_s = 0, tokens_per_s_per_gpu = 0;  ///< per GPU of the fleet
  std::string why;
};

struct DSINFER_API SolveAnswer {
  bool feasible = false;
  std::vector<PlanAnswer> plans;               ///< best first, `top` at most; when judging, the one. If nothing fits: the closest, not feasible
  std::vector<PlanAnswer> pareto;              ///< throughput per GPU against speed per user, 8 at most
  std::vector<RejectedPlan> rejected;
  std::vector<Advice> advice;
  std::optional<SplitRoles> roles;             ///< where asked for and better
  Fleet fleet;
  SolveRequest request;                        ///< precision and cache as they were settled
  int64_t plans_considered = 0, plans_legal = 0, plans_fitting = 0;

  std::string to_json() const;
  std::string text() const;
  /// The Pareto picture, self-contained.
  std::string svg() const;
};

/// "fp8", "fp8_bf16", "bf16", "int4"; "bf16", "fp8", "fp8_scaled"; "measured", …; static.
DSINFER_API const char* precision_name(Precision precision);
DSINFER_API const char* cache_precision_name(CachePrecision precision);
DSINFER_API const char* confidence_name(Confidence confidence);
/// The reverse. Throws invalid_argument naming the word and those that there are.
DSINFER_API Precision parse_precision(std::string_view word);
DSINFER_API CachePrecision parse_cache_precision(std::string_view word);

/// Searches (or judges) and explains. Throws invalid_argument naming the field for nonsense; an infeasible question is an answer, not an error.
DSINFER_API SolveAnswer solve(const ModelConfig& config, const Fleet& fleet, const SolveRequest& request);

/// How many nodes of this kind a load needs (request.workload.rate at its lengths, within the limits): grows the fleet until it is met.
DSINFER_API SolveAnswer nodes_for_rate(const ModelConfig& config, const Fleet& one_node, const SolveRequest& request, int max_nodes = 1024);

}  // namespace dsinfer
