#!/bin/bash
# From a fresh Debian 12 or Ubuntu 24.04 to a chat on 16 ranks: installs what is missing, builds, runs. Arguments go to example_chat.
set -euo pipefail
cd "$(dirname "$0")/.."
source cmake/need-packages.sh

need_packages build-essential cmake ninja-build pkg-config \
  libfmt-dev nlohmann-json3-dev libpcre2-dev libexpat1-dev libarchive-dev libxxhash-dev liburing-dev libcurl4-openssl-dev libibverbs-dev libopenmpi-dev openmpi-bin

build=build/quickstart
if [ ! -f $build/build.ninja ]; then
  cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=Release -DDSINFER_MPI=ON
fi
cmake --build $build --target example_chat --parallel "$(nproc)"

# 16 ranks share whatever cores there are: they may be oversubscribed, and who waits gives its core away.
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_vader_single_copy_mechanism=none   # containers forbid it, which MPI would report
if [ "$(id -u)" -eq 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi

if [ $# -eq 0 ] && [ ! -t 0 ]; then   # nobody to talk to
  set -- --prompt "Hello! Who are you?" --prompt "Tell me a short story about a cat." --max-tokens 80
fi
exec mpirun -np 16 $build/examples/example_chat "$@"
