// The cluster as a picture that stands alone: cards of nodes, a legend, the findings. No script, no font, nothing from outside.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "topology/node_classes.hpp"
#include "topology/svg.hpp"
#include "topology/wording.hpp"

namespace dsinfer {
namespace {

using namespace topology;

constexpr size_t kMostCards = 16;    // more nodes than that are drawn as the kinds that they are
constexpr double kMargin = 20, kRowWidth = 1900;

struct PlacedCard {
  Picture picture;
  std::string title;
  Size size;
  double x = 0, y = 0;
};

std::vector<PlacedCard> cards_of(const Cluster& cluster) {
  std::vector<PlacedCard> cards;
  const auto add = [&](const Node& node, std::string title) {
    PlacedCard& card = cards.emplace_back();
    card.picture = picture_of(node);
    card.title = std::move(title);
    card.size = card_size(card.picture);
  };
  if (cluster.nodes.size() <= kMostCards) {
    for (const Node& node : cluster.nodes) add(node, node.name.empty() ? "(no name)" : node.name);
    return cards;
  }
  const std::vector<NodeClass> kinds = node_classes(cluster);
  for (size_t i = 0; i < std::min(kinds.size(), 4 * kMostCards); ++i) {
    const std::vector<int>& members = kinds[i].members;
    const std::string count = members.size() > 1 ? fmt::format("{} × ", members.size()) : "";
    add(cluster.nodes[static_cast<size_t>(members[0])], count + names_of(cluster, members));
  }
  return cards;
}

// Rows of cards, no wider than a screen unless one card is. Gives the size of all.
Size place(std::vector<PlacedCard>& cards, double top) {
  double area = 0, widest = kRowWidth;
  for (const PlacedCard& card : cards) area += (card.size.width + kMargin) * (card.size.height + kMargin), widest = std::max(widest, card.size.width);
  widest = std::max(widest, 1.1 * std::sqrt(1.6 * area));  // many cards: about as wide as a screen is for its height
  Size all{400, top};
  double x = kMargin, y = top, row_height = 0;
  for (PlacedCard& card : cards) {
    if (x > kMargin && x + card.size.width > kMargin + widest) x = kMargin, y += row_height + kMargin, row_height = 0;
    card.x = x, card.y = y;
    x += card.size.width + kMargin;
    row_height = std::max(row_height, card.size.height);
    all.width = std::max(all.width, x);
    all.height = y + row_height;
  }
  return all;
}

void draw_legend(Svg& svg, double x, double y, double width) {
  struct Entry {
    Paint paint;
    const char* text;
  };
  const Entry entries[] = {{kGpuPaint, "GPU"},       {kNvSwitchPaint, "NVLink, NVSwitch"},     {kSwitchPaint, "PCIe switch"}, {kChosenPaint, "NIC in use"},
                           {kBootstrapPaint, "bootstrap"}, {kNicPaint, "other NIC"}, {kDroppedPaint, "not used, with the reason"}};
  const double left = x;
  for (const Entry& entry : entries) {
    const double room = 24 + static_cast<double>(width_of(entry.text)) * 6.2 + 14;
    if (x > left && x + room > left + width) x = left, y += 18;
    svg.rect(x, y, 16, 11, entry.paint, 2);
    svg.text(x + 21, y + 9.5, entry.text, 10.5, 400);
    x += room;
  }
}

struct Said {
  const Finding* finding;
  std::string where;
};

std::vector<Said> said_of(const Cluster& cluster) {
  std::vector<Said> all;
  const auto add = [&](const Finding& finding, const std::vector<std::string>& nodes) {
    std::vector<std::string> names;
    for (const std::string& node : nodes) names.push_back(clipped(node, 24));
    all.push_back({&finding, list_text(names, 4)});
  };
  for (const Finding& finding : cluster.findings) add(finding, finding.nodes);
  for (const Node& node : cluster.nodes) {
    for (const Finding& finding : node.findings) {
      if (finding.severity != Severity::info) add(finding, {node.name});
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const Said& a, const Said& b) { return a.finding->severity > b.finding->severity; });
  return all;
}

double draw_findings(Svg& svg, const Cluster& cluster, double y, double width) {
  const std::vector<Said> all = said_of(cluster);
  if (all.empty()) return y;
  constexpr size_t kMost = 24;
  svg.text(kMargin, y + 14, "Findings", 13, 200, Svg::Align::left, true);
  y += 22;
  for (size_t i = 0; i < std::min(kMost, all.size()); ++i, y += 18) {
    const Finding& finding = *all[i].finding;
    const Paint paint = finding.severity == Severity::error ? Paint{"#ffe3e3", "#c92a2a"} : finding.severity == Severity::warning ? Paint{"#fff3bf", "#e67700"} : Paint{"#e7f5ff", "#1971c2"};
    svg.rect(kMargin, y + 2, 56, 14, paint, 3);
    svg.text(kMargin + 28, y + 12.5, word(finding.severity), 9.5, 56, Svg::Align::middle, false, paint.stroke);
    const std::string where = all[i].where.empty() ? "" : " (" + all[i].where + ")";
    svg.open(finding.text + " " + finding.advice);
    svg.text(kMargin + 64, y + 13, finding.code + where + ": " + finding.text, 10.5, width - 2 * kMargin - 64);
    svg.close();
  }
  if (all.size() > kMost) svg.text(kMargin, y + 13, fmt::format("… and {} more", all.size() - kMost), 10.5, 300), y += 18;
  return y;
}

}  // namespace

std::string Cluster::svg() const {
  Svg svg;
  std::vector<PlacedCard> cards = cards_of(*this);
  Size all = place(cards, kMargin + (nodes.size() > 1 ? 28 : 0));
  all.width = std::max(all.width, said_of(*this).empty() ? 440.0 : 960.0);  // sentences need room
  if (nodes.size() > 1) {
    const std::string ranks = node_of_rank.empty() ? "" : " · " + count_text(node_of_rank.size(), "rank", "ranks");
    svg.text(kMargin, kMargin + 12, count_text(nodes.size(), "node", "nodes") + ranks, 17, all.width - 2 * kMargin, Svg::Align::left, true);
  }
  for (const PlacedCard& card : cards) draw_card(svg, card.picture, card.title, card.x, card.y, card.size);
  draw_legend(svg, kMargin, all.height + 12, all.width - 2 * kMargin);
  const double legend = all.width < 840 ? 36 : 18;
  const double end = draw_findings(svg, *this, all.height + 12 + legend + 8, all.width) + kMargin;
  return fmt::format(R"(<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="{0:g}" height="{1:g}" viewBox="0 0 {0:g} {1:g}" font-family="DejaVu Sans, Verdana, Helvetica, Arial, sans-serif">
<rect x="0" y="0" width="{0:g}" height="{1:g}" fill="#ffffff"/>
{2}</svg>
)",
                     all.width, end, svg.body());
}

}  // namespace dsinfer
