#!/usr/bin/env bash
# Runs Kubernetes' own end-to-end specs against the cluster of scripts/cluster.sh, which has to be up: by default all of
# NetworkPolicy's. Without something that enforces policies on it, those that expect a denial fail.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
BIN=${CARGO_TARGET_DIR:-$ROOT/target}/cluster/bin
REPORTS=${CARGO_TARGET_DIR:-$ROOT/target}/cluster/conformance/${SLUICE_CLUSTER:-sluice-cluster}

# SCTP needs a kernel module that many machines lack; the suite marks those specs.
DEFAULT_FOCUS='\[sig-network\] Netpol' DEFAULT_SKIP='SCTP'

usage() {
  cat <<USAGE
Usage: scripts/conformance.sh [--focus RE] [--skip RE] [--list]

Runs the specs whose name matches --focus and not --skip, one after the other, and prints which have failed; exits 0 if none
has. Builds the suite first (2 minutes on two cores; seconds if it is up to date).
  --focus RE   default: $DEFAULT_FOCUS; for Services: '\[sig-network\] Services'
  --skip RE    default: $DEFAULT_SKIP
  --list       only print the names of the specs that would run

Specs that look names up with dig (most of DNS's) wait in vain: the image has none. Full output and a JUnit report:
target/cluster/conformance/\$SLUICE_CLUSTER. Environment: SLUICE_CLUSTER, as for scripts/cluster.sh.
USAGE
}

say() { printf 'conformance: %s\n' "$*" >&2; }
die() { printf 'conformance: error: %s\n' "$*" >&2; exit 1; }

# Lines "STATUS NAME" of all specs that ran, from the suite's JSON report.
results() {
  jq -r '.[].SpecReports[] | select(.LeafNodeType == "It" and .State != "skipped")
    | "\(.State) \(.ContainerHierarchyTexts + [.LeafNodeText] | join(" "))"' "$REPORTS/report.json"
}

main() {
  local focus=$DEFAULT_FOCUS skip=$DEFAULT_SKIP list=0 status=0 kubeconfig arguments=() passed failed
  while (($#)); do
    case $1 in
      --focus) (($# > 1)) || die "--focus lacks its value"; focus=$2; shift ;;
      --skip) (($# > 1)) || die "--skip lacks its value"; skip=$2; shift ;;
      --list) list=1 ;;
      -h | --help) usage; return ;;
      *) usage >&2; die "unknown argument: $1" ;;
    esac
    shift
  done
  command -v jq >/dev/null || die "no jq; run: scripts/cluster.sh setup"
  kubeconfig=$("$SCRIPTS/cluster.sh" kubeconfig)
  "$SCRIPTS/cluster.sh" build --suite
  rm -rf "$REPORTS"
  mkdir -p "$REPORTS"
  arguments=(
    -kubeconfig "$kubeconfig" -provider skeleton -kubectl-path "$BIN/kubectl"
    -ginkgo.focus "$focus" -ginkgo.json-report "$REPORTS/report.json" -ginkgo.junit-report "$REPORTS/junit.xml"
    -ginkgo.no-color -ginkgo.timeout 3h -test.timeout 0
  )
  [[ -z $skip ]] || arguments+=(-ginkgo.skip "$skip")
  ((list == 0)) || arguments+=(-ginkgo.dry-run)
  # In the suite's own directory: it leaves files where it is started.
  cd "$REPORTS"
  say "running; all output: $REPORTS/log"
  "$SCRIPTS/cluster.sh" control-exec -- "$BIN/e2e.test" "${arguments[@]}" >"$REPORTS/log" 2>&1 || status=$?
  [[ -s $REPORTS/report.json ]] || {
    tail -n 20 "$REPORTS/log" >&2
    die "the suite ended with status $status and no report"
  }
  if ((list)); then
    results | sed 's/^[a-z]* //' | sort
    return
  fi
  results | sort
  passed=$(results | grep -c '^passed ' || true)
  failed=$(results | grep -vc '^passed ' || true)
  printf '%d passed, %d failed\n' "$passed" "$failed"
  ((passed + failed)) || die "no spec's name matches"
  ((failed == 0 && status == 0))
}

main "$@"
