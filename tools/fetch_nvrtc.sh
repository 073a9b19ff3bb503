#!/bin/sh
# Fetches NVRTC 13.0 from the Python package index into a private folder and prints the folder that holds libnvrtc, for
# GLMC_NVRTC. Needs python3 with pip; no GPU, no toolkit, no root.
#
#     export GLMC_NVRTC="$(tools/fetch_nvrtc.sh target/nvrtc)"
set -eu

if [ $# -ne 1 ]; then
    echo "usage: $0 DIR" >&2
    exit 2
fi
target=$1

find_lib() {
    find "$target" -name 'libnvrtc.so.*' 2>/dev/null | head -n 1
}

library=$(find_lib)
if [ -z "$library" ]; then
    # Into a folder of its own first: a download that breaks off leaves nothing that looks whole.
    part="$target.part.$$"
    trap 'rm -rf "$part"' EXIT INT TERM
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$part" \
        'nvidia-cuda-nvrtc==13.0.*' >&2
    mkdir -p "$target"
    cp -R "$part"/. "$target"/
    library=$(find_lib)
fi
if [ -z "$library" ]; then
    echo "$0: the package holds no libnvrtc.so" >&2
    exit 1
fi
cd "$(dirname "$library")"
pwd
