#include "weights/dummy_values.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace dsinfer {
namespace {

constexpr int64_t kPage = 4096;                      // of a tensor, copied from one place of the pattern
constexpr int64_t kPattern = int64_t{256} << 10;     // stays in a core's second cache; pages begin at 65,536 places of it
constexpr int64_t kStep = sizeof(float);             // between these places: of no dtype less than an element
constexpr float kCodeDeviation = 448 / 3.4641016f;   // the draws below end at √12 deviations: E4M3's largest number
constexpr float kInt4Deviation = 4.6097722f;         // of 0 … 15, all equally often: √((16² − 1) / 12)

// splitmix64, by position. Source: Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014.
uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

// Close to N(0, 1), within ±√12, and the same on every machine: the sum of four uniform numbers of 16 bits, in integers.
float normal_of(uint64_t bits) {
  const auto sum = static_cast<int64_t>((bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48));
  return static_cast<float>(sum - 2 * 65535) * (1.7320508f / 65536);
}

float uniform_of(uint64_t bits) { return static_cast<float>(bits >> 40) * 0x1p-24f; }

uint32_t encoded(float value, DType dtype) {
  switch (dtype) {
    case DType::bf16: return f32_to_bf16(value);
    case DType::f16: return f32_to_f16(value);
    case DType::e4m3: return f32_to_e4m3(value);
    case DType::f32: case DType::i32: case DType::i64: case DType::u8: break;
  }
  return std::bit_cast<uint32_t>(value);
}

uint32_t element(const DummyLaw& law, uint64_t bits) {
  switch (law.kind) {
    case DummyLaw::constant: return law.dtype == DType::i32 ? 0x88888888u : encoded(law.value, law.dtype);
    case DummyLaw::normal: return encoded(law.value * normal_of(bits), law.dtype);
    case DummyLaw::scale: return encoded(law.value * (0.75f + 0.5f * uniform_of(bits)), law.dtype);
    case DummyLaw::codes: return encoded(kCodeDeviation * normal_of(bits), law.dtype);
    case DummyLaw::bits: break;
  }
  return static_cast<uint32_t>(bits >> 32);
}

}  // namespace

DummyLaw dummy_law(const TensorSpec& spec, int64_t inputs) {
  const std::string_view name = spec.name;
  const float deviation = 1 / std::sqrt(static_cast<float>(std::max<int64_t>(inputs, 1)));
  if (spec.int4 == Int4Part::words) return {DummyLaw::bits, spec.dtype, 0};
  if (spec.int4 == Int4Part::zeros) return {DummyLaw::constant, spec.dtype, 0};  // 8 of 0 … 15, in every place
  if (spec.int4 == Int4Part::scales) return {DummyLaw::scale, spec.dtype, deviation / kInt4Deviation};
  if (spec.is_scale) return {DummyLaw::scale, spec.dtype, deviation / kCodeDeviation};
  if (spec.dtype == DType::e4m3) return {DummyLaw::codes, spec.dtype, 1};
  if (name.ends_with("e_score_correction_bias")) return {DummyLaw::normal, spec.dtype, 0.01f};
  if (spec.shape.size() == 1) return {DummyLaw::constant, spec.dtype, 1};
  if (name.ends_with("embed_tokens.weight")) return {DummyLaw::normal, spec.dtype, 1};
  if (name.ends_with("head.weight")) return {DummyLaw::normal, spec.dtype, 4 * deviation};
  return {DummyLaw::normal, spec.dtype, deviation};
}

uint64_t dummy_key(uint64_t seed, std::string_view tensor) {
  uint64_t hash = mixed(seed);
  for (const char c : tensor) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;  // FNV-1a
  return mixed(hash);
}

DummyPattern::DummyPattern(const DummyLaw& law, uint64_t seed) : bytes_(static_cast<size_t>(kPattern + kPage)) {
  const auto size = static_cast<size_t>(dtype_size(law.dtype));
  const uint64_t key = dummy_key(seed, {reinterpret_cast<const char*>(&law.kind), 1}) + std::bit_cast<uint32_t>(law.value);
  for (size_t i = 0; i < bytes_.size() / size; ++i) {
    const uint32_t bits = element(law, mixed(key + i));
    std::memcpy(bytes_.data() + i * size, &bits, std::min(size, sizeof bits));  // little-endian, as the files are
  }
}

void DummyPattern::fill(uint64_t key, int64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const int64_t page = offset / kPage, within = offset % kPage;
    const auto start = static_cast<int64_t>(mixed(key + static_cast<uint64_t>(page)) % (kPattern / kStep)) * kStep;
    const size_t count = std::min(out.size(), static_cast<size_t>(kPage - within));
    std::memcpy(out.data(), bytes_.data() + start + within, count);
    out = out.subspan(count);
    offset += static_cast<int64_t>(count);
  }
}

}  // namespace dsinfer
