/// C functions of Forward.
#include "handles.hpp"

using namespace dsinfer;
using namespace dsinfer::capi;

static_assert(DSINFER_CACHE_AUTOMATIC == static_cast<int>(CacheFormat::automatic) && DSINFER_CACHE_F32 == static_cast<int>(CacheFormat::f32) &&
              DSINFER_CACHE_BF16 == static_cast<int>(CacheFormat::bf16) && DSINFER_CACHE_FP8 == static_cast<int>(CacheFormat::fp8));

struct dsinfer_forward {
  std::shared_ptr<HeldWorld> world;  // before impl: goes after it
  Forward impl;
};

ForwardOptions dsinfer::capi::forward_options(const dsinfer_forward_options* given) {
  const auto o = read_struct(given, offsetof(dsinfer_forward_options, progress_user) + sizeof(void*), "forward options");
  ForwardOptions options;
  options.model = need_text(o.model, "forward options: model");
  if (o.plan) options.plan = o.plan->plan;
  if (o.device) options.device = o.device;
  options.threads = o.threads;
  options.w8a8 = o.w8a8 != 0;
  if (o.max_tokens) options.max_tokens = o.max_tokens;
  if (o.max_sequences) options.max_sequences = o.max_sequences;
  options.max_len = o.max_len;
  if (o.page_size) options.page_size = o.page_size;
  options.num_pages = o.num_pages;
  if (o.progress) {
    options.progress = [call = o.progress, user = o.progress_user](const LoadProgress& p) { return call(user, p.bytes_done, p.bytes_total) == 0; };
  }
  options.load = load_options(o.load);
  options.cache = enum_of(o.cache, CacheFormat::fp8, "forward options: cache");
  if (o.reserved) throw Error(Error::invalid_argument, "forward options: reserved is " + std::to_string(o.reserved) + ", expected 0");
  return options;
}

dsinfer_status dsinfer_forward_create(dsinfer_world* world, const dsinfer_forward_options* options, dsinfer_forward** forward) {
  return guard([&] {
    need(world, "world"), need(forward, "forward");
    *forward = new dsinfer_forward{world->held, Forward(world->world(), forward_options(options))};
  });
}

void dsinfer_forward_destroy(dsinfer_forward* forward) { delete forward; }

dsinfer_status dsinfer_forward_get_info(const dsinfer_forward* forward, dsinfer_forward_info* info) {
  return guard([&] {
    const Forward& f = need(forward, "forward").impl;
    const dsinfer_forward_info value = {sizeof(dsinfer_forward_info), f.config().vocab_size, f.num_pages(), f.page_size(), f.max_len()};
    write_struct(info, value, offsetof(dsinfer_forward_info, max_len) + sizeof(int64_t), "info");
  });
}

dsinfer_status dsinfer_forward_get_plan(const dsinfer_forward* forward, dsinfer_plan** plan) {
  return guard([&] { give(plan, "plan", [&] { return new dsinfer_plan{need(forward, "forward").impl.plan()}; }); });
}

dsinfer_status dsinfer_forward_run(dsinfer_forward* forward, const dsinfer_sequence* sequences, uint64_t sequence_size, uint64_t num_sequences,
                                   float* logits, uint64_t capacity, uint64_t* needed) {
  return guard([&] {
    need(forward, "forward"), need(needed, "needed");
    need_array(sequences, num_sequences, "sequences");
    std::vector<ForwardSequence> list;
    uint64_t rows = 0;
    for (uint64_t i = 0; i < num_sequences; ++i) {
      const dsinfer_sequence s = read_element(sequences, sequence_size, i, "sequence");
      const std::string name = "sequence " + std::to_string(i);
      need_array(s.tokens, s.num_tokens, (name + ": tokens").c_str());
      need_array(s.pages, s.num_pages, (name + ": pages").c_str());
      need_array(s.logit_rows, s.num_logit_rows, (name + ": logit_rows").c_str());
      ForwardSequence& to = list.emplace_back();
      to.dp_rank = s.dp_rank;
      to.decode = s.decode != 0;
      to.position = s.position;
      to.tokens.assign(s.tokens, s.tokens + s.num_tokens);
      to.pages.assign(s.pages, s.pages + s.num_pages);
      to.logit_rows.assign(s.logit_rows, s.logit_rows + s.num_logit_rows);
      rows += s.num_logit_rows;
    }
    *needed = rows * static_cast<uint64_t>(forward->impl.config().vocab_size);
    if (capacity < *needed || (!logits && *needed)) {
      throw Error(Error::invalid_argument, "logits: room for " + std::to_string(capacity) + " floats, needed " + std::to_string(*needed));
    }
    const Logits out = forward->impl.run(list);
    if (!out.values.empty()) std::memcpy(logits, out.values.data(), out.values.size() * sizeof(float));
  });
}

dsinfer_status dsinfer_forward_follow(dsinfer_forward* forward, int64_t timeout, int32_t* alive) {
  return guard([&] {
    need(forward, "forward"), need(alive, "alive");
    *alive = forward->impl.follow(std::chrono::milliseconds(timeout)) ? 1 : 0;
  });
}

dsinfer_status dsinfer_forward_shutdown(dsinfer_forward* forward) {
  return guard([&] { need(forward, "forward").impl.shutdown(); });
}

dsinfer_status dsinfer_forward_get_stats(const dsinfer_forward* forward, dsinfer_forward_stats* stats) {
  return guard([&] {
    const ForwardStats s = need(forward, "forward").impl.stats();
    const dsinfer_forward_stats value = {sizeof(dsinfer_forward_stats), s.weight_bytes, s.cache_bytes, s.steps, s.rows, s.expert_rows_sent,
                                         s.expert_rows_received, s.expert_rows_computed, s.comm_bytes_sent, s.comm_bytes_received, s.comm_wait_ns};
    write_struct(stats, value, offsetof(dsinfer_forward_stats, comm_wait_ns) + sizeof(uint64_t), "stats");
  });
}
