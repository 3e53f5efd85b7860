#include <algorithm>
#include <cstring>

#include "backend/cuda/cuda_backend.hpp"

namespace dsinfer {

using cuda::Current;
using cuda::expect;
using cuda::is;
using cuda::rows_of;

namespace {

bool aligned(const TensorView& x) {
  const cuda::Rows<const float> rows = rows_of<const float>(x);
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && rows.stride % 4 == 0 && rows.inner % 4 == 0;
}

// Rows of a tile where `rows` of them are shared out among so many experts.
int tile_rows(int64_t rows, int64_t experts, const TensorView& x, const Weight& w) {
  return rows > 2 * cuda::kTileRows * experts && aligned(x) && cuda::on_matrix_unit(cuda::shape_of(w)) ? cuda::kWideTileRows : cuda::kTileRows;
}

cuda::LinearCall call_of(const TensorView& out, const TensorView& x, const Weight& w) {
  cuda::LinearCall call{};
  call.out = rows_of(out);
  call.x = rows_of<const float>(x);
  call.x_aligned = aligned(x);
  call.shape = cuda::shape_of(w);
  call.weight = cuda::memory_of(w);
  call.rows = static_cast<int32_t>(x.dim(0));
  call.heads = 1;
  return call;
}

bool alike(const cuda::LinearShape& a, const cuda::LinearShape& b) {
  return a.format == b.format && a.scale_dtype == b.scale_dtype && a.stride == b.stride && a.scale_stride == b.scale_stride && a.block_rows == b.block_rows && a.block_cols == b.block_cols &&
         a.n == b.n && a.k == b.k && a.aligned == b.aligned;
}

}  // namespace

// As the products take them: as they are, or quantised for w8a8. Grows to the largest ever asked for; captured steps still read what came before.
TensorView CudaBackend::activations(TensorView x, const Weight& w) {
  if (arithmetic_ != Arithmetic::w8a8 || w.format != Format::fp8_block) return x;
  const size_t bytes = static_cast<size_t>(x.bytes());
  if (quantised_.empty() || quantised_.back().size() < bytes) quantised_.push_back(device_.allocate(bytes));
  const TensorView out = quantised_.back().view(DType::f32, {x.dim(0), x.dim(1)});
  cuda::quantise(rows_of(out), rows_of<const float>(x), x.dim(0), x.dim(1), w.block_cols, ue8m0_, device_.stream());
  return out;
}

void CudaBackend::linear(TensorView out, TensorView x, const Weight& w) {
  expect(is(out, 2) && is(x, 2) && cuda::is_weight(w) && out.dim(0) == x.dim(0) && out.dim(1) == w.out_dim() && x.dim(1) == w.in_dim() && x.dim(0) <= INT32_MAX, "linear",
         {{"out", &out}, {"x", &x}, {"w", &w.data}, {"scale", &w.scale}});
  if (out.elements() == 0) return;
  const Current current(device_.index());
  cuda::linear(call_of(out, activations(x, w), w), device_.multiprocessors(), device_.stream());
}

void CudaBackend::linear_per_head(TensorView out, TensorView x, const Weight& w) {
  const bool plain = w.format != Format::fp8_block && w.format != Format::int4_group && w.data.rank == 3;
  expect(is(out, 3) && is(x, 3) && plain && is(w.data, 3, w.format == Format::f32 ? DType::f32 : w.format == Format::bf16 ? DType::bf16 : DType::f16) && out.dim(0) == x.dim(0) &&
             out.dim(1) == x.dim(1) && x.dim(1) == w.data.dim(0) && out.dim(2) == w.data.dim(1) && x.dim(2) == w.data.dim(2) && x.dim(0) <= INT32_MAX,
         "linear_per_head", {{"out", &out}, {"x", &x}, {"w", &w.data}});
  if (out.elements() == 0) return;
  const Current current(device_.index());
  Weight head;
  head.format = w.format;
  head.data = TensorView(w.data.data, w.data.dtype, {w.data.dim(1), w.data.dim(2)}, w.data.place);
  head.data.stride[0] = w.data.stride[1];
  cuda::LinearCall call = call_of(out, x, head);
  call.heads = static_cast<int32_t>(x.dim(1));
  call.head_stride = w.data.stride[0] * dtype_size(w.data.dtype);
  call.shape.aligned = call.shape.aligned && call.head_stride % 16 == 0;
  cuda::linear(call, device_.multiprocessors(), device_.stream());
}

void CudaBackend::grouped_linear(TensorView out, TensorView x, std::span<const Weight> experts, std::span<const int64_t> offsets) {
  expect(is(out, 2) && is(x, 2) && out.dim(0) == x.dim(0) && x.dim(0) <= INT32_MAX, "grouped_linear", {{"out", &out}, {"x", &x}});
  if (offsets.size() != experts.size() + 1 || offsets.front() != 0 || offsets.back() != x.dim(0) || !std::is_sorted(offsets.begin(), offsets.end())) {
    throw Error(Error::internal, "grouped_linear: offsets must be " + std::to_string(experts.size() + 1) + " ascending numbers from 0 to " + std::to_string(x.dim(0)) + " rows");
  }
  if (out.elements() == 0) return;
  const Weight* first = nullptr;
  bool same = true;
  int most = cuda::kTileRows;
  std::vector<cuda::LinearTile> tiles;  // of experts that have rows alone: cost is what is active
  for (size_t e = 0; e < experts.size(); ++e) {
    if (offsets[e] == offsets[e + 1]) continue;
    const Weight& w = experts[e];
    expect(cuda::is_weight(w) && w.out_dim() == out.dim(1) && w.in_dim() == x.dim(1), "grouped_linear", {{"out", &out}, {"x", &x}, {"expert", &w.data}, {"scale", &w.scale}});
    if (!first) most = tile_rows(x.dim(0), static_cast<int64_t>(experts.size()), x, *(first = &w));
    same = same && alike(cuda::shape_of(*first), cuda::shape_of(w));
    for (int64_t row = offsets[e]; row < offsets[e + 1]; row += most) {
      tiles.push_back({static_cast<int32_t>(e), static_cast<int32_t>(row), static_cast<int32_t>(std::min<int64_t>(most, offsets[e + 1] - row))});
    }
  }
  if (!same) {
    for (size_t e = 0; e < experts.size(); ++e)
      if (offsets[e] < offsets[e + 1]) linear(out.rows(offsets[e], offsets[e + 1]), x.rows(offsets[e], offsets[e + 1]), experts[e]);
    return;
  }
  const Current current(device_.index());
  cuda::LinearCall call = call_of(out, activations(x, *first), *first);
  call.experts = table_of(experts);
  call.tile_rows = most;
  constexpr size_t kMost = cuda::Device::kParameterBytes / sizeof(cuda::LinearTile);
  for (size_t begin = 0; begin < tiles.size(); begin += kMost) {
    const size_t count = std::min(kMost, tiles.size() - begin);
    device_.with_parameters(tiles.data() + begin, count * sizeof(cuda::LinearTile), [&](const void* on_device) {
      call.tiles = static_cast<const cuda::LinearTile*>(on_device);
      call.num_tiles = static_cast<int32_t>(count);
      cuda::linear(call, device_.multiprocessors(), device_.stream());
    });
  }
}

// Made when a layer's experts are first seen, and again should they have moved.
const cuda::LinearWeight* CudaBackend::table_of(std::span<const Weight> experts) {
  ExpertTable& table = tables_[experts.data()];
  const auto same = [](const cuda::LinearWeight& a, const cuda::LinearWeight& b) { return a.data == b.data && a.scale == b.scale && a.zeros == b.zeros; };
  bool fresh = table.host.size() != experts.size();
  table.host.resize(experts.size());
  for (size_t e = 0; e < experts.size(); ++e) {
    const cuda::LinearWeight now = cuda::memory_of(experts[e]);
    fresh = fresh || !same(now, table.host[e]);
    table.host[e] = now;
  }
  if (fresh) {
    const size_t bytes = experts.size() * sizeof(cuda::LinearWeight);
    table.device = device_.allocate(bytes);
    device_.upload(table.device.data(), bytes, reinterpret_cast<const std::byte*>(table.host.data()), bytes, 1);
  }
  return reinterpret_cast<const cuda::LinearWeight*>(table.device.data());
}

void CudaBackend::expert_product(TensorView out, TensorView x, std::span<const Weight> experts, const cuda::Pairs& pairs, const int32_t* gather) {
  cuda::LinearCall call = call_of(out, activations(x, experts.front()), experts.front());
  call.tiles = pairs.tiles;
  call.num_tiles = pairs.num_tiles;
  call.tile_rows = pairs.tile_rows;
  call.experts = table_of(experts);
  call.gather = gather;
  cuda::linear(call, device_.multiprocessors(), device_.stream());
}

bool CudaBackend::routed_experts(TensorView out, TensorView x, TensorView experts, TensorView weights, int64_t first_expert, std::span<const Weight> gate_up, std::span<const Weight> down,
                                 const PairRoom& room) {
  const int64_t rows = x.dim(0), k = experts.dim(1), own = static_cast<int64_t>(gate_up.size()), most = rows * std::min(k, own), inner = room.act.dim(1);
  expect(is(out, 2) && is(x, 2) && is(experts, 2, DType::i32) && is(weights, 2) && is(room.rows, 1, DType::i32) && is(room.scale, 1) && is(room.gate_up, 2) && is(room.act, 2) &&
             is(room.out, 2) && out.dim(0) == rows && experts.dim(0) == rows && weights.dim(0) == rows && weights.dim(1) == k && out.dim(1) == room.out.dim(1) &&
             room.gate_up.dim(1) == 2 * inner && down.size() == gate_up.size() && room.rows.dim(0) >= most && room.scale.dim(0) >= most && room.gate_up.dim(0) >= most &&
             room.act.dim(0) >= most && room.out.dim(0) >= most,
         "routed_experts", {{"out", &out}, {"x", &x}, {"experts", &experts}, {"weights", &weights}, {"gate_up", &room.gate_up}, {"act", &room.act}, {"pairs", &room.out}});
  if (own == 0) return false;
  const int in_tile = std::min(tile_rows(most, own, x, gate_up.front()), tile_rows(most, own, room.act, down.front()));
  const int64_t tiles = std::min(most, most / in_tile + own);
  const auto uniform = [](std::span<const Weight> all, int64_t n, int64_t depth) {
    for (const Weight& w : all) {
      expect(cuda::is_weight(w) && w.out_dim() == n && w.in_dim() == depth, "routed_experts", {{"expert", &w.data}, {"scale", &w.scale}});
      if (!alike(cuda::shape_of(all.front()), cuda::shape_of(w))) return false;
    }
    return true;
  };
  if (own > cuda::kMostPairExperts || static_cast<size_t>(tiles + 1) * sizeof(cuda::LinearTile) > kTileBytes || rows * k > INT32_MAX) return false;
  if (!uniform(gate_up, 2 * inner, x.dim(1)) || !uniform(down, out.dim(1), inner)) return false;
  if (rows == 0) return true;
  const Current current(device_.index());
  auto* memory = reinterpret_cast<cuda::LinearTile*>(tiles_.data());
  const cuda::Pairs pairs{room.rows.as<int32_t>(), room.scale.as<float>(), &memory[0].expert, memory + 1, static_cast<int32_t>(tiles), in_tile};
  const cudaStream_t stream = device_.stream();
  cuda::pair_up(pairs, rows_of<const int32_t>(experts), rows_of<const float>(weights), rows, k, first_expert, own, stream);
  const TensorView act = room.act.rows(0, most);
  expert_product(room.gate_up, x, gate_up, pairs, pairs.rows);
  cuda::silu_mul(rows_of(act), rows_of<const float>(room.gate_up), most, inner, stream);  // rows beyond the last pair hold anything, and are not looked at
  expert_product(room.out, act, down, pairs, nullptr);
  cuda::scatter_add(rows_of(out), rows, rows_of<const float>(room.out), pairs.rows, pairs.scale, most, pairs.count, out.dim(1), device_.fault_sink(), stream);
  return true;
}

}  // namespace dsinfer
