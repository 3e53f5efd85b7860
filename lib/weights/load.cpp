// The public load(): weights for their own sake.
#include <algorithm>

#include "weights/load_terms.hpp"
#include "weights/loader.hpp"

namespace dsinfer {

struct LoadedWeights::Impl {
  std::unique_ptr<Backend> backend;  // the weights lie in its memory
  RankWeights loaded;
};

LoadedWeights::LoadedWeights(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LoadedWeights::LoadedWeights(LoadedWeights&&) noexcept = default;
LoadedWeights& LoadedWeights::operator=(LoadedWeights&&) noexcept = default;
LoadedWeights::~LoadedWeights() = default;

const LoadReport& LoadedWeights::report() const { return impl_->loaded.report; }

std::vector<LoadedTensor> LoadedWeights::tensors() const {
  std::vector<LoadedTensor> out;
  impl_->loaded.weights.each([&](const std::string& name, const TensorView& view) {
    LoadedTensor tensor{name, dtype_name(view.dtype), {}, {}, view.data};
    for (int d = 0; d < view.rank; ++d) {
      tensor.shape.push_back(view.shape[static_cast<size_t>(d)]);
      tensor.stride.push_back(view.stride[static_cast<size_t>(d)]);
    }
    out.push_back(std::move(tensor));
  });
  std::sort(out.begin(), out.end(), [](const LoadedTensor& a, const LoadedTensor& b) { return a.name < b.name; });
  return out;
}

LoadedWeights load(World& world, const std::filesystem::path& model, const Plan& plan, const LoadOptions& options, const std::string& device) {
  auto impl = std::make_unique<LoadedWeights::Impl>();
  in_agreement(world, [&] {
    if (plan.world_size != world.size())
      throw Error(Error::plan_refused, "the plan " + plan.spec() + " is for " + std::to_string(plan.world_size) + " ranks, but " + std::to_string(world.size()) + " are here");
    impl->backend = make_backend(device, {});
    const Checkpoint checkpoint(open_model(model, options, &world));
    check_same_load(world, checkpoint, plan, options);
    impl->loaded = load_rank(world, checkpoint, plan, *impl->backend, options);
  });
  return LoadedWeights(std::move(impl));
}

std::filesystem::path local_model_files(const std::filesystem::path& model, const LoadOptions& options) {
  return local_words(*open_model(model, options), storage_options(options));
}

}  // namespace dsinfer
