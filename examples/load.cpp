// Loads a model's weights onto the ranks of a plan and says what that takes; looks before it reads (--dry-run), checks what it has (--verify).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "common/load_bars.hpp"
#include "common/model_options.hpp"
#include "common/options.hpp"
#include "common/ranks.hpp"
#include "common/terminal.hpp"
#include "dsinfer/loader.hpp"

namespace {

using namespace dsinfer;
using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr const char* kProgram = "example_load";
enum Exit { kGood = 0, kFailed = 1, kWrongUse = 2 };

struct Settings {
  std::string model, dummy_seed, plan, verify, hashes, save_shards;
  LoadOptions load;
  int64_t rank = -1, ranks_per_node = 0, depth = 0, threads = 0;
  double probe = 2, stall_timeout = 60;
  bool dry_run = false, json = false;
};

[[noreturn]] void refuse(const std::string& what) { throw Error(Error::invalid_argument, what + " (see --help)"); }

template <class Value> Value choose(const char* option, const std::string& word, const std::vector<std::pair<const char*, Value>>& known) {
  std::string names;
  for (const auto& [name, value] : known) {
    if (word == name) return value;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  refuse(std::string(option) + " \"" + word + "\": expected one of " + names);
}

void add_options(example::OptionList& o, Settings& s) {
  o.positional("MODEL", "a model's folder, or http(s)://…, s3://bucket/prefix, hf://org/repo@revision (default: the shipped model)", s.model);
  example::add_dummy_weights(o, s.dummy_seed);
  o.text("plan", "SPEC|FILE", "tp=8,pp=2,…, or a plan in JSON (default: chosen for the number of ranks)", s.plan);
  o.flag("dry-run", "read headers alone: who reads what, memory, a time estimate; needs no mpirun", s.dry_run);
  o.number("probe", "SECONDS", "dry run: how long to read for the estimate (default 2; 0: no estimate)", s.probe);
  o.integer("rank", "R", "dry run: of this rank alone", s.rank);
  o.integer("ranks-per-node", "N", "dry run: consecutive ranks that share a node (default: all on one)", s.ranks_per_node, 1);
  o.text("verify", "DEPTH", "check the checkpoint instead: quick (headers, samples) or full (every byte)", s.verify);
  o.text("hashes", "FILE", "full: compare with the list of an earlier run, or write it", s.hashes);
  o.call("format", "NAME", "hold linear weights as: stored (default), bf16, fp8",
         [&](const std::string& word) { s.load.weights = choose<WeightFormat>("--format", word, {{"stored", WeightFormat::as_stored}, {"bf16", WeightFormat::bf16}, {"fp8", WeightFormat::fp8}}); });
  o.call("method", "NAME", "read by: auto (default), uring, direct, pread; mmap leaves matrices in their files", [&](const std::string& word) {
    s.load.method = choose<ReadMethod>("--method", word, {{"auto", ReadMethod::automatic}, {"uring", ReadMethod::uring}, {"direct", ReadMethod::direct}, {"pread", ReadMethod::pread}, {"mmap", ReadMethod::mmap}});
  });
  o.integer("depth", "N", "reads in flight of each rank (default: 32 over the ranks of a node)", s.depth, 1);
  o.call("shards", "FOLDER", "read each rank's own file from there, where it is and fits", [&](const std::string& folder) { s.load.shard_cache = folder; });
  o.flag("absorbed-bf16", "hold the absorbed copies of kv_b_proj in BF16: for shards that a Hopper GPU reads in w8a8", s.load.absorbed_bf16);
  o.text("save-shards", "FOLDER", "write each rank's part there, for --shards", s.save_shards);
  o.call("download-cache", "FOLDER", "where hf:// files are kept (default: $DSINFER_CACHE, else ~/.cache/dsinfer)", [&](const std::string& folder) { s.load.download_cache = folder; });
  o.integer("threads", "N", "that many ranks as threads of this process, without mpirun", s.threads, 1);
  o.number("stall-timeout", "S", "seconds without any progress after which it ends (default 60)", s.stall_timeout);
  o.flag("json", "print the result as JSON", s.json);
}

bool names_file(const std::string& plan) {
  std::error_code none;
  return fs::is_regular_file(plan, none);
}

bool parse(int argc, char** argv, Settings& s) {
  example::OptionList o("usage: example_load MODEL [--plan SPEC|FILE] [options]      (mpirun -np N example_load … for N ranks)",
                        "Loads the weights of a model, each byte read once by the ranks of a node, and says what it took.\n"
                        "Exit status: 0 it went well, 1 an error, or problems in a checkpoint, 2 wrong use.");
  add_options(o, s);
  if (!o.parse(argc, argv, example::launcher_rank() <= 0)) return false;
  if (s.dry_run && !s.verify.empty()) refuse("--dry-run and --verify: one at a time");
  if (!s.save_shards.empty() && (s.dry_run || !s.verify.empty())) refuse("--save-shards loads the weights; leave out --dry-run and --verify");
  if (!s.verify.empty() && s.verify != "quick" && s.verify != "full") refuse("--verify \"" + s.verify + "\": expected quick or full");
  if (!s.hashes.empty() && s.verify != "full") refuse("--hashes is compared with what --verify full finds");
  if (!s.dry_run && (s.rank >= 0 || s.ranks_per_node > 0)) refuse("--rank and --ranks-per-node belong to --dry-run; under mpirun the ranks of one host are a node");
  if (s.probe < 0 || s.probe > 600) refuse("--probe is " + std::to_string(s.probe) + ", expected 0 to 600 seconds");
  if (s.depth > 1024) refuse("--depth is " + std::to_string(s.depth) + ", expected at most 1024");
  if (s.threads > 1024) refuse("--threads is " + std::to_string(s.threads) + ", expected at most 1024");
  if (s.threads > 0 && example::launcher_rank() >= 0) refuse("--threads is for one process; under mpirun the ranks are its processes");
  if (!(s.stall_timeout >= 0.1) || s.stall_timeout > 1e6) refuse("--stall-timeout is " + std::to_string(s.stall_timeout) + ", expected 0.1 seconds at least");
  if (!s.plan.empty() && !names_file(s.plan)) PlanRequest::parse(s.plan, 1);
  s.load.depth = static_cast<int>(s.depth);
  s.model = example::with_dummy_weights(s.model, s.dummy_seed);
  return true;
}

// For `ranks` ranks; 0: for as many as the plan says.
Plan plan_of(const Settings& s, const LoadOptions& options, int ranks) {
  const ModelConfig config = held_config(ModelConfig::load(local_model_files(s.model, options)), options.weights);
  if (names_file(s.plan)) {
    std::ifstream file(s.plan, std::ios::binary);
    try {
      return Plan::from_json(std::string(std::istreambuf_iterator<char>(file), {}), config);
    } catch (const Error& e) {
      throw Error(e.code(), s.plan + ": " + e.what());
    }
  }
  PlanRequest request;
  if (!s.plan.empty()) request = PlanRequest::parse(s.plan, std::max(ranks, 1));
  request.world_size = ranks;
  if (ranks == 0) request.world_size = s.plan.empty() ? 1 : std::max(request.tp, 1) * std::max(request.pp, 1) * std::max(request.dp, 1) * request.replicas;
  return solve(config, request);
}

// Beside "seconds_estimate": why there is none, if there is none.
std::string estimate(const Settings& s, LoadPlan& reads) {
  if (s.probe == 0) return "not asked for: --probe 0";
  if (s.model.starts_with("dummy://")) return "dummy weights come from no storage";
  if (reads.files_cut_short > 0)
    return std::to_string(reads.files_cut_short) + " of " + std::to_string(reads.files.size()) + " files hold their header alone or not all of their data: there is nothing to probe";
  reads.estimate(probe_storage(s.model, s.load, s.probe));
  return reads.seconds_estimate < 0 ? "the probe found nothing to read" : "";
}

int dry_run(const Settings& s) {
  const int ranks = !s.plan.empty() ? 0 : s.threads > 0 ? static_cast<int>(s.threads) : example::launcher_size();
  const Plan plan = plan_of(s, s.load, ranks);
  if (s.rank >= plan.world_size) {
    example::refuse_start(kProgram, "--rank is " + std::to_string(s.rank) + ", but the plan " + plan.spec() + " has ranks 0 to " + std::to_string(plan.world_size - 1));
    return kWrongUse;
  }
  LoadPlan reads = plan_load(s.model, plan, s.load, static_cast<int>(std::min<int64_t>(s.ranks_per_node, 1 << 20)));
  const std::string reason = estimate(s, reads);
  if (s.rank >= 0) {
    reads.ranks = {reads.ranks[static_cast<size_t>(s.rank)]};
    reads.bytes_read = reads.ranks[0].bytes_read;
    reads.bytes_needed = reads.ranks[0].bytes_needed;
  }
  if (!s.json) {
    std::cout << plan.spec() << "\n" << reads.text();
    if (!reason.empty() && s.probe > 0) std::cout << "no time estimate: " << reason << "\n";
    return kGood;
  }
  Json out = Json::parse(reads.to_json());
  if (!reason.empty()) out["seconds_estimate_reason"] = reason;
  out["plan"] = plan.spec();
  std::cout << out.dump(2) << std::endl;
  return kGood;
}

int verify(World& world, const Settings& s, const ProgressCallback& progress) {
  const VerifyReport report = verify_checkpoint(world, s.model, s.verify == "full" ? VerifyDepth::full : VerifyDepth::quick, s.hashes, progress,
                                                s.load.download_cache);
  if (world.rank() == 0 && s.json) {
    Json out = Json::parse(report.to_json());
    out["bytes_read"] = report.bytes_checked;
    std::cout << out.dump(2) << std::endl;
  } else if (world.rank() == 0) {
    for (const std::string& problem : report.problems) std::cout << problem << "\n";
    std::printf("%s: %lld tensors, %s checked in %.2f s, fingerprint %s%s%s\n", report.good() ? "good" : "NOT good", static_cast<long long>(report.tensors),
                example::bytes_text(report.bytes_checked).c_str(), report.seconds, report.fingerprint.c_str(), report.content_hash.empty() ? "" : ", content ", report.content_hash.c_str());
  }
  return report.good() ? kGood : kFailed;
}

// What all ranks did, rank 0's view.
Json gathered(World& world, const LoadReport& report, const Plan& plan) {
  const std::vector<std::string> all = world.all_gather(report.to_json());
  Json out = {{"read_amplification", report.read_amplification}, {"bytes_read", 0}, {"seconds", 0.0}, {"plan", plan.spec()}, {"ranks", Json::array()}};
  int64_t bytes = 0;
  double seconds = 0;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    Json one = {{"rank", rank}};
    one.update(Json::parse(all[rank]));
    one.erase("read_amplification");
    bytes += one["bytes_read"].get<int64_t>();
    seconds = std::max(seconds, one["seconds"].get<double>());
    out["ranks"].push_back(std::move(one));
  }
  out["bytes_read"] = bytes;
  out["seconds"] = seconds;
  return out;
}

void print(const Json& report) {
  const auto bytes = report["bytes_read"].get<int64_t>();
  const auto seconds = report["seconds"].get<double>();
  std::printf("%s: %s read in %.2f s, %.2f GB/s, read amplification %.4f\n", report["plan"].get<std::string>().c_str(), example::bytes_text(bytes).c_str(), seconds,
              seconds > 0 ? static_cast<double>(bytes) / seconds * 1e-9 : 0.0, report["read_amplification"].get<double>());
  std::printf("rank      reads  gets from others  host peak    weights  seconds  method\n");
  for (const Json& rank : report["ranks"]) {
    const auto text = [&](const char* key) { return example::bytes_text(rank[key].get<int64_t>()); };
    const std::string method = rank["bytes_mapped"].get<int64_t>() > 0 ? rank["method"].get<std::string>() + "; " + text("bytes_mapped") + " stay in the files" : rank["method"].get<std::string>();
    std::printf("%4d %10s %17s %10s %10s %8.2f  %s\n", rank["rank"].get<int>(), text("bytes_read").c_str(), text("bytes_received").c_str(), text("host_peak_bytes").c_str(),
                text("device_bytes").c_str(), rank["seconds"].get<double>(), rank["from_shard_cache"].get<bool>() ? "its own shard file" : method.c_str());
  }
}

int load_ranks(World& world, const Settings& s, const LoadOptions& options) {
  Plan plan;
  in_agreement(world, [&] { plan = plan_of(s, options, world.size()); });
  const LoadReport report = s.save_shards.empty() ? load(world, s.model, plan, options).report() : save_shards(world, s.model, plan, s.save_shards, options);
  const Json all = gathered(world, report, plan);
  if (world.rank() != 0) return kGood;
  if (s.json) std::cout << all.dump(2) << std::endl; else print(all);
  return kGood;
}

// On each rank. A cancel is known to all of them: they end by themselves, and MPI with them.
int run(World& world, const Settings& s) {
  world.set_stall_timeout(std::chrono::milliseconds(static_cast<int64_t>(s.stall_timeout * 1000)));
  LoadOptions options = s.load;
  if (world.rank() == 0) {
    options.progress = example::load_bars(s.verify.empty() ? "loading" : "checking");
  } else {
    options.progress = [&world](const LoadProgress&) {  // what another rank met, also where this one waits for a server
      if (const std::optional<Error> failed = world.failure()) throw *failed;
      return true;
    };
  }
  int status = kFailed;
  try {
    status = s.verify.empty() ? load_ranks(world, s, options) : verify(world, s, options.progress);
  } catch (const Error& e) {
    if (e.code() != Error::cancelled) throw;
    if (world.rank() == 0) std::fprintf(stderr, "%s: cancelled\n", kProgram);
  }
  if (world.rank() == 0) example::restore_terminal();
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  settings.model = example::shipped_model();
  try {
    if (!parse(argc, argv, settings)) return kGood;
  } catch (const std::exception& e) {
    return example::refuse_start(kProgram, e.what());
  }
  if (settings.dry_run) {
    if (example::launcher_rank() > 0) return kGood;  // one rank plans for all
    try {
      return dry_run(settings);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "%s: %s\n", kProgram, e.what());
      return kFailed;
    }
  }
  example::catch_interrupts(example::launcher_rank() <= 0);
  const auto body = [&](World& world) { return run(world, settings); };
  return settings.threads > 0 ? example::run_rank_threads(kProgram, static_cast<int>(settings.threads), body) : example::run_ranks(kProgram, body);
}
