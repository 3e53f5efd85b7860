/// Dense MLP and shared expert: down(silu(gate) ⊙ up), cut by tp.
#pragma once
#include "model/workspace.hpp"
#include "weights/weight_set.hpp"

namespace dsinfer {

class Mlp {
 public:
  /// prefix: "model.layers.0.mlp." or "model.layers.3.mlp.shared_experts."
  Mlp(const WeightSet& weights, const std::string& prefix);
  /// out [T, H] := this tp rank's partial sum for x [T, H].
  void forward(Context& context, TensorView out, TensorView x) const;

 private:
  const Weight* gate_up_;  // [2·I, H]: gate and up, where they lie back to back
  const Weight* gate_;  // [I, H]
  const Weight* up_;    // [I, H]
  const Weight* down_;  // [H, I]
};

}  // namespace dsinfer
