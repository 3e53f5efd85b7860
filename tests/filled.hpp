// A Cluster in which no two fields hold the same: what a form drops or mixes up then shows. It reads the same description as the JSON form, so
// the sizes below make the tests fail to compile when a struct grows without a line there.
#pragma once
#include <string>

#include "topology/cluster_fields.hpp"

namespace dsinfer {

class Filler {
 public:
  template <class T>
  using Seen = T;

  template <class T>
  void operator()(const char*, T& value) { fill(value); }
  template <class T>
  void operator()(const char*, T& value, const T&) { fill(value); }
  void hex(const char*, uint32_t& value, int) { value = static_cast<uint32_t>(++count_); }
  void environment(std::vector<EnvironmentVariable>& variables) {
    for (const bool users : {false, true}) variables.push_back({"NAME_" + text(), "it's " + text(), "because " + text(), users});
  }
  void gpu_count(const Node&) {}
  void nics(const Node&) {}

 private:
  std::string text() { return "text " + std::to_string(++count_); }

  void fill(std::string& value) { value = text(); }
  void fill(bool& value) { value = !value; }
  void fill(double& value) { value = static_cast<double>(++count_) + 0.1; }
  void fill(int& value) { value = ++count_; }
  void fill(uint32_t& value) { value = static_cast<uint32_t>(++count_); }
  void fill(int64_t& value) { value = (int64_t{1} << 40) + ++count_; }
  template <class T>
  void fill(std::optional<T>& value) { fill(value.emplace()); }
  template <class T>
  void fill(std::vector<T>& values) {
    for (int i = 0; i < 2; ++i) fill(values.emplace_back());
  }
  template <class T>
  void fill(std::map<std::string, T>& values) {
    for (int i = 0; i < 2; ++i) fill(values[text()]);
  }
  template <class T>
  void fill(T& value) {
    if constexpr (std::is_enum_v<T>) {
      value = static_cast<T>(1 + ++count_ % 2);
    } else {
      topology::fields(*this, value);
    }
  }
  int count_ = 100;
};

inline Cluster filled_cluster() {
  Cluster cluster;
  Filler filler;
  topology::fields(filler, cluster);
  cluster.node_of_rank = {1, 0, 1};
  cluster.reach[0].from = 0, cluster.reach[0].to = 1, cluster.reach[1].from = 1, cluster.reach[1].to = 0;
  return cluster;
}

}  // namespace dsinfer
