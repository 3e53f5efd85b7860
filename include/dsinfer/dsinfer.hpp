/// All of libdsinfer's C++ interface.
#pragma once
#include "dsinfer/cluster.hpp"
#include "dsinfer/config.hpp"
#include "dsinfer/engine.hpp"
#include "dsinfer/error.hpp"
#include "dsinfer/forward.hpp"
#include "dsinfer/loader.hpp"
#include "dsinfer/plan.hpp"
#include "dsinfer/solver.hpp"
#include "dsinfer/tokenizer.hpp"
#include "dsinfer/version.hpp"
#include "dsinfer/world.hpp"
