/// How a load goes, for the person who waits: bars in a terminal, plain lines in a log.
#pragma once
#include <string>
#include <vector>

#include "dsinfer/loader.hpp"

namespace example {

struct BarStyle {
  int columns = 80, rows = 24;  ///< of the terminal
  bool utf8 = false;
};

/// The lines of one picture, none wider than the terminal: a bar for each rank up to 16 (of more, the slowest few), one for all, and the figures.
std::vector<std::string> load_picture(const dsinfer::LoadProgress& progress, const BarStyle& style);
/// The same in one line, for a log.
std::string load_line(const dsinfer::LoadProgress& progress, const std::string& verb);
/// "8.59 GB"
std::string bytes_text(int64_t bytes);

/// For rank 0. Draws on standard error: in a terminal (that of mpirun, if it started this rank here) a picture ten times a second in one
/// place; else a line every 2 seconds or 10 %. Looks for Ctrl-C, which cancels.
dsinfer::ProgressCallback load_bars(const std::string& verb);

}  // namespace example
