// Which plan for which machines: example_plan --model DIR --nodes 2 --gpus 8 --gpu h20-96g --link roce400x8.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "common/model_options.hpp"
#include "common/options.hpp"
#include "dsinfer/error.hpp"
#include "dsinfer/loader.hpp"
#include "dsinfer/solver.hpp"

namespace {

using namespace dsinfer;
namespace fs = std::filesystem;

enum Exit { kFeasible = 0, kInfeasible = 1, kWrongUse = 2 };

struct Settings {
  std::string model, cluster, gpu, link, inside, catalogue, curves, precision, cache, objective, plan, svg, save_plan;
  int64_t nodes = 0, gpus = 8, concurrency = 0, input_len = 2048, output_len = 512, max_len = 4096, top = 5, redundant = 0, experts_per_token = 0;
  static constexpr double kNone = -1;  // not given
  double rate = 0, ttft = kNone, tpot = kNone, utilization = 0.9, overhead = kNone, prefix_hit = 0, draft_acceptance = 0;
  bool mtp = false, json = false, split_roles = false, nodes_for_rate = false;
};

bool parse(int argc, char** argv, Settings& s) {
  example::OptionList o("usage: example_plan --model DIR (--cluster FILE | --nodes N --gpus G --gpu KIND [--link KIND]) [options]",
                        "Says which TP × PP × DP × EP to run, what it delivers, and what was refused and why.\n"
                        "Exit status: 0 a plan fits, 1 none does, 2 the question makes no sense.");
  o.text("model", "DIR|FILE", "a model's folder, its config.json, or safetensors files alone (default: the shipped model)", s.model);
  o.integer("experts-per-token", "K", "num_experts_per_tok, where neither config.json nor the shapes tell it", s.experts_per_token, 1);
  o.text("cluster", "FILE", "the machines as a cluster in JSON, discovered or stored", s.cluster);
  o.integer("nodes", "N", "or in words: how many nodes,", s.nodes, 1);
  o.integer("gpus", "G", "GPUs in each (default 8),", s.gpus, 1);
  o.text("gpu", "KIND", "of which kind: h20-96g, a800-80g, … (a wrong one lists them),", s.gpu);
  o.text("link", "KIND", "joined by what: roce400x8, ib200x1, erdma, socket25x1,", s.link);
  o.text("inside", "KIND", "and inside a node: nvlink, pcie (default: what the GPU has)", s.inside);
  o.text("catalogue", "FILE", "GPUs and links more than the shipped ones, in JSON", s.catalogue);
  o.text("curves", "FILE", "efficiencies that were measured here, in place of the shipped ones, in JSON", s.curves);
  o.text("precision", "NAME", "of the weights: fp8, fp8_bf16, bf16, int4 (default: the checkpoint's)", s.precision);
  o.text("kv", "NAME", "of the cache: bf16 (default), fp8, fp8_scaled", s.cache);
  o.integer("input-len", "N", "tokens of a prompt (default 2048)", s.input_len, 1);
  o.integer("output-len", "N", "tokens of an answer (default 512)", s.output_len, 1);
  o.number("prefix-hit", "S", "share of the prompt found in the cache, 0 … 1 (default 0)", s.prefix_hit);
  o.integer("concurrency", "N", "requests in flight (default: as many as memory and limits allow)", s.concurrency, 1);
  o.number("rate", "R", "requests a second to sustain", s.rate);
  o.flag("nodes-for-rate", "how many nodes --rate needs; --nodes is then the most (default 1024)", s.nodes_for_rate);
  o.number("ttft", "MS", "limit of the time to the first token", s.ttft);
  o.number("tpot", "MS", "limit of the time for each further token", s.tpot);
  o.number("utilization", "U", "share of the GPU's memory to use (default 0.9, at most 0.95)", s.utilization);
  o.integer("max-len", "N", "longest sequence that has to fit (default 4096)", s.max_len, 1);
  o.text("objective", "NAME", "throughput (default) or latency", s.objective);
  o.text("plan", "SPEC", "judge this plan alone: tp=8,pp=2[,dp=,ep=,replicas=,layers=32+29]", s.plan);
  o.number("overhead", "GB", "in place of our own sum of activations, buffers and context", s.overhead);
  o.integer("top", "K", "plans to list (default 5)", s.top, 1);
  o.flag("mtp", "hold the prediction layer and draft with it", s.mtp);
  o.number("draft-acceptance", "A", "with --mtp: tokens accepted a step beyond the first", s.draft_acceptance);
  o.integer("redundant", "R", "expert slots more than experts", s.redundant);
  o.flag("split-roles", "also look at prefill and decode on separate nodes", s.split_roles);
  o.flag("json", "print the whole answer as JSON", s.json);
  o.text("svg", "FILE", "write the picture of throughput against speed", s.svg);
  o.text("save-plan", "FILE", "write the best plan for example_chat --plan FILE", s.save_plan);
  return o.parse(argc, argv, true);
}

[[noreturn]] void refuse(const std::string& what) { throw Error(Error::invalid_argument, what + " (see --help)"); }

std::string read_file(const std::string& path, const char* option) {
  std::ifstream file(path, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  if (!file) throw Error(Error::not_found, std::string(option) + " " + path + ": cannot be read");
  return text;
}

void write_file(const std::string& path, const char* option, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) throw Error(Error::io, std::string(option) + " " + path + ": cannot be written");
}

// Errors of the library name the field; here they also name the option that set it.
template <class Call> auto named(const char* option, Call&& call) {
  try {
    return call();
  } catch (const Error& e) {
    throw Error(e.code(), std::string(option) + ": " + e.what());
  }
}

int whole(int64_t value, const char* option) {
  if (value > 1 << 20) refuse(std::string(option) + " is " + std::to_string(value) + ", expected " + std::to_string(1 << 20) + " at most");
  return static_cast<int>(value);
}

Fleet fleet(const Settings& s) {
  const Catalogue catalogue = s.catalogue.empty() ? Catalogue::shipped() : named("--catalogue", [&] { return Catalogue::with_file(s.catalogue); });
  if (!s.cluster.empty()) {
    if (!s.gpu.empty() || s.nodes > 0) refuse("--cluster describes the machines already; leave out --gpu and --nodes");
    return named("--cluster", [&] { return fleet_of(catalogue, Cluster::from_json(read_file(s.cluster, "--cluster"))); });
  }
  if (s.gpu.empty()) refuse("which machines? Give --cluster FILE, or --nodes N --gpus G --gpu KIND");
  const int64_t nodes = s.nodes_for_rate || s.nodes == 0 ? 1 : s.nodes;
  const std::string link = s.link.empty() ? "ib400x" + std::to_string(s.gpus) : s.link;
  if (s.link.empty() && nodes > 1) refuse("--nodes " + std::to_string(nodes) + " needs --link KIND: what joins them (ib400x8, roce200x1, socket25x1, …)");
  return named("--nodes, --gpus, --gpu, --link, --inside", [&] { return describe_fleet(catalogue, whole(nodes, "--nodes"), whole(s.gpus, "--gpus"), s.gpu, link, s.inside); });
}

SolveRequest request(const Settings& s) {
  SolveRequest r;
  r.workload = {s.input_len, s.output_len, s.prefix_hit, s.concurrency, s.rate};
  if (!s.precision.empty()) r.precision = named("--precision", [&] { return parse_precision(s.precision); });
  if (!s.cache.empty()) r.cache = named("--kv", [&] { return parse_cache_precision(s.cache); });
  r.utilization = s.utilization;
  r.max_len = s.max_len;
  if (s.overhead >= 0) r.overhead_bytes = s.overhead * 1e9;
  else if (s.overhead != Settings::kNone) refuse("--overhead is " + std::to_string(s.overhead) + ", expected 0 or more");
  if (s.ttft != Settings::kNone) r.ttft_ms = s.ttft;
  if (s.tpot != Settings::kNone) r.tpot_ms = s.tpot;
  if (!s.objective.empty() && s.objective != "throughput" && s.objective != "latency") refuse("--objective \"" + s.objective + "\": expected throughput or latency");
  if (s.objective == "latency") r.objective = Objective::latency;
  if (!s.plan.empty()) {
    r.judge = named("--plan", [&] { return PlanRequest::parse(s.plan, 1); });
    r.judge->world_size = 0;  // the whole fleet
  }
  r.prediction_layer = s.mtp;
  r.draft_acceptance = s.draft_acceptance;
  r.redundant_experts = whole(s.redundant, "--redundant");
  r.split_roles = s.split_roles;
  r.top = whole(s.top, "--top");
  return r;
}

// From config.json; where there is none, as far as the headers of the safetensors files show.
ModelOutline model(const Settings& s) {
  std::error_code code;
  const fs::path path = s.model;
  const bool headers = path.extension() == ".safetensors" || (fs::is_directory(path, code) && !fs::exists(path / "config.json", code));
  return named("--model", [&] { return headers ? outline_model(path, s.experts_per_token) : ModelOutline{ModelConfig::load(path), {}}; });
}

int run(const Settings& s) {
  const auto [config, assumed] = model(s);
  Fleet machines = fleet(s);
  if (!s.curves.empty()) machines.curves = named("--curves", [&] { return load_curves(s.curves); });
  for (const std::string& word : assumed) machines.notes.push_back("model without config.json: " + word);
  const SolveRequest question = request(s);
  const SolveAnswer answer = s.nodes_for_rate ? nodes_for_rate(config, machines, question, s.nodes > 0 ? whole(s.nodes, "--nodes") : 1024) : solve(config, machines, question);
  std::fputs((s.json ? answer.to_json() + "\n" : answer.text()).c_str(), stdout);
  if (!s.svg.empty()) write_file(s.svg, "--svg", answer.svg());
  if (answer.feasible && !s.save_plan.empty()) write_file(s.save_plan, "--save-plan", answer.plans.front().plan.to_json() + "\n");
  return answer.feasible ? kFeasible : kInfeasible;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  settings.model = example::shipped_model();
  try {
    if (!parse(argc, argv, settings)) return kFeasible;
    return run(settings);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "example_plan: %s\n", e.what());
    return kWrongUse;
  }
}
