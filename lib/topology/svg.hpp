/// Shapes of an SVG picture. All text is escaped and cut to the room that it has; a tooltip holds the whole of it.
#pragma once
#include <string>
#include <string_view>

#include "topology/picture.hpp"

namespace dsinfer::topology {

struct Paint {
  const char* fill;
  const char* stroke;
  bool dashed = false;
};

class Svg {
 public:
  enum class Align { left, middle, right };
  void rect(double x, double y, double width, double height, Paint paint, double radius = 4);
  void line(double x1, double y1, double x2, double y2, const char* stroke, double width = 1.5, bool dashed = false);
  /// From (x1, y) up to `height` above and down to (x2, y).
  void arc(double x1, double x2, double y, double height, const char* stroke, double width);
  /// `y` is the base line; what needs more than `room` is cut.
  void text(double x, double y, std::string_view text, double size, double room, Align align = Align::left, bool bold = false, const char* fill = "#212529");
  /// A small label over a line, with the background behind it.
  void label(double x, double y, std::string_view text, const char* background = "#f8f9fa");
  void open(std::string_view tooltip);  ///< until close(): one thing, with this tooltip
  void close() { out_ += "</g>\n"; }
  const std::string& body() const { return out_; }
  static std::string escaped(std::string_view text);

 private:
  std::string out_;
};

struct Size {
  double width = 0, height = 0;
};
/// Room that the card of a node needs, and the card itself. node_svg.cpp.
Size card_size(const Picture& picture);
void draw_card(Svg& svg, const Picture& picture, const std::string& title, double x, double y, Size size);

/// The colours, which the legend names.
inline constexpr Paint kGpuPaint{"#d3f9d8", "#2b8a3e"}, kSwitchPaint{"#fff3bf", "#e67700"}, kNvSwitchPaint{"#8ce99a", "#2b8a3e"},
    kChosenPaint{"#d0ebff", "#1864ab"}, kBootstrapPaint{"#e5dbff", "#5f3dc4"}, kNicPaint{"#ffffff", "#495057"}, kDroppedPaint{"#f1f3f5", "#adb5bd", true},
    kFabricPaint{"#a5d8ff", "#1864ab"}, kNumaPaint{"#f8f9fa", "#ced4da"}, kCardPaint{"#ffffff", "#868e96"};

}  // namespace dsinfer::topology
