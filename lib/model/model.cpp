#include "model/model.hpp"

#include <fmt/format.h>

#include <thread>

#include "model/decoder_layers.hpp"
#include "model/end_tokens.hpp"
#include "model/fault.hpp"
#include "model/handshake.hpp"
#include "model/output_head.hpp"
#include "model/step_times.hpp"
#include "weights/loader.hpp"

namespace dsinfer {
namespace {

void check_sizes(const ForwardOptions& o) {
  const auto at_least_one = [](const char* name, int64_t value) {
    if (value < 1) throw Error(Error::invalid_argument, fmt::format("{} is {}, expected at least 1", name, value));
  };
  at_least_one("max_tokens", o.max_tokens);
  at_least_one("max_sequences", o.max_sequences);
  at_least_one("page_size", o.page_size);
  const auto at_most = [](const char* name, int64_t value, int64_t limit) {  // far beyond use, so that no product of sizes overflows
    if (value > limit) throw Error(Error::invalid_argument, fmt::format("{} is {}, expected at most {}", name, value, limit));
  };
  at_most("max_tokens", o.max_tokens, 1 << 20);
  at_most("max_sequences", o.max_sequences, 1 << 20);
  at_most("page_size", o.page_size, 1 << 14);
  at_most("num_pages", o.num_pages, INT32_MAX);
  if (o.max_len < 0 || o.num_pages < 0 || o.threads < 0) {
    throw Error(Error::invalid_argument, "max_len, num_pages and threads must not be negative (0 = automatic)");
  }
}

}  // namespace

struct Model::Impl {
  World& world;
  ForwardOptions options;
  std::optional<Checkpoint> checkpoint;  // until the weights are there
  ModelConfig config;                    // of the weights as held
  Plan plan;
  RankPlan rank;
  HostShare share;
  Groups groups;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Blocks> blocks;        // where the backend has them for this model; else the layers go through its fine operations
  WeightSet weights;
  std::optional<KvCache> cache;
  Buffer rope_buffer;
  std::optional<Arena> arena;
  std::optional<Workspace> ws;
  ForwardStats stats;
  std::optional<Context> context;
  const Weight* embedding = nullptr;     // of the first stage
  std::optional<DecoderLayers> layers;
  std::optional<OutputHead> head;        // of the last stage
  Fault fault;
  std::vector<int32_t> ends;             // of the replica's first rank
  LogitRows logit_answers;               // of the rank that yields logits
  HostSide<int32_t> tokens, positions, block_table;
  int64_t num_pages = 0, max_pages = 0;

  Impl(World& w, const ForwardOptions& o) : world(w), options(o) {
    std::string fingerprint;
    in_agreement(world, [&] {
      check_sizes(options);
      fault = Fault::from_environment();
      if (options.progress) options.load.progress = options.progress;
      checkpoint.emplace(open_model(options.model, options.load, &world));
      config = held_config(read_config(checkpoint->storage()), options.load.weights);
      if (options.max_len == 0) options.max_len = config.max_position_embeddings;
      if (options.max_len > config.max_position_embeddings) {
        throw Error(Error::invalid_argument, fmt::format("max_len is {}, but max_position_embeddings of {} is {}", options.max_len, checkpoint->storage().name(),
                                                         config.max_position_embeddings));
      }
      fingerprint = checkpoint->fingerprint();
    });
    check_same_everywhere(world, options, fingerprint);
    plan = agree_on_plan(world, config, options.plan);
    options.plan = plan;
    rank = plan.rank(world.rank());
    share = share_host(world);
    groups = make_groups(world, plan);
    in_agreement(world, [&] {
      make_device();
      if (groups.replica_world->rank() == 0) ends = read_end_tokens(config, checkpoint->storage());
    });
    lay_out_memory();
    in_agreement(world, [&] { load(); });
  }

  void make_device() {
    BackendOptions backend_options;
    const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    backend_options.threads = options.threads > 0 ? options.threads : share.ranks == 1 ? 0 : std::max(1, cores / share.ranks);
    backend_options.arithmetic = options.w8a8 ? Arithmetic::w8a8 : Arithmetic::w8a16;
    backend_options.ue8m0 = config.fp8 && config.fp8->ue8m0;
    if (options.device.starts_with("cuda") && world.size() > 1) {
      throw Error(Error::unsupported, fmt::format("device {} with {} ranks: this version's GPUs do not talk to each other yet; run one rank, or choose device \"cpu\"", options.device,
                                                  world.size()));
    }
    backend = make_backend(options.device, backend_options);
    blocks = backend->make_blocks(block_dims(config, rank, options));
    if (blocks) {
      use_blocks();
    } else if (options.cache == CacheFormat::fp8) {
      throw Error(Error::unsupported, fmt::format("a cache in fp8 needs a GPU with kernels made for the model's dimensions and w8a8; device {} has none for this model: leave the cache out, or "
                                                  "choose bf16", options.device));
    }
  }

  // What the blocks' kernels read decides how weights and cache are held.
  void use_blocks() {
    options.load.absorbed_bf16 = true;
    const int64_t page_size = blocks->page_size();
    options.num_pages = (options.num_pages * options.page_size + page_size - 1) / page_size;
    options.page_size = page_size;
  }

  CacheRows cache_rows() const {
    if (options.cache == CacheFormat::fp8) return CacheRows::fp8;
    return options.cache == CacheFormat::bf16 || blocks ? CacheRows::bf16 : CacheRows::f32;
  }

  Workspace lay_out(Arena& memory) const {
    return Workspace(memory, config, rank, options.max_tokens, options.max_sequences, max_pages, blocks ? blocks->scratch_bytes() : 0);
  }

  // Says what will be held before any weight is read, and agrees on the number of cache pages.
  void lay_out_memory() {
    MemoryNeed need;
    int64_t available = 0;
    max_pages = (options.max_len + options.page_size - 1) / options.page_size;
    in_agreement(world, [&] {
      Arena counting = Arena::counting();
      lay_out(counting);
      need.weights = rank_memory(*checkpoint, plan, world.rank(), options.load).weight_bytes;
      need.activations = static_cast<int64_t>(counting.peak()) + options.max_len * config.qk_rope_head_dim * 4;
      if (yields_logits()) need.activations += LogitRows::room_bytes(options.max_sequences);
      need.cache_page = KvCache::page_bytes(config, rank.layers.size(), options.page_size, cache_rows());
      available = static_cast<int64_t>(backend->available_bytes());
    });
    const int64_t automatic = max_pages * std::min<int64_t>(options.max_sequences, 16);
    num_pages = agree_on_pages(world, share, need, available, options.num_pages, automatic);
    options.num_pages = num_pages;
    in_agreement(world, [&] {
      Arena counting = Arena::counting();
      lay_out(counting);
      arena.emplace(backend->allocate(counting.peak()));
      ws.emplace(lay_out(*arena));
      if (blocks) blocks->use(ws->blocks);
      tokens = HostSide<int32_t>(ws->tokens);
      positions = HostSide<int32_t>(ws->positions);
      block_table = HostSide<int32_t>(ws->block_table);
      if (yields_logits()) logit_answers = LogitRows(*backend, options.max_sequences);
      cache.emplace(*backend, config, rank.layers.size(), options.page_size, num_pages, cache_rows());
    });
  }

  void load() {
    weights = load_rank(world, *checkpoint, plan, *backend, options.load).weights;
    checkpoint.reset();
    std::vector<float> table = make_rope_table(config, options.max_len);
    rope_buffer = backend->allocate(table.size() * sizeof(float));
    const TensorView rope = rope_buffer.view(DType::f32, {options.max_len, config.qk_rope_head_dim});
    backend->copy(rope, TensorView::of(table.data(), {options.max_len, config.qk_rope_head_dim}));
    context.emplace(Context{config, rank, *backend, groups, *ws, rope, stats});
    if (rank.first_stage) embedding = &weights.matrix("model.embed_tokens.weight");
    layers.emplace(*context, weights, *cache, blocks.get());
    if (rank.last_stage) head.emplace(*context, weights, blocks.get());
    stats.weight_bytes = weights.bytes();
    stats.cache_bytes = cache->bytes();
  }

  // Copies the part's tokens, positions and pages to where the operations read them.
  StepRows prepare(const BatchPart& part) {
    StepRows step;
    step.part = &part;
    step.rows = static_cast<int64_t>(part.tokens.size());
    if (step.rows > options.max_tokens) {
      throw Error(Error::internal, fmt::format("a step of {} rows, but the arena is laid out for {}", step.rows, options.max_tokens));
    }
    if (step.rows) std::memcpy(tokens.data(), part.tokens.data(), part.tokens.size() * sizeof(int32_t));
    int64_t row = 0, most_pages = 0;
    for (const Segment& segment : part.segments) {
      if (segment.decode) step.decode_rows += segment.rows;
      most_pages = std::max(most_pages, static_cast<int64_t>(segment.pages.size()));
      for (int32_t i = 0; i < segment.rows; ++i, ++row) {
        positions.data()[row] = static_cast<int32_t>(segment.position + i);
        std::memcpy(block_table.data() + row * max_pages, segment.pages.data(), segment.pages.size() * sizeof(int32_t));
      }
    }
    context->counted_rows = step.rows;
    if (same_every_time(step)) pad(step);
    tokens.send(*backend, step.rows);
    positions.send(*backend, step.rows);
    block_table.send(*backend, step.rows, most_pages);
    step.attention = {ws->positions.rows(0, step.rows), ws->block_table.rows(0, step.rows)};
    return step;
  }

  // A decode step of so many rows is always the same operations over the same memory: prefill's depend on positions. Ranks that talk to each other do so in between.
  bool same_every_time(const StepRows& step) const { return step.rows == step.decode_rows && world.size() == 1; }

  // To as many rows as the backend wants, within the arena.
  void pad(StepRows& step) {
    const int64_t rows = std::clamp(backend->padded_rows(step.rows), step.rows, options.max_tokens);
    for (int64_t row = step.rows; row < rows; ++row) {
      tokens.data()[row] = 0;
      positions.data()[row] = -1;
      block_table.data()[row * max_pages] = 0;
    }
    step.rows = step.decode_rows = rows;
  }

  bool yields_logits() const { return rank.last_stage && rank.tp_rank == 0; }

  TensorView forward(const Batch& batch, std::span<const LogitAsk> asks, int64_t id_limit) {
    StepLap lap;
    const StepRows step = prepare(batch.parts.at(static_cast<size_t>(rank.dp_rank)));
    const TensorView x = ws->x.rows(0, step.rows);
    if (rank.first_stage) {
      backend->embed(x, *embedding, ws->tokens.rows(0, step.rows), rank.vocab.begin);
      context->sum_over_tp(x);
    } else if (step.rows > 0) {
      groups.pp->recv(x, rank.pp_rank - 1, backend->stream());
    }
    if (fault.strikes(world.rank(), batch.step)) throw Error(Error::internal, "injected by DSINFER_FAULT");
    lap(&StepTimes::copy_in);
    layers->run(step, same_every_time(step));
    lap(&StepTimes::launch);
    ++stats.steps;
    stats.rows += static_cast<uint64_t>(context->counted_rows);
    if (head) return head->run(*step.part, asks, id_limit, logit_answers);
    if (step.rows > 0) groups.pp->send(x, rank.pp_rank + 1, backend->stream());
    return {};
  }

  // A failure inside a step is final for the group: everyone must hear of it, or the others wait in a collective.
  TensorView forward_or_tell(const Batch& batch, std::span<const LogitAsk> asks, int64_t id_limit) {
    try {
      return forward(batch, asks, id_limit);
    } catch (const Error& e) {
      if (e.code() != Error::group_failed) world.report_failure(e.what());
      throw;
    } catch (const std::exception& e) {
      world.report_failure(e.what());
      throw;
    }
  }
};

Model::Model(World& world, const ForwardOptions& options) : impl_(std::make_unique<Impl>(world, options)) {}
Model::~Model() = default;

const Plan& Model::plan() const { return impl_->plan; }
const RankPlan& Model::rank_plan() const { return impl_->rank; }
const ModelConfig& Model::config() const { return impl_->config; }
int64_t Model::num_pages() const { return impl_->num_pages; }
int64_t Model::max_len() const { return impl_->options.max_len; }
const ForwardOptions& Model::options() const { return impl_->options; }
World& Model::world() { return *impl_->groups.replica_world; }
const std::vector<int32_t>& Model::end_tokens() const { return impl_->ends; }
bool Model::yields_logits() const { return impl_->yields_logits(); }

TensorView Model::forward(const Batch& batch) { return impl_->forward_or_tell(batch, {}, 0); }

LogitRows& Model::forward(const Batch& batch, std::span<const LogitAsk> asks, int64_t id_limit) {
  const TensorView logits = impl_->forward_or_tell(batch, asks, id_limit);
  if (logits) impl_->logit_answers.hold(logits);
  return impl_->logit_answers;
}

ForwardStats Model::stats() const {
  ForwardStats stats = impl_->stats;
  for (const Comm* comm : {impl_->groups.tp.get(), impl_->groups.stage.get(), impl_->groups.pp.get(), impl_->groups.dp.get()}) {
    if (!comm) continue;
    stats.comm_bytes_sent += comm->counters().bytes_sent;
    stats.comm_bytes_received += comm->counters().bytes_received;
    stats.comm_wait_ns += comm->counters().wait_ns;
  }
  return stats;
}

}  // namespace dsinfer
