#include "slice_parts.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "backend/logit_survey.hpp"
#include "model/attention.hpp"

namespace bench {

using namespace dsinfer;

namespace {

int32_t next_token(uint64_t& state, int64_t vocab) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;  // xorshift64, Marsaglia 2003
  return static_cast<int32_t>(state % static_cast<uint64_t>(vocab));
}

}  // namespace

// What a step of the given size works on, all in the backend's memory.
struct SliceParts::Inputs {
  TensorView tokens, positions, block_table;  // [B], [B], [B, max_pages] i32
  TensorView embedded, after_dense, x;        // [B, H] f32
  int64_t batch = 0, longest = 0;
};

SliceParts::SliceParts(World& world, ForwardOptions options) : options_(std::move(options)) {
  const Checkpoint checkpoint(open_model(options_.model, options_.load, &world));
  config_ = read_config(checkpoint.storage());
  const Plan plan = solve(config_, PlanRequest::parse("tp=1", 1));
  rank_ = plan.rank(0);
  BackendOptions backend;
  backend.arithmetic = options_.w8a8 ? Arithmetic::w8a8 : Arithmetic::w8a16;
  backend.ue8m0 = config_.fp8 && config_.fp8->ue8m0;
  backend_ = make_backend(options_.device, backend);
  blocks_ = backend_->make_blocks(block_dims(config_, rank_, options_));
  options_.load.absorbed_bf16 = blocks_ != nullptr;
  loaded_ = std::make_unique<RankWeights>(load_rank(world, checkpoint, plan, *backend_, options_.load));
  if (!blocks_) return;
  const int64_t scratch = blocks_->scratch_bytes();
  held_.push_back(backend_->allocate(static_cast<size_t>(scratch)));
  blocks_->use(held_.back().view(DType::u8, {scratch}));
  layers_ = std::make_unique<BlockLayers>(config_, rank_, loaded_->weights, *blocks_);
  const std::vector<float> table = make_rope_table(config_, options_.max_len);
  held_.push_back(backend_->allocate(table.size() * sizeof(float)));
  rope_ = held_.back().view(DType::f32, {options_.max_len, config_.qk_rope_head_dim});
  backend_->copy(rope_, TensorView::of(table.data(), {options_.max_len, config_.qk_rope_head_dim}));
  const int64_t pages = options_.max_sequences * ((options_.max_len + 63) / 64);
  cache_ = std::make_unique<KvCache>(*backend_, config_, rank_.layers.size(), blocks_->page_size(), pages, CacheRows::bf16);
  // Latents of order 1, the same rows on every page.
  std::vector<uint16_t> page(static_cast<size_t>(blocks_->page_size() * config_.cache_dim()));
  uint64_t state = 99;
  for (uint16_t& value : page) value = f32_to_bf16(static_cast<float>(next_token(state, 20001)) / 10000.0f - 1);
  for (int64_t layer = 0; layer < rank_.layers.size(); ++layer) {
    for (int64_t p = 0; p < pages; ++p) {
      const TensorView there = cache_->layer(layer).data.rows(p, p + 1);
      TensorView here = there;
      here.data = reinterpret_cast<std::byte*>(page.data());
      here.place = Place::host;
      backend_->copy(there, here);
    }
  }
}

void SliceParts::sync() {
  int32_t there = 0;
  held_.push_back(backend_->allocate(sizeof there));
  backend_->copy(TensorView::of(&there, {1}), held_.back().view(DType::i32, {1}));
  held_.pop_back();
}

// The median of five runs of so many in a row, each.
template <class Work> double SliceParts::repeat(int times, Work work) {
  for (int i = 0; i < 3; ++i) work();
  std::vector<double> runs;
  for (int run = 0; run < 5; ++run) {
    sync();
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < times; ++i) work();
    sync();
    runs.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count() / times);
  }
  std::sort(runs.begin(), runs.end());
  return runs[2];
}

// Layers [first, last) in a chain, as the step has them, from the residual `from`.
double SliceParts::chain(const Inputs& in, int key, size_t first, size_t last, TensorView from) {
  const auto step = [&] {
    backend_->copy(in.x, from);
    BlockStep rows;
    rows.residual = in.x;
    rows.positions = in.positions;
    rows.block_table = in.block_table;
    rows.rope_table = rope_;
    rows.decode_rows = in.batch;
    rows.longest = in.longest;
    blocks_->begin(rows);
    for (size_t i = first; i < last; ++i) {
      const BlockLayers::Layer& layer = layers_->layers()[i];
      blocks_->attention(layer.attention, cache_->layer(static_cast<int64_t>(i)));
      if (layer.moe) blocks_->moe(*layer.moe);
      else blocks_->mlp(*layer.mlp);
    }
    blocks_->finish();
  };
  return repeat(40, [&] { backend_->run({key, 0}, step); });
}

std::map<std::string, double> SliceParts::time(int64_t batch, int64_t kv) {
  const size_t before = held_.size();
  const auto make = [&](DType dtype, std::initializer_list<int64_t> dims) {
    held_.push_back(backend_->allocate(static_cast<size_t>(TensorView(nullptr, dtype, dims).bytes())));
    return held_.back().view(dtype, dims);
  };
  const int64_t hidden = config_.hidden_size, vocab = config_.vocab_size, max_pages = (options_.max_len + 63) / 64;
  Inputs in;
  in.batch = batch;
  in.longest = options_.max_len;
  in.tokens = make(DType::i32, {batch});
  in.positions = make(DType::i32, {batch});
  in.block_table = make(DType::i32, {batch, max_pages});
  in.embedded = make(DType::f32, {batch, hidden});
  in.after_dense = make(DType::f32, {batch, hidden});
  in.x = make(DType::f32, {batch, hidden});
  std::vector<int32_t> tokens, positions(static_cast<size_t>(batch), static_cast<int32_t>(kv)), table;
  uint64_t state = 88172645463325252u;
  for (int64_t i = 0; i < batch; ++i) {
    tokens.push_back(next_token(state, vocab));
    for (int64_t p = 0; p < max_pages; ++p) table.push_back(static_cast<int32_t>(i * max_pages + p));
  }
  backend_->copy(in.tokens, TensorView::of(tokens.data(), {batch}));
  backend_->copy(in.positions, TensorView::of(positions.data(), {batch}));
  backend_->copy(in.block_table, TensorView::of(table.data(), {batch, max_pages}));

  std::map<std::string, double> us;
  const Weight& embedding = loaded_->weights.matrix("model.embed_tokens.weight");
  const Weight& head = loaded_->weights.matrix("lm_head.weight");
  const int key = static_cast<int>(batch) * 8;
  constexpr int kEmbeds = 32;  // of a graph: one is shorter than its launch
  us["embed"] = repeat(20, [&] {
    backend_->run({key + 1, 0}, [&] {
      for (int i = 0; i < kEmbeds; ++i) backend_->embed(in.embedded, embedding, in.tokens, 0);
    });
  }) / kEmbeds;
  us["dense"] = chain(in, key + 2, 0, 1, in.embedded);
  backend_->copy(in.after_dense, in.x);
  us["moe"] = chain(in, key + 3, 1, layers_->layers().size(), in.after_dense);

  const TensorView rows = make(DType::i32, {batch}), normed = make(DType::f32, {batch, hidden}), logits = make(DType::f32, {batch, vocab});
  std::vector<int32_t> all(static_cast<size_t>(batch));
  for (int64_t i = 0; i < batch; ++i) all[static_cast<size_t>(i)] = static_cast<int32_t>(i);
  backend_->copy(rows, TensorView::of(all.data(), {batch}));
  us["head"] = repeat(40, [&] {
    backend_->gather_rows(normed, in.x, rows);
    backend_->rms_norm(normed, normed, loaded_->weights.vector("model.norm.weight"), static_cast<float>(config_.rms_norm_eps));
    if (!blocks_->head(logits, normed, head)) backend_->linear(logits, normed, head);
  });
  const TensorView answers = make(DType::i32, {batch, survey_words(kMostBest)}), asks = make(DType::i32, {batch, kAskWords});
  const auto survey = [&](const LogitAsk& ask) {
    std::vector<int32_t> words(static_cast<size_t>(batch * kAskWords));
    for (int64_t i = 0; i < batch; ++i) std::memcpy(words.data() + i * kAskWords, &ask, sizeof ask);
    backend_->copy(asks, TensorView::of(words.data(), {batch, kAskWords}));
    constexpr int kSurveys = 8;
    return repeat(20, [&] {
      backend_->run({key + (ask.sums ? 5 : 4), 0}, [&] {
        for (int i = 0; i < kSurveys; ++i) backend_->survey_logits(answers, logits, asks, vocab);
      });
    }) / kSurveys;
  };
  us["survey_greedy"] = survey({});
  LogitAsk drawn;
  drawn.temperature = 0.6f;
  drawn.best = static_cast<uint16_t>(kMostBest);
  drawn.sums = LogitAsk::kTemperedMass;
  us["survey_drawn"] = survey(drawn);
  std::vector<int32_t> host(static_cast<size_t>(batch * survey_words(1)));
  const TensorView few(answers.data, DType::i32, {batch, survey_words(1)}, answers.place);
  us["answer"] = repeat(40, [&] { backend_->copy(TensorView::of(host.data(), {batch, survey_words(1)}), few); });
  held_.resize(before);
  return us;
}

}  // namespace bench
