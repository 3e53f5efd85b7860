#include "row_machine.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <utility>

using namespace dsinfer;

namespace points {

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

bool says(const std::string& text, const char* word) { return text.find(word) != std::string::npos; }

namespace {

/// What a row's gpu column says, lower case, and the catalogue's name of it. The longer words first.
constexpr std::pair<const char*, const char*> kGpus[] = {
    {"gb300", "gb300-288g"}, {"gb200", "gb200-186g"}, {"b300", "b300-288g"}, {"b200", "b200-180g"}, {"h200", "h200-141g"}, {"h100", "h100-80g"}, {"h800", "h800-80g"},
    {"h20-3e", "h20-141g"}, {"h20-141", "h20-141g"}, {"h20", "h20-96g"}, {"a800", "a800-80g"}, {"a100-40", "a100-40g"}, {"a100", "a100-80g"}, {"l20", "l20-48g"},
    {"l40s", "l40s-48g"}, {"4090", "rtx4090-24g"}, {"3090", "rtx3090-24g"}};

/// Boxes of two sockets, which the catalogue's "cpu" does not know: memory as specified; 0.67 BF16 TFLOPS a core, as AMX kernels reach in one GEMM
/// (KTransformers: 21.3 TFLOPS on 32 cores), twice that in INT8.
struct Box {
  const char* word;
  double gb_per_s, bf16_tflops;
};
constexpr Box kBoxes[] = {{"6980p", 1690, 170}, {"6454s", 614, 42.6}};

/// "NVLink + 8x400G IB (CX7)" is "ib400x8" in the catalogue's words, as is a network that is not named; a rack of NVLink is one link.
std::string between_of(const std::string& words, const std::string& gpu) {
  if (says(words, "nvl72") || (says(words, "nvlink") && !says(words, "+") && gpu.starts_with("gb"))) return "nvlink";
  if (says(words, "erdma")) return "erdma";
  const char* kind = says(words, "tcp") || says(words, "ethernet") ? "socket" : says(words, "rdma") || says(words, "roce") ? "roce" : "ib";
  std::string gigabits = "400", nics = "8";
  for (size_t g = words.find("00g"); g != std::string::npos; g = std::string::npos) {
    size_t begin = g + 2;
    while (begin > 0 && std::isdigit(static_cast<unsigned char>(words[begin - 1]))) --begin;
    gigabits = words.substr(begin, g + 2 - begin);
    nics = begin > 1 && words[begin - 1] == 'x' ? std::string(1, words[begin - 2]) : "1";
  }
  return kind + gigabits + "x" + nics;
}

/// CurveFamily::layer_fixed_us is of a captured graph with fused operations. Stacks of the day that launched more add this much to every layer:
/// vLLM to 0.7 (February 2025) ran this model eagerly; vLLM 0.8 to 0.11 in a graph, but unfused.
double stack_us(const std::string& system) {
  const std::string words = lower(system);
  if (says(words, "llama.cpp") || says(words, "tensorrt") || says(words, "sglang") || !says(words, "vllm") || says(words, "wide-ep")) return 0;
  const size_t version = words.find("vllm 0.");  // none said: of mid-2025, as the rows without one are
  const int minor = version == std::string::npos ? 8 : std::atoi(words.c_str() + version + 7);
  if (minor <= 7 || says(words, "feb 2025")) return 300;
  return minor <= 11 ? 120 : 0;
}

}  // namespace

std::optional<Setup> set_up(const Point& p, const ModelConfig& config, const std::shared_ptr<const Curves>& curves, std::string& why_not) {
  const std::string words = lower(p.gpu);
  const auto box = std::find_if(std::begin(kBoxes), std::end(kBoxes), [&](const Box& known) { return says(words, known.word); });
  const auto found = std::find_if(std::begin(kGpus), std::end(kGpus), [&](const auto& known) { return says(words, known.first); });
  if (box == std::end(kBoxes) && found == std::end(kGpus)) {
    why_not = "another kind of machine, whose figures are not known here (" + p.gpu + ")";
    return std::nullopt;
  }
  Setup s;
  if (box != std::end(kBoxes)) {  // a rank has its share of the sockets, of one socket where each runs its own instance
    const double share = static_cast<double>(p.shape.ranks()) * (says(words, "2 instances") || !says(words, "2x") ? 2 : 1);
    s.fleet = describe_fleet(Catalogue::shipped(), 1, static_cast<int>(p.shape.ranks()), "cpu", "");
    s.fleet.gpu.memory_gb_per_s = box->gb_per_s / share;
    s.fleet.gpu.bf16_tflops = box->bf16_tflops / share;
    s.fleet.gpu.fp8_tflops = 2 * box->bf16_tflops / share;  // INT8
    s.fleet.gpu.fp8_units = p.experts == "int8";
    if (says(lower(p.system), "llama.cpp")) {  // pages not placed by socket; vector units, no AMX. Fitted on P098 and P097
      s.fleet.gpu.memory_gb_per_s *= 0.45;
      s.fleet.gpu.bf16_tflops *= 0.11;
    }
  } else {
    const int nodes = static_cast<int>(std::max(std::ceil(p.nodes), 1.0)), per_node = static_cast<int>(std::max(p.gpus_per_node, 1.0));
    s.fleet = describe_fleet(Catalogue::shipped(), nodes, per_node, found->second, between_of(lower(p.interconnect), found->second));
  }
  const GpuKind& gpu = s.fleet.gpu;
  s.precisions = {p.weights, p.cache, 128};
  s.fleet.curves = curves;
  if (const double more = stack_us(p.system); more > 0) {
    auto changed = std::make_shared<Curves>(*curves);
    changed->families[gpu.curves].layer_fixed_us += more;
    s.fleet.curves = changed;
  }
  s.numerics = numerics_of(config, s.precisions, gpu, *s.fleet.curves);
  if (p.experts == "nvfp4") {  // 4 bits and an 8-bit scale for 16; FP4 units run at twice the FP8 rate
    const WeightForm fp4{0.5 + 1.0 / 16, 2 * gpu.fp8_tflops};
    s.numerics.experts = s.numerics.dense = fp4;
    s.numerics.attention = p.bf16_attention ? WeightForm{2, gpu.bf16_tflops} : WeightForm{1 + 4.0 / (128 * 128), gpu.fp8_tflops};
    s.numerics.dispatch_bytes = 0.5 + 1.0 / 16;
    s.numerics.precision = "nvfp4";
  }
  if (p.experts == "q8" || p.experts == "q4") {
    const WeightForm form{(p.experts == "q8" ? 8.5 : 4.85) / 8, gpu.bf16_tflops};
    s.numerics.attention = s.numerics.dense = s.numerics.experts = form;
    s.numerics.precision = p.experts;
  }
  return s;
}

}  // namespace points
