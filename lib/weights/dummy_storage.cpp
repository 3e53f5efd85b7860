#include "weights/dummy_storage.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <string_view>

#include "dsinfer/error.hpp"
#include "storage/http_answer.hpp"
#include "weights/dummy_values.hpp"

namespace dsinfer {
namespace {

constexpr std::string_view kScheme = "dummy://", kSeed = "?seed=";
constexpr const char* kIndex = "model.safetensors.index.json";

struct DummyName {
  std::string folder;
  uint64_t seed = 0;
};

DummyName parse_name(const std::string& model) {
  const auto refuse = [&](const char* why) {
    throw Error(Error::invalid_argument, fmt::format("{}: {}; expected dummy://FOLDER or dummy://FOLDER?seed=N, with a local folder that holds a config.json", shown(model), why));
  };
  std::string_view rest = std::string_view(model).substr(kScheme.size());
  DummyName name;
  if (const size_t at = rest.rfind('?'); at != std::string_view::npos) {
    const std::string_view query = rest.substr(at);
    if (!query.starts_with(kSeed)) refuse("has another question than the seed");
    const char *first = query.data() + kSeed.size(), *last = query.data() + query.size();
    const auto [end, code] = std::from_chars(first, last, name.seed);
    if (first == last || code != std::errc() || end != last) refuse("its seed is not a number from 0 to 2^64 − 1");
    rest = rest.substr(0, at);
  }
  if (rest.empty()) refuse("names no folder");
  if (rest.find("://") != std::string_view::npos) refuse("names a URL");
  name.folder = rest;
  return name;
}

// All files: what their headers say, and where each tensor's bytes come from. One for the globals and one a layer: a header of all of V3 takes minutes to read.
class DummyFiles {
 public:
  struct Part {
    int64_t begin, end;  // bytes of the file
    uint64_t key;
    const DummyPattern* pattern;
  };
  struct File {
    std::string name, head;   // head: length and JSON
    std::vector<Part> parts;  // by place, without gaps
    int64_t size = 0;
  };

  DummyFiles(const ModelConfig& config, uint64_t seed) : seed_(seed) {
    int64_t inputs = 1, layer = 0;
    for (const TensorSpec& spec : tensor_table(config)) {
      if (spec.int4 == Int4Part::none && !spec.is_scale) inputs = spec.shape.back();
      if (!spec.expected) continue;
      if (files_.empty() || spec.layer != layer) begin_file();
      layer = spec.layer;
      add(spec, inputs);
    }
    end_file();
    index_ += "}}";
  }
  const std::string& index() const { return index_; }
  std::string version() const { return fmt::format("dummy weights, seed {}", seed_); }
  const File* find(const std::string& name) const {
    const auto at = std::find_if(files_.begin(), files_.end(), [&](const File& file) { return file.name == name; });
    return at == files_.end() ? nullptr : &*at;
  }

 private:
  void begin_file() {
    end_file();
    File& file = files_.emplace_back();
    file.name = fmt::format("model-{:05}.safetensors", files_.size());
    json_ = fmt::format(R"({{"__metadata__":{{"format":"pt","dummy_seed":"{}"}})", seed_);  // so that ranks with other seeds are told apart
  }

  void add(const TensorSpec& spec, int64_t inputs) {
    File& file = files_.back();
    int64_t bytes = dtype_size(spec.dtype);
    for (const int64_t dim : spec.shape) bytes *= dim;
    json_ += fmt::format(R"(,"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", spec.name, dtype_name(spec.dtype), fmt::join(spec.shape, ","), file.size, file.size + bytes);
    index_ += fmt::format(R"({}"{}":"{}")", index_.back() == '{' ? "" : ",", spec.name, file.name);
    const DummyLaw law = dummy_law(spec, inputs);
    file.parts.push_back({file.size, file.size + bytes, dummy_key(seed_, spec.name), &patterns_.try_emplace(law, law, seed_).first->second});
    file.size += bytes;
  }

  void end_file() {
    if (files_.empty()) return;
    File& file = files_.back();
    json_ += '}';
    json_.resize((json_.size() + 7) / 8 * 8, ' ');
    const uint64_t length = json_.size();
    file.head.assign(reinterpret_cast<const char*>(&length), sizeof length);  // little-endian
    file.head += json_;
    const auto head = static_cast<int64_t>(file.head.size());
    for (Part& part : file.parts) part.begin += head, part.end += head;
    file.size += head;
  }

  uint64_t seed_;
  std::vector<File> files_;
  std::map<DummyLaw, DummyPattern> patterns_;
  std::string json_, index_ = R"({"weight_map":{)";
};

// A text as a file, and behind it the parts of a file of weights.
class DummySource final : public Source {
 public:
  /// `weights` is one of `files`, or null for the index.
  DummySource(std::string name, std::shared_ptr<const DummyFiles> files, const DummyFiles::File* weights)
      : name_(std::move(name)), version_(files->version()), files_(std::move(files)), head_(weights ? weights->head : files_->index()),
        size_(weights ? weights->size : static_cast<int64_t>(head_.size())) {
    if (weights) parts_ = weights->parts;
  }
  const std::string& name() const override { return name_; }
  int64_t size() const override { return size_; }
  std::string version() const override { return version_; }

  void read(int64_t offset, std::span<std::byte> out) override {
    if (offset < 0 || offset > size_ || static_cast<int64_t>(out.size()) > size_ - offset)
      throw Error(Error::io, fmt::format("{}: ends at byte {}, asked for {} bytes at {}", name_, size_, out.size(), offset));
    const auto take = [&](size_t count) {
      out = out.subspan(count);
      offset += static_cast<int64_t>(count);
    };
    if (const auto head = static_cast<int64_t>(head_.size()); offset < head && !out.empty()) {
      const size_t count = std::min(out.size(), static_cast<size_t>(head - offset));
      std::memcpy(out.data(), head_.data() + offset, count);
      take(count);
    }
    auto part = std::upper_bound(parts_.begin(), parts_.end(), offset, [](int64_t at, const DummyFiles::Part& p) { return at < p.end; });
    for (; !out.empty(); ++part) {
      const size_t count = std::min(out.size(), static_cast<size_t>(part->end - offset));
      part->pattern->fill(part->key, offset - part->begin, out.first(count));
      take(count);
    }
  }

 private:
  std::string name_, version_;
  std::shared_ptr<const DummyFiles> files_;  // what the rest points into
  const std::string& head_;
  int64_t size_;
  std::span<const DummyFiles::Part> parts_;
};

class DummyStorage final : public Storage {
 public:
  explicit DummyStorage(const DummyName& name)
      : inner_(open_storage(name.folder)), folder_(name.folder), name_(fmt::format("dummy://{}?seed={}", name.folder, name.seed)) {
    if (!inner_->exists("config.json")) throw Error(Error::not_found, name.folder + ": no config.json is there, which says what weights to make up");
    files_ = std::make_shared<DummyFiles>(ModelConfig::load(folder_), name.seed);
  }
  const std::string& name() const override { return name_; }
  bool exists(const std::string& file) override { return is_weights(file) ? file == kIndex || files_->find(file) : inner_->exists(file); }
  std::unique_ptr<Source> open(const std::string& file) override {
    if (!is_weights(file)) return inner_->open(file);
    const DummyFiles::File* weights = files_->find(file);
    if (!weights && file != kIndex) throw Error(Error::not_found, fmt::format("{}: {} is no file of dummy weights; {} names them", name_, shown(file), kIndex));
    return std::make_unique<DummySource>(fmt::format("{}/{}", name_, file), files_, weights);
  }
  const std::filesystem::path* folder() const override { return &folder_; }

 private:
  static bool is_weights(const std::string& file) { return file.ends_with(".safetensors") || file.ends_with(".safetensors.index.json"); }

  std::unique_ptr<Storage> inner_;
  std::filesystem::path folder_;
  std::string name_;
  std::shared_ptr<const DummyFiles> files_;
};

}  // namespace

bool names_dummy(const std::string& model) { return model.starts_with(kScheme); }

std::unique_ptr<Storage> open_dummy(const std::string& model) { return std::make_unique<DummyStorage>(parse_name(model)); }

bool is_dummy(const Storage& storage) { return dynamic_cast<const DummyStorage*>(&storage) != nullptr; }

void refuse_dummy(const std::string& model, const char* work) {
  if (names_dummy(model))
    throw Error(Error::invalid_argument, fmt::format("{}: dummy weights are made up when they are read, so {} has no sense; name the model's own folder or URL", shown(model), work));
}

std::unique_ptr<Storage> open_weights(const std::string& model, const StorageOptions& options) {
  return names_dummy(model) ? open_dummy(model) : open_storage(model, options);
}

}  // namespace dsinfer
