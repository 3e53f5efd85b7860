#include "weights/weight_set.hpp"

#include "dsinfer/error.hpp"

namespace dsinfer {
namespace {

template <class Map> const auto& lookup(const Map& map, const std::string& name, const char* kind) {
  const auto it = map.find(name);
  if (it == map.end()) throw Error(Error::internal, std::string("this rank holds no ") + kind + " " + name);
  return it->second;
}

}  // namespace

const Weight& WeightSet::matrix(const std::string& name) const { return lookup(matrices_, name, "matrix"); }
TensorView WeightSet::vector(const std::string& name) const { return lookup(vectors_, name, "vector"); }
const Weight& WeightSet::key_up(const std::string& kv_b_name) const { return lookup(key_up_, kv_b_name, "absorbed key matrix of"); }
const Weight& WeightSet::value_up(const std::string& kv_b_name) const { return lookup(value_up_, kv_b_name, "absorbed value matrix of"); }

void WeightSet::each(const std::function<void(const std::string&, const TensorView&)>& call) const {
  for (const auto& [name, view] : vectors_) call(name, view);
  for (const auto& [name, weight] : matrices_) {
    call(name, weight.data);
    if (weight.scale) call(name + "_scale_inv", weight.scale);
    if (weight.zeros) call(name + "#zeros", weight.zeros);  // two 4-bit zero points to a byte
  }
  for (const auto& [name, weight] : key_up_) call(name + "#key_up", weight.data);
  for (const auto& [name, weight] : value_up_) call(name + "#value_up", weight.data);
}

}  // namespace dsinfer
