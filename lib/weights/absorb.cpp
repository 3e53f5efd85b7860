#include "weights/absorb.hpp"

#include <algorithm>
#include <cstring>
#include <thread>

namespace dsinfer {
namespace {

void put(std::byte* out, DType dtype, int64_t at, const float* from, int64_t count) {
  if (dtype == DType::bf16) std::transform(from, from + count, reinterpret_cast<uint16_t*>(out) + at, f32_to_bf16);
  else std::memcpy(out + at * static_cast<int64_t>(sizeof(float)), from, static_cast<size_t>(count) * sizeof(float));
}

}  // namespace

TensorView Absorber::on_host(TensorView view, std::vector<std::byte>& storage) const {
  if (view.place == Place::host || !view) return view;
  storage.resize(std::max(storage.size(), static_cast<size_t>(view.bytes())));
  TensorView host = view;
  host.data = storage.data();
  host.place = Place::host;
  room_.backend.copy(host, view);
  return host;
}

template <class Fn> void Absorber::each_head(Place place, int64_t heads, Fn&& fn) {
  if (place == Place::host) return fn(int64_t{0}, heads, 0);
  constexpr unsigned kMost = 8;  // the other cores read
  if (!pool_) pool_ = std::make_unique<cpu::ThreadPool>(static_cast<int>(std::clamp(std::thread::hardware_concurrency() / 2, 1u, kMost)), /*spin=*/false);
  pool_->parallel_for(heads, 1, fn);
}

void Absorber::absorb(Weight weight, TensorView key_up, TensorView value_up) {
  const Place place = key_up.place;
  weight.data = on_host(weight.data, data_);
  weight.scale = on_host(weight.scale, scale_);
  weight.zeros = on_host(weight.zeros, zeros_);
  const int64_t heads = key_up.dim(0), latent = key_up.dim(1), nope = key_up.dim(2), value = value_up.dim(1);
  room_.fill(key_up, [&](std::byte* out) {
    each_head(place, heads, [&](int64_t begin, int64_t end, int) {
      std::vector<float> rows(static_cast<size_t>(nope * latent)), turned(rows.size());
      for (int64_t h = begin; h < end; ++h) {
        decode_rows(rows.data(), weight, h * (nope + value), h * (nope + value) + nope);
        for (int64_t r = 0; r < latent; ++r)
          for (int64_t d = 0; d < nope; ++d) turned[static_cast<size_t>(r * nope + d)] = rows[static_cast<size_t>(d * latent + r)];
        put(out, key_up.dtype, h * nope * latent, turned.data(), nope * latent);
      }
    });
  });
  room_.fill(value_up, [&](std::byte* out) {
    each_head(place, heads, [&](int64_t begin, int64_t end, int) {
      std::vector<float> rows(static_cast<size_t>(value * latent));
      for (int64_t h = begin; h < end; ++h) {
        decode_rows(rows.data(), weight, h * (nope + value) + nope, (h + 1) * (nope + value));
        put(out, value_up.dtype, h * value * latent, rows.data(), value * latent);
      }
    });
  });
}

}  // namespace dsinfer
