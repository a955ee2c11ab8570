#!/usr/bin/env bash
# vLLM beside its rivals on a machine with GPUs, torch and no network, from the package that pack_vllm.py made.
#   vllm_gpus.sh PACKAGE OUT PART…   parts: rivals core-tp1 core-tp2 greedy-tp1 greedy-tp2 faults checks (greedy-tp1 and faults at once, on two GPUs)
set -uo pipefail
package=$(realpath "$1") out=$(realpath -m "$2")
shift 2
here=$(cd "$(dirname "$0")/../.." && pwd)
home=${TMPDIR:-/tmp}/vllm-gpus
mkdir -p "$home/loadgen" "$out"
tar -C "$home" -xJf "$package"
cp -r "$here/loadgen/." "$home/loadgen/"
cp -r "$here/servers" "$here/profiles" "$home/loadgen/"
cd "$home" || exit # not the checkout, whose loadgen/ has no servers
export PYTHONPATH=$home/site:$home XDG_CACHE_HOME=$home/cache PYTHONUNBUFFERED=1
export NCCL_NVLS_ENABLE=0 TORCH_SYMM_MEM_DISABLE_MULTICAST=1
loadgen() { python3 -m loadgen.cli "$@"; }
step() { echo "== $* ($SECONDS s)"; }
sweep() { # NAME [--set …]: results, compact and redacted, below OUT
    loadgen sweep engines --out "$home/results/$1" "${@:2}"
    loadgen keep "$home/results/$1" "$home/kept/$1" && tar -C "$home/kept" -cJf "$out/$1.tar.xz" "$1"
    mkdir -p "$out/logs" && cp "$home/results/$1"/logs/*vllm* "$out/logs/" 2>/dev/null
}
step doctor
loadgen doctor | tee "$out/doctor.txt"
for part in "$@"; do
    step "$part"
    case $part in
    core-tp1) sweep core-tp1 --set framework=vllm ;;
    core-tp2) sweep core-tp2 --set framework=vllm --set tp=2 ;;
    rivals) sweep rivals --set framework=hf,vllm ;;
    greedy-tp1) python3 "$here/tests/benches/vllm_gpus.py" greedy 2>&1 | tee "$out/greedy-tp1.txt" ;;
    greedy-tp2) python3 "$here/tests/benches/vllm_gpus.py" greedy --tp 2 2>&1 | tee "$out/greedy-tp2.txt" ;;
    faults) python3 "$here/tests/benches/vllm_gpus.py" faults 2>&1 | tee "$out/faults.txt" ;;
    checks) # on a GPU each, at once: none of them is timed
        python3 "$here/tests/benches/vllm_gpus.py" greedy >"$out/greedy-tp1.txt" 2>&1 &
        python3 "$here/tests/benches/vllm_gpus.py" faults --gpu 1 2>&1 | tee "$out/faults.txt"
        wait
        cat "$out/greedy-tp1.txt" ;;
    *) echo "no part $part" && exit 2 ;;
    esac
done
step done
