#include "weights/verify_survey.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <tuple>

#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

Elements elements_of(std::string_view dtype) {
  static constexpr std::pair<std::string_view, Elements> kKinds[] = {{"F64", Elements::f64},   {"F32", Elements::f32},      {"BF16", Elements::bf16},
                                                                     {"F16", Elements::f16}, {"F8_E4M3", Elements::e4m3}, {"F8_E5M2", Elements::e5m2}};
  for (const auto& [name, kind] : kKinds)
    if (name == dtype) return kind;
  return Elements::raw;
}

// FP8 blocks, AWQ, compressed-tensors. Also of layers that are not in the table, so by name.
bool is_scale_name(std::string_view name) { return name.ends_with("_scale_inv") || name.ends_with("_scale") || name.ends_with(".scales"); }

SurveyedTensor surveyed(const std::string& name, const Location& at) {
  SurveyedTensor tensor{name, at.file, at.entry.begin, at.entry.end, elements_of(at.entry.dtype)};
  tensor.scale = tensor.elements != Elements::raw && is_scale_name(name);
  tensor.matrix = tensor.elements != Elements::raw && !tensor.scale && at.entry.shape.size() > 1;
  // An element count that is no whole number of bytes is told by the header's check; here it must only do no harm.
  if ((tensor.end - tensor.begin) % element_bytes(tensor.elements) != 0) tensor.elements = Elements::raw;
  return tensor;
}

std::vector<Hash128> hash_headers(const Checkpoint& checkpoint, const std::vector<SurveyedTensor>& tensors) {
  std::vector<ContentHash> hashes(checkpoint.files().size());
  for (const SurveyedTensor& tensor : tensors) {
    const TensorEntry& entry = checkpoint.find(tensor.name)->entry;
    hashes[static_cast<size_t>(tensor.file)].add(fmt::format("{}\n{} [{}] {} {}\n", tensor.name, entry.dtype, fmt::join(entry.shape, ","), entry.begin, entry.end));
  }
  std::vector<Hash128> out;
  for (const ContentHash& hash : hashes) out.push_back(hash.hash());
  return out;
}

}  // namespace

void ProblemList::add(std::string text) {
  if (std::find(texts_.begin(), texts_.end(), text) != texts_.end()) return;
  if (texts_.size() < kMost) texts_.push_back(std::move(text));
  else ++more_;
}

int64_t element_bytes(Elements elements) {
  switch (elements) {
    case Elements::f64: return 8;
    case Elements::f32: return 4;
    case Elements::bf16: case Elements::f16: return 2;
    case Elements::raw: case Elements::e4m3: case Elements::e5m2: return 1;
  }
  return 1;
}

Survey survey_checkpoint(std::shared_ptr<Storage> storage) {
  Survey survey;
  const Problems collect = [&](const Error& problem) {
    if (problem.code() == Error::cancelled) throw problem;
    survey.problems.add(problem.what());
  };
  survey.checkpoint = std::make_unique<Checkpoint>(storage, Headers::with_data, collect);
  std::optional<ModelConfig> config;
  try {
    if (!storage->exists("config.json")) throw Error(Error::not_found, storage->name() + ": config.json is missing");
    config = ModelConfig::parse(read_text(*storage, "config.json"), storage->name() + "/config.json");
  } catch (const Error& problem) {
    collect(problem);
  }
  if (config) survey.checkpoint->resolve(*config, tensor_table(*config), collect);
  for (const auto& [name, at] : survey.checkpoint->tensors()) survey.tensors.push_back(surveyed(name, at));
  std::sort(survey.tensors.begin(), survey.tensors.end(), [](const SurveyedTensor& a, const SurveyedTensor& b) {
    return std::tie(a.file, a.begin, a.end, a.name) < std::tie(b.file, b.begin, b.end, b.name);
  });
  try {
    survey.fingerprint = survey.checkpoint->fingerprint();
  } catch (const Error& problem) {
    collect(problem);
  }
  survey.headers = hash_headers(*survey.checkpoint, survey.tensors);
  return survey;
}

}  // namespace dsinfer
