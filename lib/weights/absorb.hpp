/// Absorber: MLA's absorbed copies of kv_b_proj, made from the matrix as it is held.
#pragma once
#include <memory>

#include "backend/thread_pool.hpp"
#include "weights/landing_piece.hpp"

namespace dsinfer {

/// Driven by one thread. For a device several threads compute: what it waits for otherwise is the disk's part of the load.
class Absorber {
 public:
  explicit Absorber(LandingRoom& room) : room_(room) {}
  /// key_up[h] = W_UKᵀ [heads, latent, nope] and value_up[h] = W_UV [heads, value, latent] of head h, dense, f32 or bf16; `weight` [heads · (nope + value), latent].
  void absorb(Weight weight, TensorView key_up, TensorView value_up);

 private:
  TensorView on_host(TensorView view, std::vector<std::byte>& storage) const;
  template <class Fn> void each_head(Place place, int64_t heads, Fn&& fn);

  LandingRoom& room_;
  std::vector<std::byte> data_, scale_, zeros_;
  std::unique_ptr<cpu::ThreadPool> pool_;
};

}  // namespace dsinfer
