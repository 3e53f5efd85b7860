#include "load_checkpoint.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "config/tensors.hpp"

namespace dsinfer::bench {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int64_t kFileBytes = int64_t{1} << 30;
constexpr uint64_t kSeed = 20261122;

// V3 with 16 of its 256 experts and an eighth of its vocabulary: the tensors keep their shapes, a layer has 0.9 GB.
Json config_of(int layers) {
  Json config = Json::parse(std::ifstream(DSINFER_BENCH_CONFIG));
  config["num_hidden_layers"] = layers;
  config["first_k_dense_replace"] = 1;
  config["num_nextn_predict_layers"] = 0;
  config["n_routed_experts"] = 16;
  config["vocab_size"] = 16160;
  return config;
}

int64_t bytes_of(const TensorSpec& spec) {
  int64_t bytes = dtype_size(spec.dtype);
  for (const int64_t dim : spec.shape) bytes *= dim;
  return bytes;
}

uint64_t next(uint64_t& state) {  // xorshift64*, Vigna 2016
  state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
  return state * 0x2545f4914f6cdd1dULL;
}

// Finite and small in every dtype: the exponent's high bits are cleared, so no pattern is an infinity or NaN.
void fill(std::string& bytes, DType dtype, uint64_t& state) {
  const uint64_t mask = dtype == DType::e4m3 ? 0xbfbfbfbfbfbfbfbfULL : dtype == DType::f32 ? 0x007fffff007fffffULL : 0xbfffbfffbfffbfffULL;
  const uint64_t set = dtype == DType::f32 ? 0x3880000038800000ULL : 0;  // scales, biases: 6e-5 … 1.2e-4
  for (size_t i = 0; i < bytes.size(); i += 8) {
    const uint64_t word = (next(state) & mask) | set;
    std::memcpy(bytes.data() + i, &word, std::min<size_t>(8, bytes.size() - i));
  }
}

void write_file(const fs::path& path, const std::vector<const TensorSpec*>& tensors) {
  Json header = Json::object();
  int64_t at = 0;
  for (const TensorSpec* spec : tensors) {
    header[spec->name] = {{"dtype", dtype_name(spec->dtype)}, {"shape", spec->shape}, {"data_offsets", {at, at + bytes_of(*spec)}}};
    at += bytes_of(*spec);
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // as published files: data begins at a multiple of 8
  std::ofstream out(path, std::ios::binary);
  for (int byte = 0; byte < 8; ++byte) out.put(static_cast<char>(text.size() >> (8 * byte)));
  out << text;
  std::string block;
  for (const TensorSpec* spec : tensors) {
    uint64_t state = kSeed ^ std::hash<std::string>{}(spec->name);
    for (int64_t done = 0; done < bytes_of(*spec); done += static_cast<int64_t>(block.size())) {
      block.resize(static_cast<size_t>(std::min<int64_t>(bytes_of(*spec) - done, 1 << 20)));
      fill(block, spec->dtype, state);
      out.write(block.data(), static_cast<std::streamsize>(block.size()));
    }
  }
  if (!out.flush()) throw std::runtime_error(path.string() + ": cannot be written; is the disk full?");
}

int64_t size_of(const std::vector<TensorSpec>& table) {
  int64_t sum = 0;
  for (const TensorSpec& spec : table) sum += bytes_of(spec);
  return sum;
}

}  // namespace

int64_t make_load_checkpoint(const fs::path& folder, double gigabytes) {
  int layers = 2;
  while (static_cast<double>(size_of(tensor_table(ModelConfig::parse(config_of(layers).dump())))) < gigabytes * 1e9) ++layers;
  const std::string config = config_of(layers).dump(1);
  const std::vector<TensorSpec> table = tensor_table(ModelConfig::parse(config));
  std::ostringstream before;
  before << std::ifstream(folder / "config.json").rdbuf();
  const bool there = before.str() == config && fs::exists(folder / "model.safetensors.index.json");
  if (!there) {
    fs::remove_all(folder);
    fs::create_directories(folder);
    Json index = {{"metadata", {{"total_size", size_of(table)}}}, {"weight_map", Json::object()}};
    std::vector<const TensorSpec*> open;
    int64_t bytes = 0;
    int number = 0;
    const auto close = [&] {
      char name[48];
      std::snprintf(name, sizeof name, "model-%05d.safetensors", ++number);
      write_file(folder / name, open);
      for (const TensorSpec* spec : open) index["weight_map"][spec->name] = name;
      open.clear();
      bytes = 0;
    };
    for (const TensorSpec& spec : table) {
      if (bytes + bytes_of(spec) > kFileBytes) close();
      open.push_back(&spec);
      bytes += bytes_of(spec);
    }
    close();
    std::ofstream(folder / "config.json") << config;
    std::ofstream(folder / "model.safetensors.index.json") << index.dump();  // last: its presence says that all is there
  }
  int64_t bytes = 0;
  for (const auto& file : fs::directory_iterator(folder)) if (file.path().extension() == ".safetensors") bytes += static_cast<int64_t>(file.file_size());
  return bytes;
}

}  // namespace dsinfer::bench
