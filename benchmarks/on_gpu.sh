#!/usr/bin/env bash
# Everything that a GPU can show, in one call under 9 minutes, without a network:
#
#   benchmarks/on_gpu.sh OUTDIR [--dry-run]
#
# Each step has a time limit and a log in OUTDIR; one that fails does not stop the others. OUTDIR/summary.txt has a line
# a step, and the exit code is 1 if any failed. --dry-run prints the steps and runs none.
set -u

usage() { echo "usage: benchmarks/on_gpu.sh OUTDIR [--dry-run]" >&2; exit 2; }
[ $# -ge 1 ] && [ $# -le 2 ] || usage
case $1 in -*) usage ;; esac
dry=0
if [ $# -eq 2 ]; then [ "$2" = --dry-run ] && dry=1 || usage; fi

repo=$(cd "$(dirname "$0")/.." && pwd)
if [ $dry -eq 0 ]; then mkdir -p "$1" || exit 2; out=$(cd "$1" && pwd); else out=$1; fi
python=${PYTHON:-python3}
env_dir=$out/venv
failed=0

# step NAME SECONDS COMMAND...: run the command from the repository, its output in OUTDIR/NAME.log.
step() {
  name=$1; limit=$2; shift 2
  if [ $dry -eq 1 ]; then echo "$name (at most $limit s): $*"; return; fi
  start=$(date +%s)
  (cd "$repo" && timeout --kill-after=5 "$limit" "$@") >"$out/$name.log" 2>&1
  code=$?
  line="$name: exit code $code after $(($(date +%s) - start)) s"
  echo "$line" | tee -a "$out/summary.txt"
  [ $code -eq 0 ] || { failed=1; tail -n 15 "$out/$name.log"; }
}

[ $dry -eq 1 ] || : >"$out/summary.txt"

# The device's own architecture alone: a tenth of the time that all take.
if [ $dry -eq 0 ]; then
  arch=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || {
    echo "error: torch finds no CUDA device, so there is nothing to measure" >&2
    exit 2
  }
  export TORCH_CUDA_ARCH_LIST=$arch RDDM_FAST_BUILD_CUDA=1
fi

# An installation of its own that sees the system's torch, so that the checkout and the system stay as they are.
step venv 20 "$python" -m venv --system-site-packages --without-pip "$env_dir"
step build 90 "$python" -m pip install --no-build-isolation --no-deps --no-index --target "$env_dir/package" .
if [ $dry -eq 0 ]; then export PYTHONPATH="$env_dir/package"; fi
# `python -m benchmarks...` puts the checkout, which is not compiled, before the package: the runner turns that round.
run="$repo/benchmarks/run_installed.py"

# Where matplotlib is not installed nothing is drawn; the numbers are in the JSON files either way.
plot() {
  drawn=()
  if [ $dry -eq 1 ] || "$python" -c 'import matplotlib' 2>/dev/null; then drawn=(--plot "$out/$1"); fi
}

step environment 10 "$python" -P -m rddm_fast.env_report --json
step attributes 10 "$python" -P -c 'import json; from rddm_fast import _C; import rddm_fast.ops; print(json.dumps(_C.kernel_attributes(), indent=1))'
step tests 60 "$python" -P -m pytest -q -p no:cacheprovider tests/test_gpu.py tests/test_build.py
for tool in memcheck racecheck; do
  if [ $dry -eq 1 ] || command -v compute-sanitizer >/dev/null; then
    step "$tool" 35 compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" -P "$run" sanitize
  else
    echo "$tool: skipped, there is no compute-sanitizer" | tee -a "$out/summary.txt"
  fi
done
step launches 20 "$python" -P "$run" launches --json "$out/launches.json"
plot ops-quick
step ops-quick 50 "$python" -P "$run" ops --quick --json "$out/ops-quick.json" "${drawn[@]}"
plot ops
step ops 40 "$python" -P "$run" ops --no-compile --json "$out/ops.json" --csv "$out/ops.csv" "${drawn[@]}"
plot sampler
step sampler 75 "$python" -P "$run" bench_sampler --compile --sizes 256 --json "$out/sampler.json" "${drawn[@]}"
step sampler-batch 40 "$python" -P "$run" bench_sampler --compile --sizes 256 --batch 16 --repeats 3 --json "$out/sampler-batch.json"
step profile 30 "$python" -P "$run" profile_sampler --size 256
step training 20 "$python" -P "$run" bench_training --dim 64 --size 128 --batch 16 --dtype bfloat16 --json "$out/training.json"

[ $dry -eq 1 ] || rm -rf "$env_dir"
exit $failed
