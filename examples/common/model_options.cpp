#include "common/model_options.hpp"

#include <filesystem>
#include <fstream>
#include <iterator>

#include "common/terminal.hpp"

namespace example {
namespace fs = std::filesystem;
namespace {

// The model's small files; while a server is waited for, Ctrl-C and what another rank met end it.
fs::path local_words(dsinfer::World& world, const std::string& model) {
  dsinfer::LoadOptions options;
  options.progress = [&world, look = loading_progress(world.rank(), world.size())](const dsinfer::LoadProgress& progress) {
    if (const std::optional<dsinfer::Error> failed = world.failure()) throw *failed;
    return look(progress);
  };
  return dsinfer::local_model_files(model, options);
}

}  // namespace

std::string shipped_model() {
  std::error_code none;
  const fs::path program = fs::read_symlink("/proc/self/exe", none);
  const fs::path installed = program.parent_path().parent_path() / "share/dsinfer/mini";
  if (!none && fs::exists(installed / "config.json", none)) return installed.string();
  return EXAMPLE_SOURCE_DIR "/mini";
}

void add_dummy_weights(OptionList& o, std::string& seed) {
  o.call("dummy-weights", "SEED", "make the weights up from the folder's config.json and this number, to size machines before a download", [&seed](const std::string& value) {
    if (value.empty() || value.find_first_not_of("0123456789") != std::string::npos)
      throw dsinfer::Error(dsinfer::Error::invalid_argument, "--dummy-weights is \"" + value + "\", expected a number from 0 on");
    seed = value;
  });
}

std::string with_dummy_weights(const std::string& model, const std::string& seed) {
  if (seed.empty()) return model;
  if (model.find("://") != std::string::npos)
    throw dsinfer::Error(dsinfer::Error::invalid_argument, "--dummy-weights: " + model + " is no local folder; fetch its config.json (and tokenizer.json) into one and name that");
  return "dummy://" + model + "?seed=" + seed;
}

void ModelOptions::add_to(OptionList& o) {
  model = shipped_model();
  o.text("model", "DIR", "folder with config.json and safetensors, or http(s)://, s3://, hf://org/repo (default: the shipped model)", model);
  add_dummy_weights(o, dummy_seed);
  o.text("plan", "SPEC|FILE", "tp=2,pp=2,dp=4,ep=8, or a plan in JSON (default: chosen for the number of ranks)", plan);
  o.text("weights", "FORMAT", "hold linear weights as: stored (default), bf16, fp8", weights);
  o.flag("w8a8", "quantise the activations that meet FP8 weights too, as GPUs do", w8a8);
  o.text("kv-cache", "FORMAT", "hold the cache as: auto (default), f32, bf16, fp8", cache);
  o.text("shards", "DIR", "folder of shards saved for this plan by example_load --save-shards (default: none)", shards);
  o.text("device", "NAME", "cpu (default) or cuda", device);
  o.integer("max-len", "N", "longest prompt and answer (default: the model's context)", max_len, 1);
  o.integer("max-step-tokens", "N", "rows of one data-parallel rank in one step (default 512)", max_tokens, 1);
  o.integer("max-sequences", "N", "sequences of one data-parallel rank in one step (default 64)", max_sequences, 1);
  o.integer("num-pages", "N", "cache pages of 16 positions of each data-parallel rank; where pages of 64 are used, as many as hold the same (default: as memory allows)", num_pages, 1);
  o.integer("threads", "N", "CPU workers of each rank (default: its share of the cores)", threads, 1);
  o.number("stall-timeout", "S", "seconds without any progress after which the job ends (default 60)", stall_timeout);
}

dsinfer::ForwardOptions ModelOptions::forward(dsinfer::World& world) const {
  world.set_stall_timeout(std::chrono::milliseconds(static_cast<int64_t>(stall_timeout * 1000)));
  dsinfer::ForwardOptions out;
  out.model = with_dummy_weights(model, dummy_seed);
  out.device = device;
  out.threads = static_cast<int>(threads);
  out.max_len = max_len;
  out.max_tokens = max_tokens;
  out.max_sequences = max_sequences;
  out.num_pages = num_pages;
  out.w8a8 = w8a8;
  out.progress = loading_progress(world.rank(), world.size());
  out.load.shard_cache = shards;
  dsinfer::in_agreement(world, [&] {
    if (weights == "bf16") out.load.weights = dsinfer::WeightFormat::bf16;
    else if (weights == "fp8") out.load.weights = dsinfer::WeightFormat::fp8;
    else if (weights != "stored") throw dsinfer::Error(dsinfer::Error::invalid_argument, "--weights is \"" + weights + "\", expected stored, bf16 or fp8");
    if (cache == "f32") out.cache = dsinfer::CacheFormat::f32;
    else if (cache == "bf16") out.cache = dsinfer::CacheFormat::bf16;
    else if (cache == "fp8") out.cache = dsinfer::CacheFormat::fp8;
    else if (cache != "auto") throw dsinfer::Error(dsinfer::Error::invalid_argument, "--kv-cache is \"" + cache + "\", expected auto, f32, bf16 or fp8");
    if (plan.empty()) return;
    const dsinfer::ModelConfig config = dsinfer::held_config(dsinfer::ModelConfig::load(local_words(world, model)), out.load.weights);
    if (fs::is_regular_file(plan)) {
      std::ifstream file(plan, std::ios::binary);
      out.plan = dsinfer::Plan::from_json(std::string(std::istreambuf_iterator<char>(file), {}), config);
    } else {
      out.plan = dsinfer::solve(config, dsinfer::PlanRequest::parse(plan, world.size()));
    }
  });
  return out;
}

std::optional<dsinfer::Tokenizer> load_tokenizer(dsinfer::World& world, const std::string& model) {
  std::optional<dsinfer::Tokenizer> tokenizer;
  dsinfer::in_agreement(world, [&] {
    if (world.rank() != 0) return;
    const fs::path words = local_words(world, model);
    if (fs::exists(words / "tokenizer.json")) tokenizer = dsinfer::Tokenizer::load(words);
  });
  return tokenizer;
}

}  // namespace example
