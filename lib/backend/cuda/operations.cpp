#include "backend/cuda/cuda_backend.hpp"

namespace dsinfer {

using cuda::Current;
using cuda::expect;
using cuda::is;
using cuda::rows_of;

void CudaBackend::embed(TensorView out, const Weight& table, TensorView tokens, int64_t first_row) {
  expect(is(out, 2) && cuda::is_weight(table) && is(tokens, 1, DType::i32) && out.dim(0) == tokens.dim(0) && out.dim(1) == table.in_dim(), "embed",
         {{"out", &out}, {"table", &table.data}, {"tokens", &tokens}});
  if (out.elements() == 0) return;
  const Current current(device_.index());
  cuda::embed(rows_of(out), cuda::memory_of(table), cuda::shape_of(table), tokens.as<int32_t>(), out.dim(0), first_row, device_.stream());
}

void CudaBackend::rms_norm(TensorView out, TensorView x, TensorView w, float eps) {
  expect(is(out, 2) && is(x, 2) && is(w, 1) && out.dim(0) == x.dim(0) && out.dim(1) == x.dim(1) && w.dim(0) == x.dim(1), "rms_norm", {{"out", &out}, {"x", &x}, {"w", &w}});
  if (out.elements() == 0) return;
  const Current current(device_.index());
  cuda::rms_norm(rows_of(out), {}, rows_of<const float>(x), w.as<float>(), x.dim(0), x.dim(1), eps, device_.stream());
}

void CudaBackend::add_rms_norm(TensorView out, TensorView residual, TensorView x, TensorView w, float eps) {
  expect(is(out, 2) && is(residual, 2) && is(x, 2) && is(w, 1) && out.dim(0) == x.dim(0) && out.dim(1) == x.dim(1) && residual.dim(0) == x.dim(0) && residual.dim(1) == x.dim(1) &&
             w.dim(0) == x.dim(1),
         "add_rms_norm", {{"out", &out}, {"residual", &residual}, {"x", &x}, {"w", &w}});
  if (out.elements() == 0) return;
  const Current current(device_.index());
  cuda::rms_norm(rows_of(out), rows_of(residual), rows_of<const float>(x), w.as<float>(), x.dim(0), x.dim(1), eps, device_.stream());
}

void CudaBackend::add(TensorView x, TensorView y) {
  expect(is(x, 2) && is(y, 2) && x.dim(0) == y.dim(0) && x.dim(1) == y.dim(1), "add", {{"x", &x}, {"y", &y}});
  if (x.elements() == 0) return;
  const Current current(device_.index());
  cuda::add(rows_of(x), rows_of<const float>(y), x.dim(0), x.dim(1), device_.stream());
}

void CudaBackend::rope(TensorView x, TensorView positions, TensorView table, bool interleave) {
  expect(is(x, 3) && is(positions, 1, DType::i32) && is(table, 2) && positions.dim(0) == x.dim(0) && table.dim(1) == x.dim(2) && x.dim(2) % 2 == 0, "rope",
         {{"x", &x}, {"positions", &positions}, {"table", &table}});
  if (x.elements() == 0) return;
  const Current current(device_.index());
  cuda::rope(rows_of(x), positions.as<int32_t>(), rows_of<const float>(table), table.dim(0), x.dim(0), x.dim(1), x.dim(2), interleave, device_.fault_sink(), device_.stream());
}

void CudaBackend::silu_mul(TensorView out, TensorView gate_up) {
  expect(is(out, 2) && is(gate_up, 2) && out.dim(0) == gate_up.dim(0) && 2 * out.dim(1) == gate_up.dim(1), "silu_mul", {{"out", &out}, {"gate_up", &gate_up}});
  if (out.elements() == 0) return;
  const Current current(device_.index());
  cuda::silu_mul(rows_of(out), rows_of<const float>(gate_up), out.dim(0), out.dim(1), device_.stream());
}

void CudaBackend::route(TensorView experts, TensorView weights, TensorView logits, TensorView bias, const GateOptions& gate) {
  expect(is(experts, 2, DType::i32) && is(weights, 2) && is(logits, 2) && (!bias || (is(bias, 1) && bias.dim(0) == logits.dim(1))) && experts.dim(0) == logits.dim(0) &&
             weights.dim(0) == logits.dim(0) && experts.dim(1) == gate.top_k && weights.dim(1) == gate.top_k,
         "route", {{"experts", &experts}, {"weights", &weights}, {"logits", &logits}, {"bias", &bias}});
  constexpr int64_t kMostExperts = 4096;  // their scores lie in shared memory
  const int64_t n = logits.dim(1), groups = gate.grouped ? gate.n_group : 1;
  if (gate.top_k < 1 || gate.top_k > n || n > kMostExperts || groups < 1 || n % groups != 0 || (groups > 1 && (gate.topk_group < 1 || gate.topk_group > groups))) {
    throw Error(Error::internal, "route: top " + std::to_string(gate.top_k) + " of " + std::to_string(n) + " experts (at most " + std::to_string(kMostExperts) + ") in " +
                                     std::to_string(groups) + " groups of which " + std::to_string(gate.topk_group) + " are kept");
  }
  if (logits.dim(0) == 0) return;
  const auto small = [](int64_t v) { return static_cast<int32_t>(v); };
  const cuda::Gate on_device{small(n), small(groups), small(gate.topk_group), small(gate.top_k), gate.sigmoid, gate.group_score_top2, gate.normalise, gate.scale};
  const Current current(device_.index());
  cuda::route(rows_of<int32_t>(experts), rows_of(weights), rows_of<const float>(logits), bias ? bias.as<float>() : nullptr, on_device, logits.dim(0), device_.stream());
}

void CudaBackend::gather_rows(TensorView out, TensorView x, TensorView rows) {
  expect(is(out, 2) && is(x, 2) && is(rows, 1, DType::i32) && out.dim(0) == rows.dim(0) && out.dim(1) == x.dim(1), "gather_rows", {{"out", &out}, {"x", &x}, {"rows", &rows}});
  if (out.elements() == 0) return;
  const Current current(device_.index());
  cuda::gather_rows(rows_of(out), rows_of<const float>(x), rows.as<int32_t>(), out.dim(0), out.dim(1), x.dim(0), device_.fault_sink(), device_.stream());
}

void CudaBackend::scatter_add(TensorView out, TensorView x, TensorView rows, TensorView scale) {
  expect(is(out, 2) && is(x, 2) && is(rows, 1, DType::i32) && is(scale, 1) && x.dim(0) == rows.dim(0) && x.dim(0) == scale.dim(0) && out.dim(1) == x.dim(1), "scatter_add",
         {{"out", &out}, {"x", &x}, {"rows", &rows}, {"scale", &scale}});
  if (x.elements() == 0 || out.elements() == 0) return;
  const Current current(device_.index());
  cuda::scatter_add(rows_of(out), out.dim(0), rows_of<const float>(x), rows.as<int32_t>(), scale.as<float>(), x.dim(0), nullptr, x.dim(1), device_.fault_sink(), device_.stream());
}

}  // namespace dsinfer
