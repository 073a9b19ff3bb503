#!/usr/bin/env bash
# Runs a command with the mock of NVIDIA's libraries in their place (tests/mock_cuda/README.md), so that the CUDA code of
# the program runs on a machine without a GPU:
#
#   tools/mock_cuda.sh cargo test --release --test ops -- "on cuda"
#   tools/mock_cuda.sh target/release/glmc-engine train --device cuda
#   MOCK_CUDA=timing=early,report=report.json tools/mock_cuda.sh target/release/glmc-engine train --device cuda
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 COMMAND [ARGUMENT...]" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cargo build --quiet --release --manifest-path "$here/Cargo.toml" --example mock_cuda
target=${CARGO_TARGET_DIR:-$here/target}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# Links, so that both libraries are one.
for name in libcuda.so libcuda.so.1 libnvrtc.so libnvrtc.so.13; do
    ln -s "$target/release/examples/libmock_cuda.so" "$folder/$name"
done
export LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" GLMC_NVRTC="$folder"
"$@"
