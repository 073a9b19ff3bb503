#!/usr/bin/env bash
# What the ledger says about a CPU, measured in one go on a quiet machine, raw output in OUT:
#
#   tools/cpu_check.sh OUT [PHOTOS]
#
# PHOTOS is a folder of JPEG or PNG files for the comparison with Pillow. PyTorch and Pillow come from `python3`, or what
# PYTHON names (tools/requirements.txt). Environment: SECONDS_EACH (default 12), ROUNDS (2), PARTS (default all: facts step
# ops pillow demo emulator), THREADS (default all cores).
set -uo pipefail

out=${1:?usage: $0 OUT [PHOTOS]}
photos=${2:+$(realpath "$2")}
mkdir -p "$out"
out=$(realpath "$out")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3} seconds=${SECONDS_EACH:-12} rounds=${ROUNDS:-2} threads=${THREADS:-$(nproc)}
parts=${PARTS:-facts step ops pillow demo emulator}
cargo build --release --quiet || exit 1
PATH=$PWD/target/release:$PATH

wants() { case " $parts " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }
# Runs a command as a reader would type it; command, date, output and status go to OUT/$1.txt.
note() {
    local name=$1 start=$SECONDS
    shift
    {
        echo "\$ ${*/#$python/python}"
        date -u +%FT%TZ
        "$@"
        echo "exit status $? after $((SECONDS - start)) s"
    } >>"$out/$name.txt" 2>&1
}

rm -f "$out"/*.txt
if wants facts; then
    note facts bash -c 'lscpu | grep -E "^(Model name|CPU\(s\)|Thread|L[123])"; free -m | head -2; rustc --version; uptime'
    note facts git log -1 --format=%h
    note facts "$python" -c 'import torch, PIL; print(torch.__version__, PIL.__version__)'
fi
if wants step; then
    for size in 16:64 64:16; do
        shape=(--model resnet32 --width "${size%:*}" --batch "${size#*:}" --device cpu --precision f32 --threads "$threads")
        for _ in $(seq "$rounds"); do
            note step glmc-engine bench step "${shape[@]}" --seconds "$seconds" --json
            note step "$python" tools/bench_pytorch.py "${shape[@]}" --mode best --seconds "$seconds" --json
        done
    done
fi
if wants ops; then
    for size in 16:64 64:16; do
        note "ops-w${size%:*}" glmc-engine bench ops --width "${size%:*}" --batch "${size#*:}" --threads "$threads" \
            --seconds "$seconds"
    done
fi
if wants pillow && [ -n "$photos" ]; then
    note pillow "$python" tools/bench_pillow.py "$photos" --size 224 --threads "$threads" --engine target/release/glmc-engine
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if wants demo; then
    note demo glmc-engine train --out "$work/demo"
fi
if wants emulator; then
    # A rate so low that rounding is all that tells the devices apart after an epoch (see the ledger).
    for device in "cpu f64" "cpu f32" "emulator f32"; do
        run=$work/${device/ /-}
        note emulator glmc-engine train --preset demo --epochs 1 --lr 1e-4 --device "${device% *}" --precision "${device#* }" \
            --out "$run"
        cat "$run/metrics.jsonl" >>"$out/emulator.txt"
    done
fi
# Paths of this machine say nothing to a reader.
sed -i "s#$work#runs#g${photos:+; s#$photos#PHOTOS#g}" "$out"/*.txt
echo "raw output in $out"
