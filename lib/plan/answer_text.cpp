/// SolveAnswer for a terminal: the verdict first, then what stands behind it. 100 columns.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "plan/search.hpp"

namespace dsinfer {
namespace {

constexpr size_t kColumns = 100;

// Code points, as a terminal shows them (nothing here is wider than one column).
size_t width(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

/// Breaks `text` at spaces; the first line begins with `lead`, the others are indented as far.
std::string wrapped(const std::string& lead, const std::string& text) {
  std::string out = lead;
  const size_t indent = width(lead);
  size_t column = indent;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    if (column > indent && column + 1 + width(word) > kColumns) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += " ", ++column;
    }
    out += word, column += width(word);
    begin = end + 1;
  }
  return out + "\n";
}

// As a shell reads it back, whatever it holds.
std::string quoted(const std::string& value) {
  std::string out = "'";
  for (const char c : value) {
    if (c == '\'') out += "'\\''";
    else out += c;
  }
  return out + "'";
}

/// A shell comment, as long as it takes.
std::string comment(const std::string& text) {
  std::string out = wrapped("  # ", text);
  for (size_t at = out.find("\n    "); at != std::string::npos; at = out.find("\n    ", at + 1)) out.replace(at, 5, "\n  # ");
  return out;
}

std::string grouped(double value) {
  std::string digits = fmt::format("{:.0f}", value);
  for (auto at = static_cast<std::ptrdiff_t>(digits.size()) - 3; at > (value < 0 ? 1 : 0); at -= 3) digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

// Three digits that matter.
std::string figure(double value) { return value >= 1000 ? grouped(value) : fmt::format("{:.{}f}", value, value >= 100 ? 0 : value >= 10 ? 1 : 2); }

const char* mark(Confidence confidence) { return confidence == Confidence::measured ? " " : confidence == Confidence::interpolated ? "~" : "*"; }

std::string machine(const Fleet& fleet) {
  std::string out = fmt::format("{} × {} {}", fleet.nodes, fleet.gpus_per_node, fleet.gpu.id);
  if (fleet.nodes > 1 && !fleet.between.id.empty()) out += " (" + fleet.between.id + ")";
  return out;
}

std::string layers_of(const PlanAnswer& plan) {
  std::string out;
  for (const StageAnswer& stage : plan.stages) out += (out.empty() ? "" : "+") + std::to_string(stage.layers);
  return out;
}

std::string short_spec(const PlanAnswer& plan) {
  const std::string spec = plan.plan.spec();
  return spec.substr(0, spec.find(",replicas")) + (plan.plan.replicas > 1 ? fmt::format(" ×{}", plan.plan.replicas) : "");
}

std::string plan_table(const SolveAnswer& answer) {
  std::string out = fmt::format("\n{:<31}{:>9}{:>9}{:>9}{:>10}{:>8}{:>11}{:>10}\n", "Plans", "tokens/s", "per GPU", "TPOT ms", "TTFT ms", "users", "weights", "KV tokens");
  for (size_t i = 0; i < answer.plans.size(); ++i) {
    const PlanAnswer& plan = answer.plans[i];
    const Prediction& p = plan.predicted;
    const std::string name = fmt::format("{:>3}{} {:<26}", i + 1, plan.feasible ? plan.meets_limits ? " " : "!" : "-", short_spec(plan));
    out += name + (width(name) > 31 ? "\n" + std::string(31, ' ') : "");
    const std::string tokens = short_count(static_cast<double>(plan.memory.kv_tokens_per_dp_rank));
    if (plan.feasible)
      out += fmt::format("{:>9}{:>9}{:>8}{}{:>9}{}{:>8}{:>11}{:>10}\n", figure(p.tokens_per_s.value), figure(p.tokens_per_s_per_gpu), figure(p.tpot_ms.value), mark(p.tpot_ms.confidence),
                         figure(p.ttft_ms.value), mark(p.ttft_ms.confidence), p.concurrency, gigabytes(plan.memory.weights_bytes_max), tokens);
    else
      out += fmt::format("{:>9}{:>9}{:>8} {:>9} {:>8}{:>11}{:>10}\n", "-", "-", "-", "-", "-", gigabytes(plan.memory.weights_bytes_max), tokens);
  }
  const bool any = std::any_of(answer.plans.begin(), answer.plans.end(), [](const PlanAnswer& p) { return p.feasible; });
  out += any ? wrapped("     ", "~ interpolated, * from specifications alone, no mark: measured; ! misses a limit; KV tokens: of a DP rank")
             : wrapped("     ", "- does not fit; KV tokens: of a DP rank");
  return out;
}

std::string bar(double share) {
  std::string out;
  const double shown = share > 0 ? std::min(share, 1.3) : 0;  // of a budget that holds next to nothing, the weights are any number of times as much
  for (int i = 0; i < static_cast<int>(shown * 30 + 0.5); ++i) out += "▪";
  return shown < share ? out + "…" : out;
}

std::string memory_section(const PlanAnswer& plan, const SolveAnswer& answer) {
  const MemoryTable& m = plan.memory;
  std::string out = fmt::format("\nMemory of {} on its fullest GPU\n", plan.plan.spec());
  const auto row = [&](const char* indent, const std::string& name, int64_t bytes, const std::string& note) {
    out += wrapped(fmt::format("  {}{:<{}}{:>9}   ", indent, name, 22 - std::string_view(indent).size(), gigabytes(bytes)), note);
  };
  const auto share = [&](int64_t bytes) { return bar(static_cast<double>(bytes) / static_cast<double>(std::max<int64_t>(m.budget_bytes, 1))); };
  row("", "weights", m.weights_bytes_max, share(m.weights_bytes_max));
  std::vector<std::pair<std::string, int64_t>> kinds(m.weights_by_kind.begin(), m.weights_by_kind.end());
  std::stable_sort(kinds.begin(), kinds.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  for (const auto& [kind, bytes] : kinds) if (bytes > 0) row("  ", kind, bytes, "");
  row("", "overhead", m.overhead_bytes, answer.request.overhead_bytes ? "as the request says; our own sum:" : share(m.overhead_bytes));
  for (const auto& [name, bytes] : {std::pair{"absorbed kv_b", m.absorbed_bytes}, {"activations", m.activation_bytes}, {"communication", m.communication_bytes},
                                    {"context and graphs", m.context_bytes}, {"reserve", m.reserve_bytes}})
    if (bytes > 0) row("  ", name, bytes, "");
  if (m.room_bytes >= 0)
    row("", "cache", m.room_bytes, fmt::format("{}  {} tokens on each DP rank, {} in all", share(m.room_bytes), short_count(static_cast<double>(m.kv_tokens_per_dp_rank)),
                                               short_count(static_cast<double>(m.kv_tokens_per_dp_rank) * plan.plan.dp * plan.plan.replicas)));
  else row("", "lacking", -m.room_bytes, "");
  row("", "budget", m.budget_bytes, fmt::format("{} of {}", answer.request.utilization, gigabytes(answer.fleet.gpu.memory_bytes)));
  if (plan.stages.size() > 1) {
    std::string weights;
    for (const StageAnswer& stage : plan.stages) weights += (weights.empty() ? "" : " / ") + fmt::format("{:.1f}", static_cast<double>(stage.weights_bytes) / 1e9);
    out += wrapped("  stages                ", fmt::format("layers {}, weights {} GB", layers_of(plan), weights));
  }
  return out;
}

std::string parts_of(const std::map<std::string, double>& milliseconds, const std::string& title) {
  std::vector<std::pair<std::string, double>> parts(milliseconds.begin(), milliseconds.end());
  std::stable_sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  const double sum = std::accumulate(parts.begin(), parts.end(), 0.0, [](double s, const auto& part) { return s + std::max(part.second, 0.0); });
  std::string out = title;
  for (const auto& [name, ms] : parts)
    if (sum > 0 && ms >= sum / 1000) out += fmt::format("  {:<20}{:>9} ms   {}\n", name, figure(ms), bar(ms / sum));
  return out;
}

std::string step_section(const PlanAnswer& plan) {
  const Prediction& p = plan.predicted;
  std::string out = parts_of(p.decode_ms, fmt::format("\nA decode step, {} sequences on each DP rank\n", p.batch_per_dp_rank));
  if (!p.bottleneck.empty()) out += wrapped("  bottleneck            ", p.bottleneck);
  if (!p.algorithms.empty()) {
    std::string list;
    for (const auto& [collective, algorithm] : p.algorithms) list += (list.empty() ? "" : ", ") + collective + " " + algorithm;
    out += wrapped("  collectives           ", list);
  }
  out += parts_of(p.prefill_ms, fmt::format("\nA prefill step, {} tokens on each DP rank; {} tokens/s when only prefilling\n", p.chunk_tokens, figure(p.prefill_tokens_per_s.value)));
  return out;
}

std::string map_section(const PlanAnswer& plan, const Fleet& fleet) {
  std::string out = "\nRanks\n";
  const size_t per_node = static_cast<size_t>(fleet.gpus_per_node), lines = (plan.rank_map.size() + per_node - 1) / per_node;
  for (size_t line = 0; line < lines; ++line) {
    if (line == 4 && lines > 6) {
      out += fmt::format("  … {} more\n", plan.rank_map.size() - line * per_node);
      break;
    }
    const size_t begin = line * per_node, end = std::min(begin + per_node, plan.rank_map.size());
    std::string list;
    for (size_t i = begin; i < end && i < begin + 8; ++i) list += (list.empty() ? "" : " ") + plan.rank_map[i];
    out += wrapped(fmt::format("  {:<10}", fmt::format("{}-{}", begin, end - 1)), list + (end - begin > 8 ? " …" : ""));
  }
  return out;
}

std::string rejected_section(const SolveAnswer& answer) {
  if (answer.rejected.empty()) return "";
  std::vector<std::string> rules;
  for (const RejectedPlan& r : answer.rejected)
    if (std::find(rules.begin(), rules.end(), r.rule) == rules.end()) rules.push_back(r.rule);
  std::string out = "\nRefused\n";
  for (const std::string& rule : rules) {
    out += "  " + rule + "\n";
    for (const RejectedPlan& r : answer.rejected)
      if (r.rule == rule) out += wrapped(fmt::format("    {:<26} ", r.plan), r.detail);
  }
  return out;
}

std::string roles_section(const SplitRoles& roles) {
  std::string out = "\nPrefill and decode apart\n";
  out += wrapped("  ", roles.why);
  for (const auto& [name, part] : {std::pair{"prefill", &roles.prefill}, {"decode", &roles.decode}})
    out += wrapped(fmt::format("  {:<10}", name), fmt::format("{} on {} GPUs", short_spec(*part), part->plan.world_size));
  return out;
}

}  // namespace

std::string verdict(const SolveAnswer& answer) {
  const std::string where = fmt::format("{}, {} weights, {} cache", machine(answer.fleet), answer.request.precision ? precision_name(*answer.request.precision) : "?",
                                        answer.request.cache ? cache_precision_name(*answer.request.cache) : "?");
  if (!answer.feasible) {
    std::string why = answer.plans.empty() ? answer.rejected.empty() ? "no plan is legal" : answer.rejected.front().rule + ": " + answer.rejected.front().detail : "";
    if (!answer.plans.empty()) {
      const PlanAnswer& closest = answer.plans.front();
      why = closest.memory.room_bytes < 0
                ? fmt::format("{} needs {} for weights and {} beside them, the budget is {}", closest.plan.spec(), gigabytes(closest.memory.weights_bytes_max), gigabytes(closest.memory.overhead_bytes), gigabytes(closest.memory.budget_bytes))
                : fmt::format("{} leaves room for {} tokens on a DP rank, max_len is {}", closest.plan.spec(), closest.memory.kv_tokens_per_dp_rank, answer.request.max_len);
      if (!answer.request.judge) why = "the closest plan, " + why;
    }
    return fmt::format("Not feasible on {}: {}.", where, why);
  }
  const PlanAnswer& best = answer.plans.front();
  const Prediction& p = best.predicted;
  const std::string does = fmt::format("{} tokens/s ({} a GPU), {} ms a token for each of {} users, first token after {} ms", figure(p.tokens_per_s.value), figure(p.tokens_per_s_per_gpu),
                                       figure(p.tpot_ms.value), p.concurrency, figure(p.ttft_ms.value));
  const char* head = answer.request.judge ? "Feasible" : best.meets_limits ? "Run" : "No plan meets the limits; closest is";
  return fmt::format("{} {} on {}: {}.", head, short_spec(best), where, does);
}

std::string SolveAnswer::text() const {
  std::string out = wrapped("", verdict(*this));
  if (!plans.empty()) {
    const PlanAnswer& best = plans.front();
    if (!best.why.empty()) out += wrapped("Why: ", best.why + ".");
    out += plan_table(*this);
    out += memory_section(best, *this);
    if (best.feasible) out += step_section(best) + map_section(best, fleet);
  }
  if (roles) out += roles_section(*roles);
  out += rejected_section(*this);
  if (!advice.empty()) out += "\nAdvice\n";
  for (const Advice& a : advice) out += wrapped("  - ", a.text);
  if (!fleet.notes.empty()) out += "\nAbout the machines\n";
  for (const std::string& note : fleet.notes) out += wrapped("  - ", note);
  if (!fleet.environment.empty()) out += "\nEnvironment\n";
  for (const auto& [name, value] : fleet.environment) {
    const auto reason = fleet.environment_reasons.find(name);
    if (reason != fleet.environment_reasons.end()) out += comment(reason->second);
    out += "  export " + name + "=" + quoted(value) + "\n";
  }
  if (!request.judge) out += fmt::format("\n{} legal plans, {} fit.\n", plans_legal, plans_fitting);
  return out;
}

}  // namespace dsinfer
