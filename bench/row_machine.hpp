/// The machine, plan and precision of a published row, as the time model takes them.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "plan/step_model.hpp"
#include "points.hpp"

namespace points {

struct Setup {
  dsinfer::Fleet fleet;
  dsinfer::Numerics numerics;
  dsinfer::Precisions precisions;
};

/// Nothing, and why, for a machine whose figures are not known.
std::optional<Setup> set_up(const Point& point, const dsinfer::ModelConfig& config, const std::shared_ptr<const dsinfer::Curves>& curves, std::string& why_not);

std::string lower(std::string text);
bool says(const std::string& text, const char* word);

}  // namespace points
