/// The Pareto picture: tokens a second for each GPU against tokens a second for each user. Self-contained SVG.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "plan/search.hpp"

namespace dsinfer {
namespace {

constexpr double kLeft = 78, kTop = 92, kWide = 430, kHigh = 300, kListAt = 548;

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return out;
}

// 1, 2 or 5 times a power of ten, so that about five steps reach `most`.
double step_for(double most) {
  const double rough = most / 5, power = std::pow(10, std::floor(std::log10(rough))), lead = rough / power;
  return power * (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10);
}

std::string number(double value) { return value >= 10 || value == 0 ? fmt::format("{:.0f}", value) : fmt::format("{:.{}f}", value, value >= 1 ? 1 : 2); }

struct Point { double x, y; const PlanAnswer* plan; };

class Picture {
 public:
  explicit Picture(const SolveAnswer& answer) : answer_(answer) {
    for (const PlanAnswer& plan : answer.pareto.empty() ? answer.plans : answer.pareto) add(plan);
    if (!answer.plans.empty() && std::none_of(points_.begin(), points_.end(), [&](const Point& p) { return chosen(p); })) add(answer.plans.front());
    std::sort(points_.begin(), points_.end(), [](const Point& a, const Point& b) { return a.x < b.x; });
    for (const Point& p : points_) most_x_ = std::max(most_x_, p.x), most_y_ = std::max(most_y_, p.y);
    step_x_ = step_for(most_x_), step_y_ = step_for(most_y_);
    most_x_ = step_x_ * std::ceil(most_x_ * 1.02 / step_x_), most_y_ = step_y_ * std::ceil(most_y_ * 1.02 / step_y_);
  }

  std::string draw() {
    const double height = std::max(kTop + kHigh + 78, 130 + 40.0 * static_cast<double>(points_.size()));
    out_ = fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 860 {0:.0f}\" width=\"860\" height=\"{0:.0f}\" font-family=\"Helvetica, Arial, sans-serif\">\n", height);
    out_ += fmt::format("<rect width=\"860\" height=\"{:.0f}\" fill=\"#ffffff\"/>\n", height);
    out_ += "<defs><linearGradient id=\"under\" x1=\"0\" y1=\"0\" x2=\"0\" y2=\"1\"><stop offset=\"0\" stop-color=\"#2f6fde\" stop-opacity=\"0.22\"/>"
            "<stop offset=\"1\" stop-color=\"#2f6fde\" stop-opacity=\"0.02\"/></linearGradient></defs>\n";
    const Fleet& fleet = answer_.fleet;
    text(28, 38, 19, "#16202e", fmt::format("Throughput against speed: {} × {} {}", fleet.nodes, fleet.gpus_per_node, fleet.gpu.id), "start", true);
    text(28, 60, 12.5, "#5b6777", fmt::format("{} tokens in, {} out, {} weights; each point is a plan at one batch", answer_.request.workload.input_len, answer_.request.workload.output_len,
                                             answer_.request.precision ? precision_name(*answer_.request.precision) : ""), "start", false);
    if (points_.empty()) {
      text(kLeft + kWide / 2, kTop + kHigh / 2, 15, "#8a4b4b", "no plan fits", "middle", true);
      return out_ + "</svg>\n";
    }
    axes();
    limit_line();
    front();
    list();
    return out_ + "</svg>\n";
  }

 private:
  void add(const PlanAnswer& plan) {
    if (plan.feasible && plan.predicted.tpot_ms.value > 0)
      points_.push_back({1e3 / plan.predicted.tpot_ms.value, plan.predicted.tokens_per_s.value / std::max(answer_.fleet.num_gpus(), 1), &plan});
  }
  double px(double x) const { return kLeft + kWide * x / most_x_; }
  double py(double y) const { return kTop + kHigh * (1 - y / most_y_); }

  void text(double x, double y, double size, const char* color, const std::string& what, const char* anchor, bool bold) {
    out_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"{}\" fill=\"{}\" text-anchor=\"{}\"{}>{}</text>\n", x, y, size, color, anchor, bold ? " font-weight=\"600\"" : "", escaped(what));
  }
  void line(double x1, double y1, double x2, double y2, const char* style) {
    out_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" {}/>\n", x1, y1, x2, y2, style);
  }

  void axes() {
    const char* grid = "stroke=\"#e6eaf0\" stroke-width=\"1\"";
    for (int i = 0; i * step_x_ <= most_x_ * 1.0001; ++i) {
      line(px(i * step_x_), kTop, px(i * step_x_), kTop + kHigh, grid);
      text(px(i * step_x_), kTop + kHigh + 20, 11.5, "#5b6777", number(i * step_x_), "middle", false);
    }
    for (int i = 0; i * step_y_ <= most_y_ * 1.0001; ++i) {
      line(kLeft, py(i * step_y_), kLeft + kWide, py(i * step_y_), grid);
      text(kLeft - 9, py(i * step_y_) + 4, 11.5, "#5b6777", number(i * step_y_), "end", false);
    }
    line(kLeft, kTop + kHigh, kLeft + kWide, kTop + kHigh, "stroke=\"#98a3b3\" stroke-width=\"1.2\"");
    line(kLeft, kTop, kLeft, kTop + kHigh, "stroke=\"#98a3b3\" stroke-width=\"1.2\"");
    text(kLeft + kWide / 2, kTop + kHigh + 44, 12.5, "#33404f", "tokens a second for each user", "middle", false);
    out_ += fmt::format("<text transform=\"translate(24 {:.1f}) rotate(-90)\" font-size=\"12.5\" fill=\"#33404f\" text-anchor=\"middle\">tokens a second for each GPU</text>\n", kTop + kHigh / 2);
  }

  void limit_line() {
    if (!answer_.request.tpot_ms) return;
    const double x = 1e3 / *answer_.request.tpot_ms;
    if (x > most_x_) return;
    line(px(x), kTop, px(x), kTop + kHigh, "stroke=\"#c2552d\" stroke-width=\"1.3\" stroke-dasharray=\"5 4\"");
    text(px(x) + 5, kTop + 13, 11, "#c2552d", fmt::format("TPOT limit {:g} ms", *answer_.request.tpot_ms), "start", false);
  }

  void front() {
    // A plan serves anything slower as well: the front is a staircase.
    std::string stairs = fmt::format("M{:.1f} {:.1f}", px(0), py(points_[0].y));
    for (size_t i = 0; i < points_.size(); ++i) {
      stairs += fmt::format(" L{:.1f} {:.1f}", px(points_[i].x), py(points_[i].y));
      stairs += fmt::format(" L{:.1f} {:.1f}", px(points_[i].x), py(i + 1 < points_.size() ? points_[i + 1].y : 0));
    }
    out_ += fmt::format("<path d=\"{} L{:.1f} {:.1f} Z\" fill=\"url(#under)\"/>\n<path d=\"{}\" fill=\"none\" stroke=\"#2f6fde\" stroke-width=\"2\" stroke-linejoin=\"round\"/>\n", stairs, px(0), py(0), stairs);
    for (size_t i = 0; i < points_.size(); ++i) badge(px(points_[i].x), py(points_[i].y), i);
  }

  bool chosen(const Point& p) const {
    if (answer_.plans.empty()) return false;
    const PlanAnswer& best = answer_.plans.front();
    return best.plan.spec() == p.plan->plan.spec() && best.predicted.batch_per_dp_rank == p.plan->predicted.batch_per_dp_rank;
  }

  void badge(double x, double y, size_t i) {
    out_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"9.5\" fill=\"{}\" stroke=\"#ffffff\" stroke-width=\"2\"/>\n", x, y, chosen(points_[i]) ? "#d9822b" : "#2f6fde");
    text(x, y + 4, 11, "#ffffff", std::to_string(i + 1), "middle", true);
  }

  void list() {
    for (size_t i = 0; i < points_.size(); ++i) {
      const double y = kTop + 10 + 40.0 * static_cast<double>(i);
      const Prediction& p = points_[i].plan->predicted;
      badge(kListAt, y, i);
      const Plan& plan = points_[i].plan->plan;
      text(kListAt + 18, y - 2, 12.5, "#16202e", plan.spec() + (plan.replicas > 1 ? fmt::format(" × {}", plan.replicas) : ""), "start", true);
      text(kListAt + 18, y + 14, 11.5, "#5b6777", fmt::format("{} users, {} a GPU, {} a user, TTFT {} ms", p.concurrency, number(points_[i].y), number(points_[i].x), number(p.ttft_ms.value)), "start", false);
    }
  }

  const SolveAnswer& answer_;
  std::vector<Point> points_;
  double most_x_ = 1e-9, most_y_ = 1e-9, step_x_ = 1, step_y_ = 1;
  std::string out_;
};

}  // namespace

std::string SolveAnswer::svg() const { return Picture(*this).draw(); }

}  // namespace dsinfer
