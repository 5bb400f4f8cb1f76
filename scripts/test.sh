#!/usr/bin/env bash
# Sets the machine up and runs every test: static checks, unit, property, graph and documentation tests, the model check of
# the hand-off ring, and as root everything that needs a kernel: loader, node state and the end-to-end tests in the lab.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
export PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin

# Test programs that need root: everything else runs anywhere. Those of sluice-e2e need the release binary, too.
KERNEL_TESTS=(loader conflict node_state pod_tuning pod_veth adoption)

# Seconds that each fuzz target gets.
FUZZ_SECONDS=20

# Upstream's NetworkPolicy specs that every run has: a kind of rule each.
CONFORMANCE_FOCUS='Netpol NetworkPolicy between server and client should (support a .default-deny-all. policy|enforce policy to allow traffic only from a pod in a different namespace based on PodSelector and NamespaceSelector|enforce policy based on Multiple PodSelectors and NamespaceSelectors|enforce egress policy allowing traffic to a server in a different namespace|allow ingress access on one named port|enforce except clause while egress access to server in CIDR block|enforce updated policy)'

LOGS=${CARGO_TARGET_DIR:-$ROOT/target}/test-logs

usage() {
  cat <<'USAGE'
Usage: scripts/test.sh [--quick | --cluster]

Runs all tests (about 40 minutes on two cores, most of it compiling) and prints a summary; exits 0 if all have passed.
  --quick     leave out what needs root: nothing is installed and no network namespace is made
  --cluster   only those on a real Kubernetes (scripts/cluster.sh), which is started for them and removed: the long ones, too,
              with kube-proxy in each mode, behind the CNI plugins ptp and bridge, and the chart's

Logs: target/test-logs. Environment: SLUICE_BIN (a built sluice for the end-to-end tests: no release build then).
USAGE
}

say() { printf '\n== %s\n' "$*"; }
die() { printf 'test: error: %s\n' "$*" >&2; exit 1; }

PASSED=0 FAILED=0 SUMMARY=() FAILURES=()

# Counts what a log says of its tests: cargo's and the end-to-end suite's results, and the checks'.
count() {
  awk '
    /^test result:/ || /^[0-9]+ passed, [0-9]+ failed$/ {
      for (i = 2; i <= NF; i++) {
        if ($i ~ /^passed/) passed += $(i - 1)
        if ($i ~ /^failed/) failed += $(i - 1)
      }
    }
    END { print passed + 0, failed + 0 }
  ' "$1"
}

# What a log says of the tests that failed, so that the end of all output tells it, too: their names and reasons, or, where no
# test is named, the log's end.
failures() {
  awk '
    /^check .* \.\.\. FAILED/ { for (i = NR - 8; i < NR; i++) if (i > 0) print last[i % 20] }
    /^test .* \.\.\. FAILED|^check .* \.\.\. FAILED|^nothing to test on: |^---- .* stdout ----$/ { left = 12; found = 1 }
    /^test .* \.\.\. ok|agent.s log:$/ { left = 0 }
    left > 0 { print; left-- }
    { last[NR % 20] = $0 }
    END { if (!found) for (i = NR - 19; i <= NR; i++) if (i > 0) print last[i % 20] }
  ' "$1" | cut -c -300
}

# step NAME COMMAND...: runs it, shows and keeps its output, and counts its tests. A step that fails without a failed test
# (it does not compile, it has been killed) counts as one.
step() {
  local name=$1 log=$LOGS/$1.log started=$SECONDS status=0 passed failed
  shift
  say "$name: $*"
  { "$@" 2>&1 || status=$?; } > >(tee "$log")
  wait "$!" # the log is complete
  read -r passed failed < <(count "$log")
  if ((status != 0 && failed == 0)); then failed=1; fi
  if ((status == 0 && passed + failed == 0)); then passed=1; fi
  PASSED=$((PASSED + passed)) FAILED=$((FAILED + failed))
  if ((failed > 0)); then FAILURES+=("$name:"$'\n'"$(failures "$log" | sed 's/^/  /')"); fi
  SUMMARY+=("$(printf '%-17s %6d passed %4d failed %6d s' "$name" "$passed" "$failed" $((SECONDS - started)))")
}

# Names of the workspace's integration tests: of package $1, or of all packages but sluice-e2e.
test_programs() {
  cargo metadata --format-version 1 --no-deps --locked | jq -r --arg package "${1-}" '
    .packages[] | select(if $package == "" then .name != "sluice-e2e" else .name == $package end)
    | .targets[] | select(.kind | index("test")) | .name'
}

is_kernel_test() { printf '%s\n' "${KERNEL_TESTS[@]}" | grep -qxF -- "$1"; }

# Prints `--test NAME` for each argument.
selected() { (($# == 0)) || printf -- '--test\n%s\n' "$@"; }

# Always the whole workspace, so that every step builds its dependencies with the same features, once.
cargo_test() { cargo test --locked --workspace --no-fail-fast "$@"; }

fuzz() {
  local target
  while read -r target; do
    # The targets hold no unsafe code: what the sanitizer would find cannot be there, and without it any compiler will do.
    (cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none "$target" -- \
      -max_total_time="$FUZZ_SECONDS" -dict=http1.dict -print_final_stats=1 </dev/null) || return
  done < <(find fuzz/fuzz_targets -name '*.rs' -printf '%f\n' | sed 's/\.rs$//')
}

run_tests() {
  local quick=$1 name ordinary=() flags=()
  for name in $(test_programs); do
    is_kernel_test "$name" || ordinary+=("$name")
  done
  step checks scripts/check.sh
  mapfile -t flags < <(selected "${ordinary[@]}")
  step tests cargo_test --lib --bins "${flags[@]}"
  step doc-tests cargo_test --doc
  if cargo fuzz --version >/dev/null 2>&1; then step fuzz fuzz; fi
  if ((quick)); then return; fi

  export SLUICE_REQUIRE_ROOT=1
  mapfile -t flags < <(selected "${KERNEL_TESTS[@]}")
  step kernel cargo_test "${flags[@]}"
  if [[ -z ${SLUICE_BIN-} ]]; then
    step release cargo build --locked --release -p sluice -p sluice-cni
  fi
  for name in $(test_programs sluice-e2e); do
    [[ $name == kubernetes ]] || step "e2e-$name" cargo_test --test "$name"
  done
  run_cluster_tests quick
}

# With clusters of its own, so that one that is up for other work stays as it is. Behind the other plugin only the quick cases:
# the long ones are about sluice and the API server.
run_cluster_tests() {
  local sluice
  sluice=$(readlink -f "${SLUICE_BIN:-${CARGO_TARGET_DIR:-target}/release/sluice}")
  export SLUICE_REQUIRE_ROOT=1 SLUICE_CLUSTER=sluice-test
  step cluster-build scripts/cluster.sh build
  # What an interrupted run left.
  scripts/cluster.sh down >/dev/null 2>&1 || true
  step cluster-up scripts/cluster.sh up --nodes 2
  step cluster-install scripts/cluster.sh install --binary "$sluice"
  SLUICE_CLUSTER_DRIVER=cluster SLUICE_CLUSTER_CASES=$1 step kubernetes cargo_test --test kubernetes
  step conformance scripts/conformance.sh netpol --focus "$CONFORMANCE_FOCUS"
  if [[ $1 == all ]]; then
    step connectivity scripts/cluster.sh control-exec -- "$sluice" connectivity test --kubeconfig "$(scripts/cluster.sh kubeconfig)"
    step scale scripts/cluster.sh scale
  fi
  step cluster-down scripts/cluster.sh down
  if [[ $1 == all ]]; then run_cluster_modes; fi
}

# What does not depend on how long a test goes on, in the other modes of kube-proxy and behind the other CNI plugin.
run_cluster_modes() {
  local mode
  for mode in '--kube-proxy iptables' '--kube-proxy none' '--cni bridge'; do
    # shellcheck disable=SC2086 # an option and its value
    step "up-${mode##* }" scripts/cluster.sh up --nodes 2 $mode
    step "install-${mode##* }" scripts/cluster.sh install --binary "$sluice"
    SLUICE_CLUSTER_DRIVER=cluster SLUICE_CLUSTER_CASES=quick step "kubernetes-${mode##* }" cargo_test --test kubernetes
    step "down-${mode##* }" scripts/cluster.sh down
  done
}

main() {
  local quick=0 cluster=0
  while (($#)); do
    case $1 in
      --quick) quick=1 ;;
      --cluster) cluster=1 ;;
      -h | --help) usage; return ;;
      *) usage >&2; die "unknown argument: $1" ;;
    esac
    shift
  done
  if ((!quick)); then
    ((EUID == 0)) || die "network namespaces, AF_XDP and BPF need root; without it: scripts/test.sh --quick"
    scripts/setup.sh
    scripts/cluster.sh setup
  fi
  rm -rf "$LOGS"
  mkdir -p "$LOGS"
  if ((cluster)); then
    [[ -n ${SLUICE_BIN-} ]] || step release cargo build --locked --release -p sluice -p sluice-cni
    export SLUICE_CHURN_PODS=500 SLUICE_OUTAGE_SECONDS=60
    run_cluster_tests all
    step chart scripts/chart.sh test
  else
    run_tests "$quick"
  fi
  say "Summary"
  printf '%s\n' "${SUMMARY[@]}"
  if ((${#FAILURES[@]} > 0)); then
    say "Failures"
    printf '%s\n' "${FAILURES[@]}"
  fi
  printf '\n%d passed, %d failed\n' "$PASSED" "$FAILED"
  ((FAILED == 0))
}

main "$@"
