#!/usr/bin/env bash
# What only a GPU can tell, in order of value, within nine minutes: each part has a time limit of its
# own, and a part that fails or runs late stops none of the others.
#
#   benchmarks/gpu.sh RESULTS [PART ...]       parts: tests passes paper step load (these) attention
#                                              hybrids, integers by the paper's target if it is there
#   benchmarks/gpu.sh --smoke RESULTS          a rehearsal on any machine, whose speeds say nothing
#
# RESULTS gets at most eight files, what was printed in gpu.log; weights and samples go to WORK.
# PYTHON (python3) needs torch, transformers, triton, pytest and hypothesis. PROMPTS may name a file
# of prompts, {"prompt": "..."} a line; without one the paper's are pieces of source files.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}

smoke=""
[ "${1:-}" = --smoke ] && { smoke=yes; shift; }
[ $# -gt 0 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$1"
results=$(cd "$1" && pwd)
shift
parts=${*:-tests passes paper step load}
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
prompts=()
[ -z "${PROMPTS:-}" ] || prompts=(--prompts "$(realpath "$PROMPTS")")
if [ -n "${WORK:-}" ]; then
    mkdir -p "$WORK"
    work=$(cd "$WORK" && pwd)
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
log=$results/gpu.log
: >"$log"
cd "$root" || exit 2
export PYTHONPATH=$root PYTHONUNBUFFERED=1 XDG_CACHE_HOME=$work/cache
failed=""

# Runs a part's command, at most so many seconds, and keeps what it prints.
part() {
    local name=$1 limit=$2 started=$SECONDS
    shift 2
    case " $parts " in *" $name "*) ;; *) return ;; esac
    echo "==> $name: $*" | tee -a "$log"
    timeout -k 2 "$limit" "$@" 2>&1 | tee -a "$log"
    local status=${PIPESTATUS[0]}
    [ "$status" = 0 ] || failed="$failed $name ($status)"
    echo "==> $name: exit $status after $((SECONDS - started)) s" | tee -a "$log"
}

target=$work/paper/grown
[ -d "$target" ] || target=embedded/target

if [ -n "$smoke" ]; then
    part tests 100 "$python" -m pytest -m gpu -q
    part passes 100 "$python" benchmarks/passes.py --device cpu --rounds 2 --context 32 \
        --json "$results/passes.json"
    part paper 200 "$python" -m benchmarks.paper --smoke --folder "$work/paper" \
        --out "$results" "${prompts[@]}"
    part step 100 "$python" benchmarks/step.py --device cpu --shapes tiny --tokens 8 --rounds 1 \
        --trees 8/2 --prompt 16 --compile never --json "$results/step.json"
    part load 100 "$python" benchmarks/load.py --device cpu --texts 1,2 --tokens 8 --rounds 1 \
        --compile never --json "$results/load.json"
    part integers 100 "$python" benchmarks/passes.py --device cpu --dtype bfloat16 int8 int4 \
        --forms stock --draft "" --head "" --rounds 2 --context 32 --json "$results/integers.json"
    part hybrids 100 "$python" -m benchmarks.hybrids --device cpu --shapes tiny --dtype float32 \
        --rounds 1 --texts 1 2 --compile never --json "$results/hybrids.json"
else
    # Compiling kernels for every shape takes most of the time of the tests.
    at_once=()
    "$python" -c "import xdist" 2>/dev/null && at_once=(-n 8)
    part tests 75 "$python" -m pytest -m gpu -q -p no:benchmark --durations 8 "${at_once[@]}"
    part passes 35 "$python" benchmarks/passes.py --device cuda --dtype bfloat16 --rounds 5 \
        --json "$results/passes.json"
    # An H100 took 270 s up to the first repetition, of which texts took 40; they are fewer now.
    part paper 300 "$python" -m benchmarks.paper --minutes 3.5 --num-prompts 4 --folder "$work/paper" \
        --out "$results" "${prompts[@]}"
    part step 65 "$python" benchmarks/step.py --device cuda --dtype bfloat16 --rounds 2 \
        --compile wait --json "$results/step.json"
    part load 60 "$python" benchmarks/load.py --device cuda --dtype bfloat16 --shapes 762 \
        --texts 1,4,8 --rounds 3 --tokens 64 "${prompts[@]}" --json "$results/load.json"
    part attention 60 "$python" benchmarks/attention.py --models llama-8b --widths 1 16 64 \
        --prefixes 512 8192 --rounds 10 --json "$results/attention.json"
    part integers 90 "$python" benchmarks/passes.py --device cuda --dtype bfloat16 int8 int4 \
        --model "$target" --forms captured --draft "" --head "" --rounds 5 \
        --json "$results/integers.json"
    part hybrids 180 "$python" -m benchmarks.hybrids --device cuda --dtype bfloat16 \
        --json "$results/hybrids.json"
fi
echo "==> done in $SECONDS s${failed:+; failed:$failed}" | tee -a "$log"
[ -z "$failed" ]
