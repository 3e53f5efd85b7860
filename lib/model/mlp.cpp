#include "model/mlp.hpp"

namespace dsinfer {

Mlp::Mlp(const WeightSet& weights, const std::string& prefix)
    : gate_up_(weights.fused(prefix + "gate_proj.weight")),
      gate_(&weights.matrix(prefix + "gate_proj.weight")),
      up_(&weights.matrix(prefix + "up_proj.weight")),
      down_(&weights.matrix(prefix + "down_proj.weight")) {}

void Mlp::forward(Context& context, TensorView out, TensorView x) const {
  const int64_t T = x.dim(0), inner = gate_->out_dim();
  if (T == 0) return;
  const TensorView gate_up = context.ws.gate_up.rows(0, T).slice(1, 0, 2 * inner), act = context.ws.act.rows(0, T).slice(1, 0, inner);
  if (gate_up_) {
    context.backend.linear(gate_up, x, *gate_up_);
  } else {
    context.backend.linear(gate_up.slice(1, 0, inner), x, *gate_);
    context.backend.linear(gate_up.slice(1, inner, 2 * inner), x, *up_);
  }
  context.backend.silu_mul(act, gate_up);
  context.backend.linear(out, act, *down_);
}

}  // namespace dsinfer
