/// DummyValues: bytes of weights that nobody trained, by seed, tensor and position.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "config/tensors.hpp"

namespace dsinfer {

/// What the elements of a tensor are drawn from.
struct DummyLaw {
  enum Kind : uint8_t { constant, normal, scale, codes, bits };  ///< value; N(0, value); value · U(3/4, 5/4); E4M3 codes that fill their range; any bits
  Kind kind = constant;
  DType dtype = DType::bf16;
  float value = 1;
  auto operator<=>(const DummyLaw&) const = default;
};

/// So that activations stay of order 1 from layer to layer: weights N(0, 1/√inputs), norms 1, embeddings N(0, 1), the gate's correction bias N(0, 0.01); the head
/// 4 times as wide as other weights, so that the probabilities of tokens are as far apart as a trained model's. `inputs`: of the layer that the tensor belongs to.
DSINFER_INTERNAL DummyLaw dummy_law(const TensorSpec& spec, int64_t inputs);

/// A block of elements by one law, from which every page of a tensor is a copy of a piece: as fast as memory. Any thread.
class DSINFER_INTERNAL DummyPattern {
 public:
  DummyPattern(const DummyLaw& law, uint64_t seed);
  /// Bytes [offset, offset + out.size()) of the tensor of that key.
  void fill(uint64_t key, int64_t offset, std::span<std::byte> out) const;

 private:
  std::vector<std::byte> bytes_;
};

/// What a tensor's bytes are keyed by.
DSINFER_INTERNAL uint64_t dummy_key(uint64_t seed, std::string_view tensor);

}  // namespace dsinfer
