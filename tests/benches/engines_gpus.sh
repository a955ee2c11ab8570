#!/usr/bin/env bash
# Engines on a machine with one or two GPUs, torch and no network: profiles/engines.toml on fresh starts, capacity.toml.
#   engines_gpus.sh PACKAGES OUT PART…
# PACKAGES is a folder of *.tar.xz, each a site/ of packages for this Python (pack_vllm.py makes vLLM's). Parts:
#   ops            DeepSpeed's ops compiled, by one small sweep, beside greedy tokens at tp 1: nothing of it is timed
#   tp1:A,B        start A of every framework on GPU 0 beside start B on GPU 1
#   tuned:A,B      the same of FastGen with `tuned` and `cuda_graph`
#   f9:A           start A of `generate` on one GPU and split by layers over two
#   tp2:A          start A of every framework at tp 2 ($TP2 names which: hf,vllm)
#   greedy-tp2     greedy tokens against transformers; faults: start, stop, kill, too large a cache
#   one:A          start A of $TP1's frameworks on GPU 0 alone, $BATCHES; weights:A of profiles/weights.toml
#   capacity:F     the capacity of framework F on GPU 0, by windows of $WINDOW; capacity2:F at tp 2
#   trace:F        framework F on GPU 0 under the first two minutes of $TRACE, at $RATES a second
#   split:E        where the time of a call of engine E goes (call_split.py), $CELLS, on GPU 0
set -uo pipefail
packages=$(realpath "$1") out=$(realpath -m "$2") trace=$(realpath -m "${TRACE:-none}")
shift 2
here=$(cd "$(dirname "$0")/../.." && pwd)
home=${TMPDIR:-/tmp}/engines-gpus
mkdir -p "$home/loadgen" "$home/results" "$out"
if [ ! -e "$home/unpacked" ]; then
    for package in "$packages"/*.tar.xz; do tar -C "$home" -xJf "$package"; done
    touch "$home/unpacked"
fi
cp -r "$here/loadgen/." "$home/loadgen/"
cp -r "$here/servers" "$here/profiles" "$home/loadgen/"
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
step doctor
loadgen doctor >"$out/doctor.txt" 2>&1
for part in "$@"; do
    step "$part"
    of=${part#*:}
    case $part in
    ops)
        python3 "$here/tests/benches/vllm_gpus.py" greedy >"$out/greedy-tp1.txt" 2>&1 &
        sweep ops --set framework=ds --set "gpus=${OPS_GPU:-1}" --set batch_size=1 --set output_tokens=20 \
            --set model=llama-7b --set frameworks.ds.options.kv_tokens=20000
        wait
        cat "$out/greedy-tp1.txt" ;;
    tp1:*)
        sweep "tp1-${of%,*}" --set "starts=[${of%,*}]" --set gpus=0 --set "framework=${TP1:-hf,ds,vllm}" &
        sweep "tp1-${of#*,}" --set "starts=[${of#*,}]" --set gpus=1 --set "framework=${TP1:-hf,ds,vllm}"
        wait ;;
    tuned:*)
        tuned=(--set framework=ds --set frameworks.ds.options.tuned=true --set frameworks.ds.options.cuda_graph=true)
        sweep "tuned-${of%,*}" --set "starts=[${of%,*}]" --set gpus=0 "${tuned[@]}" &
        sweep "tuned-${of#*,}" --set "starts=[${of#*,}]" --set gpus=1 "${tuned[@]}"
        wait ;;
    f9:*)
        sweep "f9-$of" --set "starts=[$of]" --set framework=hf --set frameworks.hf.options.engine=generate \
            --set "pp=[1,2]" --set "batch_size=[1,64]" --set "input_tokens=20" ;;
    tp2:*) sweep "tp2-$of" --set "starts=[$of]" --set tp=2 --set "framework=${TP2:-hf,vllm}" ;;
    one:*)
        sweep "one-$of" --set "starts=[$of]" --set gpus=0 --set "framework=${TP1:-hf,ds,vllm}" \
            --set "batch_size=[${BATCHES:-1,8,64,256}]" ;;
    weights:*) PROFILE=weights sweep "weights-$of" --set "starts=[$of]" --set gpus=0 ;;
    capacity:* | capacity2:*)
        window=${WINDOW:-30} where="gpus=0"
        [ "${part%:*}" = capacity ] || where="tp=2"
        PROFILE=capacity sweep "${part%:*}-$of" --set "framework=$of" --set "$where" --set capacity.saturating=128 \
            --set "capacity.window=${window}s" --set "capacity.lead_in=$((window / 4))s" ;;
    trace:*)
        cat >"$home/trace.toml" <<END
name = "trace"
[server]
framework = "$of"
model = "${MODEL:-llama-13b}"
gpus = [${GPU-0}]
ready_timeout_s = 900
[frameworks.hf.options]
engine = "continuous"
[load]
mode = "trace"
trace = "$trace"
replay = { to = "120s", too_long = "skip" }
[slo]
ttft = "500ms"
tpot = "25ms"
share = 0.95
[[sweep]]
rate = [${RATES:-2, 4, 8}]
END
        PROFILE=$home/trace.toml sweep "trace-$of" ;;
    split:*) CUDA_VISIBLE_DEVICES=0 python3 "$here/tests/benches/call_split.py" "$of" --cells "${CELLS:-20/100x1,20/100x64,512/20x64,20/100x256}" >"$out/split-$of.txt" 2>"$out/split-$of.log" ;;
    greedy-tp2) python3 "$here/tests/benches/vllm_gpus.py" greedy --tp 2 2>&1 | tee "$out/greedy-tp2.txt" ;;
    faults) python3 "$here/tests/benches/vllm_gpus.py" faults 2>&1 | tee "$out/faults.txt" ;;
    *) echo "no part $part" && exit 2 ;;
    esac
done
for log in "$out"/tp*.log; do tail -n 25 "$log"; done 2>/dev/null
step done
