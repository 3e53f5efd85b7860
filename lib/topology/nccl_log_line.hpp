/// One line of an NCCL log: what launchers and NCCL put before the message, and the messages that tell of a failure.
#pragma once
#include <string>
#include <string_view>

#include "topology/importers.hpp"

namespace dsinfer::topology {

/// Views into the line. `known`: it is NCCL's.
struct LogLine {
  bool known = false, warning = false;
  std::string_view host;     ///< "" if the line bears none
  std::string_view message;
};
DSINFER_INTERNAL LogLine log_line(std::string_view line);

/// A message that says what went wrong, and what to do.
struct LogTrouble {
  const char* pattern;  ///< parts that stand in the message in this order, between '*'
  const char* code;
  Severity severity;
  const char* text;
  const char* advice;
};
DSINFER_INTERNAL const LogTrouble* known_trouble(std::string_view message);

}  // namespace dsinfer::topology
