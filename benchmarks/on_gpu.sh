#!/usr/bin/env bash
# Everything that a GPU can show, in one call under 9 minutes, without a network:
#
#   benchmarks/on_gpu.sh OUTDIR [--dry-run]
#
# In OUTDIR: summary.txt, one line per step; log.txt, all that they printed; and one JSON file per benchmark (`rddm-fast
# bench draw` plots them, on any machine). The files are few, because they may have to travel. Each step has a time limit, and
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
SECONDS=0
deadline=525

# step NAME LIMIT COMMAND...: run the command from the repository, for at most LIMIT seconds, or those that are left.
step() {
  local name=$1 limit=$2; shift 2
  if [ $dry -eq 1 ]; then echo "$name (at most $limit s): $*"; return; fi
  local start=$SECONDS code printed=$out/$name.log
  [ $((deadline - start)) -lt "$limit" ] && limit=$((deadline - start))
  if [ "$limit" -lt 5 ]; then echo "$name: not run, the time is up" | tee -a "$out/summary.txt"; return; fi
  (cd "$repo" && timeout --kill-after=5 "$limit" "$@") >"$printed" 2>&1
  code=$?
  echo "$name: exit code $code after $((SECONDS - start)) s" | tee -a "$out/summary.txt"
  [ $code -eq 0 ] || tail -n 15 "$printed"
  { echo "===== $name: $*"; cat "$printed"; } >>"$out/log.txt"
  rm "$printed"
}

# Compile for this device's architecture only, in a tenth of the time of all of them.
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
# -P: without it, the checkout, which is not compiled, would come before the package.
run=("$python" -P -m rddm_fast.benchmarks)

step environment 15 "$python" -P -m rddm_fast.ops.env_report --json
step attributes 15 "$python" -P -c 'import json; from rddm_fast import _C; import rddm_fast.ops; print(json.dumps(_C.kernel_attributes(), indent=1))'

# These run all at once: none is timed, and most wait for Triton's compiler.
processes=()
if [ $dry -eq 0 ] && "$python" -c 'import xdist' 2>/dev/null; then processes=(-n 6); fi
step tests 150 "$python" -P -m pytest -q -p no:cacheprovider "${processes[@]}" tests/ops/test_gpu.py tests/package/test_build.py &
for tool in memcheck racecheck; do
  for backend in cuda triton; do
    if [ $dry -eq 1 ] || command -v compute-sanitizer >/dev/null; then
      step "$tool-$backend" 150 compute-sanitizer --tool "$tool" --error-exitcode 9 "${run[@]}" sanitize "$backend" &
    else
      echo "$tool-$backend: skipped, there is no compute-sanitizer" | tee -a "$out/summary.txt"
    fi
  done
done
wait

step launches 30 "${run[@]}" launches --json "$out/launches.json"
step ops 60 "${run[@]}" ops --no-compile --json "$out/ops.json"
step sampler 60 "${run[@]}" sampler --sizes 256 --json "$out/sampler.json"
step prior 30 "${run[@]}" prior --steps 20
step training 40 "${run[@]}" training --dim 64 --size 128 --batch 16 --dtype bfloat16 --json "$out/training.json"
# torch.compile comes last, because it may take all the time that is left.
step profile 60 "${run[@]}" profile --size 256
step ops-compiled 90 "${run[@]}" ops --quick --json "$out/ops-compiled.json"
step sampler-compiled 260 "${run[@]}" sampler --sizes 256 --batch 1 16 --compile default reduce-overhead --dtypes bfloat16 --repeats 3 --json "$out/sampler-compiled.json"

[ $dry -eq 1 ] && exit 0
rm -rf "$package"
! grep -qE 'exit code [1-9]|not run' "$out/summary.txt"
