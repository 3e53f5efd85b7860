#!/bin/bash
# Installs what is missing, builds, and passes all tests. No arguments, no input.
#   dev    everything with MPI under address and undefined-behaviour sanitizers, warnings as errors; the package; an outside project,
#          which also builds the library as release, static
#   tsan   ranks as threads, and submit and cancel from other threads, under the thread sanitizer
set -uo pipefail
cd "$(dirname "$0")/.."
source cmake/need-packages.sh
exec </dev/null
cores=$(nproc)
started=$SECONDS

need_packages build-essential cmake ninja-build pkg-config python3 \
  libfmt-dev nlohmann-json3-dev libpcre2-dev libexpat1-dev libarchive-dev libxxhash-dev liburing-dev libcurl4-openssl-dev libibverbs-dev libopenmpi-dev openmpi-bin \
  libgtest-dev libgmock-dev python3-botocore || exit 1
cuda=()
nvcc=$(command -v nvcc || command -v /usr/local/cuda/bin/nvcc)
if [ -n "$nvcc" ]; then
  cuda=(-DDSINFER_CUDA=ON "-DCMAKE_CUDA_COMPILER=$nvcc")
  echo "CUDA: the component is built with $nvcc; its tests need a GPU and say so where there is none."
else
  echo "CUDA: no nvcc here (neither on PATH nor in /usr/local/cuda/bin): libdsinfer_cuda is not built."
fi

passed=0 failed=0 failed_names=()
say() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - started)); }
# A build that fails ends the run; a test that fails does not.
must() { "$@" || { printf '\nfailed: %s\n%d passed, %d failed\n' "$*" "$passed" $((failed + 1)); exit 1; }; }
# count LOG: adds up ctest's results.
count() {
  local p f
  p=$(grep -cE '^ *[0-9]+/[0-9]+ Test +#[0-9]+: .* Passed ' "$1")
  f=$(grep -cE '^ *[0-9]+/[0-9]+ Test +#[0-9]+: .*\*\*\*[^S]' "$1")
  passed=$((passed + p)) failed=$((failed + f))
  mapfile -t -O ${#failed_names[@]} failed_names < <(sed -nE 's/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: ([^ ]+) .*\*\*\*([A-RT-Z][A-Za-z]+).*/\1 \2/p' "$1")
  [ $((p + f)) -gt 0 ] || { echo "no test ran"; failed=$((failed + 1)); }
}

say "dev: configure and build"
must cmake --preset dev "${cuda[@]}"
must cmake --build --preset dev --parallel "$cores"
say "dev: tests"
ctest --preset dev --parallel "$cores" --no-tests=error 2>&1 | tee build/dev/tests.log
count build/dev/tests.log

say "tsan: configure and build"
must cmake --preset tsan
must cmake --build --preset tsan --parallel "$cores" --target tsan_tests
say "tsan: tests"
steady=()   # where the kernel scatters addresses more widely than gcc's thread sanitizer can take
if setarch "$(uname -m)" -R true 2>/dev/null; then steady=(setarch "$(uname -m)" -R); fi
"${steady[@]}" ctest --preset tsan --parallel 1 --no-tests=error --label-regex tsan 2>&1 | tee build/tsan/tests.log
count build/tsan/tests.log

say "done"
for name in "${failed_names[@]}"; do echo "failed: $name"; done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
