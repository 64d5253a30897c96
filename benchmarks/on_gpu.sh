#!/usr/bin/env bash
# Everything that a GPU can show, in one call under 9 minutes, without a network:
#
#   benchmarks/on_gpu.sh OUTDIR [--dry-run]
#
# In OUTDIR: summary.txt, a line a step; log.txt, what they printed; and a JSON file a benchmark (`python -m
# benchmarks.draw` plots them, on any machine). Few files, for they may have to travel. Each step has a time limit, and
# none runs past the end of the 9 minutes; one that fails does not stop the others, and the exit code is then 1.
# --dry-run prints the steps and runs none.
set -u

usage() { echo "usage: benchmarks/on_gpu.sh OUTDIR [--dry-run]" >&2; exit 2; }
[ $# -ge 1 ] && [ $# -le 2 ] || usage
case $1 in -*) usage ;; esac
dry=0
if [ $# -eq 2 ]; then [ "$2" = --dry-run ] && dry=1 || usage; fi

repo=$(cd "$(dirname "$0")/.." && pwd)
if [ $dry -eq 0 ]; then mkdir -p "$1" || exit 2; out=$(cd "$1" && pwd); else out=$1; fi
python=${PYTHON:-python3}
package=$out/package
failed=0
SECONDS=0
deadline=525

# step NAME LIMIT COMMAND...: run the command from the repository, for LIMIT seconds or what is left.
step() {
  name=$1; limit=$2; shift 2
  if [ $dry -eq 1 ]; then echo "$name (at most $limit s): $*"; return; fi
  start=$SECONDS
  left=$((deadline - start))
  if [ $left -lt 5 ]; then
    echo "$name: not run, the time is up" | tee -a "$out/summary.txt"; failed=1; return
  fi
  [ $left -lt $limit ] && limit=$left
  echo "===== $name: $*" >>"$out/log.txt"
  first=$(($(wc -l <"$out/log.txt") + 1))
  (cd "$repo" && timeout --kill-after=5 "$limit" "$@") >>"$out/log.txt" 2>&1
  code=$?
  echo "$name: exit code $code after $((SECONDS - start)) s" | tee -a "$out/summary.txt"
  [ $code -eq 0 ] || { failed=1; tail -n "+$first" "$out/log.txt" | tail -n 15; }
}

# The device's own architecture alone: a tenth of the time that all take.
if [ $dry -eq 0 ]; then
  arch=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || {
    echo "error: torch finds no CUDA device, so there is nothing to measure" >&2
    exit 2
  }
  export TORCH_CUDA_ARCH_LIST=$arch RDDM_FAST_BUILD_CUDA=1
  : >"$out/summary.txt"; : >"$out/log.txt"
  rm -rf "$package"
fi

# Installed in a folder of its own beside the system's torch, so that the checkout and the system stay as they are.
step build 120 "$python" -m pip install --no-build-isolation --no-deps --no-index --target "$package" .
if [ $dry -eq 0 ]; then export PYTHONPATH="$package"; fi
# `python -m benchmarks...` puts the checkout, which is not compiled, before the package: the runner turns that round.
run="$repo/benchmarks/run_installed.py"
sampler=("$python" -P "$run" bench_sampler --sizes 256)

step environment 15 "$python" -P -m rddm_fast.env_report --json
step attributes 15 "$python" -P -c 'import json; from rddm_fast import _C; import rddm_fast.ops; print(json.dumps(_C.kernel_attributes(), indent=1))'
step tests 90 "$python" -P -m pytest -q -p no:cacheprovider tests/test_gpu.py tests/test_build.py
step launches 30 "$python" -P "$run" launches --json "$out/launches.json"
step ops 60 "$python" -P "$run" ops --no-compile --json "$out/ops.json"
step sampler 60 "${sampler[@]}" --json "$out/sampler.json"
for tool in memcheck racecheck; do
  if [ $dry -eq 1 ] || command -v compute-sanitizer >/dev/null; then
    step "$tool" 45 compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" -P "$run" sanitize
  else
    echo "$tool: skipped, there is no compute-sanitizer" | tee -a "$out/summary.txt"
  fi
done
step training 40 "$python" -P "$run" bench_training --dim 64 --size 128 --batch 16 --dtype bfloat16 --json "$out/training.json"
step profile 60 "$python" -P "$run" profile_sampler --size 256
# What compiles comes last: it may take all the time that is left.
step ops-compiled 90 "$python" -P "$run" ops --quick --json "$out/ops-compiled.json"
step sampler-compiled 260 "${sampler[@]}" --batch 1 16 --compile default reduce-overhead --dtypes bfloat16 --repeats 3 --json "$out/sampler-compiled.json"

[ $dry -eq 1 ] || rm -rf "$package"
exit $failed
