#!/usr/bin/env bash
# Runs the suites that Kubernetes judges networks by against the cluster of scripts/cluster.sh, which has to be up. Without
# something that enforces policies on it, the specs that expect a denial fail.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
BIN=${CARGO_TARGET_DIR:-$ROOT/target}/cluster/bin
CLUSTER=${SLUICE_CLUSTER:-sluice-cluster}
DOCUMENT=$ROOT/docs/conformance.md
AGNHOST=registry.k8s.io/e2e-test-images/agnhost:2.63.0

usage() {
  cat <<'USAGE'
Usage: scripts/conformance.sh [SUITE] [--focus RE] [--skip RE] [--procs N] [--list] [--results FILE] [--against FILE] [--record]

Runs a suite's specs and prints which have failed; exits 0 if none has. Builds the suite first (2 minutes on two cores; seconds if it is
up to date).

Suites:
  netpol                  NetworkPolicy: Kubernetes' own end-to-end specs; the default
  services                Services, networking, DNS, host ports: Kubernetes' own end-to-end specs
  cluster-network-policy  ClusterNetworkPolicy: the conformance suite of sigs.k8s.io/network-policy-api

  --focus RE      only specs whose name matches
  --skip RE       none whose name matches. SCTP is always left out: the kernel module is missing on many machines
  --procs N       so many of Kubernetes' specs at a time, those marked serial aside; default 1, for services 4: they mostly wait
  --list          only print the names of the specs that would run (not for cluster-network-policy)
  --results FILE  also write the lines "passed NAME", "failed NAME" to a file
  --against FILE  fail only for specs that such a file, of a run without sluice, has as passed
  --record        note the outcome in docs/conformance.md

Full output and reports: target/cluster/conformance. Environment: SLUICE_CLUSTER, as for scripts/cluster.sh.
USAGE
}

say() { printf 'conformance: %s\n' "$*" >&2; }
die() { printf 'conformance: error: %s\n' "$*" >&2; exit 1; }

# Sets FOCUS and SKIP to what is meant by suite $1, unless they are set.
choose() {
  case $1 in
    netpol) : "${FOCUS=\[sig-network\] Netpol}" "${SKIP=SCTP}" ;;
    services)
      : "${PROCS=4}" "${FOCUS=\[sig-network\].*(Services|Networking|DNS|HostPort|EndpointSlice|Proxy)}" \
        "${SKIP=SCTP|Disruptive|Slow|Feature:|Netpol}"
      ;;
    cluster-network-policy) : "${FOCUS=.*}" "${SKIP=}" ;;
    *) usage >&2; die "unknown suite: $1" ;;
  esac
}

# Kubernetes' specs; $1: whether they are only listed. Prints lines "STATUS NAME".
run_ginkgo() {
  local list=$1 kubeconfig=$2 status=0 arguments
  "$SCRIPTS/cluster.sh" build --suite >&2
  arguments=(--focus "$FOCUS" --output-dir "$REPORTS" --json-report report.json --junit-report junit.xml --no-color --timeout 3h)
  [[ -z $SKIP ]] || arguments+=(--skip "$SKIP")
  if ((list)); then arguments+=(--dry-run); else arguments+=(--procs "$PROCS"); fi
  arguments+=("$BIN/e2e.test" -- -kubeconfig "$kubeconfig" -provider skeleton -kubectl-path "$BIN/kubectl")
  "$SCRIPTS/cluster.sh" control-exec -- "$BIN/ginkgo" run "${arguments[@]}" >"$REPORTS/log" 2>&1 || status=$?
  [[ -s $REPORTS/report.json ]] || {
    tail -n 20 "$REPORTS/log" >&2
    die "the suite ended with status $status and no report"
  }
  jq -r '.[].SpecReports[] | select(.LeafNodeType == "It" and .State != "skipped")
    | "\(.State) \(.ContainerHierarchyTexts + [.LeafNodeText] | join(" "))"' "$REPORTS/report.json"
}

# The suite of network-policy-api: a test of Go's per case and expectation. Prints lines "STATUS NAME".
run_go_test() {
  local kubeconfig=$1 arguments
  "$SCRIPTS/cluster.sh" build --cluster-network-policy >&2
  arguments=(
    -test.v -test.timeout 2h -test.run "TestConformance/$FOCUS" -all-features
    -agnhost-image "$AGNHOST"
  )
  [[ -z $SKIP ]] || arguments+=(-test.skip "$SKIP")
  # A protocol that the kernel has is listed here.
  grep -q '^SCTP ' /proc/net/protocols || arguments+=(-sctp-as-tcp)
  KUBECONFIG=$kubeconfig "$SCRIPTS/cluster.sh" control-exec -- \
    "$BIN/network-policy-api.test" "${arguments[@]}" >"$REPORTS/log" 2>&1 || true
  # Expectations, not the cases that hold them.
  sed -n 's/^ *--- PASS: TestConformance\/\([^/]*\/.*\) (.*/passed \1/p; s/^ *--- FAIL: TestConformance\/\([^/]*\/.*\) (.*/failed \1/p' \
    "$REPORTS/log"
}

# Replaces suite $1's line in the document, of this mode of kube-proxy.
record() {
  local suite=$1 passed=$2 failed=$3 nodes mode line head
  nodes=$("$SCRIPTS/cluster.sh" kubectl get nodes --no-headers | wc -l)
  mode=$(sed -n 's/.*kube_proxy=//p' "/run/$CLUSTER/up")
  head="- \`scripts/conformance.sh $suite\`, kube-proxy $mode:"
  line="$head $passed passed, $failed failed, on $nodes nodes of Kubernetes $("$SCRIPTS/cluster.sh" kubectl version -o json | jq -r .serverVersion.gitVersion)"
  [[ -z $SKIP ]] || line+="; left out: \`$SKIP\`"
  HEAD=$head LINE=$line awk '
    /^## / { in_section = $0 ~ /Upstream.s suites/ }
    in_section && index($0, ENVIRON["HEAD"]) == 1 { print ENVIRON["LINE"]; done = 1; next }
    in_section && /^<!-- end of results -->/ && !done { print ENVIRON["LINE"] }
    { print }
  ' "$DOCUMENT" >"$REPORTS/document"
  cat "$REPORTS/document" >"$DOCUMENT"
}

main() {
  unset -v FOCUS SKIP PROCS # those of the environment are somebody else's
  local suite=netpol list=0 results='' against='' recorded=0 kubeconfig passed failed broken
  if (($#)) && [[ $1 != -* ]]; then
    suite=$1
    shift
  fi
  while (($#)); do
    case $1 in
      --focus) FOCUS=${2?--focus lacks its value}; shift ;;
      --skip) SKIP=${2?--skip lacks its value}; shift ;;
      --results) results=${2?--results lacks its file}; shift ;;
      --against) against=$(realpath -e "${2?--against lacks its file}"); shift ;;
      --procs) PROCS=${2?--procs lacks its number}; shift ;;
      --list) list=1 ;;
      --record) recorded=1 ;;
      -h | --help) usage; return ;;
      *) usage >&2; die "unknown argument: $1" ;;
    esac
    shift
  done
  choose "$suite"
  : "${PROCS=1}"
  [[ -z $results ]] || results=$(realpath -m "$results")
  command -v jq >/dev/null || die "no jq; run: scripts/cluster.sh setup"
  kubeconfig=$("$SCRIPTS/cluster.sh" kubeconfig)
  REPORTS=${CARGO_TARGET_DIR:-$ROOT/target}/cluster/conformance/$CLUSTER/$suite
  rm -rf "$REPORTS"
  mkdir -p "$REPORTS"
  # In the suite's own directory: it leaves files where it is started.
  cd "$REPORTS"
  say "$suite is running; all output: $REPORTS/log"
  if [[ $suite == cluster-network-policy ]]; then
    ((list == 0)) || die "--list is not for $suite"
    run_go_test "$kubeconfig" >results
  else
    run_ginkgo "$list" "$kubeconfig" >results
  fi
  if ((list)); then
    sed 's/^[a-z]* //' results | sort
    return
  fi
  sort -o results results
  cat results
  [[ -z $results ]] || cp results "$results"
  passed=$(grep -c '^passed ' results || true)
  failed=$(grep -vc '^passed ' results || true)
  printf '%d passed, %d failed\n' "$passed" "$failed"
  ((passed + failed)) || die "no spec ran: $(tail -n 5 log)"
  ((recorded == 0)) || record "$suite" "$passed" "$failed"
  if [[ -n $against ]]; then
    broken=$(grep -v '^passed ' results | sed 's/^[a-z]* //' | grep -Fxf - <(sed -n 's/^passed //p' "$against") || true)
    [[ -z $broken ]] || printf 'passed in %s:\n%s\n' "$against" "$broken"
    [[ -z $broken ]]
    return
  fi
  ((failed == 0))
}

main "$@"
