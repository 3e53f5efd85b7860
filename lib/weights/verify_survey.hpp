/// What the headers of a checkpoint tell a check: its tensors in the order of the files, and what is wrong with it before any content is read.
#pragma once
#include <memory>
#include <optional>

#include "weights/checkpoint.hpp"
#include "weights/content_hash.hpp"

namespace dsinfer {

/// What a check found, each thing once; a broken folder of 90,000 tensors does not fill the memory.
class ProblemList {
 public:
  static constexpr size_t kMost = 200;
  DSINFER_INTERNAL void add(std::string text);
  const std::vector<std::string>& texts() const { return texts_; }
  int64_t more() const { return more_; }  ///< that were told beyond kMost

 private:
  std::vector<std::string> texts_;
  int64_t more_ = 0;
};

/// How a check reads a tensor's elements. raw: no element is a number that could be bad.
enum class Elements : uint8_t { raw, f64, f32, bf16, f16, e4m3, e5m2 };
DSINFER_INTERNAL int64_t element_bytes(Elements elements);

struct SurveyedTensor {
  std::string name;
  int file = 0;
  int64_t begin = 0, end = 0;  ///< bytes of the file
  Elements elements = Elements::raw;
  bool scale = false;          ///< finite and not negative
  bool matrix = false;         ///< a weight of two or more dimensions: not all zeros
};

struct Survey {
  std::unique_ptr<Checkpoint> checkpoint;
  std::vector<SurveyedTensor> tensors;  ///< by file and place; equal for equal fingerprints
  ProblemList problems;
  std::string fingerprint;
  std::vector<Hash128> headers;         ///< of each file: names, dtypes, shapes and places of its tensors

  const CheckpointFile& file(const SurveyedTensor& tensor) const { return checkpoint->files()[static_cast<size_t>(tensor.file)]; }
};

/// Reads config.json, index and headers. Throws not_found where there are no weights at all.
DSINFER_INTERNAL Survey survey_checkpoint(std::shared_ptr<Storage> storage);

}  // namespace dsinfer
