#!/usr/bin/env bash
# Installs what building and testing sluice, its lab and its demo need on Debian 12; does nothing when all is present.
#
# Everything comes from Debian packages. Rust: an installed cargo that is new enough is used as it is, otherwise the
# packages `cargo-web` and `rustc-web` (Debian security updates) bring one, with clippy and rustfmt for scripts/check.sh.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin

BUILD_PACKAGES=(build-essential clang gcc-multilib libelf-dev libpcap-dev m4 pkg-config zlib1g-dev)
LAB_PACKAGES=(
  ca-certificates curl ethtool iperf3 iproute2 iputils-ping jq netcat-openbsd nftables nginx postgresql procps
  python3-flask python3-prometheus-client python3-psycopg2 tcpdump util-linux wrk
)
TEST_PACKAGES=(shellcheck)
CLUSTER_PACKAGES=(bind9-dnsutils buildah busybox-static conntrack containernetworking-plugins debootstrap iptables openssl wget)

usage() {
  cat <<'USAGE'
Usage: scripts/setup.sh [--ebpf] [--cluster]

Installs the Debian packages that building sluice, its tests, lab and demo need, and Rust if there is none.
  --ebpf      also install the eBPF toolchain (only needed to change the program in xdp-redirect)
  --cluster   also install what scripts/cluster.sh needs (a real Kubernetes for tests), but for Go, which it fetches
USAGE
}

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

# Prints those of the named packages that are not installed.
missing_packages() {
  local installed package
  installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null |
    sed -n 's/ installed$//p' || true)
  for package in "$@"; do
    grep -qxF -- "$package" <<<"$installed" || printf '%s\n' "$package"
  done
}

# The minimum Rust version, from the workspace's `rust-version`.
required_rust() {
  sed -n 's/^rust-version = "\([0-9.]*\)"$/\1/p' "$SCRIPTS/../Cargo.toml"
}

# Whether the installed cargo is at least of version $1. Run outside the tree, where no toolchain file makes a rustup
# proxy download anything.
cargo_is_new_enough() {
  local version
  command -v cargo >/dev/null || return 1
  if command -v rustup >/dev/null; then
    return 0 # the tree's rust-toolchain.toml names the version, rustup fetches it
  fi
  version=$(cd / && cargo --version | cut -d' ' -f2) || return 1
  [[ $(printf '%s\n%s\n' "$1" "$version" | sort -V | head -n1) == "$1" ]]
}

CLEANUP=()
cleanup() {
  if ((${#CLEANUP[@]})); then rm -f -- "${CLEANUP[@]}"; fi
}
trap cleanup EXIT

# Installs packages without starting or creating any service: the lab starts its own PostgreSQL and nginx, in
# namespaces, and a second one on the machine's port 80 or 5432 is nobody's wish.
install_packages() {
  ((EUID == 0)) || die "not root; as root, run: apt-get install -y --no-install-recommends $*"
  command -v apt-get >/dev/null || die "no apt-get: install the equivalents of: $*"
  if [[ ! -e /usr/sbin/policy-rc.d ]]; then
    CLEANUP+=(/usr/sbin/policy-rc.d)
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
  fi
  local cluster=/etc/postgresql-common/createcluster.d/sluice-setup.conf
  if [[ ! -e /usr/bin/pg_createcluster ]]; then
    CLEANUP+=("$cluster")
    mkdir -p "${cluster%/*}"
    printf 'create_main_cluster = false\n' >"$cluster"
  fi
  say "apt-get update"
  apt-get update -qq
  say "apt-get install $*"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o Dpkg::Options::=--force-confold "$@"
  # Not at the next boot either. Only one that was not there before: another's nginx is none of our business.
  local service
  for service in nginx containerd; do
    if [[ " $* " == *" $service "* ]] && command -v systemctl >/dev/null; then
      systemctl --quiet disable "$service.service" || true
    fi
  done
}

main() {
  local ebpf=0 cluster=0
  while (($#)); do
    case $1 in
      --ebpf) ebpf=1 ;;
      --cluster) cluster=1 ;;
      -h | --help) usage; return ;;
      *) usage >&2; die "unknown argument: $1" ;;
    esac
    shift
  done

  local rust packages=()
  rust=$(required_rust)
  [[ -n $rust ]] || die "Cargo.toml has no rust-version"
  mapfile -t packages < <(missing_packages "${BUILD_PACKAGES[@]}" "${LAB_PACKAGES[@]}" "${TEST_PACKAGES[@]}")
  if ((cluster)); then
    mapfile -t -O "${#packages[@]}" packages < <(missing_packages "${CLUSTER_PACKAGES[@]}")
    # Not where Docker's package brings them: Debian's would replace it.
    command -v containerd >/dev/null || packages+=(containerd)
    command -v runc >/dev/null || packages+=(runc)
  fi
  if ! cargo_is_new_enough "$rust"; then
    say "no cargo >= $rust"
    packages+=(cargo-web rustc-web)
  fi
  # With rustup they come with the toolchain.
  if ! command -v rustup >/dev/null; then
    command -v cargo-clippy >/dev/null || packages+=(rust-web-clippy)
    command -v rustfmt >/dev/null || packages+=(rustfmt-web)
  fi
  if ((${#packages[@]})); then
    install_packages "${packages[@]}"
  else
    say "all packages present"
  fi
  cargo_is_new_enough "$rust" || die "cargo is older than $rust; install a newer Rust (rustup, or cargo-web)"
  if ((ebpf)); then "$SCRIPTS/build-ebpf.sh" --setup; fi
  say "done"
}

main "$@"
