// A model's folder in memory: index and headers of its files, parted by "%%%". Part 0 is the index; empty: the next part is model.safetensors. A part that
// begins with a brace is the header of a file, followed by the number of its data bytes; any other part is a whole file.
// Whatever is written there: what the loader refuses the check tells, what the check calls sound the loader takes, and nothing outside of a file is read.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>

#include "dsinfer/error.hpp"
#include "weights/verify_node.hpp"

namespace {

using namespace dsinfer;

// One dense and one MoE layer of 2 experts, FP8 in blocks of 16.
constexpr const char* kConfig = R"({"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 8, "hidden_size": 16, "num_hidden_layers": 2,
  "num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
  "intermediate_size": 16, "moe_intermediate_size": 16, "n_routed_experts": 2, "num_experts_per_tok": 1, "n_shared_experts": 1, "first_k_dense_replace": 1,
  "moe_layer_freq": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "n_group": 1, "topk_group": 1, "norm_topk_prob": true, "routed_scaling_factor": 1.0,
  "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000, "max_position_embeddings": 64, "tie_word_embeddings": false, "attention_bias": false,
  "bos_token_id": 0, "eos_token_id": 1,
  "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}})";

class MemorySource final : public Source {
 public:
  MemorySource(std::string name, const std::string& bytes) : name_(std::move(name)), bytes_(bytes) {}
  const std::string& name() const override { return name_; }
  int64_t size() const override { return static_cast<int64_t>(bytes_.size()); }
  void read(int64_t offset, std::span<std::byte> out) override {
    if (offset < 0 || offset > size() || out.size() > bytes_.size() - static_cast<size_t>(offset)) __builtin_trap();  // asked for bytes that are not there
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
  }

 private:
  std::string name_;
  const std::string& bytes_;
};

class MemoryStorage final : public Storage {
 public:
  std::map<std::string, std::string> files;
  const std::string& name() const override { return name_; }
  bool exists(const std::string& file) override { return files.count(file) > 0; }
  std::unique_ptr<Source> open(const std::string& file) override {
    const auto at = files.find(file);
    if (at == files.end()) throw Error(Error::not_found, file + ": is not there");
    return std::make_unique<MemorySource>("model/" + file, at->second);
  }

 private:
  std::string name_ = "model";
};

std::string file_of(std::string_view part) {
  if (part.empty() || part[0] != '{') return std::string(part);
  const size_t brace = part.rfind('}');
  const std::string_view json = part.substr(0, brace == part.npos ? part.size() : brace + 1);
  const int64_t asked = std::strtoll(std::string(part.substr(json.size())).c_str(), nullptr, 10);
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(json.size() >> (8 * i) & 0xff);
  file += json;
  file.append(static_cast<size_t>(std::clamp<int64_t>(asked, 0, 1 << 16)), '\x21');  // finite in every dtype
  return file;
}

void fill(MemoryStorage& storage, std::string_view input) {
  constexpr std::string_view kBetween = "%%%";
  std::vector<std::string_view> parts;
  for (size_t at = 0; at != input.npos && parts.size() < 5;) {
    const size_t end = input.find(kBetween, at);
    parts.push_back(input.substr(at, end == input.npos ? end : end - at));
    at = end == input.npos ? end : end + kBetween.size();
  }
  storage.files["config.json"] = kConfig;
  const bool single = parts[0].empty();
  if (!single) storage.files["model.safetensors.index.json"] = parts[0];
  for (size_t i = 1; i < parts.size(); ++i) storage.files[single && i == 1 ? "model.safetensors" : std::string(1, static_cast<char>('a' + i - 1)) + ".safetensors"] = file_of(parts[i]);
}

bool loader_takes(const std::shared_ptr<Storage>& storage, const ModelConfig& config, const std::vector<TensorSpec>& table) {
  try {
    const Checkpoint checkpoint(storage);
    for (const StoredTensor& tensor : checkpoint.resolve(config, table))
      if (tensor.at.entry.begin < 0 || tensor.at.entry.end < tensor.at.entry.begin || tensor.at.entry.end > checkpoint.open(tensor.at.file)->size()) __builtin_trap();
    checkpoint.fingerprint();
    return true;
  } catch (const Error&) {
    return false;
  }
}

void look_at_all(const Survey& survey, VerifyDepth depth) {
  const std::vector<VerifyBlock> blocks = verify_blocks(survey, depth);
  std::vector<BlockFinding> findings(blocks.size());
  size_t dealt = 0;
  for (int part = 0; part < 3; ++part) {
    const auto [first, last] = part_of_blocks(blocks, part, 3);
    if (first != dealt || last < first) __builtin_trap();  // each block once
    dealt = last;
    for (size_t i = first; i < last; ++i) {
      const SurveyedTensor& tensor = survey.tensors[static_cast<size_t>(blocks[i].tensor)];
      if (blocks[i].begin < tensor.begin || blocks[i].end > tensor.end || blocks[i].bytes() <= 0) __builtin_trap();
      const auto source = survey.checkpoint->open(tensor.file);
      if (blocks[i].end > source->size()) continue;
      std::vector<std::byte> bytes(static_cast<size_t>(blocks[i].bytes()));
      source->read(blocks[i].begin, bytes);
      findings[i] = look_at(tensor, blocks[i], bytes);
    }
  }
  if (dealt != blocks.size()) __builtin_trap();
  const NodeFindings node = NodeFindings::unpack(sum_up(survey, blocks, findings, {}, "host").pack());
  if (compare_nodes(survey, {node, node}).texts().size() < node.problems.size()) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const ModelConfig config = ModelConfig::parse(kConfig);
  static const std::vector<TensorSpec> table = tensor_table(config);
  const auto storage = std::make_shared<MemoryStorage>();
  fill(*storage, {reinterpret_cast<const char*>(data), size});
  const bool taken = loader_takes(storage, config, table);
  try {
    const Survey survey = survey_checkpoint(storage);
    if (taken != survey.problems.texts().empty()) __builtin_trap();
    look_at_all(survey, VerifyDepth::quick);
    look_at_all(survey, VerifyDepth::full);
  } catch (const Error& e) {
    if (taken || e.code() != Error::not_found) __builtin_trap();  // only a folder without weights cannot be looked at
  }
  return 0;
}
