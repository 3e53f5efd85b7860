/// HostSide: what the model writes or reads element by element of a tensor that the operations know. Where that tensor lies on the host it is the tensor itself.
#pragma once
#include <vector>

#include "backend/backend.hpp"

namespace dsinfer {

template <class T> class HostSide {
 public:
  HostSide() = default;
  /// Of a dense tensor that outlives this.
  explicit HostSide(TensorView tensor) : tensor_(tensor), memory_(tensor.place == Place::device ? static_cast<size_t>(tensor.elements()) : 0) {}
  T* data() { return memory_.empty() ? tensor_.as<T>() : memory_.data(); }
  /// Rows [0, rows) of the host side, and their first `cols` columns where there are columns, to the tensor; and back. Nothing to do on the host.
  void send(Backend& backend, int64_t rows) { if (part(rows)) backend.copy(tensor_.rows(0, rows), mirror().rows(0, rows)); }
  void send(Backend& backend, int64_t rows, int64_t cols) { if (part(rows)) backend.copy(tensor_.rows(0, rows).slice(1, 0, cols), mirror().rows(0, rows).slice(1, 0, cols)); }
  void fetch(Backend& backend, int64_t rows) { if (part(rows)) backend.copy(mirror().rows(0, rows), tensor_.rows(0, rows)); }

 private:
  bool part(int64_t rows) const { return rows > 0 && !memory_.empty(); }
  TensorView mirror() {
    TensorView v = tensor_;
    v.data = reinterpret_cast<std::byte*>(memory_.data());
    v.place = Place::host;
    return v;
  }
  TensorView tensor_;
  std::vector<T> memory_;
};

}  // namespace dsinfer
