#include "topology/svg.hpp"

#include <fmt/format.h>

#include "topology/wording.hpp"

namespace dsinfer::topology {
namespace {

constexpr double kCharacter = 0.6;  // width of an average character of a sans-serif font, by its size; names have many digits

}  // namespace

std::string Svg::escaped(std::string_view text) {
  std::string out;
  for (const char c : clean_text(text)) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

void Svg::rect(double x, double y, double width, double height, Paint paint, double radius) {
  out_ += fmt::format(R"(<rect x="{:g}" y="{:g}" width="{:g}" height="{:g}" rx="{:g}" fill="{}" stroke="{}"{}/>)", x, y, width, height, radius, paint.fill,
                      paint.stroke, paint.dashed ? R"( stroke-dasharray="4 3")" : "");
  out_ += '\n';
}

void Svg::line(double x1, double y1, double x2, double y2, const char* stroke, double width, bool dashed) {
  out_ += fmt::format(R"(<line x1="{:g}" y1="{:g}" x2="{:g}" y2="{:g}" stroke="{}" stroke-width="{:g}"{}/>)", x1, y1, x2, y2, stroke, width,
                      dashed ? R"( stroke-dasharray="4 3")" : "");
  out_ += '\n';
}

void Svg::arc(double x1, double x2, double y, double height, const char* stroke, double width) {
  const double top = y - height * 4 / 3;  // a cubic curve reaches three quarters of the way to its handles
  out_ += fmt::format(R"(<path d="M{:g} {:g} C{:g} {:g} {:g} {:g} {:g} {:g}" fill="none" stroke="{}" stroke-width="{:g}"/>)", x1, y, x1, top, x2, top, x2, y,
                      stroke, width);
  out_ += '\n';
}

void Svg::text(double x, double y, std::string_view text, double size, double room, Align align, bool bold, const char* fill) {
  if (text.empty()) return;
  const char* anchor = align == Align::left ? "start" : align == Align::middle ? "middle" : "end";
  const double wider = bold ? 1.06 : 1.0;
  out_ += fmt::format(R"(<text x="{:g}" y="{:g}" font-size="{:g}" text-anchor="{}"{} fill="{}">{}</text>)", x, y, size, anchor,
                      bold ? R"( font-weight="bold")" : "", fill, escaped(clipped(text, static_cast<size_t>(room / (size * kCharacter * wider)))));
  out_ += '\n';
}

void Svg::label(double x, double y, std::string_view text, const char* background) {
  const double width = static_cast<double>(width_of(text)) * 9 * kCharacter + 4;
  rect(x - width / 2, y - 8, width, 11, {background, "none"}, 2);
  this->text(x, y, text, 9, width + 9, Align::middle, false, "#495057");
}

void Svg::open(std::string_view tooltip) { out_ += "<g>" + (tooltip.empty() ? "" : "<title>" + escaped(clipped(tooltip, 400)) + "</title>"); }

}  // namespace dsinfer::topology
