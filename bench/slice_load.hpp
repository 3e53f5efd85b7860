/// What a load is compared with, in its own run: the link to the device, and making the weights up.
#pragma once
#include <filesystem>

#include "backend/backend.hpp"

namespace bench {

/// GB/s of uploads from the backend's staging memory: on a GPU, of cudaMemcpyAsync from pinned memory, in pieces of 8 MiB.
double link_speed(dsinfer::Backend& backend);
/// GB/s at which `threads` threads read the model's files, each into 8 MiB of its own, whatever they are: made up, or out of the page cache.
double reading_speed(const std::filesystem::path& model, int threads);

}  // namespace bench
