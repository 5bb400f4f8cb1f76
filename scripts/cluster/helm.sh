# shellcheck shell=bash
# Helm, from the Go module in tests/cluster/helm, whose dependencies are other versions than Kubernetes' own.

HELM_MODULE=$MODULE/helm

helm_version() { sed -n 's/.*helm\.sh\/helm\/v3 \(v[0-9.]*\).*/\1/p' "$HELM_MODULE/go.mod"; }

helm_stamp() {
  local version
  version=$(go_version) || return 1
  {
    printf '%s\n' "$version"
    cat "$HELM_MODULE"/go.{mod,sum} "$SCRIPTS/cluster/helm.sh"
  } | sha256sum | cut -d' ' -f1
}

# Without a cluster, `helm template` and `helm lint` go by the version of Kubernetes that Helm is told at its build.
build_helm() {
  local stamp minor flags package
  stamp=$(helm_stamp) || exit 1
  go_select
  [[ ! -x $BIN/helm || $(cat "$BIN/helm.stamp" 2>/dev/null) != "$stamp" ]] || return 0
  say "building Helm $(helm_version) (1 to 2 minutes from nothing)"
  mkdir -p "$BIN"
  rm -f "$BIN/helm.stamp"
  minor=$(kubernetes_version)
  minor=${minor#v1.} minor=${minor%.*}
  flags="-s -w -X helm.sh/helm/v3/internal/version.version=$(helm_version)"
  for package in pkg/chartutil pkg/lint/rules; do
    flags+=" -X helm.sh/helm/v3/$package.k8sVersionMajor=1 -X helm.sh/helm/v3/$package.k8sVersionMinor=$minor"
  done
  (cd "$HELM_MODULE" && CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$BIN/helm" helm.sh/helm/v3/cmd/helm) ||
    die "go build failed in $HELM_MODULE"
  printf '%s\n' "$stamp" >"$BIN/helm.stamp"
}

# As the cluster's administrator; what Helm keeps for itself is the cluster's.
helm_admin() {
  in_netns "$CONTROL_NS" env HELM_CACHE_HOME="$DATA_DIR/helm/cache" HELM_CONFIG_HOME="$DATA_DIR/helm/config" \
    HELM_DATA_HOME="$DATA_DIR/helm/data" "$BIN/helm" --kubeconfig "$KUBECONFIGS/admin" "$@"
}
