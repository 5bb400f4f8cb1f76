#!/usr/bin/env bash
# Builds the eBPF programs of xdp-redirect/ebpf into the committed object.
#
#   scripts/build-ebpf.sh           build, replace the committed object
#   scripts/build-ebpf.sh --check   build from a copy in a temporary directory, compare bit for bit with the
#                                   committed object; exit 1 when they differ
#   scripts/build-ebpf.sh --setup   install the toolchain (Debian packages, bpf-linker), build nothing
#
# The object depends on the source and on the versions in xdp-redirect/object/TOOLCHAIN, not on where it is built.
# Environment: BPF_RUSTC (default /usr/bin/rustc, or a rustup toolchain's), LLVM_PREFIX (default /usr/lib/llvm-22).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly object=$root/xdp-redirect/object/sluice.bpf.o
readonly toolchain=$root/xdp-redirect/object/TOOLCHAIN
readonly llvm=${LLVM_PREFIX:-/usr/lib/llvm-22}
readonly rustc=${BPF_RUSTC:-/usr/bin/rustc}
readonly linker_version=0.13.0
readonly packages=(rustc-web rust-web-src llvm-22-dev libpolly-22-dev clang-22)

say() { printf 'build-ebpf: %s\n' "$*" >&2; }

setup() {
    local missing=() package
    for package in "${packages[@]}"; do
        [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == "install ok installed" ]] || missing+=("$package")
    done
    if ((${#missing[@]})); then
        apt-get update -q >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
    fi
    if [[ $(bpf-linker --version 2>/dev/null) != "bpf-linker $linker_version" ]]; then
        LLVM_PREFIX=$llvm cargo install bpf-linker --version "$linker_version" --locked \
            --no-default-features --features llvm-22 >&2
    fi
}

require() {
    local tool
    for tool in cargo bpf-linker "$rustc"; do
        command -v "$tool" >/dev/null || { say "$tool not found; run scripts/build-ebpf.sh --setup"; exit 2; }
    done
}

versions() {
    "$rustc" -vV | sed -n 's/^\(rustc\|LLVM version\)[: ]*/\1 /p'
    bpf-linker --version
}

# build SOURCE TARGET_DIR OUTPUT
build() {
    local source=$1 target=$2 output=$3 sysroot flags
    sysroot=$("$rustc" --print sysroot)
    # Everything a path could come from has a fixed name, so that the bytes do not depend on the machine.
    flags="-C linker=bpf-linker"
    flags+=" --remap-path-prefix=$source=ebpf --remap-path-prefix=$target=target"
    flags+=" --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo --remap-path-prefix=$sysroot=sysroot"
    (
        cd "$source"
        unset CARGO_ENCODED_RUSTFLAGS
        RUSTC_BOOTSTRAP=1 RUSTC=$rustc RUSTFLAGS=$flags CARGO_TARGET_DIR=$target \
            cargo build --quiet --locked -Z build-std=core --target bpfel-unknown-none --release
    )
    cp "$target/bpfel-unknown-none/release/sluice" "$output"
    chmod 644 "$output"
}

check() {
    local work
    work=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    mkdir "$work/source"
    cp -r "$root/xdp-redirect/ebpf/"{Cargo.toml,Cargo.lock,src} "$work/source/"
    build "$work/source" "$work/target" "$work/sluice.bpf.o"
    if cmp "$work/sluice.bpf.o" "$object"; then
        say "the committed object is what its source builds"
        return
    fi
    say "the committed object differs from what its source builds; run scripts/build-ebpf.sh and commit the result"
    diff <(versions) "$toolchain" >&2 || say "note: this toolchain is not the one that built the committed object"
    exit 1
}

case ${1:-} in
    '') require ;;
    --setup) setup; require; exit 0 ;;
    --check) require; check; exit 0 ;;
    *) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac

mkdir -p "$(dirname "$object")"
build "$root/xdp-redirect/ebpf" "$root/target/ebpf" "$object"
versions >"$toolchain"
say "built $(stat -c %s "$object") bytes"
