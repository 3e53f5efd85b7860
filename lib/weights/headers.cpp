// What the headers of a checkpoint tell of its model.
#include "config/infer.hpp"
#include "dsinfer/loader.hpp"
#include "weights/checkpoint.hpp"

namespace dsinfer {
namespace {

std::map<std::string, TensorShape> headers_of(const std::filesystem::path& checkpoint) {
  std::map<std::string, TensorShape> tensors;
  if (checkpoint.extension() == ".safetensors") {
    const std::string folder = checkpoint.parent_path().string();
    const auto source = open_storage(folder.empty() ? "." : folder)->open(checkpoint.filename().string());
    for (const auto& [name, entry] : read_safetensors(*source, true).tensors) tensors[name] = {entry.dtype, entry.shape};
  } else {
    const Checkpoint shards(checkpoint, Headers::may_stand_alone);
    for (const auto& [name, at] : shards.tensors()) tensors[name] = {at.entry.dtype, at.entry.shape};
  }
  return tensors;
}

}  // namespace

ModelOutline outline_model(const std::filesystem::path& checkpoint, int64_t experts_per_token) {
  ModelOutline outline;
  outline.config = infer_config(headers_of(checkpoint), checkpoint.string(), experts_per_token, outline.assumed);
  return outline;
}

}  // namespace dsinfer
