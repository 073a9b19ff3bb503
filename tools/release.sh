#!/usr/bin/env bash
# The release archive for x86-64 Linux: the program stripped, shell completions, man pages, the licences of all that is in it, and
# a bill of materials. Nothing of CUDA is in it: libcuda, NVRTC and the emulator's objects are loaded when the program runs.
#
#   tools/release.sh [DIR]                  builds with --release, and writes DIR/glmc-engine-VERSION-x86_64-linux.tar.gz and its
#                                           checksum (default DIR: target/dist)
#   tools/release.sh --binary FILE [DIR]    the same of a program that is built already; paths are those of the caller's folder
#
# Needs Rust, binutils and python3 (3.11 or newer). The same program and lock file make the same archive. Build on the oldest system
# that it is to run on: the archive's INSTALL says which glibc the program needs.
set -euo pipefail

binary=
if [ "${1:-}" = --binary ]; then
    binary=$(realpath -m -- "${2:?usage: $0 --binary FILE [DIR]}")
    [ -x "$binary" ] && [ ! -d "$binary" ] || { echo "$0: $binary: no program; build it first, or leave out --binary" >&2; exit 1; }
    shift 2
fi
dir=${1:+$(realpath -m -- "$1")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dir=${dir:-target/dist}
if [ -z "$binary" ]; then
    cargo build --release --locked
    binary=target/release/glmc-engine
fi

name=glmc-engine-$("$binary" --version | awk '{ print $2; exit }')-x86_64-linux
stage=$(mktemp -d)
archive=$name.tar.gz
trap 'rm -rf "$stage" "$dir/$archive.partial"' EXIT
root=$stage/$name
mkdir -p "$root/bin" "$root/share/man/man1" "$root/share/completions" "$dir"

install -m 755 "$binary" "$root/bin/glmc-engine"
strip "$root/bin/glmc-engine"
"$root/bin/glmc-engine" man "$root/share/man/man1" > /dev/null
for shell in bash zsh fish; do
    "$root/bin/glmc-engine" completions $shell > "$root/share/completions/glmc-engine.$shell"
done
cp README.md LICENSE-APACHE LICENSE-MIT "$root/"
python3 tools/third_party.py "$root"

# The newest version of glibc that a symbol of the program asks for.
glibc=$(objdump -T "$root/bin/glmc-engine" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
needed=$(objdump -p "$root/bin/glmc-engine" | awk '/NEEDED/ { printf "%s%s", comma, $2; comma = ", " }')
cat > "$root/INSTALL" <<EOF
Copy bin/glmc-engine anywhere on the PATH; nothing else has to be in place.

Needs Linux on x86-64 with glibc ${glibc#GLIBC_} or newer ($needed). To train on a GPU: NVIDIA's driver, and libnvrtc of CUDA 12 or 13
on the library path (pip install nvidia-cuda-nvrtc brings it). For the emulator, a C++ compiler.

Man pages: share/man/man1, to a folder of the MANPATH. Completions: share/completions/glmc-engine.SHELL, for bash to
~/.local/share/bash-completion/completions/glmc-engine, for zsh to _glmc-engine in a folder of the fpath, for fish to
~/.config/fish/completions/glmc-engine.fish.
EOF

tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw -C "$stage" -cf - "$name" | gzip -n9 > "$dir/$archive.partial"
mv "$dir/$archive.partial" "$dir/$archive"
(cd "$dir" && sha256sum "$archive" > "$archive.sha256")
echo "$dir/$archive: $(du -h "$dir/$archive" | cut -f1), glibc ${glibc#GLIBC_}"
