#!/usr/bin/env bash
# The Helm chart in deploy/helm/sluice: what is derived from it or for it, and its test on a real cluster.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
cd "$ROOT"
export PATH=$PATH:/usr/sbin:/sbin

CHART=deploy/helm/sluice
MANIFEST=deploy/kubernetes/sluice.yaml
NAMESPACE=kube-system
TEST_NAMESPACE=sluice-chart
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
BIN=$TARGET/cluster/bin
IMAGE_ARCHIVE=$ROOT/target/image/image.tar
export SLUICE_CLUSTER=${SLUICE_CLUSTER:-sluice-chart}

# What the chart must refuse: values that nothing supports or that contradict each other.
REFUSED=(
  policyEnforcementMode=always policyEnforcementMode=never crds.install=maybe umem.frames=255 umem.frames=65537
  worker.spinMicroseconds=1000001 podTuning=fast updateStrategy.rollingUpdate.maxSurge=1 image.digest=abc unknownValue=1
  cni.confPath=etc/cni cni.exclusive=true prometheus.serviceMonitor.enabled=true
  'worker.dedicatedCPUs=2,resources.limits.cpu=2' 'worker.dedicatedCPUs=1,worker.napi=true' operator.replicas=0
  kubeProxyReplacement=true 'excludeNamespaces={Storage}'
)

usage() {
  cat <<'USAGE'
Usage: scripts/chart.sh COMMAND

  render           copy deploy/crds into the chart, and write deploy/kubernetes/sluice.yaml as the chart renders it
  render --check   fail if that would change anything; without Helm only the copies are compared
  test             lint, render every file of values in deploy/helm/sluice/ci and the presets, have an API server validate it,
                   then install, upgrade, roll back and uninstall on a node; prints each step

`test` needs root and target/image/image.tar (scripts/image.sh). It uses the cluster $SLUICE_CLUSTER (default sluice-chart) if it
is up; otherwise it starts one of a single node and takes it down at the end. Environment: SLUICE_BIN, the `sluice` that sets
the node free (default target/release/sluice).
USAGE
}

say() { printf 'chart: %s\n' "$*" >&2; }
die() { printf 'chart: error: %s\n' "$*" >&2; exit 1; }

# The Helm that scripts/cluster.sh builds, or an installed one.
find_helm() {
  if [[ -x $BIN/helm ]]; then printf '%s\n' "$BIN/helm"; else type -P helm; fi
}

render_manifest() {
  cat <<'HEADER'
# What the chart in deploy/helm/sluice renders by default, written by `scripts/chart.sh render`. Apply deploy/crds first, unless
# Cilium's CustomResourceDefinitions are there already.
#
#   kubectl apply --server-side -f deploy/crds -f deploy/kubernetes
HEADER
  "$(find_helm)" template sluice "$CHART" --namespace "$NAMESPACE" | sed '/^# Source: /d'
}

render() {
  local differs=0
  if [[ ${1-} != --check ]]; then
    (($# == 0)) || die "render: unknown argument: $1"
    find_helm >/dev/null || die "no helm; run: scripts/cluster.sh build --helm"
    rm -rf "$CHART/files/crds"
    cp -r deploy/crds "$CHART/files/crds"
    render_manifest >"$MANIFEST.new"
    mv "$MANIFEST.new" "$MANIFEST"
    return
  fi
  diff -rq deploy/crds "$CHART/files/crds" || differs=1
  if find_helm >/dev/null; then
    render_manifest | diff -u "$MANIFEST" - || differs=1
  else
    say "no helm: $MANIFEST is not compared with what the chart renders"
  fi
  ((differs == 0)) || die "derived files differ; run: scripts/chart.sh render"
}

cluster() { "$SCRIPTS/cluster.sh" "$@"; }
kubectl() { cluster kubectl "$@"; }
helm() { cluster helm "$@"; }
on_node() { cluster node-exec node1 -- "$@"; }

PASSED=0 FAILED=0
# step CLAIM COMMAND...: runs it and counts; what it printed is shown if it failed.
step() {
  local claim=$1 output
  shift
  if output=$("$@" 2>&1); then
    printf 'ok      %s\n' "$claim"
    PASSED=$((PASSED + 1))
  else
    printf 'FAILED  %s\n' "$claim"
    # shellcheck disable=SC2001 # every line is to be indented
    sed 's/^/        /' <<<"$output" | tail -n 40
    FAILED=$((FAILED + 1))
  fi
}

# until_true SECONDS COMMAND...: waits for a condition.
until_true() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.5
  done
}

refuses() {
  if "$(find_helm)" template sluice "$CHART" --set "$1"; then return 1; fi
}

# The API server takes what the chart renders with these values, field by field.
validates() {
  "$(find_helm)" template sluice "$CHART" --namespace "$NAMESPACE" "$@" >"$WORK/rendered.yaml"
  kubectl apply --server-side --dry-run=server --validate=strict --field-manager=sluice-chart-test -f - <"$WORK/rendered.yaml"
}

# Without setns the agent finds no pod that is there already: those would stay open, whatever is not tuned.
enters_pods() { grep -q 'add: \[.*SYS_ADMIN\]' "$WORK/rendered.yaml"; }

# Whether a connection from one test pod to the other is made.
connects() { kubectl -n "$TEST_NAMESPACE" exec "$1" -- /agnhost connect --timeout=2s "$(pod_ip "$2"):8080"; }
is_cut_off() { ! connects "$@"; }
pod_ip() { kubectl -n "$TEST_NAMESPACE" get pod "$1" -o 'jsonpath={.status.podIP}'; }

pod() {
  kubectl -n "$TEST_NAMESPACE" run "$1" --labels "app=$1" --restart=Never --image-pull-policy=Never \
    --image="$AGNHOST" --command -- /agnhost netexec --http-port=8080 &&
    kubectl -n "$TEST_NAMESPACE" wait --for=condition=Ready "pod/$1" --timeout=60s
}

deny() {
  kubectl -n "$TEST_NAMESPACE" apply -f - <<'YAML'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress]}
YAML
}

# What sluice could leave on a node, and what it could change. But for the length of a veth's queue, which the kernel sets when an
# interface gets one and does not take back with it (`qdisc_create`).
node_picture() {
  # shellcheck disable=SC2016 # the node's shell expands it
  on_node sh -c '
    ip -o link | sed "s/^[0-9]*: //; s/ *qlen [0-9]* *//; s/ *\\\\.*//"
    for family in -4 -6; do ip "$family" rule; ip "$family" route show table all; done
    tc qdisc show
    for interface in /sys/class/net/veth*; do ethtool -k "${interface##*/}" | grep -E "^(tcp-segmentation|generic-receive)"; done
    nft list tables
    sysctl -a 2>/dev/null | grep -E "^net\.ipv[46]\.(conf\.(all|default)|ip_forward)" | grep -v -E "stable_secret"
    find /sys/fs/bpf /etc/cni /opt/cni /run/sluice 2>/dev/null | sort
  '
}

is_ipv6_settled() { [[ -z $(on_node ip -6 address show tentative) ]]; }
is_node_as_before() { node_picture >"$WORK/after" && diff "$WORK/before" "$WORK/after"; }

free_node() {
  on_node "$SLUICE_BIN" cleanup --cni-conf-dir /etc/cni/net.d --cni-bin-dir /opt/cni/bin
}

is_enforcing() {
  until_true 30 is_cut_off client server && connects server client
}

# The CustomResourceDefinition that stands for one of Cilium's own.
FOREIGN=ciliumcidrgroups.cilium.io
foreign_version() { kubectl get crd "$FOREIGN" -o 'jsonpath={.metadata.resourceVersion}'; }
is_foreign_untouched() { [[ $(foreign_version) == "$1" ]]; }
have_crds() {
  kubectl get crd ciliumnetworkpolicies.cilium.io ciliumclusterwidenetworkpolicies.cilium.io \
    clusternetworkpolicies.policy.networking.k8s.io
}

release() {
  local command=$1
  shift
  helm "$command" sluice "$@" --namespace "$NAMESPACE" --wait --timeout 120s
}

# Helm does not wait for pods to end.
uninstall() {
  release uninstall && kubectl -n "$NAMESPACE" wait --for=delete pods -l app.kubernetes.io/part-of=sluice --timeout=60s
}

is_revision() {
  helm history sluice --namespace "$NAMESPACE" -o json | jq -e '.[-1].status == "deployed"' && pod_args | grep -qF -- "$1"
}
pod_args() { kubectl -n "$NAMESPACE" get pods -l app.kubernetes.io/name=sluice -o 'jsonpath={.items[*].spec.containers[0].args}'; }

is_guaranteed() {
  [[ $(kubectl -n "$NAMESPACE" get pods -l app.kubernetes.io/name=sluice -o 'jsonpath={.items[*].status.qosClass}') == Guaranteed ]]
}
no_object_left() {
  ! kubectl get daemonset,deployment,serviceaccount,role,rolebinding,service,secret,clusterrole,clusterrolebinding \
    -A -o name | grep -E '/(sh\.helm\.release\.v1\.)?sluice'
}

test_rendering() {
  local values value
  for values in "$CHART"/ci/*.yaml "$CHART"/values-*.yaml; do
    step "${values##*/}: lint" "$(find_helm)" lint --strict "$CHART" -f "$values"
  done
  for value in "${REFUSED[@]}"; do
    step "refused: $value" refuses "$value"
  done
  kubectl apply -f - <tests/cluster/helm/servicemonitors.yaml >/dev/null
  kubectl wait --for=condition=Established crd/servicemonitors.monitoring.coreos.com --timeout=30s >/dev/null
  for values in "$CHART"/ci/*.yaml "$CHART"/values-*.yaml; do
    step "${values##*/}: the API server takes what is rendered" validates -f "$values"
    step "${values##*/}: the agent may enter the namespaces of pods" enters_pods
  done
  kubectl delete -f - <tests/cluster/helm/servicemonitors.yaml >/dev/null
}

test_life() {
  local foreign
  kubectl create namespace "$TEST_NAMESPACE" >/dev/null
  step "pods start without sluice" pod server
  step "a second one" pod client
  step "a policy that nobody enforces" deny
  step "pods connect" connects client server
  kubectl create -f - <"deploy/crds/$FOREIGN.yaml" >/dev/null
  kubectl label crd "$FOREIGN" io.cilium.k8s.crd.schema.version=1.99.0 >/dev/null
  # The API server is done with it: its version changes no more.
  kubectl wait --for=condition=Established "crd/$FOREIGN" --timeout=30s >/dev/null
  foreign=$(foreign_version)
  # The route of an address comes when it is known to be nobody else's.
  until_true 30 is_ipv6_settled || die "IPv6 addresses stay tentative"
  node_picture >"$WORK/before"

  step "install" release install "$CHART" "${SETTINGS[@]}"
  step "CustomResourceDefinitions that were absent are there" have_crds
  step "somebody else's is as it was" is_foreign_untouched "$foreign"
  step "pods that were there are under policy" is_enforcing
  step "upgrade" release upgrade "$CHART" "${SETTINGS[@]}" --set podTuning=latency,worker.dedicatedCPUs=1,bpf.autoMount.enabled=true
  step "the new values are in force" is_revision --pod-tuning=latency
  step "dedicated CPUs make the pod Guaranteed" is_guaranteed
  step "policy is enforced" is_enforcing
  step "roll back" helm rollback sluice 1 --namespace "$NAMESPACE" --wait --timeout 120s
  step "the former values are in force" is_revision --pod-tuning=throughput
  step "policy is enforced" is_enforcing
  step "a new pod starts" pod late
  kubectl -n "$TEST_NAMESPACE" delete pod late --timeout=60s >/dev/null
  step "uninstall" uninstall
  step "no object is left" no_object_left
  step "CustomResourceDefinitions stay" have_crds
  step "somebody else's is as it was" is_foreign_untouched "$foreign"
  step "sluice cleanup" free_node
  step "pods connect" connects client server
  step "no link, rule, route, pin, setting or file is left on the node" is_node_as_before
  step "a new pod starts" pod late
  step "it connects" connects late server
  step "install once more" release install "$CHART" "${SETTINGS[@]}"
  step "policy is enforced" is_enforcing
  step "uninstall" uninstall
  step "sluice cleanup" free_node
  step "pods connect" connects client server
}

clean_up() {
  rm -rf "$WORK"
  if ((STARTED)); then
    cluster down
  else
    kubectl delete namespace "$TEST_NAMESPACE" --ignore-not-found
    kubectl delete crd -l app.kubernetes.io/part-of=sluice
    kubectl delete crd "$FOREIGN" --ignore-not-found
  fi
}

run_test() {
  ((EUID == 0)) || die "needs root"
  [[ -e $IMAGE_ARCHIVE ]] || die "no $IMAGE_ARCHIVE; run: scripts/image.sh"
  SLUICE_BIN=$(readlink -f "${SLUICE_BIN:-$TARGET/release/sluice}")
  [[ -x $SLUICE_BIN ]] || die "no $SLUICE_BIN: set SLUICE_BIN"
  WORK=$(mktemp -d) STARTED=0
  trap clean_up EXIT
  cluster build --helm
  if [[ $(cluster status | head -n 1) == down ]]; then
    STARTED=1
    cluster up --nodes 1
  fi
  cluster load "$IMAGE_ARCHIVE"
  AGNHOST=$(on_node ctr --address /run/containerd/containerd.sock -n k8s.io images list -q | grep '/agnhost:' | head -n 1)
  SETTINGS=()
  # A binary that has no operator yet would never get ready.
  if ! "$SLUICE_BIN" operator --help >/dev/null 2>&1; then
    say "this sluice has no operator: installed without"
    SETTINGS+=(--set operator.enabled=false)
  fi
  test_rendering
  test_life
  printf '%d passed, %d failed\n' "$PASSED" "$FAILED"
  ((FAILED == 0))
}

main() {
  local command=${1-}
  shift || true
  case $command in
    render) render "$@" ;;
    test) run_test "$@" ;;
    -h | --help | help) usage ;;
    *) usage >&2; exit 2 ;;
  esac
}

main "$@"
