/// The header of a safetensors file: names, dtypes, shapes and where the bytes lie.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/dtype.hpp"
#include "storage/source.hpp"

namespace dsinfer {

struct TensorEntry {
  std::string dtype;           ///< as written: "BF16", "F8_E4M3", … also ones that we cannot use
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;  ///< bytes of the file, header included
};

struct SafetensorsHeader {
  std::unordered_map<std::string, TensorEntry> tensors;
  std::unordered_map<std::string, std::string> metadata;
  int64_t data_begin = 0;  ///< first byte after the header
  int64_t end = 0;         ///< length of the file that the header describes
};

/// The dtypes that weights may have; nothing for others.
DSINFER_INTERNAL std::optional<DType> parse_dtype(std::string_view name);

/// `json`: the header's text; `file_size` in bytes. Throws bad_format naming file and tensor for: keys twice, lengths that overflow or disagree
/// with shape and dtype, ranges outside of the file or over each other, a file shorter or longer than its header says.
DSINFER_INTERNAL SafetensorsHeader parse_safetensors(std::string_view json, int64_t file_size, const std::string& file, bool may_be_short = false);
/// Reads and parses it. `may_be_short`: data may be missing behind a whole header.
DSINFER_INTERNAL SafetensorsHeader read_safetensors(Source& source, bool may_be_short = false);
/// The header's text alone, its length checked against the file.
DSINFER_INTERNAL std::string read_safetensors_text(Source& source);

/// "2, 8" of a shape as it may stand in a message: a hostile header holds millions of numbers, of which the first are told.
DSINFER_INTERNAL std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace dsinfer
