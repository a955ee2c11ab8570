#!/usr/bin/env bash
# Engines on a machine with one or two GPUs, torch and no network: profiles/engines.toml on fresh starts, capacity.toml.
#   engines_gpus.sh PACKAGES OUT PART…
# PACKAGES is a folder of *.tar.xz, each a site/ of packages for this Python (pack_vllm.py makes vLLM's). Parts run one
# after the other on GPU $GPU (0); a second call with ATTACH=1 beside it takes the other GPU. Parts:
#   ops            DeepSpeed's ops compiled, on the host alone
#   greedy         greedy tokens against transformers (greedy-tp2 on two GPUs); faults: start, stop, kill, too large a cache
#   start:F:A      start A of framework F: static batches; tuned:A of FastGen with `tuned` and `cuda_graph`; tp2:F:A
#   between:F:A    start A of framework F: profiles/thresholds.toml
#   pp:N:A         start A of `generate`, split by layers over N GPUs
#   weights:A      start A of profiles/weights.toml
#   capacity:F:A   the capacity of start A of framework F, by windows of $WINDOW, from $NEAR on; capacity2:F:A at tp 2
#   trace:F        framework F under the first $TO of $TRACE, at $RATES a second
#   split:E        where the time of a call of engine E goes (call_split.py), $CELLS
set -uo pipefail
packages=$(realpath "$1") out=$(realpath -m "$2") trace=$(realpath -m "${TRACE:-none}")
shift 2
here=$(cd "$(dirname "$0")/../.." && pwd)
home=${TMPDIR:-/tmp}/engines-gpus
mkdir -p "$home/loadgen" "$home/results" "$out"
if [ ! -e "$home/unpacked" ]; then
    for package in "$packages"/*.tar.xz; do tar -C "$home" -xJf "$package"; done
    python3 -m compileall -q -j 0 "$home/site" >"$home/compiled.log" 2>&1 # once, not in the first start of each
    touch "$home/unpacked"
fi
if [ -z "${ATTACH-}" ]; then
    cp -r "$here/loadgen/." "$home/loadgen/"
    cp -r "$here/servers" "$here/profiles" "$home/loadgen/"
fi
cd "$home" || exit # not the checkout, whose loadgen/ has no servers
export PYTHONPATH=$home/site:$home XDG_CACHE_HOME=$home/cache PYTHONUNBUFFERED=1 TORCH_CUDA_ARCH_LIST=9.0
export NCCL_NVLS_ENABLE=0 TORCH_SYMM_MEM_DISABLE_MULTICAST=1
loadgen() { python3 -m loadgen.cli "$@"; }
step() { echo "== $* ($SECONDS s)"; }
sweep() { # NAME [--set …]: results, compact and redacted, below OUT
    loadgen sweep "${PROFILE:-engines}" --out "$home/results/$1" --no-report "${@:2}" >"$out/$1.log" 2>&1
    echo "$1: exit $? ($SECONDS s)"
    rm -rf "$home/kept/$1"
    loadgen keep "$home/results/$1" "$home/kept/$1" && tar -C "$home/kept" -cJf "$out/$1.tar.xz" "$1"
    mkdir -p "$out/logs" && cp "$home/results/$1"/logs/* "$out/logs/" 2>/dev/null
}
gpu=${GPU:-0}
[ -n "${ATTACH-}" ] || loadgen doctor >"$out/doctor.txt" 2>&1
for part in "$@"; do
    step "$part"
    IFS=: read -r kind of start <<<"$part"
    case $kind in
    ops) nice -n 19 python3 "$here/tests/benches/build_ops.py" >"$out/ops.txt" 2>&1 ;;
    greedy) CUDA_VISIBLE_DEVICES=$gpu python3 "$here/tests/benches/vllm_gpus.py" greedy >"$out/greedy-tp1.txt" 2>&1 ;;
    greedy-tp2) python3 "$here/tests/benches/vllm_gpus.py" greedy --tp 2 >"$out/greedy-tp2.txt" 2>&1 ;;
    faults) python3 "$here/tests/benches/vllm_gpus.py" faults >"$out/faults.txt" 2>&1 ;;
    start) sweep "tp1-$of-$start" --set "starts=[$start]" --set "gpus=$gpu" --set "framework=$of" ;;
    between)
        PROFILE=thresholds sweep "between-$of-$start" --set "starts=[$start]" --set "gpus=$gpu" --set "framework=$of" ;;
    tuned)
        sweep "tuned-$of" --set "starts=[$of]" --set "gpus=$gpu" --set framework=ds \
            --set frameworks.ds.options.tuned=true --set frameworks.ds.options.cuda_graph=true ;;
    tp2) sweep "tp2-$of-$start" --set "starts=[$start]" --set tp=2 --set "framework=$of" --set "requests=${REQUESTS:-5}" ;;
    pp)
        where=(--set "pp=$of")
        [ "$of" != 1 ] || where+=(--set "gpus=$gpu")
        sweep "pp$of-$start" --set "starts=[$start]" --set framework=hf --set frameworks.hf.options.engine=generate \
            "${where[@]}" --set batch_size=1 --set input_tokens=20 --set output_tokens=100 --set requests=3 ;;
    weights) PROFILE=weights sweep "weights-$of" --set "starts=[$of]" --set "gpus=$gpu" ;;
    capacity | capacity2)
        window=${WINDOW:-30} where="gpus=$gpu"
        [ "$kind" = capacity ] || where="tp=2"
        near=()
        [ -z "${NEAR-}" ] || near=(--set "capacity.near=$NEAR")
        PROFILE=capacity sweep "$kind-$of-$start" --set "framework=$of" --set "$where" --set "starts=[$start]" \
            --set capacity.saturating=128 --set "capacity.window=${window}s" \
            --set "capacity.lead_in=$((window / 4))s" "${near[@]}" ;;
    trace)
        cat >"$home/trace-$of.toml" <<END
name = "trace"
[server]
framework = "$of"
model = "${MODEL:-llama-13b}"
gpus = [$gpu]
ready_timeout_s = 900
[frameworks.hf.options]
engine = "continuous"
[load]
mode = "trace"
trace = "$trace"
replay = { to = "${TO:-120s}", too_long = "skip" }
[slo]
ttft = "500ms"
tpot = "25ms"
share = 0.95
[[sweep]]
rate = [${RATES:-2, 4, 8}]
END
        PROFILE=$home/trace-$of.toml sweep "trace-$of" ;;
    split)
        CUDA_VISIBLE_DEVICES=$gpu python3 "$here/tests/benches/call_split.py" "$of" \
            --cells "${CELLS:-20/100x1,20/100x64,512/20x64,20/100x256}" >"$out/split-$of.txt" 2>"$out/split-$of.log" ;;
    *) echo "no part $part" && exit 2 ;;
    esac
done
step done
