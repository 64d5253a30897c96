#!/usr/bin/env bash
# Everything that a GPU can show, in one call under 9 minutes, without a network:
#
#   benchmarks/on_gpu.sh OUTDIR [--seconds N] [--only STEP[,STEP...]] [--dry-run]
#
# In OUTDIR: summary.txt, one line per step; log.txt, all that they printed; and one JSON file per benchmark (`rddm-fast
# bench draw` plots them, on any machine). The files are few, because they may have to travel. Each step has a time limit, and
# none runs past the end of the N seconds (525); one that fails does not stop the others, and the exit code is then 1.
# --only runs these steps alone, after the build; --dry-run prints the steps and runs none.
set -u

usage() {
  echo "usage: benchmarks/on_gpu.sh OUTDIR [--seconds N] [--only STEP[,STEP...]] [--dry-run]" >&2
  exit 2
}
out='' dry=0 deadline=525 only=''
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=1 ;;
    --seconds) [ $# -ge 2 ] && [[ $2 =~ ^[1-9][0-9]*$ ]] || usage; deadline=$2; shift ;;
    --only) [ $# -ge 2 ] || usage; only=,$2,; shift ;;
    -*) usage ;;
    *) [ -z "$out" ] || usage; out=$1 ;;
  esac
  shift
done
[ -n "$out" ] || usage

repo=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
SECONDS=0
if [ $dry -eq 0 ]; then
  mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
  : >"$out/summary.txt"; : >"$out/log.txt"
  package=$(mktemp -d) || exit 2
  trap 'rm -rf "$package"' EXIT
else
  package=PACKAGE
fi

# step NAME LIMIT COMMAND...: run the command from the repository, for at most LIMIT seconds, or those that are left.
step() {
  local name=$1 limit=$2; shift 2
  if [ -n "$only" ] && [ "$name" != build ] && [[ $only != *,"$name",* ]]; then return; fi
  if [ $dry -eq 1 ]; then echo "$name (at most $limit s): $*"; return; fi
  local start=$SECONDS code printed=$out/$name.log
  [ $((deadline - start)) -lt "$limit" ] && limit=$((deadline - start))
  if [ "$limit" -lt 5 ]; then echo "$name: not run, the time is up" | tee -a "$out/summary.txt"; return; fi
  (cd "$repo" && timeout --kill-after=5 "$limit" "$@") >"$printed" 2>&1
  code=$?
  echo "$name: exit code $code after $((SECONDS - start)) s" | tee -a "$out/summary.txt"
  [ $code -eq 0 ] || tail -n 40 "$printed"
  { echo "===== $name: $*"; cat "$printed"; } >>"$out/log.txt"
  rm "$printed"
}

# Compile for this device's architecture only, in a sixth of the time of all of them.
if [ $dry -eq 0 ]; then
  arch=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || {
    echo "error: torch finds no CUDA device, so there is nothing to measure" >&2
    exit 2
  }
  export TORCH_CUDA_ARCH_LIST=$arch RDDM_FAST_BUILD_CUDA=1 PYTHONUNBUFFERED=1
fi

# Installed in a folder of its own beside the system's torch, so that the checkout and the system stay as they are.
step build 120 "$python" -m pip install --no-build-isolation --no-deps --no-index --target "$package" .
if [ $dry -eq 0 ]; then export PYTHONPATH="$package"; fi
# -P: without it, the checkout, which is not compiled, would come before the package.
run=("$python" -P -m rddm_fast.benchmarks)

step environment 15 "$python" -P -m rddm_fast.ops.env_report --json
step attributes 15 "$python" -P -c 'import json, torch, rddm_fast.ops; print(json.dumps(json.loads(torch.ops.rddm_fast.kernel_attributes()), indent=1))'

# These run all at once: none is timed, and most wait for compilers. Without the cache of torch's allocator, every tensor is an
# allocation of its own, and compute-sanitizer sees an access beyond its end.
processes=()
if [ $dry -eq 0 ] && "$python" -c 'import xdist' 2>/dev/null; then processes=(-n 6); fi
step tests 170 env TORCHINDUCTOR_COMPILE_THREADS=2 \
  "$python" -P -m pytest -v --tb=short --durations=10 -p no:cacheprovider "${processes[@]}" tests/ops/test_gpu.py tests/package/test_build.py &
for tool in memcheck racecheck; do
  for backend in cuda triton; do
    if [ $dry -eq 1 ] || command -v compute-sanitizer >/dev/null; then
      step "$tool-$backend" 170 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
        compute-sanitizer --tool "$tool" --error-exitcode 9 "${run[@]}" sanitize "$backend" &
    else
      echo "$tool-$backend: skipped, there is no compute-sanitizer" | tee -a "$out/summary.txt"
    fi
  done
done
compiled=(sampler --sizes 256 --dtypes bfloat16 --compile)
step warm-compilers 170 "${run[@]}" "${compiled[@]}" default --batch 1 --repeats 2 &
wait

step sampler 90 "${run[@]}" sampler --sizes 256 --batch 1 16 --json "$out/sampler.json"
step profile 60 "${run[@]}" profile --size 256 --rows 60
# What the ways of each layer took is in OUTDIR/choices.
step tuned 120 env RDDM_FAST_CACHE="$out" "${run[@]}" sampler --sizes 256 --batch 1 --dtypes bfloat16 --tune
step convolutions 60 "${run[@]}" conv3x3 --seconds 50 --json "$out/conv3x3.json"
step ops 150 "${run[@]}" ops --quick --no-compile --repeats 5 --json "$out/ops.json"
step profile-compiled 60 "${run[@]}" profile --size 256 --rows 60 --compile
step sampler-compiled 90 "${run[@]}" "${compiled[@]}" default --batch 1 --json "$out/sampler-compiled.json"
step prior 40 "${run[@]}" prior --steps 20
step training 40 "${run[@]}" training --dim 64 --size 128 --batch 16 --dtype bfloat16 --json "$out/training.json"
# What torch.compile takes minutes for comes last.
step launches 60 "${run[@]}" launches --json "$out/launches.json"
step ops-compiled 120 "${run[@]}" ops --quick --json "$out/ops-compiled.json"
step sampler-compiled-16 120 "${run[@]}" "${compiled[@]}" default reduce-overhead --batch 16 --repeats 3 --json "$out/sampler-compiled-16.json"
step sampler-autotuned 240 "${run[@]}" "${compiled[@]}" max-autotune --batch 1 --repeats 3 --json "$out/sampler-autotuned.json"

[ $dry -eq 1 ] && exit 0
! grep -qE 'exit code [1-9]|not run' "$out/summary.txt"
