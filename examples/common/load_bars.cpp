#include "common/load_bars.hpp"

#include <fcntl.h>
#include <langinfo.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <clocale>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numeric>
#include <optional>

#include "common/ranks.hpp"
#include "common/terminal.hpp"

namespace example {
namespace {

using Clock = std::chrono::steady_clock;
using dsinfer::LoadProgress;

constexpr size_t kMostBars = 16, kSlowestBars = 8;
constexpr int kLeastColumns = 24;  // below, no bar says anything
constexpr auto kRedrawEvery = std::chrono::milliseconds(100);
constexpr auto kLineEvery = std::chrono::seconds(2);
constexpr double kLineEachPart = 0.1;

// "%.2f" and the like; numbers only.
template <class... Values> std::string format(const char* pattern, Values... values) {
  char text[128];
  std::snprintf(text, sizeof text, pattern, values...);
  return text;
}

double part_of(int64_t done, int64_t total) { return total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0) : 1; }
// Never 100 before it is whole.
int percent(double part) { return static_cast<int>(std::floor(part * 100 + 1e-9)); }

std::string time_text(double seconds) {
  const auto whole = static_cast<int64_t>(std::ceil(std::min(seconds, 359999.0)));
  if (whole >= 3600) return format("%d:%02d:%02d", static_cast<int>(whole / 3600), static_cast<int>(whole / 60 % 60), static_cast<int>(whole % 60));
  return format("%d:%02d", static_cast<int>(whole / 60), static_cast<int>(whole % 60));
}

std::string bar(double part, int width, bool utf8) {
  static const char* const eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  if (!utf8) {
    const auto full = static_cast<size_t>(part * width + 1e-9);
    return "[" + std::string(full, '#') + std::string(static_cast<size_t>(width) - full, ' ') + "]";
  }
  const auto steps = static_cast<int>(part * width * 8 + 1e-9);
  std::string out = "│";
  for (int i = 0; i < steps / 8; ++i) out += "█";
  out += eighths[steps % 8];
  out.append(static_cast<size_t>(width - (steps + 7) / 8), ' ');
  return out + "│";
}

// What there is to say, the most important first.
std::vector<std::string> figures(const LoadProgress& p) {
  std::vector<std::string> out = {bytes_text(p.all_bytes_done) + " of " + bytes_text(p.all_bytes_total)};
  const bool done = p.all_bytes_done >= p.all_bytes_total;
  if (done && p.seconds > 0) {
    out.push_back(format("%.2f GB/s", static_cast<double>(p.all_bytes_total) / p.seconds * 1e-9));
    out.push_back(format("%.1f s", p.seconds));
    return out;
  }
  if (p.bytes_per_second > 0) out.push_back(format("%.2f GB/s", p.bytes_per_second * 1e-9));
  if (p.seconds_left >= 0) out.push_back("ETA " + time_text(p.seconds_left));
  if (p.rank_part.size() > 1) {
    const auto slowest = std::min(static_cast<size_t>(std::max(p.slowest_rank, 0)), p.rank_part.size() - 1);
    out.push_back(format("slowest rank %d (%d %%)", static_cast<int>(slowest), percent(p.rank_part[slowest])));
  }
  return out;
}

std::string joined(const std::vector<std::string>& words, size_t columns) {
  std::string out;
  for (const std::string& word : words) {
    if (out.size() + word.size() + 2 > columns) break;
    out += (out.empty() ? "" : "  ") + word;
  }
  return out;
}

// The terminal that standard error reaches: our own, or that of the mpirun on this host that passes it on; -1: none.
int output_terminal() {
  if (launcher_rank() < 0) return isatty(STDERR_FILENO) ? STDERR_FILENO : -1;
  static const int fd = [] {
    const int opened = open(("/proc/" + std::to_string(getppid()) + "/fd/2").c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (opened < 0 || isatty(opened)) return opened;
    close(opened);
    return -1;
  }();
  return fd;
}

bool utf8_locale() {
  std::setlocale(LC_CTYPE, "");
  return std::string(nl_langinfo(CODESET)) == "UTF-8";
}

class Display {
 public:
  explicit Display(std::string verb) : verb_(std::move(verb)), utf8_(utf8_locale()) {}

  void show(const LoadProgress& p) {
    if (p.all_bytes_total == 0 && p.seconds == 0) return;  // a server is being waited for
    const auto now = Clock::now();
    const bool done = p.all_bytes_done >= p.all_bytes_total;
    if (done && said_all_) return;
    said_all_ = done;
    winsize size{};
    const int terminal = output_terminal();
    if (terminal >= 0 && ioctl(terminal, TIOCGWINSZ, &size) == 0 && size.ws_col >= kLeastColumns) {
      if (done || now - shown_ >= kRedrawEvery) draw(p, {size.ws_col, size.ws_row ? size.ws_row : 24, utf8_}), shown_ = now;
      return;
    }
    const double part = part_of(p.all_bytes_done, p.all_bytes_total);
    if (!done && now - shown_ < kLineEvery && part - shown_part_ < kLineEachPart) return;
    shown_ = now, shown_part_ = part;
    std::fputs((load_line(p, verb_) + "\n").c_str(), stderr);
  }

 private:
  // Over the picture before; what that one had more is wiped.
  void draw(const LoadProgress& p, const BarStyle& style) {
    std::string out;
    if (drawn_ > 0) out = format("\033[%dA", static_cast<int>(drawn_));
    const std::vector<std::string> lines = load_picture(p, style);
    for (const std::string& line : lines) out += "\r" + line + "\033[K\n";
    out += "\033[J";
    drawn_ = lines.size();
    std::fwrite(out.data(), 1, out.size(), stderr);
    std::fflush(stderr);
  }

  std::string verb_;
  bool utf8_, said_all_ = false;
  size_t drawn_ = 0;  // lines
  Clock::time_point shown_ = Clock::now() - std::chrono::seconds(1);
  double shown_part_ = 0;
};

}  // namespace

std::string bytes_text(int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes >= 1000000000) return format("%.2f GB", value * 1e-9);
  if (bytes >= 1000000) return format("%.1f MB", value * 1e-6);
  return format("%.1f kB", value * 1e-3);
}

std::vector<std::string> load_picture(const LoadProgress& p, const BarStyle& style) {
  std::vector<size_t> ranks(p.rank_part.size());
  std::iota(ranks.begin(), ranks.end(), size_t{0});
  const size_t room = static_cast<size_t>(std::max(1, style.rows - 3));  // "all", the figures, the cursor
  if (ranks.size() > kMostBars || ranks.size() > room) {
    const size_t shown = std::min({ranks.size(), kSlowestBars, room});
    std::partial_sort(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(shown), ranks.end(),
                      [&](size_t a, size_t b) { return p.rank_part[a] != p.rank_part[b] ? p.rank_part[a] < p.rank_part[b] : a < b; });
    ranks.resize(shown);
    std::sort(ranks.begin(), ranks.end());
  }
  const int digits = static_cast<int>(std::to_string(p.rank_part.size()).size());
  const int width = std::max(4, style.columns - 1 - (5 + digits) - 1 - 2 - 6);  // name, space, edges, " 100 %"
  std::vector<std::string> lines;
  if (p.rank_part.size() > 1)
    for (const size_t rank : ranks)
      lines.push_back(format("rank %*d ", digits, static_cast<int>(rank)) + bar(std::clamp(p.rank_part[rank], 0.0, 1.0), width, style.utf8) + format(" %3d %%", percent(p.rank_part[rank])));
  const double part = part_of(p.all_bytes_done, p.all_bytes_total);
  lines.push_back(format("%-*s ", 5 + digits, "all") + bar(part, width, style.utf8) + format(" %3d %%", percent(part)));
  lines.push_back(joined(figures(p), static_cast<size_t>(style.columns)));
  return lines;
}

std::string load_line(const LoadProgress& p, const std::string& verb) {
  return verb + format(" %3d %%  ", percent(part_of(p.all_bytes_done, p.all_bytes_total))) + joined(figures(p), 1000);
}

dsinfer::ProgressCallback load_bars(const std::string& verb) {
  const auto display = std::make_shared<Display>(verb);
  const auto keys = std::make_shared<std::optional<LineReader>>();
  if (launcher_rank() >= 0 && LineReader::interactive()) keys->emplace();  // there Ctrl-C comes as a character
  return [display, keys](const LoadProgress& progress) {
    if (*keys) (*keys)->look();
    display->show(progress);
    return !interrupted();
  };
}

}  // namespace example
