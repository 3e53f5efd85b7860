#include "points.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>

#include "dsinfer/error.hpp"
#include "row_machine.hpp"

namespace points {
namespace {

using dsinfer::CachePrecision;
using dsinfer::Error;
using dsinfer::Precision;

std::vector<std::string> split_line(const std::string& line, const std::string& where) {
  std::vector<std::string> cells(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quoted && c == '"' && i + 1 < line.size() && line[i + 1] == '"') cells.back() += line[++i];
    else if (c == '"') quoted = !quoted;
    else if (c == ',' && !quoted) cells.emplace_back();
    else if (c != '\r') cells.back() += c;
  }
  if (quoted) throw Error(Error::bad_format, where + ": a quotation mark is not closed");
  return cells;
}

template <class... Words>
bool says_any(const std::string& text, Words... words) { return (says(text, words) || ...); }

/// The first number in the text: "~228", "128 (2-node default)", "ShareGPT (~219)". "16k" is not one of the file's forms.
std::optional<double> number(const std::string& text) {
  const size_t at = text.find_first_of("0123456789");
  if (at == std::string::npos) return std::nullopt;
  return std::strtod(text.c_str() + at, nullptr);
}

std::string cell(const Row& row, const char* column) {
  const auto found = row.find(column);
  return found == row.end() ? "" : found->second;
}

struct Unsaid { std::string why; };  // thrown within this file: the row cannot be predicted

/// Rules by what a row says of itself, before any number is looked at.
void refuse_by_kind(const Row& row) {
  const std::string all = lower(cell(row, "system") + " | " + cell(row, "metric") + " | " + cell(row, "source"));
  const std::string model = lower(cell(row, "model")), gpu = lower(cell(row, "gpu"));
  if (says_any(all, "config only", "no result") || cell(row, "value").empty()) throw Unsaid{"a configuration without a result"};
  if (says_any(all, "claim")) throw Unsaid{"a claim, not a measurement"};
  if (says_any(all, "untuned", "complaint")) throw Unsaid{"an untuned floor, by its own words"};
  if (says_any(all, "relaxed acceptance")) throw Unsaid{"relaxed acceptance: the tokens accepted a step are not stated"};
  if (says_any(model, "v3.2", "v2", "kimi")) throw Unsaid{"another model (" + cell(row, "model") + ")"};
  const bool card = says_any(gpu, "rtx", "h20", "h100", "h800", "b200", "l20", "a100", "a800");
  if (says(gpu, "+") || (card && says_any(gpu, "cpu", "xeon"))) throw Unsaid{"another kind of machine: experts on the CPU beside a GPU"};
  if (says_any(gpu, "ascend", "910", "gcu", "mi300", "mi325", "mi355", "tpu", "gaudi")) throw Unsaid{"another kind of machine, whose figures the catalogue does not have (" + cell(row, "gpu") + ")"};
}

void read_metric(const Row& row, Point& p) {
  const std::string metric = lower(cell(row, "metric")), unit = lower(cell(row, "unit"));
  std::string digits = cell(row, "value");
  std::erase(digits, ',');
  const auto value = number(digits);
  if (!value || *value <= 0) throw Unsaid{"the value is not a number"};
  p.value = *value;
  if (says(metric, "weights memory")) p.metric = Metric::weights;
  else if (says(metric, "tpot") && unit == "ms") p.metric = Metric::tpot;
  else if (says_any(metric, "itl", "inter-token") && unit == "ms") p.metric = Metric::tpot;
  else if (says(metric, "ttft") && unit == "ms") p.metric = Metric::ttft;
  else if (says(unit, "/user") || says_any(metric, "per user", "decode speed", "output speed")) p.metric = Metric::user_speed;
  else if (says(metric, "total token throughput")) p.metric = Metric::total_rate;
  else if (says(metric, "prefill")) p.metric = Metric::prefill_rate;
  else if (says(metric, "decode")) p.metric = cell(row, "concurrency_or_batch") == "1" && unit == "tok/s" ? Metric::user_speed : Metric::decode_rate;
  else if (says(metric, "output")) p.metric = Metric::output_rate;
  else throw Unsaid{"not a metric of the model (" + cell(row, "metric") + ")"};
  p.rate_gpus = says_any(unit, "/gpu", "/npu") ? 1 : says(unit, "/node") ? p.gpus_per_node : 0;
}

void read_precision(const Row& row, Point& p) {
  const std::string text = lower(cell(row, "precision"));
  p.cache = CachePrecision::bf16;
  p.bf16_attention = says_any(text, "bf16 attn", "bf16 mla");
  if (says_any(text, "fp8 mla", "fp8 kv", "fp8 attn")) p.cache = CachePrecision::fp8;
  if (says(text, "nvfp4")) {
    p.experts = "nvfp4";
    p.weights = Precision::int4;
    if (says(text, "fp8/nvfp4") || says(text, "nvfp4/fp8")) p.cache = CachePrecision::fp8;
  } else if (says_any(text, "int4", "awq")) p.weights = Precision::int4;
  else if (says(text, "weight-only")) p.weights = Precision::fp8_bf16;
  else if (says(text, "fp8")) p.weights = Precision::fp8;
  else if (says(text, "int8")) { p.weights = Precision::fp8; p.experts = "int8"; }
  else if (says(text, "q8_0")) { p.weights = Precision::fp8_bf16; p.experts = "q8"; }
  else if (says(text, "q4_k")) { p.weights = Precision::int4; p.experts = "q4"; }
  else if (says_any(text, "bf16", "fp16")) p.weights = Precision::bf16;
  else throw Unsaid{"not a precision of the model (" + cell(row, "precision") + ")"};
}

void read_shape(const Row& row, Point& p) {
  const auto tp = number(cell(row, "tp")), pp = number(cell(row, "pp")), dp = number(cell(row, "dp")), ep = number(cell(row, "ep"));
  const std::string dp_words = lower(cell(row, "dp"));
  const double gpus = p.gpus_per_node * p.nodes;
  if (!tp && p.metric != Metric::weights) throw Unsaid{"the plan is not stated"};
  const auto degree = [](const std::optional<double>& n) { return static_cast<int64_t>(std::clamp(n.value_or(1), 1.0, 1e6)); };
  p.shape.tp = degree(tp);
  p.shape.pp = degree(pp);
  p.shape.dp = degree(dp);
  p.shape.ep = degree(ep);
  // "tp 8, DP attention": each of the tp ranks runs attention for its own requests; the experts stay cut by tp.
  if (says(dp_words, "attention")) {
    p.shape.dp = p.shape.tp;
    p.shape.tp = 1;
  }
  if (p.metric == Metric::weights) return;
  if (p.shape.ranks() > 4096) throw Unsaid{"a plan beyond the row's machine"};
  if (p.shape.tp * p.shape.dp % p.shape.ep != 0) throw Unsaid{"ep does not divide tp × dp"};
  if (gpus >= 1 && static_cast<double>(p.shape.ranks()) > gpus + 0.5) throw Unsaid{"the plan has more ranks than the row has GPUs"};
  // Redundant experts fill the slots: DeepSeek's and SGLang's large plans have 288.
  const int64_t degree_ep = p.shape.ep;
  const std::string system = lower(p.system);
  const bool balanced = says_any(system, "deepseek online", "deepseek profile", "pd+ep", "wide-ep");
  int64_t slots = balanced && 288 % degree_ep == 0 && degree_ep >= 32 ? 288 : 256;
  slots = (slots + degree_ep - 1) / degree_ep * degree_ep;
  p.shape.redundant_experts = static_cast<int>(slots - 256);
  if (says_any(system, "balanced routing", "perfect eplb")) p.skew = 0;
}

void read_lengths(const Row& row, Point& p) {
  const std::string in = lower(cell(row, "input_len"));
  const auto input = number(in);
  if (!input && p.metric != Metric::weights) throw Unsaid{"the input length is not stated (\"" + cell(row, "input_len") + "\")"};
  p.input_len = std::max(input.value_or(1), 1.0);
  p.output_len = number(cell(row, "output_len")).value_or(0);
  p.mixed_lengths = says(in, "sharegpt");
  // A mean of the cache's length is what decode reads; as if half of an answer of no length were written.
  if (says_any(in, "avg kv", "kv ")) p.output_len = 0;
}

void read_load(const Row& row, Point& p) {
  const std::string text = lower(cell(row, "concurrency_or_batch"));
  const auto n = number(text);
  if (p.metric == Metric::weights) return;
  if (says(text, "tok/gpu")) p.chunk = n.value_or(0);
  else if (says(text, "/gpu")) p.batch = n.value_or(0) * static_cast<double>(p.shape.ranks());
  else if (says(text, "memory")) p.batch = 0;
  else if (says(text, "prompts") || p.metric == Metric::prefill_rate) p.batch = 1;
  else if (n) p.batch = *n;
  else if (p.metric == Metric::ttft) p.batch = 1;
  else throw Unsaid{"the batch is not stated (\"" + cell(row, "concurrency_or_batch") + "\")"};
}

/// Tokens a step with k drafts, as stated: 1.8 to 1.9, 2.4 to 2.7 and 2.9 to 3.3 for 1, 2 and 3 drafts (Ant Group on H20); 2.82 for 3 (TensorRT-LLM).
void read_drafts(Point& p) {
  const std::string system = lower(p.system);
  const size_t at = system.find("mtp");
  if (at == std::string::npos || says_any(system, "no mtp", "simulated mtp", "without mtp")) return;
  p.drafts = static_cast<int>(number(system.substr(at)).value_or(1));
  if (p.drafts < 1 || p.drafts > 3) throw Unsaid{"the tokens accepted a step are not stated"};
  p.accepted = p.drafts == 1 ? 1.85 : p.drafts == 2 ? 2.55 : says(system, "tensorrt") ? 2.82 : 3.1;
  p.shape.prediction_layer = true;
}

}  // namespace

std::vector<Row> read_csv(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw Error(Error::not_found, path + ": cannot be opened");
  std::vector<Row> rows;
  std::vector<std::string> header;
  std::string line;
  for (int at = 1; std::getline(file, line); ++at) {
    if (line.empty() || line == "\r") continue;
    if (rows.empty() && header.empty() && line.rfind("\xEF\xBB\xBF", 0) == 0) line.erase(0, 3);
    const std::string where = path + ":" + std::to_string(at);
    std::vector<std::string> cells = split_line(line, where);
    if (header.empty()) { header = std::move(cells); continue; }
    if (cells.size() > header.size()) throw Error(Error::bad_format, where + ": " + std::to_string(cells.size()) + " cells, the header has " + std::to_string(header.size()));
    Row row;
    for (size_t i = 0; i < header.size(); ++i) row[header[i]] = i < cells.size() ? cells[i] : "";
    rows.push_back(std::move(row));
  }
  for (const char* column : {"id", "system", "gpu", "metric", "value", "unit"})
    if (std::find(header.begin(), header.end(), column) == header.end()) throw Error(Error::bad_format, path + ": no column \"" + column + "\"");
  return rows;
}

Understood understand(const Row& row) {
  try {
    Point p;
    p.id = cell(row, "id");
    p.system = cell(row, "system");
    p.gpu = cell(row, "gpu");
    p.interconnect = cell(row, "interconnect");
    p.gpus_per_node = number(cell(row, "gpus_per_node")).value_or(8);
    p.nodes = number(cell(row, "nodes")).value_or(1);
    const std::string all = lower(p.system + " " + cell(row, "metric"));
    p.apart = says_any(all, "pd", "1p1d", "decode throughput", "prefill", "deepseek online");
    refuse_by_kind(row);
    read_metric(row, p);
    read_precision(row, p);
    read_shape(row, p);
    read_lengths(row, p);
    read_load(row, p);
    read_drafts(p);
    return {p, ""};
  } catch (const Unsaid& unsaid) {
    return {std::nullopt, unsaid.why};
  }
}

}  // namespace points
