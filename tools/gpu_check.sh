#!/usr/bin/env bash
# Everything worth knowing on a machine with a GPU, in order of value, each part's raw output in a file of its own.
#
#   tools/gpu_check.sh pack DIR          on a machine with Rust: puts the stripped program, the test programs, fixtures and
#                                        tools into DIR (carry it to the GPU machine together with a store)
#   tools/gpu_check.sh OUT [DIR [STORE]] on the GPU machine: runs all of it, from DIR, and writes into OUT; with a store, the
#                                        training run too
#
# The GPU machine needs a driver, libnvrtc (in Python's packages, say) and python3; PyTorch there is timed beside the
# engine, each in its own process, where it is installed and sees the GPU. To rehearse without one:
#   SMALL=1 DEVICE=emulator tools/gpu_check.sh OUT
#   SMALL=1 tools/mock_cuda.sh tools/gpu_check.sh OUT    the same through the CUDA driver's code
# Environment: DEVICE (default cuda), SMALL (a few seconds of everything), EPOCHS (default 200), PARTS (default all: facts
# suite verify sanitizer step pytorch ops layers kernels imagenet streamed train peer).
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ "${1:-}" = pack ]; then
    set -e
    dir=${2:?usage: $0 pack DIR}
    cd "$here"
    cargo build --release
    mkdir -p "$dir/bin" "$dir/tests/fixtures" "$dir/tools"
    cp target/release/glmc-engine "$dir/bin/"
    # The newest test programs, as cargo names them.
    cargo test --no-run --message-format=json --release 2>/dev/null |
        python3 -c '
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if m.get("executable") and m["target"]["kind"] == ["test"]:
        print("test-" + m["target"]["name"], m["executable"])' | while read -r name path; do
        case "$name" in test-ops | test-launched) cp "$path" "$dir/bin/$name" ;; esac
    done
    strip "$dir"/bin/*
    cp tests/fixtures/*.safetensors "$dir/tests/fixtures/"
    cp tools/*.py tools/gpu_check.sh "$dir/tools/"
    du -sh "$dir"
    exit 0
fi

out=${1:?usage: $0 OUT [DIR [STORE]] | $0 pack DIR}
dir=${2:-$here}
store=${3:-}
device=${DEVICE:-cuda}
parts=${PARTS:-facts suite verify sanitizer step pytorch ops layers kernels imagenet streamed train peer}
mkdir -p "$out"
out=$(cd "$out" && pwd)
glmc=$dir/bin/glmc-engine
[ -x "$glmc" ] || glmc=$dir/target/release/glmc-engine
# Test programs look for their fixtures relative to where they run.
cd "$dir" || exit 1

# libnvrtc of Python's packages, where there is no toolkit.
nvrtc=$(python3 - <<'PY' 2>/dev/null
import glob, site, sys
for root in [*site.getsitepackages(), *sys.path]:
    for found in glob.glob(f"{root}/nvidia/*/lib/libnvrtc.so.*"):
        print(found.rsplit("/", 1)[0]); raise SystemExit
PY
)
[ -n "$nvrtc" ] && export LD_LIBRARY_PATH="$nvrtc:${LD_LIBRARY_PATH:-}"

if [ -n "${SMALL:-}" ]; then
    seconds=1 sizes="2:4" alone=2:4 precisions="f32 bf16" model=resnet20 epochs=1
else
    seconds=8 sizes="16:64 64:64 64:256" alone=64:64 precisions="bf16 f32" model=resnet32 epochs=${EPOCHS:-200}
fi

# Whether PyTorch is here and sees the GPU.
has_pytorch() { python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; }
wants() { case " $parts " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }
# Runs a command, its output into OUT/NAME.txt, and says how it ended.
part() {
    local name=$1 start=$SECONDS status
    shift
    { echo "\$ $*"; date -u +%FT%TZ; "$@"; } >"$out/$name.txt" 2>&1
    status=$?
    echo "exit status $status after $((SECONDS - start)) s" >>"$out/$name.txt"
    printf '%-28s status %d, %d s\n' "$name" "$status" $((SECONDS - start)) | tee -a "$out/summary.txt"
    return $status
}
summary() { tail -n "${2:-12}" "$out/$1.txt" | tee -a "$out/summary.txt"; }

if wants facts; then
    part facts bash -c 'nvidia-smi; nvidia-smi -q -d CLOCK,POWER | head -60; lscpu | head -20; python3 -c "import torch; print(torch.__version__, torch.version.cuda)"; true'
    part info "$glmc" info && summary info 20
fi
# First of all, as everything else relies on it: every kernel beside the CPU, and the steps that the program carries.
if wants verify; then
    part verify-built-in "$glmc" verify --device "$device"
    summary verify-built-in
fi
if wants suite; then
    for program in "$dir"/bin/test-*; do
        [ -x "$program" ] || continue
        part "suite-$(basename "$program")" timeout 240 "$program" && summary "suite-$(basename "$program")" 4
    done
fi
if wants verify; then
    for precision in f32 bf16; do
        # The third is beyond bf16 wherever it is computed: tests/fixtures/README.md.
        references="tests/fixtures/step_w4_c10_b5.safetensors tests/fixtures/step_w2_c7_b3.safetensors"
        [ $precision = f32 ] && references+=" tests/fixtures/step_w3_c100_b2.safetensors"
        part "verify-$precision" "$glmc" verify $references --device "$device" --precision $precision
        summary "verify-$precision" 40
    done
fi
if wants sanitizer && command -v compute-sanitizer >/dev/null && [ "$device" != emulator ]; then
    for tool in memcheck racecheck; do
        part "sanitizer-$tool" timeout 150 compute-sanitizer --tool $tool "$glmc" verify \
            tests/fixtures/step_w4_c10_b5.safetensors --device "$device" --precision bf16
        summary "sanitizer-$tool" 4
    done
fi
if wants step; then
    for size in $sizes; do
        for precision in $precisions; do
            name="step-w${size%:*}-b${size#*:}-$precision"
            part "$name" "$glmc" bench step --model $model --width "${size%:*}" --batch "${size#*:}" --device "$device" \
                --precision $precision --seconds $seconds --json && summary "$name" 2
        done
    done
    # The other methods' steps, one of each kind.
    other=16:128
    [ -z "${SMALL:-}" ] || other=${sizes%% *}
    for method in ce ldam-drw bbn sam-ce; do
        part "step-$method" "$glmc" bench step --model $model --method $method --width "${other%:*}" --batch "${other#*:}" --device "$device" \
            --seconds $seconds --json && summary "step-$method" 2
    done
fi
if wants imagenet; then
    # Networks on photographs of 224 pixels, a batch of GLMC's ImageNet-LT runs; small ones in a rehearsal.
    networks="resnet50:64:224:120 resnext50_32x4d:64:224:120 resnet18:64:224:120"
    [ -z "${SMALL:-}" ] || networks="resnet18:4:32:2 resnext50_32x4d:16:32:2"
    for network in $networks; do
        IFS=: read -r name width side batch <<<"$network"
        shape=(--model "$name" --width "$width" --size "$side" --batch "$batch" --classes 1000 --seconds $seconds)
        part "step-$name" "$glmc" bench step "${shape[@]}" --photos --device "$device" --json && summary "step-$name" 2
        if [ "$device" != emulator ] && has_pytorch; then
            part "pytorch-$name" timeout 300 python3 tools/bench_pytorch.py "${shape[@]}" --device cuda --precision bf16 \
                --mode best --limit 120 --json && summary "pytorch-$name" 2
        fi
    done
fi
if wants pytorch && [ "$device" != emulator ] && has_pytorch; then
    for size in $sizes; do
        name="pytorch-w${size%:*}-b${size#*:}-bf16"
        part "$name" timeout 560 python3 tools/bench_pytorch.py --model $model --width "${size%:*}" --batch "${size#*:}" \
            --device cuda --precision bf16 --mode best --limit 240 --seconds $seconds --json && summary "$name" 2
    done
fi
if wants ops; then
    size=${sizes##* }
    part ops "$glmc" bench ops --model $model --width "${size%:*}" --batch "${size#*:}" --device "$device" \
        --seconds $seconds && summary ops 40
fi
if wants layers && [ "$device" != emulator ] && has_pytorch; then
    part layers python3 tools/bench_pytorch.py --model $model --width 64 --batch 64 --device cuda --precision bf16 \
        --layers --seconds $seconds && summary layers 40
fi
if wants kernels; then
    for precision in bf16 f32; do
        part "kernels-$precision" timeout 240 "$glmc" bench kernels --width "${alone%:*}" --batch "${alone#*:}" \
            --device "$device" --precision $precision --seconds $seconds ${SMALL:+--size 8} \
            --save "$out/kernels-$precision.json" && summary "kernels-$precision" 50
        # Beside what the model of the GPU predicts for each (`--gpu` names another than an H200).
        part "plan-$precision" "$glmc" bench plan --model $model --width "${alone%:*}" --batch "${alone#*:}" \
            --precision $precision ${SMALL:+--size 8} --measured "$out/kernels-$precision.json" && summary "plan-$precision" 50
    done
fi
# What is trained: the published run where there is a store, a few seconds of the same in a rehearsal, else the demo.
training="--preset demo --model $model --width 2"
if [ -n "${SMALL:-}" ]; then
    rm -rf "$out/small.lt"
    part prepare "$glmc" prepare synthetic --classes 4 --per-class 40 --imbalance 8 --size 16 --out "$out/small.lt"
    training="--data $out/small.lt --model $model --width 2 --batch 16"
elif [ -n "$store" ]; then
    training="--preset cifar10-lt-if100 --data $store"
fi
if wants streamed; then
    # The same epochs with the images on the device and sent step by step: samples/s, and equal losses.
    for limit in "" "--resident-limit 0"; do
        name=${limit:+streamed}
        name=${name:-resident}
        part "$name" "$glmc" train $training --device "$device" --epochs $((epochs < 2 ? epochs : 2)) --out "$out/$name.run" $limit
        cp "$out/$name.run/metrics.jsonl" "$out/$name-metrics.jsonl" 2>/dev/null
        rm -rf "$out/$name.run"
    done
fi
if wants train; then
    part train "$glmc" train $training --device "$device" --epochs "$epochs" --out "$out/run" && summary train 30
    cp "$out/run/metrics.jsonl" "$out/train-metrics.jsonl" 2>/dev/null
    # Checkpoints stay on that machine: the figures are in the metrics.
    [ "$device" = emulator ] || rm -rf "$out/run"
fi
if wants peer && [ -n "$store" ] && [ "$device" != emulator ] && has_pytorch; then
    part peer timeout 560 python3 tools/bench_pytorch.py --train --data "$store" --model $model --width 64 --batch 64 \
        --device cuda --precision bf16 --epochs "$epochs" --eval-every 20 --out "$out/peer" && summary peer 10
fi
# One file, should only a few come back.
tar czf "$out/all.tar.gz" -C "$out" --exclude=all.tar.gz --exclude='*.safetensors' --exclude='*.lt' . 2>/dev/null
echo "raw output in $out"
