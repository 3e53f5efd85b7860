/// The rules that a plan's degrees keep. Each refusal names rule, dimension and size, divisor, and nearby legal values.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dsinfer/config.hpp"
#include "dsinfer/export.hpp"

namespace dsinfer {

struct Degrees {
  int64_t world_size = 1, tp = 1, pp = 1, dp = 1, ep = 1, replicas = 1;
  std::vector<int64_t> layers_per_stage;  ///< pp entries
  int64_t moe_tp() const { return tp * dp / ep; }
};

/// A broken rule: its stable name ("heads", "vocab", "dense", "shared", "fp8-block", "int4-group", "experts", "redundant", "stages", "ranks",
/// "prediction-layer") and the sentence with the numbers.
struct Refused { std::string rule, detail; };

/// In which units a precision lets quantised matrices be cut, and what it asks of uncut ones.
struct CutUnits {
  int64_t rows = 1, cols = 1;      ///< each part of a cut dimension is a multiple of this
  int64_t whole_cols = 1;          ///< the columns of every quantised matrix are, cut or not
  const char* rule = "";           ///< what a breach is called
  const char* rows_name = "";      ///< "FP8 block", "int4 packing"
  const char* cols_name = "";
  /// Which matrices it is about.
  bool attention = true, dense = true, shared = true, experts = true;
};
/// Of the checkpoint at hand: its FP8 blocks, its groups of 4-bit numbers, or none.
CutUnits checkpoint_units(const ModelConfig& config);

/// The first rule that `degrees` break with such units and `redundant` expert slots more than experts, or nothing.
/// Empty layers_per_stage: the cut is still open, and only its number of stages is looked at.
std::optional<Refused> refusal(const ModelConfig& config, const CutUnits& units, int64_t redundant, const Degrees& degrees);

/// The first rule that `degrees` break for the checkpoint as it is, or nothing.
std::optional<std::string> refusal(const ModelConfig& config, const Degrees& degrees);
/// The first rule that a tensor-parallel degree breaks by itself.
std::optional<std::string> tp_refusal(const ModelConfig& config, int64_t tp);
/// The first rule that experts over `ep` groups of `moe_tp` ranks break.
std::optional<std::string> experts_refusal(const ModelConfig& config, int64_t ep, int64_t moe_tp);
/// The largest ep that divides `ranks` and keeps the rules; nothing if there is none.
std::optional<int64_t> largest_legal_ep(const ModelConfig& config, int64_t ranks);

}  // namespace dsinfer
