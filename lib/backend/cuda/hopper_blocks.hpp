/// Blocks on the Hopper kernels: DeepSeek-V3's dimensions in w8a8.
#pragma once
#include <memory>

#include "backend/blocks.hpp"

namespace dsinfer::cuda {

class Device;

/// Nothing where the device is no Hopper or the dimensions are not those of the kernels. `device` is current, and must outlive the blocks.
std::unique_ptr<Blocks> make_hopper_blocks(Device& device, const BlockDims& dims, bool ue8m0);

}  // namespace dsinfer::cuda
