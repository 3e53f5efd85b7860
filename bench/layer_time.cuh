/// How bench_layer times: graphs of calls, and what the device reads at.
#pragma once
#include <cmath>

#include "layer_chain.cuh"

namespace dsinfer::bench {

/// Reads n vectors: 8 loads a thread in flight.
static __global__ void __launch_bounds__(512) read_kernel(const uint4* p, size_t n, uint32_t* out) {
  uint32_t sum = 0;
  const size_t stride = size_t(gridDim.x) * blockDim.x;
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += 8 * stride) {
    uint4 v[8];
#pragma unroll
    for (int u = 0; u < 8; ++u) v[u] = i + u * stride < n ? __ldcs(p + i + u * stride) : uint4{};
#pragma unroll
    for (int u = 0; u < 8; ++u) sum ^= v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
  }
  if (sum == 0x12345678u) *out = sum;
}

/// Microseconds a call: a graph of `calls`, warmed, replayed until a sample lasts 3 ms, median of 7 samples.
inline double graph_us(cudaStream_t stream, int calls, const std::function<void(int)>& call) {
  for (int i = 0; i < calls; ++i) call(i);
  BENCH_CUDA(cudaStreamSynchronize(stream));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  BENCH_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < calls; ++i) call(i);
  BENCH_CUDA(cudaStreamEndCapture(stream, &graph));
  BENCH_CUDA(cudaGraphInstantiate(&replay, graph, 0));
  cudaEvent_t begin = nullptr, end = nullptr;
  BENCH_CUDA(cudaEventCreate(&begin));
  BENCH_CUDA(cudaEventCreate(&end));
  auto sample = [&](int replays) {
    float ms = 0;
    BENCH_CUDA(cudaEventRecord(begin, stream));
    for (int i = 0; i < replays; ++i) BENCH_CUDA(cudaGraphLaunch(replay, stream));
    BENCH_CUDA(cudaEventRecord(end, stream));
    BENCH_CUDA(cudaEventSynchronize(end));
    BENCH_CUDA(cudaEventElapsedTime(&ms, begin, end));
    return double(ms) / replays;
  };
  sample(1);
  const int replays = std::max(1, std::min(200, int(std::ceil(3.0 / sample(1)))));
  std::vector<double> samples;
  for (int i = 0; i < 7; ++i) samples.push_back(sample(replays));
  std::sort(samples.begin(), samples.end());
  BENCH_CUDA(cudaGraphExecDestroy(replay));
  BENCH_CUDA(cudaGraphDestroy(graph));
  BENCH_CUDA(cudaEventDestroy(begin));
  BENCH_CUDA(cudaEventDestroy(end));
  return samples[3] * 1e3 / calls;
}

}  // namespace dsinfer::bench
