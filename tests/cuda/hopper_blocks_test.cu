/// The blocks of the CUDA backend on Hopper against its own fine operations in w8a8, at DeepSeek-V3's true dimensions, all 256 experts, on seeded random weights.
#include <algorithm>
#include <memory>
#include <numeric>

#include "backend/backend.hpp"
#include "device_data.cuh"

namespace dsinfer {
namespace {

using test::bf16;

constexpr int64_t H = 7168, kHeads = 128, kQRank = 1536, kLatent = 512, kRope = 64, kInner = 2048, kDense = 18432, kExperts = 256, kTopK = 8, kPage = 64, kPages = 72, kMaxPages = 12;

GateOptions gate() {
  GateOptions g;
  g.n_group = 8, g.topk_group = 4, g.top_k = kTopK, g.scale = 2.5f;
  return g;
}

/// The absorbed copies of kv_b [heads · 256, 512]: keys [heads, 512, 128], values [heads, 128, 512].
__global__ void absorb_kernel(bf16* keys, bf16* values, const __nv_fp8_e4m3* kv_b, const float* scale) {
  const int row = blockIdx.x, head = row / 256, d = row % 256;
  for (int r = threadIdx.x; r < kLatent; r += blockDim.x) {
    const float w = float(kv_b[size_t(row) * kLatent + r]) * scale[row / 128 * (kLatent / 128) + r / 128];
    if (d < 128) keys[(size_t(head) * kLatent + r) * 128 + d] = bf16(w);
    else values[(size_t(head) * 128 + d - 128) * kLatent + r] = bf16(w);
  }
}

/// One layer of each kind on the device, and the blocks for it.
class Layer {
 public:
  Layer() {
    BackendOptions options;
    options.arithmetic = Arithmetic::w8a8;
    backend = make_backend("cuda", options);
    BlockDims d = dims();
    blocks = backend->make_blocks(d);
    if (!blocks) return;
    attention = {norm(H), norm(kQRank), norm(kLatent), fp8(kQRank + kLatent + kRope, H), fp8(kHeads * 192, kQRank), fp8(kHeads * 256, kLatent),
                 heads(kHeads, kLatent, 128), heads(kHeads, 128, kLatent), fp8(H, kHeads * 128)};
    absorb_kernel<<<unsigned(kHeads * 256), 128>>>(reinterpret_cast<bf16*>(attention.key_up->data.data), reinterpret_cast<bf16*>(attention.value_up->data.data),
                                                   reinterpret_cast<const __nv_fp8_e4m3*>(attention.kv_b->data.data), attention.kv_b->scale.as<float>());
    mlp = {norm(H), fp8(2 * kDense, H), fp8(H, kDense)};
    experts_gate_up = stack(2 * kInner, H), experts_down = stack(H, kInner);
    moe = {norm(H), filled<float>({kExperts}, 0.1f), halves(kExperts, H), experts_gate_up, experts_down, fp8(2 * kInner, H), fp8(H, kInner)};
    rope = filled<float>({4096, kRope}, 0.7f);
    scratch = backend->allocate(size_t(blocks->scratch_bytes()));
    blocks->use(scratch.view(DType::u8, {int64_t(scratch.size())}));
    d.cache = CacheRows::fp8;
    fp8_blocks = backend->make_blocks(d);
    fp8_scratch = backend->allocate(size_t(fp8_blocks->scratch_bytes()));
    fp8_blocks->use(fp8_scratch.view(DType::u8, {int64_t(fp8_scratch.size())}));
    cudaDeviceSynchronize();
  }
  static BlockDims dims() {
    BlockDims d;
    d.hidden = H, d.heads = kHeads, d.q_lora_rank = kQRank, d.kv_lora_rank = kLatent, d.nope = 128, d.rope = kRope, d.value = 128;
    d.dense_inter = kDense, d.moe_inter = kInner, d.shared_inter = kInner, d.experts = d.own_experts = kExperts;
    d.dense_layers = d.moe_layers = true;
    d.block_rows = d.block_cols = 128;
    d.gate = gate();
    d.softmax_scale = 0.1352337788608801f;
    d.max_tokens = 700, d.max_len = 4096;
    return d;
  }

  template <class T> TensorView filled(std::initializer_list<int64_t> shape, float sigma, float mean = 0) {
    const DType type = sizeof(T) == 4 ? DType::f32 : sizeof(T) == 2 ? DType::bf16 : DType::e4m3;
    TensorView v(nullptr, type, shape);
    held.push_back(backend->allocate(size_t(v.bytes())));
    v.data = held.back().data(), v.place = Place::device;
    test::fill_kernel<<<2048, 256>>>(reinterpret_cast<T*>(v.data), size_t(v.elements()), ++seed, sigma, mean);
    return v;
  }
  template <class T> TensorView put(const std::vector<T>& values, std::initializer_list<int64_t> shape) {
    held.push_back(backend->allocate(values.size() * sizeof(T) + 16));
    const TensorView v = held.back().view(dtype_of<T>::value, shape);
    backend->copy(v, TensorView::of(values.data(), shape));
    return v;
  }
  TensorView room(std::initializer_list<int64_t> shape, DType type = DType::f32) {
    TensorView v(nullptr, type, shape);
    held.push_back(backend->allocate(size_t(v.bytes())));
    v.data = held.back().data(), v.place = Place::device;
    cudaMemset(v.data, 0xff, size_t(v.bytes()));
    return v;
  }
  std::vector<float> take(const TensorView& v) {
    std::vector<float> out(size_t(v.elements()));
    TensorView host = v;
    host.place = Place::host, host.data = reinterpret_cast<std::byte*>(out.data());
    std::vector<uint16_t> words(out.size());
    if (v.dtype == DType::bf16) host.data = reinterpret_cast<std::byte*>(words.data());
    backend->copy(host, v);
    if (v.dtype == DType::bf16) std::transform(words.begin(), words.end(), out.begin(), bf16_to_f32);
    return out;
  }

  std::unique_ptr<Backend> backend;
  std::unique_ptr<Blocks> blocks, fp8_blocks;
  AttentionWeights attention;
  MlpWeights mlp;
  MoeWeights moe;
  TensorView rope;

 private:
  TensorView norm(int64_t n) { return filled<float>({n}, 0.1f, 1); }
  const Weight* keep(Weight w) {
    weights.push_back(std::make_unique<Weight>(w));
    return weights.back().get();
  }
  // Bytes of sigma 100 (the largest of a block near 448) and scales around 0.0002: weights of sigma 0.02.
  const Weight* fp8(int64_t n, int64_t k) {
    return keep({filled<__nv_fp8_e4m3>({n, k}, 100), filled<float>({(n + 127) / 128, k / 128}, 2e-5f, 2e-4f), Format::fp8_block});
  }
  const Weight* halves(int64_t n, int64_t k) { return keep({filled<bf16>({n, k}, 0.02f), {}, Format::bf16}); }
  const Weight* heads(int64_t count, int64_t n, int64_t k) { return keep({filled<bf16>({count, n, k}, 0.02f), {}, Format::bf16}); }
  std::vector<Weight> stack(int64_t n, int64_t k) {
    const Weight all = *fp8(kExperts * n, k);
    std::vector<Weight> experts;
    for (int64_t e = 0; e < kExperts; ++e) experts.push_back({all.data.rows(e * n, (e + 1) * n), all.scale.rows(e * n / 128, (e + 1) * n / 128), Format::fp8_block});
    return experts;
  }
  std::vector<Buffer> held;
  std::vector<std::unique_ptr<Weight>> weights;
  std::vector<Weight> experts_gate_up, experts_down;
  Buffer scratch, fp8_scratch;
  uint64_t seed = 0;
};

/// Rows of one step: decode rows of different lengths, a prefill segment, padding.
struct Step {
  std::vector<int32_t> positions, table;
  std::vector<BlockSegment> prefill;
  int64_t decode = 0, longest = 1024;

  int64_t rows() const { return int64_t(positions.size()); }
  void add(int64_t position, int64_t sequence) {
    positions.push_back(int32_t(position));
    for (int64_t p = 0; p < kMaxPages; ++p) table.push_back(int32_t(sequence < 60 ? (sequence * 5 + p * 7 + 3) % 64 : 64 + p % 8));  // sequences below 60 share pages, which they only read
  }
};
Step decode_step(int64_t rows, int64_t padding = 0) {
  Step s;
  for (int64_t i = 0; i < rows; ++i) s.add((i * 131 + 77) % 700, i);
  for (int64_t i = 0; i < padding; ++i) s.add(-1, 0);
  s.decode = rows + padding;
  return s;
}
Step mixed_step(int64_t decode, int64_t prefill, int64_t position) {
  Step s = decode_step(decode);
  s.prefill.push_back({decode, prefill, position});
  for (int64_t i = 0; i < prefill; ++i) s.add(position + i, 40);
  return s;
}

class HopperBlocks : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (test::has_hopper()) layer_ = std::make_unique<Layer>();
  }
  static void TearDownTestSuite() { layer_.reset(); }
  void SetUp() override {
    if (!layer_) GTEST_SKIP() << "no GPU: skipped";
    ASSERT_TRUE(layer_->blocks);
  }
  Layer& layer() { return *layer_; }
  Backend& backend() { return *layer_->backend; }

  CacheView cache() { return {layer().filled<bf16>({kPages, kPage, kLatent + kRope}, 0.5f), kLatent}; }
  CacheView copy(const CacheView& c) {
    const CacheView other{layer().room({kPages, kPage, kLatent + kRope}, DType::bf16), kLatent};
    backend().copy(other.data, c.data);
    return other;
  }
  AttentionBatch batch(const Step& s) { return {layer().put(s.positions, {s.rows()}), layer().put(s.table, {s.rows(), kMaxPages})}; }

  /// residual after `layers` has run as the blocks of one step.
  std::vector<float> by_blocks(const Step& s, const TensorView& residual, const std::function<void()>& layers) { return by_blocks(*layer().blocks, s, residual, layers); }
  std::vector<float> by_blocks(Blocks& b, const Step& s, const TensorView& residual, const std::function<void()>& layers) {
    const AttentionBatch rows = batch(s);
    b.begin({residual, rows.positions, rows.block_table, layer().rope, s.decode, s.prefill, s.longest});
    layers();
    b.finish();
    return layer().take(residual);
  }

  // The same through fine operations: x += attention(norm(x)).
  void plain_attention(const Step& s, const TensorView& x, const CacheView& cache) {
    Backend& b = backend();
    const AttentionWeights& w = layer().attention;
    const int64_t T = s.rows();
    const AttentionBatch rows = batch(s);
    const TensorView h = layer().room({T, H}), in = layer().room({T, kQRank + kLatent + kRope}), q = layer().room({T, kHeads, 192}), latent = layer().room({T, kLatent});
    const TensorView absorbed = layer().room({T, kHeads, kLatent}), u = layer().room({T, kHeads, kLatent}), o = layer().room({T, kHeads, 128}), out = layer().room({T, H});
    b.rms_norm(h, x, w.norm, 1e-6f);
    b.linear(in, h, *w.latents);
    const TensorView q_in = in.slice(1, 0, kQRank), kv = in.slice(1, kQRank, kQRank + kLatent), key = in.slice(1, kQRank + kLatent, kQRank + kLatent + kRope);
    b.rms_norm(q_in, q_in, w.q_norm, 1e-6f);
    const TensorView q_dense = layer().room({T, kQRank});
    b.copy(q_dense, q_in);
    b.linear(q.reshape({T, kHeads * 192}), q_dense, *w.q_b);
    b.rope(q.slice(2, 128, 192), rows.positions, layer().rope, true);
    b.rms_norm(latent, kv, w.kv_norm, 1e-6f);
    TensorView head = key;
    head.rank = 3, head.shape = {T, 1, kRope, 0}, head.stride = {key.stride[0], kRope, 1, 0};
    b.rope(head, rows.positions, layer().rope, true);
    b.mla_append(cache, latent, key, rows);
    b.linear_per_head(absorbed, q.slice(2, 0, 128), *w.key_up);
    b.mla_attend(u, absorbed, q.slice(2, 128, 192), cache, rows, Layer::dims().softmax_scale);
    b.linear_per_head(o, u, *w.value_up);
    b.linear(out, o.reshape({T, kHeads * 128}), *w.o);
    b.add(x, out);
  }
  void plain_mlp(const TensorView& x, const TensorView& norm, const Weight& gate_up, const Weight& down, const TensorView& add_to) {
    Backend& b = backend();
    const int64_t T = x.dim(0), I = down.in_dim();
    const TensorView h = layer().room({T, H}), middle = layer().room({T, 2 * I}), act = layer().room({T, I}), out = layer().room({T, H});
    b.rms_norm(h, x, norm, 1e-6f);
    b.linear(middle, h, gate_up);
    b.silu_mul(act, middle);
    b.linear(out, act, down);
    b.add(add_to, out);
  }
  void plain_moe(const TensorView& x) {
    Backend& b = backend();
    const MoeWeights& w = layer().moe;
    const int64_t T = x.dim(0), P = T * kTopK;
    const TensorView h = layer().room({T, H}), scores = layer().room({T, kExperts}), experts = layer().room({T, kTopK}, DType::i32), weights = layer().room({T, kTopK}), sum = layer().room({T, H});
    b.rms_norm(h, x, w.norm, 1e-6f);
    b.linear(scores, h, *w.gate);
    b.route(experts, weights, scores, w.bias, gate());
    b.zero(sum);
    plain_mlp(x, w.norm, *w.shared_gate_up, *w.shared_down, sum);
    ASSERT_TRUE(b.routed_experts(sum, h, experts, weights, 0, w.gate_up, w.down,
                                 {layer().room({P}, DType::i32), layer().room({P}), layer().room({P, 2 * kInner}), layer().room({P, kInner}), layer().room({P, H})}));
    b.add(x, sum);
  }
  TensorView residual(int64_t rows) { return layer().filled<float>({rows, H}, 1); }
  TensorView copy_of(const TensorView& x) {
    const TensorView y = layer().room({x.dim(0), x.dim(1)});
    backend().copy(y, x);
    return y;
  }

  /// What was added to each row, ours against theirs: how far apart, relative to theirs.
  static std::vector<double> row_errors(const std::vector<float>& ours, const std::vector<float>& theirs, const std::vector<float>& before, int64_t rows) {
    std::vector<double> errors;
    for (int64_t t = 0; t < rows; ++t) {
      double difference = 0, size = 0;
      for (int64_t i = t * H; i < (t + 1) * H; ++i) {
        const double a = double(ours[size_t(i)]) - before[size_t(i)], b = double(theirs[size_t(i)]) - before[size_t(i)];
        difference += (a - b) * (a - b), size += b * b;
      }
      errors.push_back(std::isfinite(difference) ? std::sqrt(difference / size) : INFINITY);
    }
    return errors;
  }

  static std::unique_ptr<Layer> layer_;
};
std::unique_ptr<Layer> HopperBlocks::layer_;

// Both quantise the same activations to E4M3, ours from bf16: a few of a hundred of these land on the neighbouring value, of which E4M3's lie 6 % apart.
// Attention's outputs are small beside what they are summed of, so that the same differences weigh more.
// Segments of many rows expand keys and values from latents that are quantised for kv_b first; the fine operations here do not.
constexpr double kTolerance = 0.03, kAttentionTolerance = 0.06, kExpandedTolerance = 0.1;

TEST_F(HopperBlocks, AttentionIsThatOfTheFineOperations) {
  for (const Step& s : {decode_step(1), decode_step(13), mixed_step(3, 70, 150), mixed_step(0, 200, 0), mixed_step(2, 130, 128), mixed_step(0, 300, 77)}) {
    const TensorView x = residual(s.rows()), y = copy_of(x);
    const auto before = layer().take(x);
    const CacheView ours = cache(), theirs = copy(ours);
    const auto found = by_blocks(s, x, [&] { layer().blocks->attention(layer().attention, ours); });
    plain_attention(s, y, theirs);
    const auto errors = row_errors(found, layer().take(y), before, s.rows());
    EXPECT_LT(*std::max_element(errors.begin(), errors.end()), s.rows() - s.decode < 128 ? kAttentionTolerance : kExpandedTolerance) << s.rows() << " rows, " << s.decode << " of them decode";
    EXPECT_LT(test::relative_error(layer().take(ours.data), layer().take(theirs.data)), kTolerance);
  }
}

// Prompts of three sequences, then a decode step that sees them through the cache: in E4M3 against bf16. An eighth more of the cached latents is noise.
TEST_F(HopperBlocks, AnFp8CacheGivesNearlyTheSame) {
  const CacheView halves{layer().room({kPages, kPage, kLatent + kRope}, DType::bf16), kLatent}, bytes{layer().room({kPages, kPage, 656}, DType::u8), kLatent};
  Step prompts, decode;
  for (int64_t sequence = 0; sequence < 3; ++sequence) {
    prompts.prefill.push_back({prompts.rows(), 90 + sequence, 0});
    for (int64_t i = 0; i < 90 + sequence; ++i) prompts.add(i, sequence);
    decode.add(90 + sequence, sequence);
  }
  decode.decode = 3;
  for (const Step& s : {prompts, decode}) {
    const TensorView x = residual(s.rows()), y = copy_of(x);
    const auto before = layer().take(x);
    const auto wanted = by_blocks(s, x, [&] { layer().blocks->attention(layer().attention, halves); });
    const auto found = by_blocks(*layer().fp8_blocks, s, y, [&] { layer().fp8_blocks->attention(layer().attention, bytes); });
    const auto errors = row_errors(found, wanted, before, s.rows());
    EXPECT_LT(*std::max_element(errors.begin(), errors.end()), 0.15);
    EXPECT_GT(*std::max_element(errors.begin(), errors.end()), 0.001);
  }
}

TEST_F(HopperBlocks, TheDenseMlpIsThatOfTheFineOperations) {
  for (const int64_t rows : {1, 9, 200}) {
    const TensorView x = residual(rows), y = copy_of(x);
    const auto before = layer().take(x);
    const auto found = by_blocks(decode_step(rows), x, [&] { layer().blocks->mlp(layer().mlp); });
    plain_mlp(copy_of(y), layer().mlp.norm, *layer().mlp.gate_up, *layer().mlp.down, y);
    const auto errors = row_errors(found, layer().take(y), before, rows);
    EXPECT_LT(*std::max_element(errors.begin(), errors.end()), kTolerance) << rows;
  }
}

// 600 rows are sorted first. A row whose eighth and ninth expert are nearly alike may take the other one: an eighth of its sum.
TEST_F(HopperBlocks, TheExpertsAreThoseOfTheFineOperations) {
  for (const int64_t rows : {1, 5, 32, 128, 600}) {
    const TensorView x = residual(rows), y = copy_of(x);
    const auto before = layer().take(x);
    const auto found = by_blocks(decode_step(rows), x, [&] { layer().blocks->moe(layer().moe); });
    plain_moe(y);
    const auto errors = row_errors(found, layer().take(y), before, rows);
    const auto other = std::count_if(errors.begin(), errors.end(), [](double e) { return !(e < kTolerance); });
    EXPECT_LE(other, rows / 10) << rows;
    EXPECT_LT(*std::max_element(errors.begin(), errors.end()), 0.6) << rows;
  }
}

TEST_F(HopperBlocks, ThePartOfASumOverTpIsWhatTheResidualWouldGet) {
  const int64_t rows = 6;
  const Step s = decode_step(rows);
  const TensorView x = residual(rows), y = copy_of(x);
  const auto whole = by_blocks(s, x, [&] { layer().blocks->moe(layer().moe); });
  const auto before = layer().take(y);
  std::vector<float> branch;
  const auto same = by_blocks(s, y, [&] {
    layer().blocks->moe(layer().moe);
    branch = layer().take(layer().blocks->branch());
  });
  for (size_t i = 0; i < whole.size(); ++i) {
    ASSERT_NEAR(whole[i] - before[i], branch[i], 1e-2 * (1 + std::abs(branch[i])));
    ASSERT_NEAR(same[i], whole[i], 1e-2 * (1 + std::abs(branch[i])));
  }
}

// Both kinds of layers one after the other. A row's bits hang on how many rows the step has, with padding, but not on what the other rows are.
TEST_F(HopperBlocks, PaddingChangesNoBitOfTheOtherRowsAndWritesNothing) {
  for (const auto& [rows, padding] : {std::pair<int64_t, int64_t>{5, 3}, {1, 1}, {26, 6}}) {
    const TensorView x = residual(rows + padding), y = copy_of(x);
    const CacheView ours = cache(), theirs = copy(ours);
    const auto before = layer().take(ours.data);
    const auto run = [&](const Step& s, const TensorView& residual, const CacheView& cache) {
      return by_blocks(s, residual, [&] {
        layer().blocks->attention(layer().attention, cache);
        layer().blocks->mlp(layer().mlp);
        layer().blocks->attention(layer().attention, cache);
        layer().blocks->moe(layer().moe);
      });
    };
    Step full = decode_step(rows);
    for (int64_t i = 0; i < padding; ++i) full.add(700 + 3 * i, 61);  // pages of its own
    full.decode += padding;
    const auto found = run(decode_step(rows, padding), x, ours), wanted = run(full, y, theirs);
    const auto end = static_cast<size_t>(rows * H);
    EXPECT_TRUE(std::equal(found.begin(), found.begin() + static_cast<int64_t>(end), wanted.begin())) << rows << " rows and " << padding << " of padding";
    for (size_t i = 0; i < end; ++i) ASSERT_TRUE(std::isfinite(found[i]));
    const auto after = layer().take(ours.data);
    int64_t written = 0;
    for (size_t row = 0; row < after.size(); row += kLatent + kRope) written += !std::equal(after.begin() + static_cast<int64_t>(row), after.begin() + static_cast<int64_t>(row) + kLatent + kRope, before.begin() + static_cast<int64_t>(row));
    EXPECT_EQ(written, rows);
  }
}

TEST_F(HopperBlocks, AReplayedStepGivesTheBitsOfAnEagerOne) {
  const int64_t rows = 12;
  const Step s = decode_step(rows);
  const AttentionBatch batch_rows = batch(s);
  const TensorView x = residual(rows), start = copy_of(x);
  const CacheView c = cache();
  Blocks& b = *layer().blocks;
  std::vector<std::vector<float>> found;
  for (int i = 0; i < 4; ++i) {
    backend().copy(x, start);
    backend().run({static_cast<int>(rows), 77}, [&] {
      b.begin({x, batch_rows.positions, batch_rows.block_table, layer().rope, rows, {}, 1024});
      b.attention(layer().attention, c);
      b.mlp(layer().mlp);
      b.attention(layer().attention, c);
      b.moe(layer().moe);
      b.finish();
    });
    found.push_back(layer().take(x));
  }
  for (size_t i = 1; i < found.size(); ++i) EXPECT_EQ(found[0], found[i]) << i;
  for (const float v : found[0]) ASSERT_TRUE(std::isfinite(v));
}

TEST_F(HopperBlocks, WeightsThatTheKernelsDoNotTakeAreNamed) {
  const auto refusal = [&](const auto& w) -> std::string {
    try {
      layer().blocks->check(w);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Error::unsupported);
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(refusal(layer().attention), "");
  EXPECT_EQ(refusal(layer().mlp), "");
  EXPECT_EQ(refusal(layer().moe), "");
  AttentionWeights apart = layer().attention;
  apart.latents = nullptr;
  EXPECT_NE(refusal(apart).find("q_a_proj"), std::string::npos);
  MoeWeights short_of_one = layer().moe;
  short_of_one.down = short_of_one.down.subspan(1);
  EXPECT_NE(refusal(short_of_one).find("down_proj"), std::string::npos);
  BlockDims other = Layer::dims();
  other.hidden = 4096;
  EXPECT_FALSE(backend().make_blocks(other));
}

TEST_F(HopperBlocks, TheHeadIsThatOfTheFineOperations) {
  for (const auto& [rows, n] : {std::pair<int64_t, int64_t>{1, 1000}, {33, 1000}, {150, 4098}}) {
    const Weight head{layer().filled<bf16>({n, H}, 0.02f), {}, Format::bf16};
    const TensorView x = layer().filled<float>({rows, H}, 1), ours = layer().room({rows, n}), theirs = layer().room({rows, n});
    ASSERT_TRUE(layer().blocks->head(ours, x, head));
    backend().linear(theirs, x, head);
    EXPECT_LT(test::relative_error(layer().take(ours), layer().take(theirs)), 1e-2) << rows;  // of bf16's rounding of x
  }
}

}  // namespace
}  // namespace dsinfer
