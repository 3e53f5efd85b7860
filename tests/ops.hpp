/// What the tests of backend operations share: the list of backends built, tensors on them, random data, weights of every format,
/// and the measures of golden data (relative L2, maximum over RMS). One test body runs on every backend.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/backend.hpp"
#include "backend/cpu/cpu_backend.hpp"
#include "device.hpp"

namespace dsinfer {

struct BackendCase {
  std::string name;
  std::function<std::unique_ptr<Backend>(const BackendOptions&)> make;
};
inline void PrintTo(const BackendCase& c, std::ostream* os) { *os << c.name; }

/// Every instruction set of the CPU backend that this machine has, one thread and three.
inline std::vector<BackendCase> cpu_backends() {
  std::vector<BackendCase> cases;
  const auto add = [&](const cpu::Kernels* kernels, int threads) {
    if (!kernels) return;
    cases.push_back({"cpu_" + std::string(kernels->name) + "_" + std::to_string(threads), [kernels, threads](BackendOptions options) {
                       options.threads = threads;
                       return std::make_unique<CpuBackend>(options, *kernels);
                     }});
  };
  add(&cpu::plain_kernels(), 1);
  add(cpu::avx2_kernels(), 1);
  add(cpu::avx512_kernels(), 1);
  add(&cpu::best_kernels(), 3);
  return cases;
}

/// The device of this run; of the CPU, all its forms.
inline std::vector<BackendCase> backends() {
  if (test_device() == "cpu") return cpu_backends();
  return {{"device", [](const BackendOptions& options) { return make_backend(test_device(), options); }}};
}

inline Buffer host_memory(size_t bytes) {
  return Buffer(new std::byte[bytes](), bytes, Place::host, [](std::byte* p) { delete[] p; });
}

/// Fixture: a backend, and memory that lives as long as the test.
class Ops : public ::testing::TestWithParam<BackendCase> {
 protected:
  std::unique_ptr<Backend> backend = GetParam().make({});
  std::mt19937 random{7};
  std::vector<Buffer> held;

  std::vector<float> normal(int64_t n, float scale = 1) {
    std::normal_distribution<float> d(0, scale);
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = d(random);
    return v;
  }
  /// Zeroed, on the backend.
  TensorView empty(std::initializer_list<int64_t> dims, DType dtype = DType::f32) {
    TensorView shape(nullptr, dtype, dims);
    held.push_back(backend->allocate(static_cast<size_t>(std::max<int64_t>(shape.bytes(), 1))));
    return held.back().view(dtype, dims);
  }
  template <class T> TensorView up(const std::vector<T>& values, std::initializer_list<int64_t> dims) {
    TensorView v = empty(dims, dtype_of<T>::value);
    backend->copy(v, TensorView::of(values.data(), dims));
    return v;
  }
  /// The same values as rows of a wider tensor.
  TensorView up_strided(const std::vector<float>& values, int64_t rows, int64_t cols, int64_t stride) {
    TensorView v = empty({rows, stride}).slice(1, 0, cols);
    backend->copy(v, TensorView::of(values.data(), {rows, cols}));
    return v;
  }
  template <class T = float> std::vector<T> down(const TensorView& v) {
    std::vector<T> values(static_cast<size_t>(v.elements()));
    TensorView host = v;  // dense, same shape
    host.data = reinterpret_cast<std::byte*>(values.data());
    host.place = Place::host;
    int64_t step = 1;
    for (size_t i = v.rank; i-- > 0;) { host.stride[i] = step; step *= v.shape[i]; }
    backend->copy(host, v);
    return values;
  }
  /// Until all work of a backend has ended; throws what was found on the way. Before another one touches the same memory.
  void finish(Backend& of) {
    float there = 0;
    const TensorView one = empty({1});
    of.copy(TensorView::of(&there, {1}), one);
  }
  void finish() { finish(*backend); }
  /// [n, k] in a format, on the backend; blocks of FP8 quantised from the values. `reference` gets what it decodes to.
  Weight weight(const std::vector<float>& values, int64_t n, int64_t k, Format format, std::vector<float>* reference = nullptr, int64_t block_rows = 128,
                int64_t block_cols = 128) {
    Weight host;
    host.format = format;
    host.block_rows = block_rows;
    host.block_cols = block_cols;
    const DType dtype = format == Format::f32 ? DType::f32 : format == Format::bf16 ? DType::bf16 : format == Format::f16 ? DType::f16 : DType::e4m3;
    Buffer data = host_memory(static_cast<size_t>(n * k * dtype_size(dtype)));
    host.data = data.view(dtype, {n, k});
    const int64_t rows = (n + block_rows - 1) / block_rows, cols = (k + block_cols - 1) / block_cols;
    Buffer scales = host_memory(static_cast<size_t>(rows * cols) * 4);
    if (format == Format::fp8_block) {
      host.scale = scales.view(DType::f32, {rows, cols});
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < k; ++j) {
          float& s = host.scale.row<float>(i / block_rows)[j / block_cols];
          s = std::max({s, std::fabs(values[static_cast<size_t>(i * k + j)]) / 448.0f, 1e-12f});
        }
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        const float v = values[static_cast<size_t>(i * k + j)];
        std::byte* at = host.data.data + (i * k + j) * dtype_size(dtype);
        if (format == Format::f32) std::memcpy(at, &v, 4);
        else if (format == Format::fp8_block) *at = static_cast<std::byte>(f32_to_e4m3(v / host.scale.row<float>(i / block_rows)[j / block_cols]));
        else { const uint16_t bits = format == Format::bf16 ? f32_to_bf16(v) : f32_to_f16(v); std::memcpy(at, &bits, 2); }
      }
    }
    if (reference) {
      reference->resize(static_cast<size_t>(n * k));
      decode_rows(reference->data(), host, 0, n);
    }
    Weight w = host;
    w.data = empty({n, k}, dtype);
    backend->copy(w.data, host.data);
    if (format == Format::fp8_block) {
      w.scale = empty({rows, cols});
      backend->copy(w.scale, host.scale);
    }
    return w;
  }
};

/// x · wᵀ in double.
inline std::vector<double> product(const std::vector<float>& x, const std::vector<float>& w, int64_t m, int64_t n, int64_t k) {
  std::vector<double> y(static_cast<size_t>(m * n));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t d = 0; d < k; ++d) sum += double{x[static_cast<size_t>(i * k + d)]} * double{w[static_cast<size_t>(j * k + d)]};
      y[static_cast<size_t>(i * n + j)] = sum;
    }
  }
  return y;
}

/// golden.md's two measures. `l2`: ‖a − b‖ / ‖b‖; `peak`: max |a − b| / RMS(b).
template <class T> void expect_close(const std::vector<float>& found, const std::vector<T>& wanted, double l2 = 1e-6, double peak = 1e-5) {
  ASSERT_EQ(found.size(), wanted.size());
  double difference = 0, norm = 0, largest = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_FALSE(std::isnan(found[i])) << "NaN at " << i;
    const double d = std::fabs(double{found[i]} - double{wanted[i]});
    difference += d * d;
    norm += double{wanted[i]} * double{wanted[i]};
    largest = std::max(largest, d);
  }
  if (norm == 0) { EXPECT_EQ(difference, 0); return; }
  EXPECT_LE(std::sqrt(difference / norm), l2);
  EXPECT_LE(largest / std::sqrt(norm / static_cast<double>(found.size())), peak);
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// The message of the Error that `act` throws; its code must be `code`.
inline std::string error_of(const std::function<void()>& act, Error::Code code = Error::internal) {
  try {
    act();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

}  // namespace dsinfer

/// Runs all TEST_P(suite, …) of this file on every backend.
#define DSINFER_ON_ALL_BACKENDS(suite) \
  INSTANTIATE_TEST_SUITE_P(Backends, suite, ::testing::ValuesIn(dsinfer::backends()), [](const auto& one) { return one.param.name; })
