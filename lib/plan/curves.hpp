/// Efficiency curves: what share of a device's specification its kernels reach, and what a launch costs whatever it does. Few numbers, each with a
/// physical meaning; data/curves.json holds them with their sources. Values; read only after loading.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "dsinfer/solver.hpp"

namespace dsinfer {

/// The kernels of one family of devices. Shares are of the specification; microseconds are per layer unless said otherwise.
struct CurveFamily {
  double weight_stream = 0, expert_stream = 0, cache_stream = 0;  ///< share of the memory's rate: dense weights, experts, latent cache
  double gemm_share = 0, gemm_bytes_per_flop = 0;                 ///< share of the peak that feeding does not limit; operand bytes read again per FLOP
  double core_share = 0, core_bytes_per_flop = 0;                 ///< the same for attention over the cache
  double fp8_core_gain = 1;                                       ///< of an FP8 attention kernel over a BF16 one
  double attention_fixed_us = 0, experts_fixed_us = 0, layer_fixed_us = 0;
  double step_fixed_us = 0, draft_fixed_us = 0;                   ///< a step; a speculative step beyond it
  double token_traffic = 0, row_traffic = 0;                      ///< bytes per hidden value: of a token outside GEMMs, of a routed row
  double prefill_launch_us = 0;                                   ///< host time of a layer in prefill, hidden while the device is slower
  double skew = 0, skew_balanced = 0;                             ///< of routed rows over ranks: as routed, with redundant experts

  std::vector<std::string> gpus, precisions, transports;          ///< for which the numbers were taken
  double max_batch = 0, max_context = 0, max_nodes = 0;
  Confidence confidence = Confidence::specification;              ///< inside that range
};

struct LinkCurves {
  double one_shot_fixed_us = 0, two_shot_fixed_us = 0, direct_share = 0;
  double nccl_fixed_us = 0, nccl_share = 0, nccl_hop_us = 0;
  double pcie_fixed_us = 0, pcie_share = 0, pcie_crowding = 0;
  double between_share = 0, socket_share = 0, socket_fixed_us = 0;
  double low_latency_fixed_us = 0, low_latency_hop_us = 0, low_latency_share = 0;
  double normal_fixed_us = 0, normal_eager_us = 0, normal_share = 0, normal_between_share = 0;
  double overlap = 0;
};

struct Curves {
  std::map<std::string, CurveFamily> families;
  LinkCurves links;

  /// Compiled in.
  DSINFER_INTERNAL static const Curves& shipped();
  /// `base` with what the JSON text says in place of it; a family that is new starts as "other". Throws bad_format naming `origin` and key.
  DSINFER_INTERNAL static Curves parse(std::string_view json, const std::string& origin, const Curves& base);
  /// The GPU's family; "other" if it names none that is known.
  const CurveFamily& of(const GpuKind& gpu) const;
};

}  // namespace dsinfer
