/// Published serving results as rows of a CSV, and what their words mean for a prediction. A row that cannot be predicted says why.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "dsinfer/solver.hpp"
#include "plan/shape.hpp"

namespace points {

/// One row as written, by column name.
using Row = std::map<std::string, std::string>;

/// Columns: id, system, model, precision, gpu, gpus_per_node, nodes, interconnect, tp, pp, dp, ep, input_len, output_len, concurrency_or_batch, metric, value,
/// unit, source. Throws Error::bad_format naming file and line.
std::vector<Row> read_csv(const std::string& path);

enum class Metric { prefill_rate, decode_rate, output_rate, total_rate, tpot, ttft, user_speed, weights };

/// A row understood.
struct Point {
  std::string id, system;
  Metric metric{};
  double value = 0;
  double rate_gpus = 1;           ///< GPUs that a rate is given for; 0: for all
  dsinfer::Precision weights{};
  dsinfer::CachePrecision cache{};
  std::string experts;            ///< "", "nvfp4", "int8", "q8", "q4": a form beside `weights` that the row names
  bool bf16_attention = false;
  std::string gpu;
  double gpus_per_node = 8, nodes = 1;
  std::string interconnect;
  dsinfer::Shape shape;
  double input_len = 0, output_len = 0;
  bool mixed_lengths = false;     ///< a set of conversations, of which these are the means
  double batch = 0;               ///< over all DP ranks; 0 = what memory holds
  double chunk = 0;               ///< prompt tokens per GPU in a prefill step; 0: not said
  int drafts = 0;
  double accepted = 1;            ///< tokens a step
  double skew = -1;
  bool apart = false;             ///< prefill and decode on different GPUs
};

struct Understood {
  std::optional<Point> point;
  std::string why_not;
};
Understood understand(const Row& row);

}  // namespace points
