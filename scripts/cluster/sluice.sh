# shellcheck shell=bash
# sluice on the cluster: installed from this tree, and the article played on it.

sluice_workloads() { kubectl_admin -n kube-system get daemonsets,deployments -o name | grep -E '/sluice(-|$)' || true; }

# Arguments are those of scripts/image.sh.
sluice_install() {
  local before archive workload
  "$SCRIPTS/image.sh" "$@" >&2 || die "no image of the agent"
  archive=$("$SCRIPTS/cluster.sh" article-image) || exit 1
  images_load "$ROOT/target/image/image.tar" "$archive"
  before=$(sluice_workloads)
  kubectl_admin apply --server-side -f "$ROOT/deploy/crds" >&2 || die "the API server does not take deploy/crds"
  sluice_manifests | kubectl_admin apply --server-side -f - >&2 || die "the API server does not take the manifests"
  for workload in $before; do
    # The image's name stays the same.
    kubectl_admin -n kube-system rollout restart "$workload" >&2
  done
  for workload in $(sluice_workloads); do
    kubectl_admin -n kube-system rollout status "$workload" --timeout 180s >&2 || {
      kubectl_admin -n kube-system describe pods -l "app.kubernetes.io/name=${workload#*/}" | tail -n 30 >&2
      die "$workload is not ready"
    }
  done
}

# What is installed: deploy/kubernetes or, where there is no kube-proxy, the chart told so.
sluice_manifests() {
  if [[ $(cat "$CLUSTER_DIR/up") != *kube_proxy=none* ]]; then
    cat "$ROOT"/deploy/kubernetes/*.yaml
    return
  fi
  "$SCRIPTS/cluster.sh" build --helm >&2 || exit 1
  helm_admin template sluice "$ROOT/deploy/helm/sluice" --namespace kube-system --set image.repository=sluice,image.tag=dev \
    --set "kubeProxyReplacement=true,k8sServiceHost=$CONTROL_IP4,k8sServicePort=6443,crds.install=never"
}

# The steps are cases of tests/tests/kubernetes; each prints what it expected and what it saw.
sluice_demo() {
  local status=0 was_up=0
  (($# == 0)) || { usage >&2; die "demo: unknown argument: $1"; }
  [[ ! -e $CLUSTER_DIR/up ]] || was_up=1
  "$SCRIPTS/cluster.sh" setup
  ((was_up)) || trap '"$SCRIPTS/cluster.sh" down' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  ((was_up)) || "$SCRIPTS/cluster.sh" up --nodes 2
  "$SCRIPTS/cluster.sh" install
  (cd "$ROOT" && SLUICE_CLUSTER_DRIVER=cluster SLUICE_REQUIRE_ROOT=1 PATH=$PATH:$HOME/.cargo/bin \
    cargo test --locked -p sluice-e2e --test kubernetes -- article) || status=$?
  exit "$status"
}
