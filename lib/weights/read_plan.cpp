#include "weights/read_plan.hpp"

#include <algorithm>
#include <map>
#include <tuple>

#include "weights/landing.hpp"

namespace dsinfer {
namespace {

// A hole that nobody needs is read through where a second request would cost more than its bytes, and never more than a 32nd of what is wanted. With several
// phases also one that another phase brings.
constexpr int64_t kHole = int64_t{64} << 10;

int64_t columns(const TensorSpec& spec) { return spec.shape.size() > 1 ? spec.shape[1] : 1; }

struct Hold {
  int rank, node;
  Cut cut;
};

// Rows that the same ranks need.
struct Item {
  int32_t tensor, holders, phase, file;
  int64_t begin, end, offset, bytes;
};

class Planner {
 public:
  Planner(std::vector<StoredTensor> tensors, const ModelConfig& config, const Plan& plan, std::vector<int> node_of, const ReadPlanOptions& options)
      : config_(config), options_(options) {
    reads_.tensors = std::move(tensors);
    reads_.node_of = std::move(node_of);
    const int nodes = reads_.node_of.empty() ? 0 : *std::max_element(reads_.node_of.begin(), reads_.node_of.end()) + 1;
    reads_.node_read.resize(static_cast<size_t>(nodes));
    reads_.node_needed.resize(static_cast<size_t>(nodes));
    reads_.phases = options.format == WeightFormat::as_stored ? 1 : 2;
    for (int rank = 0; rank < plan.world_size; ++rank) {
      rank_plans_.push_back(plan.rank(rank));
      reads_.ranks.push_back({});
      reads_.ranks.back().rank = rank;
      reads_.ranks.back().node = reads_.node_of[static_cast<size_t>(rank)];
    }
    open_.resize(rank_plans_.size(), -1);
  }

  ReadPlan make() && {
    for (size_t t = 0; t < reads_.tensors.size(); ++t) find_items(static_cast<int32_t>(t));
    std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) { return std::tie(a.phase, a.file, a.offset, a.holders) < std::tie(b.phase, b.file, b.offset, b.holders); });
    for (const Item& item : items_)
      if (holders(item).size() == 1) load(holders(item)[0]).bytes_read += item.bytes;  // the shared ones go to those who read least
    for (const Item& item : items_) place(item);
    lay_out_parts();
    return std::move(reads_);
  }

 private:
  RankLoad& load(int rank) { return reads_.ranks[static_cast<size_t>(rank)]; }
  const std::vector<int>& holders(const Item& item) const { return reads_.holder_sets[static_cast<size_t>(item.holders)]; }

  int32_t set_number(std::vector<int> ranks) {
    const auto [it, fresh] = set_numbers_.try_emplace(ranks, static_cast<int32_t>(reads_.holder_sets.size()));
    if (fresh) reads_.holder_sets.push_back(std::move(ranks));
    return it->second;
  }

  void find_items(int32_t number) {
    const StoredTensor& tensor = reads_.tensors[static_cast<size_t>(number)];
    std::vector<Hold> holds;
    const int64_t size = dtype_size(tensor.dtype), cols = columns(*tensor.spec);
    bool by_columns = false;
    for (size_t r = 0; r < rank_plans_.size(); ++r) {
      const auto part = cut(*tensor.spec, config_, rank_plans_[r]);
      if (!part || part->elements() == 0) continue;
      holds.push_back({static_cast<int>(r), reads_.node_of[r], *part});
      by_columns |= part->cols.size() != cols;
      load(static_cast<int>(r)).bytes_needed += part->elements() * size;
    }
    std::stable_sort(holds.begin(), holds.end(), [](const Hold& a, const Hold& b) { return a.node < b.node; });
    // Nodes that read together: each for itself, but for columns as many as it takes to have them all.
    for (size_t begin = 0; begin < holds.size();) {
      size_t end = end_of_node(holds, begin);
      while (by_columns && end < holds.size() && !(covers(holds, begin, end, cols) && covers(holds, end, holds.size(), cols))) end = end_of_node(holds, end);
      find_rows(number, {holds.begin() + static_cast<std::ptrdiff_t>(begin), holds.begin() + static_cast<std::ptrdiff_t>(end)});
      begin = end;
    }
  }

  static size_t end_of_node(const std::vector<Hold>& holds, size_t begin) {
    size_t end = begin;
    while (end < holds.size() && holds[end].node == holds[begin].node) ++end;
    return end;
  }

  // Width of the union of the holds' columns. Cuts are equal or disjoint, or share a scale at their edges.
  static int64_t width(const std::vector<Hold>& holds, size_t begin, size_t end, int node = -1) {
    std::map<int64_t, int64_t> ranges;
    for (size_t i = begin; i < end; ++i)
      if (node < 0 || holds[i].node == node) ranges[holds[i].cut.cols.begin] = holds[i].cut.cols.size();
    int64_t sum = 0, end_so_far = 0;
    for (const auto& [first, size] : ranges) {
      sum += std::max<int64_t>(0, first + size - std::max(first, end_so_far));
      end_so_far = std::max(end_so_far, first + size);
    }
    return sum;
  }
  static bool covers(const std::vector<Hold>& holds, size_t begin, size_t end, int64_t cols) { return width(holds, begin, end) >= cols; }

  void find_rows(int32_t number, const std::vector<Hold>& holds) {
    const StoredTensor& tensor = reads_.tensors[static_cast<size_t>(number)];
    const int64_t row_bytes = reads_.row_bytes(tensor), size = dtype_size(tensor.dtype);
    std::vector<int64_t> edges;
    for (const Hold& hold : holds) edges.insert(edges.end(), {hold.cut.rows.begin, hold.cut.rows.end});
    std::sort(edges.begin(), edges.end());
    edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
    const int32_t phase = reads_.phases > 1 ? landing_phase(*tensor.spec) : 0;
    for (size_t e = 0; e + 1 < edges.size(); ++e) {
      std::vector<Hold> here;
      std::vector<int> ranks;
      for (const Hold& hold : holds) {
        if (hold.cut.rows.begin > edges[e] || hold.cut.rows.end < edges[e + 1]) continue;
        here.push_back(hold);
        ranks.push_back(hold.rank);
      }
      if (here.empty()) continue;
      std::sort(ranks.begin(), ranks.end());
      for (size_t i = 0; i < here.size(); i = end_of_node(here, i))
        reads_.node_needed[static_cast<size_t>(here[i].node)] += (edges[e + 1] - edges[e]) * width(here, 0, here.size(), here[i].node) * size;
      items_.push_back({number, set_number(std::move(ranks)), phase, tensor.at.file, edges[e], edges[e + 1], tensor.at.entry.begin + edges[e] * row_bytes, (edges[e + 1] - edges[e]) * row_bytes});
    }
  }

  // In portions that fit a chunk and keep together what must land together.
  void place(const Item& item) {
    const StoredTensor& tensor = reads_.tensors[static_cast<size_t>(item.tensor)];
    const int64_t row_bytes = reads_.row_bytes(tensor), band = rows_together(*tensor.spec, tensor.dtype, config_, options_.format);
    const bool shared = holders(item).size() > 1;
    const int64_t block = shared ? options_.shared_block : options_.own_block;
    const int64_t bands = std::max<int64_t>(1, block / (band * row_bytes));
    for (int64_t row = item.begin; row < item.end;) {
      const int64_t end = std::min(item.end, (row / band + bands) * band);
      add(item, row, end, item.offset + (row - item.begin) * row_bytes, (end - row) * row_bytes, shared, block);
      row = end;
    }
  }

  void add(const Item& item, int64_t row, int64_t row_end, int64_t offset, int64_t bytes, bool shared, int64_t block) {
    const int reader = shared ? shared_reader(item, offset, bytes, block) : holders(item)[0];
    int64_t& open = open_[static_cast<size_t>(reader)];
    if (open < 0 || !fits(reads_.chunks[static_cast<size_t>(open)], item, offset, bytes, shared ? options_.shared_block : options_.own_block)) {
      open = static_cast<int64_t>(reads_.chunks.size());
      reads_.chunks.push_back({item.file, reader, item.phase, false, offset, offset, 0, 0});
    }
    Chunk& chunk = reads_.chunks[static_cast<size_t>(open)];
    const int64_t hole = offset - chunk.end;
    load(reader).bytes_read += hole + (shared ? bytes : 0);
    reads_.node_read[static_cast<size_t>(load(reader).node)] += hole + bytes;
    chunk.end = offset + bytes;
    chunk.shared |= shared;
    ++chunk.num_parts;
    placed_.push_back({{item.tensor, item.holders, row, row_end}, open});
    frontier_ = chunk.end;
    if (shared) count_handing(item, row_end - row, reader);
  }

  bool fits(const Chunk& chunk, const Item& item, int64_t offset, int64_t bytes, int64_t block) const {
    const int64_t hole = offset - chunk.end, length = offset + bytes - chunk.begin;
    if (chunk.file != item.file || chunk.phase != item.phase || hole < 0 || length > block) return false;
    return hole == 0 || (hole <= kHole && hole * 32 <= chunk.end - chunk.begin && (reads_.phases > 1 || chunk.end == frontier_));
  }

  // Goes on with the reader whose chunk ends here; else the node that has read least beyond its need, there the rank that has read least.
  int shared_reader(const Item& item, int64_t offset, int64_t bytes, int64_t block) {
    const auto last = last_reader_.find(item.holders);
    if (last != last_reader_.end()) {
      const int64_t open = open_[static_cast<size_t>(last->second)];
      if (open >= 0 && fits(reads_.chunks[static_cast<size_t>(open)], item, offset, bytes, block)) return last->second;
    }
    int best = -1;
    std::pair<int64_t, int64_t> best_cost;
    for (const int rank : holders(item)) {
      const auto node = static_cast<size_t>(load(rank).node);
      const std::pair cost{several_nodes(item) ? reads_.node_read[node] - reads_.node_needed[node] : 0, load(rank).bytes_read};
      if (best < 0 || cost < best_cost) best = rank, best_cost = cost;
    }
    last_reader_[item.holders] = best;
    return best;
  }

  bool several_nodes(const Item& item) const {
    const auto& set = holders(item);
    return reads_.node_of[static_cast<size_t>(set.front())] != reads_.node_of[static_cast<size_t>(set.back())];
  }
  void count_handing(const Item& item, int64_t rows, int reader) {
    const StoredTensor& tensor = reads_.tensors[static_cast<size_t>(item.tensor)];
    for (const int rank : holders(item)) {
      if (rank == reader) continue;
      const int64_t bytes = rows * cut(*tensor.spec, config_, rank_plans_[static_cast<size_t>(rank)])->cols.size() * dtype_size(tensor.dtype);
      load(reader).bytes_sent += bytes;
      load(rank).bytes_received += bytes;
    }
  }

  // Chunks into their order, parts behind one another in that of the chunks.
  void lay_out_parts() {
    std::vector<int64_t> order(reads_.chunks.size()), place(reads_.chunks.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      const Chunk &x = reads_.chunks[static_cast<size_t>(a)], &y = reads_.chunks[static_cast<size_t>(b)];
      return std::tie(x.phase, x.file, x.begin) < std::tie(y.phase, y.file, y.begin);
    });
    std::vector<Chunk> sorted;
    int64_t next = 0;
    for (const int64_t chunk : order) {
      sorted.push_back(reads_.chunks[static_cast<size_t>(chunk)]);
      sorted.back().first_part = place[static_cast<size_t>(chunk)] = next;
      next += sorted.back().num_parts;
    }
    reads_.parts.resize(placed_.size());
    for (const auto& [part, chunk] : placed_) reads_.parts[static_cast<size_t>(place[static_cast<size_t>(chunk)]++)] = part;
    reads_.chunks = std::move(sorted);
  }

  const ModelConfig& config_;
  ReadPlanOptions options_;
  ReadPlan reads_;
  std::vector<RankPlan> rank_plans_;
  std::map<std::vector<int>, int32_t> set_numbers_;
  std::map<int32_t, int> last_reader_;  // of a holder set
  std::vector<Item> items_;
  std::vector<int64_t> open_;           // rank → its last chunk
  int64_t frontier_ = 0;                // end of what was placed last
  std::vector<std::pair<ChunkPart, int64_t>> placed_;
};

}  // namespace

double ReadPlan::amplification() const {
  double worst = 0;
  for (size_t node = 0; node < node_read.size(); ++node)
    if (node_needed[node] > 0) worst = std::max(worst, static_cast<double>(node_read[node]) / static_cast<double>(node_needed[node]));
  return worst;
}

ReadPlan make_read_plan(std::vector<StoredTensor> tensors, const ModelConfig& config, const Plan& plan, std::vector<int> node_of, const ReadPlanOptions& options) {
  return Planner(std::move(tensors), config, plan, std::move(node_of), options).make();
}

Cut part_for(const ReadPlan& reads, const ChunkPart& part, const ModelConfig& config, const RankPlan& rank) {
  const auto mine = cut(*reads.tensors[static_cast<size_t>(part.tensor)].spec, config, rank);
  if (!mine) return {};
  return {{std::max(part.begin, mine->rows.begin), std::min(part.end, mine->rows.end)}, mine->cols};
}

}  // namespace dsinfer
