#!/usr/bin/env bash
# sluice in a kind cluster, end to end: creates the cluster, gives it a network, builds and loads the image, installs the chart, plays
# the article and runs the functional tests. The cluster is deleted at the end, whatever happened.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
cd "$ROOT"
export PATH=$PATH:$HOME/.cargo/bin

CLUSTER=${KIND_CLUSTER:-sluice-e2e}
CONTEXT=kind-$CLUSTER
IMAGE=sluice:dev
FLASK_IMAGE=sluice/article-flask-app:1
POD_CIDR=10.244.0.0/16

usage() {
  cat <<'USAGE'
Usage: scripts/kind-e2e.sh [--dry-run] [--keep] [--image-archive FILE] [--node-image IMAGE]

Needs docker, kind, kubectl, helm, curl, jq and cargo, and a kernel of 6.6 or newer below docker. Exits 0 if everything is as expected.
  --dry-run              print the commands, run none
  --keep                 leave the cluster up at the end
  --image-archive FILE   an archive of sluice:dev (scripts/image.sh writes target/image/image.tar) [default: docker builds
                         deploy/Dockerfile, which takes its toolchain's image from a registry]
  --node-image IMAGE     what the nodes run [default: kind's own]

Environment: KIND_CLUSTER, the cluster's name (default sluice-e2e).
USAGE
}

say() { printf '\n== %s\n' "$*"; }
die() { printf 'kind-e2e: error: %s\n' "$*" >&2; exit 1; }

DRY_RUN=0 KEEP=0 IMAGE_ARCHIVE='' NODE_IMAGE=''

# Runs a command, or prints it as one could type it.
run() {
  if ((DRY_RUN)); then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# As `run`, for what is read afterwards: $1 stands for it in a dry run, whose commands go to standard error.
ask() {
  local placeholder=$1
  shift
  if ((DRY_RUN)); then
    run "$@" >&2
    printf '%s\n' "$placeholder"
  else
    "$@"
  fi
}

kubectl_kind() { run kubectl --context "$CONTEXT" "$@"; }

check_tools() {
  local tool kernel
  for tool in docker kind kubectl helm curl jq cargo; do
    command -v "$tool" >/dev/null || die "$tool is not installed"
  done
  docker info >/dev/null 2>&1 || die "docker's daemon does not answer"
  kernel=$(docker info --format '{{.KernelVersion}}')
  [[ $(printf '6.6\n%s\n' "$kernel" | sort -V | head -n 1) == 6.6 ]] || die "kernel $kernel below docker: sluice needs 6.6"
  if kind get clusters 2>/dev/null | grep -qxF -- "$CLUSTER"; then
    die "a cluster $CLUSTER is there already: kind delete cluster --name $CLUSTER"
  fi
}

create() {
  local arguments=(--name "$CLUSTER" --config kind-config/cluster.yaml)
  [[ -z $NODE_IMAGE ]] || arguments+=(--image "$NODE_IMAGE")
  run kind create cluster "${arguments[@]}"
}

# What a network plugin would do: on each node `ptp` with the node's own pod CIDR, routes to those of the others, and masquerading of
# what leaves the cluster. Not of what goes from pod to pod, which would cost it its identity.
network() {
  local nodes=() node other cidrs=() addresses=() i j
  mapfile -t nodes < <(ask "$CLUSTER-control-plane"$'\n'"$CLUSTER-worker" kind get nodes --name "$CLUSTER")
  for node in "${nodes[@]}"; do
    cidrs+=("$(ask "<pod CIDR of $node>" kubectl --context "$CONTEXT" get node "$node" -o 'jsonpath={.spec.podCIDR}')")
    addresses+=("$(ask "<address of $node>" kubectl --context "$CONTEXT" get node "$node" \
      -o 'jsonpath={.status.addresses[?(@.type=="InternalIP")].address}')")
  done
  for ((i = 0; i < ${#nodes[@]}; i++)); do
    node=${nodes[i]}
    for ((j = 0; j < ${#nodes[@]}; j++)); do
      other=${cidrs[j]}
      if ((i != j)); then run docker exec "$node" ip route replace "$other" via "${addresses[j]}"; fi
    done
    run docker exec "$node" iptables -t nat -A POSTROUTING -s "${cidrs[i]}" ! -d "$POD_CIDR" -o eth0 -j MASQUERADE
    # Last: with it the node is ready, and pods start.
    run docker exec "$node" sh -c "printf '%s' '$(conflist "${cidrs[i]}")' >/etc/cni/net.d/10-ptp.conflist"
  done
  kubectl_kind wait --for=condition=Ready nodes --all --timeout=120s
}

# conflist CIDR: the node's CNI configuration.
conflist() {
  printf '{"cniVersion": "1.0.0", "name": "ptp", "plugins": ['
  printf '{"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam-state", '
  printf '"routes": [{"dst": "0.0.0.0/0"}], "ranges": [[{"subnet": "%s"}]]}}, ' "$1"
  printf '{"type": "portmap", "capabilities": {"portMappings": true}}]}'
}

image() {
  if [[ -n $IMAGE_ARCHIVE ]]; then
    run kind load image-archive "$IMAGE_ARCHIVE" --name "$CLUSTER"
  else
    run docker build --tag "$IMAGE" --file deploy/Dockerfile .
    run kind load docker-image "$IMAGE" --name "$CLUSTER"
  fi
}

# The chart brings the CustomResourceDefinitions.
install() {
  run helm --kube-context "$CONTEXT" install sluice deploy/helm/sluice --namespace kube-system \
    --values deploy/helm/sluice/values-kind.yaml --wait --timeout 180s
  kubectl_kind -n kube-system rollout status daemonset/sluice --timeout=120s
}

# expect WHAT COMMAND...: true within 30 s, as a policy takes a moment to be everywhere.
expect() {
  local what=$1 deadline=$((SECONDS + 30))
  shift
  if ((DRY_RUN)); then
    printf '# %s\n' "$what"
    "$@"
    return
  fi
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || die "not within 30 s: $what"
    sleep 0.5
  done
  printf 'ok   %s\n' "$what"
}

from_debug() {
  local namespace=$1
  shift
  kubectl_kind -n "$namespace" exec debug -- "$@"
}
reaches_database() { from_debug "$1" nc -v -z -w 2 "$2" 5432; }
# By nothing but silence: a command that could not be run is no proof.
is_kept_from_database() {
  if ((DRY_RUN)); then
    reaches_database "$@"
  else
    [[ $(reaches_database "$@" 2>&1) == *'timed out'* ]]
  fi
}
# What the pod db/debug gets.
fetch() { from_debug db curl -s -m 5 "$1"; }
is_denied() {
  if ((DRY_RUN)); then fetch "$1"; else [[ $(fetch "$1") == 'Access denied'* ]]; fi
}
is_served() { from_debug db curl -s -f -m 5 "$1"; }
is_valid() {
  if ((DRY_RUN)); then
    kubectl_kind -n db get cnp
  else
    kubectl_kind -n db get cnp -o json | jq -e 'all(.items[]; any(.status.conditions[]?; .type == "Valid" and .status == "True"))'
  fi
}

# "Mastering Cilium Network Policies", as in its text.
article() {
  local database flask
  run docker build --tag "$FLASK_IMAGE" kind-config/article/app
  run kind load docker-image "$FLASK_IMAGE" --name "$CLUSTER"
  kubectl_kind apply -k kind-config/article
  kubectl_kind -n db rollout status deployment --timeout=300s
  kubectl_kind -n db wait --for=condition=Ready pod --all --timeout=300s
  kubectl_kind -n dummy wait --for=condition=Ready pod --all --timeout=300s
  database=$(ask '<address of postgres>' kubectl --context "$CONTEXT" -n db get pods -l app=postgres -o 'jsonpath={.items[0].status.podIP}')
  flask=$(ask '<address of flask-app>' kubectl --context "$CONTEXT" -n db get pods -l app=flask-app -o 'jsonpath={.items[0].status.podIP}')

  expect "without policy db/debug reaches the database" reaches_database db "$database"
  expect "without policy dummy/debug reaches the database" reaches_database dummy "$database"
  expect "without policy the node port answers on the machine" run curl -s -f -m 5 http://127.0.0.1:30008/

  kubectl_kind apply -f kind-config/article/policies/flask-app-to-db.yaml
  expect "L3: db/debug does not reach the database" is_kept_from_database db "$database"
  expect "L3: dummy/debug does not reach the database" is_kept_from_database dummy "$database"

  kubectl_kind apply -f kind-config/article/policies/l7-rule.yaml
  expect "L7: GET /metrics is denied by pod address" is_denied "http://$flask:5000/metrics"
  expect "L7: GET / is served by pod address" is_served "http://$flask:5000/"
  expect "L7: GET /metrics is denied by Service" is_denied http://flask-app-service/metrics
  expect "L7: GET / is served by Service" is_served http://flask-app-service/
  expect "both policies are VALID" is_valid
  kubectl_kind delete -k kind-config/article --wait
}

# The functional tests that the clusters of scripts/cluster.sh are judged by, too: tests/tests/kubernetes.
functional_tests() {
  run env SLUICE_CLUSTER_DRIVER=kind KIND_CLUSTER="$CLUSTER" cargo test --locked -p sluice-e2e --test kubernetes
}

finish() {
  local status=$?
  trap - EXIT
  if ((status != 0 && DRY_RUN == 0)); then
    say "state of the cluster"
    kubectl_kind get pods -A -o wide || true
    kubectl_kind -n kube-system logs daemonset/sluice --all-containers --tail=30 || true
  fi
  if ((KEEP)); then
    say "the cluster stays: kind delete cluster --name $CLUSTER"
  else
    run kind delete cluster --name "$CLUSTER" || status=1
  fi
  exit "$status"
}

main() {
  local step
  while (($#)); do
    case $1 in
      --dry-run) DRY_RUN=1 ;;
      --keep) KEEP=1 ;;
      --image-archive) IMAGE_ARCHIVE=${2:?--image-archive needs a file}; shift ;;
      --node-image) NODE_IMAGE=${2:?--node-image needs an image}; shift ;;
      -h | --help) usage; return ;;
      *) usage >&2; die "unknown argument: $1" ;;
    esac
    shift
  done
  ((DRY_RUN)) || check_tools
  # Only now: a cluster that was there before is not ours to delete.
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  for step in create network image install article functional_tests; do
    say "$step"
    "$step"
  done
}

main "$@"
