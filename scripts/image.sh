#!/usr/bin/env bash
# Builds the container image of the agent from what is installed here: the binary, the tools that it starts, and the shared
# libraries of both. No base image is needed, so no registry either.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
export PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin

IMAGE=sluice:dev
OUT=target/image
# What `agent/src/node/{tuning,napi}.rs` run; `ip` is for `sluice sysdump`.
TOOLS=(ethtool tc nsenter unshare sh mount chrt ip nft)

usage() {
  cat <<'USAGE'
Usage: scripts/image.sh [--tag NAME:TAG] [--binary FILE] [--plugin FILE] [--rootfs DIR]

Builds the image (default sluice:dev) and writes it as target/image/image.tar, a docker archive.
  --tag      name and tag
  --binary   a built sluice [default: build a release]
  --plugin   a built sluice-cni, linked statically [default: build a release]
  --rootfs   write the image's files to this new folder and build no image: what deploy/Dockerfile does where docker builds it

Environment: SLUICE_BIN, SLUICE_CNI_BIN (as --binary and --plugin).
USAGE
}

say() { printf 'image: %s\n' "$*"; }
die() { printf 'image: error: %s\n' "$*" >&2; exit 1; }

BINARY=${SLUICE_BIN-}
PLUGIN=${SLUICE_CNI_BIN-}
ROOTFS=
while (($#)); do
  case $1 in
    --tag) IMAGE=${2:?--tag needs a name}; shift 2 ;;
    --binary) BINARY=${2:?--binary needs a file}; shift 2 ;;
    --plugin) PLUGIN=${2:?--plugin needs a file}; shift 2 ;;
    --rootfs) ROOTFS=${2:?--rootfs needs a folder}; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done

[[ -n $ROOTFS ]] || command -v buildah >/dev/null || die "buildah is not installed (Debian: apt-get install buildah)"
if [[ -z $BINARY ]]; then
  cargo build --release --locked -p sluice
  BINARY=${CARGO_TARGET_DIR:-target}/release/sluice
fi

if [[ -z $PLUGIN ]]; then
  # It runs on the node, whatever libraries are there.
  RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked -p sluice-cni --target "$(rustc -vV | sed -n 's/^host: //p')"
  PLUGIN=${CARGO_TARGET_DIR:-target}/$(rustc -vV | sed -n 's/^host: //p')/release/sluice-cni
fi

if [[ -n $ROOTFS ]]; then
  [[ ! -e $ROOTFS ]] || die "$ROOTFS is there already"
else
  ROOTFS=$OUT/rootfs
  rm -rf "$ROOTFS"
fi
mkdir -p "$ROOTFS"/{usr/bin,proc,sys,run,tmp,etc}

# install_program FILE NAME: the program as /usr/bin/NAME, with the libraries that it needs where its loader looks for them.
install_program() {
  local library
  install -m 0755 "$1" "$ROOTFS/usr/bin/$2"
  ldd "$1" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p; s/^\t\(\/[^ ]*\) (.*/\1/p' | while read -r library; do
    install -D -m 0755 "$(readlink -f "$library")" "$ROOTFS$library"
  done
}

install_program "$BINARY" sluice
install -m 0755 "$PLUGIN" "$ROOTFS/usr/bin/sluice-cni"
for tool in "${TOOLS[@]}"; do
  path=$(command -v "$tool") || die "$tool is not installed"
  install_program "$(readlink -f "$path")" "$tool"
done

if [[ $ROOTFS != "$OUT/rootfs" ]]; then exit; fi
# The last stage is all there is to build; its source, in place of the stage that compiles, is the folder.
store=(--root "$PWD/$OUT/store" --runroot "$PWD/$OUT/run" --storage-driver vfs)
buildah "${store[@]}" bud --isolation chroot --quiet --tag "$IMAGE" --file deploy/Dockerfile --build-context "build=$PWD/$OUT" "$OUT" >/dev/null
rm -f "$OUT/image.tar"
buildah "${store[@]}" push --quiet "$IMAGE" "docker-archive:$OUT/image.tar:$IMAGE" >/dev/null
say "$OUT/image.tar: $IMAGE, $(du -h "$OUT/image.tar" | cut -f1)"
