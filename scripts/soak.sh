#!/usr/bin/env bash
# Minutes of mixed traffic through sluice in a lab of its own: TCP byte-exact, every lost UDP datagram found in a counter.
# The traffic itself: tests/src/traffic.rs.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin

usage() {
  cat <<'USAGE'
Usage: scripts/soak.sh [--minutes N]

Runs mixed traffic for N minutes (default 10) and prints what went through; exits 0 if all of it is accounted for.

Environment: SLUICE_BIN (a built sluice: only the traffic generator is built then).
USAGE
}

die() { printf 'soak: error: %s\n' "$*" >&2; exit 1; }

main() {
  local minutes=10
  while (($#)); do
    case $1 in
      --minutes) minutes=${2?} && shift ;;
      -h | --help) usage; return ;;
      *) usage >&2; die "unknown argument: $1" ;;
    esac
    shift
  done
  [[ $minutes =~ ^[1-9][0-9]*$ ]] || die "--minutes $minutes: not a whole number"
  ((EUID == 0)) || die "network namespaces need root"
  cd "$SCRIPTS/.."
  [[ -n ${SLUICE_BIN-} ]] || cargo build --release -p sluice
  cargo run --quiet --release -p sluice-e2e --bin mixed-traffic -- --seconds $((minutes * 60))
}

main "$@"
