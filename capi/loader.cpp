/// C functions of loading.
#include "handles.hpp"

using namespace dsinfer;
using namespace dsinfer::capi;

struct dsinfer_load_plan {
  LoadPlan plan;
};
struct dsinfer_weights {
  std::shared_ptr<HeldWorld> world;  // before impl: goes after it
  LoadedWeights impl;
  std::vector<LoadedTensor> tensors;
};
struct dsinfer_verification {
  VerifyReport report;
};

namespace {

static_assert(DSINFER_WEIGHTS_AS_STORED == static_cast<int>(WeightFormat::as_stored) && DSINFER_WEIGHTS_BF16 == static_cast<int>(WeightFormat::bf16) &&
              DSINFER_WEIGHTS_FP8 == static_cast<int>(WeightFormat::fp8));
static_assert(DSINFER_READ_AUTOMATIC == static_cast<int>(ReadMethod::automatic) && DSINFER_READ_URING == static_cast<int>(ReadMethod::uring) &&
              DSINFER_READ_DIRECT == static_cast<int>(ReadMethod::direct) && DSINFER_READ_PREAD == static_cast<int>(ReadMethod::pread) &&
              DSINFER_READ_MMAP == static_cast<int>(ReadMethod::mmap));
static_assert(DSINFER_VERIFY_QUICK == static_cast<int>(VerifyDepth::quick) && DSINFER_VERIFY_FULL == static_cast<int>(VerifyDepth::full));

ProgressCallback progress_of(dsinfer_load_callback callback, void* user) {
  if (!callback) return {};
  return [callback, user](const LoadProgress& p) {
    const dsinfer_load_progress told = {sizeof(dsinfer_load_progress), p.bytes_done, p.bytes_total, p.all_bytes_done, p.all_bytes_total, p.seconds, p.bytes_per_second,
                                        p.seconds_left, p.rank_part.data(), p.rank_part.size(), p.slowest_rank, 0};
    return callback(user, &told) == 0;
  };
}

std::string device_of(const dsinfer_load_options* given) {
  if (!given) return "cpu";
  const auto o = read_struct(given, offsetof(dsinfer_load_options, progress_user) + sizeof(void*), "load options");
  return o.device ? o.device : "cpu";
}

}  // namespace

LoadOptions dsinfer::capi::load_options(const dsinfer_load_options* given) {
  LoadOptions options;
  if (!given) return options;
  const auto o = read_struct(given, offsetof(dsinfer_load_options, progress_user) + sizeof(void*), "load options");
  if (o.absorbed_bf16 != 0 && o.absorbed_bf16 != 1) throw Error(Error::invalid_argument, "load options: absorbed_bf16 is " + std::to_string(o.absorbed_bf16) + ", expected 0 or 1");
  options.absorbed_bf16 = o.absorbed_bf16 == 1;
  options.weights = enum_of(o.weights, WeightFormat::fp8, "load options: weights");
  options.method = enum_of(o.method, ReadMethod::mmap, "load options: method");
  options.depth = o.depth;
  if (o.host_bytes) options.host_bytes = o.host_bytes;
  if (o.shard_cache) options.shard_cache = o.shard_cache;
  if (o.download_cache) options.download_cache = o.download_cache;
  options.progress = progress_of(o.progress, o.progress_user);
  return options;
}

dsinfer_status dsinfer_load_plan_create(const char* model, const dsinfer_plan* plan, const dsinfer_load_options* options, int32_t ranks_per_node,
                                        dsinfer_load_plan** load_plan) {
  return guard([&] {
    give(load_plan, "load_plan", [&] { return new dsinfer_load_plan{plan_load(need_text(model, "model"), need(plan, "plan").plan, load_options(options), ranks_per_node)}; });
  });
}

void dsinfer_load_plan_destroy(dsinfer_load_plan* load_plan) { delete load_plan; }

dsinfer_status dsinfer_load_plan_estimate(dsinfer_load_plan* load_plan, double bytes_per_second) {
  return guard([&] { need(load_plan, "load_plan").plan.estimate(bytes_per_second); });
}

dsinfer_status dsinfer_load_plan_text(const dsinfer_load_plan* load_plan, char* buffer, uint64_t capacity, uint64_t* needed) {
  return guard([&] { give_text(need(load_plan, "load_plan").plan.text(), buffer, capacity, needed); });
}

dsinfer_status dsinfer_load_plan_json(const dsinfer_load_plan* load_plan, int32_t with_ranges, char* buffer, uint64_t capacity, uint64_t* needed) {
  return guard([&] { give_text(need(load_plan, "load_plan").plan.to_json(with_ranges != 0), buffer, capacity, needed); });
}

dsinfer_status dsinfer_storage_probe(const char* model, const dsinfer_load_options* options, double seconds, double* bytes_per_second) {
  return guard([&] { give(bytes_per_second, "bytes_per_second", [&] { return probe_storage(need_text(model, "model"), load_options(options), seconds); }); });
}

dsinfer_status dsinfer_weights_load(dsinfer_world* world, const char* model, const dsinfer_plan* plan, const dsinfer_load_options* options,
                                    dsinfer_weights** weights) {
  return guard([&] {
    need(world, "world"), need(weights, "weights");
    LoadedWeights loaded = load(world->world(), need_text(model, "model"), need(plan, "plan").plan, load_options(options), device_of(options));
    std::vector<LoadedTensor> tensors = loaded.tensors();
    *weights = new dsinfer_weights{world->held, std::move(loaded), std::move(tensors)};
  });
}

void dsinfer_weights_destroy(dsinfer_weights* weights) { delete weights; }

dsinfer_status dsinfer_weights_report_json(const dsinfer_weights* weights, char* buffer, uint64_t capacity, uint64_t* needed) {
  return guard([&] { give_text(need(weights, "weights").impl.report().to_json(), buffer, capacity, needed); });
}

dsinfer_status dsinfer_weights_tensors(const dsinfer_weights* weights, dsinfer_weight* tensors, uint64_t weight_size, uint64_t capacity, uint64_t* needed) {
  return guard([&] {
    check_struct(nullptr, weight_size, sizeof(dsinfer_weight), offsetof(dsinfer_weight, data) + sizeof(void*), "weight");
    std::vector<dsinfer_weight> list;
    for (const LoadedTensor& t : need(weights, "weights").tensors)
      list.push_back({t.name.c_str(), t.dtype.c_str(), t.shape.data(), t.stride.data(), t.shape.size(), t.data});
    need(needed, "needed") = list.size();
    if (!tensors && capacity == 0) return;
    if (capacity < list.size() || !tensors)
      throw Error(Error::invalid_argument, "room for " + std::to_string(capacity) + " weights, needed " + std::to_string(list.size()));
    for (size_t i = 0; i < list.size(); ++i) std::memcpy(reinterpret_cast<char*>(tensors) + i * weight_size, &list[i], sizeof list[i]);
  });
}

dsinfer_status dsinfer_shards_save(dsinfer_world* world, const char* model, const dsinfer_plan* plan, const char* folder, const dsinfer_load_options* options) {
  return guard([&] { save_shards(need(world, "world").world(), need_text(model, "model"), need(plan, "plan").plan, need_text(folder, "folder"), load_options(options)); });
}

dsinfer_status dsinfer_checkpoint_verify(dsinfer_world* world, const char* model, int32_t depth, const char* hashes, dsinfer_load_callback progress, void* progress_user,
                                         dsinfer_verification** verification) {
  return guard([&] {
    need(world, "world");
    give(verification, "verification", [&] {
      return new dsinfer_verification{verify_checkpoint(world->world(), need_text(model, "model"), enum_of(depth, VerifyDepth::full, "depth"), hashes ? hashes : "",
                                                        progress_of(progress, progress_user))};
    });
  });
}

void dsinfer_verification_destroy(dsinfer_verification* verification) { delete verification; }

int32_t dsinfer_verification_good(const dsinfer_verification* verification) { return verification && verification->report.good() ? 1 : 0; }

dsinfer_status dsinfer_verification_json(const dsinfer_verification* verification, char* buffer, uint64_t capacity, uint64_t* needed) {
  return guard([&] { give_text(need(verification, "verification").report.to_json(), buffer, capacity, needed); });
}
