/// Running one program on the ranks of a job: with mpirun on its ranks, without it on one.
#pragma once
#include <functional>
#include <string>

#include "dsinfer/world.hpp"

namespace example {

/// This process's rank as the launcher (mpirun, srun with PMI) tells it before MPI is started; -1: no launcher.
int launcher_rank();
/// How many ranks the launcher started; 1: no launcher, or it does not tell.
int launcher_size();

/// Runs `body` on this rank and returns the program's exit status. An error is said once in the whole job: by rank 0 if it can, else by
/// another rank after a moment, and ends every rank with the status `failed`.
int run_ranks(const char* program, const std::function<int(dsinfer::World&)>& body, int failed = 1);

/// The same on `ranks` threads of this process, each with its World.
int run_rank_threads(const char* program, int ranks, const std::function<int(dsinfer::World&)>& body, int failed = 1);

/// For errors before there is a World, which every rank meets alike: rank 0 says it. Returns the exit status.
int refuse_start(const char* program, const std::string& what);

}  // namespace example
