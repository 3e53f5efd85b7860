// A slice of DeepSeek-V3 (1 dense and 5 MoE layers with all 256 experts, embedding, head) generating through the engine, and each part of its decode step alone,
// in one run. Weights are made up from a seed, so that no checkpoint is needed.
//   bench_slice [--batches 1,8,32] [--kv 1024] [--steps 40] [--layers 6] [--device cuda] [--config FILE] [--out FILE] [--name GPU] [--staging MB] [--depth N] [--readers 8,16] [--parts-only | --engine-only | --load-only]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "backend/logit_survey.hpp"
#include "dsinfer/engine.hpp"
#include "model/step_times.hpp"
#include "slice_load.hpp"
#include "slice_parts.hpp"

namespace {

using namespace dsinfer;
using bench::SliceParts;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

struct Settings {
  std::string device = "cuda", config = DSINFER_BENCH_CONFIG, out, name = "unnamed";
  std::vector<int64_t> batches = {1, 8, 32}, readers;
  int64_t kv = 1024, steps = 40, layers = 6, step_rows = 512;
  int64_t staging = 192, depth = 0;
  bool parts = true, engine = true, timed = true, w8a8 = true;
};

std::vector<int64_t> numbers(const std::string& text) {
  std::vector<int64_t> all;
  std::stringstream in(text);
  for (std::string word; std::getline(in, word, ',');) all.push_back(std::stoll(word));
  return all;
}

Settings parse(const std::vector<std::string>& words) {
  Settings s;
  for (size_t i = 0; i < words.size(); ++i) {
    const auto value = [&]() -> std::string {
      if (i + 1 == words.size()) throw std::runtime_error(words[i] + " wants a value");
      return words[++i];
    };
    if (words[i] == "--batches") s.batches = numbers(value());
    else if (words[i] == "--kv") s.kv = std::stoll(value());
    else if (words[i] == "--steps") s.steps = std::stoll(value());
    else if (words[i] == "--layers") s.layers = std::stoll(value());
    else if (words[i] == "--step-rows") s.step_rows = std::stoll(value());
    else if (words[i] == "--device") s.device = value();
    else if (words[i] == "--config") s.config = value();
    else if (words[i] == "--out") s.out = value();
    else if (words[i] == "--name") s.name = value();
    else if (words[i] == "--staging") s.staging = std::stoll(value());
    else if (words[i] == "--depth") s.depth = std::stoll(value());
    else if (words[i] == "--readers") s.readers = numbers(value());
    else if (words[i] == "--parts-only") s.engine = false;
    else if (words[i] == "--load-only") s.engine = s.timed = false;
    else if (words[i] == "--engine-only") s.parts = false;
    else if (words[i] == "--w8a16") s.w8a8 = false;
    else throw std::runtime_error(words[i] + ": expected --batches, --kv, --steps, --layers, --step-rows, --device, --config, --out, --name, --staging, --depth, --readers, --parts-only, --load-only, --engine-only or --w8a16");
  }
  if (s.batches.empty() || *std::min_element(s.batches.begin(), s.batches.end()) < 1 || std::min({s.kv, s.steps, s.layers, s.step_rows}) < 1)
    throw std::runtime_error("--batches, --kv, --steps, --layers, --step-rows: expected numbers from 1 on");
  return s;
}

// A folder with the config of the slice: the first layer dense, no prediction layers.
class SliceFolder {
 public:
  explicit SliceFolder(const Settings& s) : path_(std::filesystem::temp_directory_path() / ("bench_slice_" + std::to_string(std::time(nullptr)))) {
    std::ifstream file(s.config);
    if (!file) throw std::runtime_error("--config " + s.config + ": cannot be read");
    Json config = Json::parse(file);
    config["num_hidden_layers"] = s.layers;
    config["first_k_dense_replace"] = 1;
    config["num_nextn_predict_layers"] = 0;
    std::filesystem::create_directories(path_);
    std::ofstream(path_ / "config.json") << config.dump(1);
  }
  SliceFolder(const SliceFolder&) = delete;
  SliceFolder& operator=(const SliceFolder&) = delete;
  ~SliceFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string model() const { return "dummy://" + path_.string() + "?seed=7"; }

 private:
  std::filesystem::path path_;
};

// Enough that all requests decode together for the steps wanted, though the first began to answer while the last one's prompt was still read.
int64_t answer_tokens(const Settings& s, int64_t batch) { return 2 * s.steps + 16 + batch * s.kv / s.step_rows; }

ForwardOptions forward_options(const Settings& s, const SliceFolder& folder) {
  ForwardOptions o;
  o.model = folder.model();
  o.device = s.device;
  o.w8a8 = s.w8a8;
  o.load.host_bytes = s.staging << 20;
  o.load.depth = static_cast<int>(s.depth);
  o.max_sequences = *std::max_element(s.batches.begin(), s.batches.end());
  o.max_tokens = std::max(s.step_rows, o.max_sequences);
  o.max_len = s.kv + answer_tokens(s, o.max_sequences) + 64;
  o.num_pages = o.max_sequences * ((o.max_len + 63) / 64 + 1) * 64 / o.page_size;
  return o;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

// Runs `batch` requests until each has its tokens; times the steps in which all of them decode.
Json time_engine(Engine& engine, const Settings& s, int64_t batch, const SamplingOptions& sampling) {
  const int64_t warm = s.steps / 2, vocab = engine.config().vocab_size;
  uint64_t state = 88172645463325252u + static_cast<uint64_t>(batch);
  for (int64_t i = 0; i < batch; ++i) {
    Request request;
    for (int64_t t = 0; t < s.kv; ++t) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;  // xorshift64, Marsaglia 2003
      request.prompt.push_back(static_cast<int32_t>(state % static_cast<uint64_t>(vocab)));
    }
    request.max_tokens = answer_tokens(s, batch);
    request.ignore_eos = true;
    request.sampling = sampling;
    request.sampling.seed = static_cast<uint64_t>(i);
    engine.submit(std::move(request));
  }
  StepTimes times, all;
  std::vector<double> steps;
  std::vector<Event> events;
  const auto begin = Clock::now();
  double prefill = 0;
  int64_t full = 0;
  for (int64_t ended = 0; ended < batch; events.clear()) {
    times = {};
    watched_step_times() = &times;
    const auto start = Clock::now();
    engine.step(events);
    const double us = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
    int64_t tokens = 0;
    for (const Event& event : events) {
      if (event.kind == Event::Kind::error) throw std::runtime_error(event.message);
      if (event.kind == Event::Kind::token) tokens += 1;
      else ended += 1;
    }
    if (tokens < batch) continue;
    if (full++ == 0) prefill = std::chrono::duration<double>(Clock::now() - begin).count();
    if (full <= warm || ended > 0) continue;
    steps.push_back(us);
    for (const auto part : {&StepTimes::schedule, &StepTimes::copy_in, &StepTimes::launch, &StepTimes::head, &StepTimes::answer, &StepTimes::choose, &StepTimes::token}) all.*part += times.*part;
  }
  watched_step_times() = nullptr;
  const auto each = [&](uint64_t ns) { return static_cast<double>(ns) * 1e-3 / static_cast<double>(std::max<size_t>(steps.size(), 1)); };
  return {{"batch", batch}, {"sampling", sampling.temperature > 0 ? "temperature 0.6, top_p 0.95" : "greedy"}, {"steps", steps.size()}, {"step_us", median(steps)}, {"prefill_s", prefill},
          {"host_us", {{"schedule", each(all.schedule)}, {"copy_in", each(all.copy_in)}, {"launch", each(all.launch)}, {"head_launch", each(all.head)}, {"answer", each(all.answer)},
                       {"choose", each(all.choose)}, {"token", each(all.token)}}}};
}

Json describe_load(const Settings& s, const SliceParts& slice, const ForwardOptions& options) {
  const LoadReport& report = slice.report();
  const double speed = static_cast<double>(report.bytes_read) * 1e-9 / report.seconds, link = bench::link_speed(slice.backend());
  Json load = {{"bytes", report.bytes_read}, {"seconds", report.seconds}, {"gb_per_s", speed}, {"link_gb_per_s", link}, {"of_link", speed / link}};
  std::printf("loaded %.1f GB in %.2f s: %.1f GB/s, %.2f of the %.1f GB/s of copies from pinned memory\n", static_cast<double>(report.bytes_read) * 1e-9, report.seconds, speed, speed / link, link);
  for (const int64_t threads : s.readers) {
    const double making = bench::reading_speed(options.model, static_cast<int>(threads));
    load["reading_gb_per_s"][std::to_string(threads)] = making;
    std::printf("%lld threads make them up, for no one, at %.1f GB/s\n", static_cast<long long>(threads), making);
  }
  std::fflush(stdout);
  return load;
}

int run(const Settings& s) {
  const SliceFolder folder(s);
  const ForwardOptions options = forward_options(s, folder);
  Json result;
  char date[32];
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof date, "%Y-%m-%d", std::gmtime(&now));
  result["date"] = date;
  result["device"] = s.name;
  result["layers"] = s.layers;
  result["kv"] = s.kv;
  const auto worlds = thread_worlds(1);
  std::map<int64_t, Json> parts;
  if (s.parts) {
    SliceParts slice(*worlds[0], options);
    result["load"] = describe_load(s, slice, options);
    if (!slice.has_blocks()) std::printf("device %s has no blocks for this model: parts are not timed\n", s.device.c_str());
    for (const int64_t batch : s.batches) {
      if (!slice.has_blocks() || !s.timed) break;
      Json& p = parts[batch];
      for (const auto& [name, us] : slice.time(batch, s.kv)) p[name] = us;
      std::printf("batch %lld parts: %s\n", static_cast<long long>(batch), p.dump().c_str());
      std::fflush(stdout);
    }
  }
  if (s.engine) {
    EngineOptions engine_options;
    engine_options.forward = options;
    Engine engine(*worlds[0], engine_options);
    SamplingOptions drawn;
    drawn.temperature = 0.6f;
    drawn.top_p = 0.95f;
    for (const SamplingOptions& sampling : {SamplingOptions{}, drawn}) {
      for (const int64_t batch : s.batches) {
        Json one = time_engine(engine, s, batch, sampling);
        if (parts.count(batch)) {
          const Json& p = parts[batch];
          const bool greedy = sampling.temperature == 0;
          const double sum = p["embed"].get<double>() + p["dense"].get<double>() + p["moe"].get<double>() + p["head"].get<double>() + p[greedy ? "survey_greedy" : "survey_drawn"].get<double>();
          one["parts_us"] = p;
          one["sum_us"] = sum;
          one["step_over_sum"] = one["step_us"].get<double>() / sum;
        }
        std::printf("%s\n", one.dump().c_str());
        std::fflush(stdout);
        result["cases"].push_back(one);
      }
    }
    engine.shutdown();
  }
  if (!s.out.empty()) std::ofstream(s.out) << result.dump(1) << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(parse({argv + 1, argv + argc}));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_slice: %s\n", e.what());
    return 1;
  }
}
