# shellcheck shell=bash
# The cluster's programs, from the Go module in tests/cluster into target/cluster/bin.

KUBERNETES_PROGRAMS=(etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)

kubernetes_version() { sed -n 's/^\tk8s\.io\/kubernetes \(v[0-9.]*\)$/\1/p' "$MODULE/go.mod"; }

# Prints Go's version as it is inside the module, where GOTOOLCHAIN may have fetched a newer one; dies if it is too old.
go_version() {
  local needed
  needed=$(sed -n 's/^go //p' "$MODULE/go.mod")
  command -v go >/dev/null ||
    die "no go; Kubernetes $(kubernetes_version) needs Go $needed, newer than Debian 12 and 13 have: https://go.dev/dl"
  (cd "$MODULE" && go env GOVERSION) ||
    die "$(cd / && go version) is too old: Kubernetes $(kubernetes_version) needs Go $needed. Debian 12 has 1.19 and" \
      "Debian 13 has 1.24; get it from https://go.dev/dl, or let a Go of at least 1.21 fetch it: GOTOOLCHAIN=auto"
}

cluster_setup() {
  "$SCRIPTS/setup.sh" --cluster
  local version
  version=$(go_version) || exit 1
  say "$version builds the cluster's programs"
}

# What the programs are made of: sources, dependencies, Go and how they are built.
programs_stamp() {
  local version
  version=$(go_version) || return 1
  {
    printf '%s\n' "$version"
    cat "$MODULE"/go.{mod,sum} "$MODULE"/{kubernetes,agnhost,coredns}/*.go "$SCRIPTS/cluster/build.sh"
  } | sha256sum | cut -d' ' -f1
}

go_build() {
  (cd "$MODULE" && CGO_ENABLED=0 go "$@") || die "go $1 failed in $MODULE"
}

# Linker flags that name the release: a development build calls itself v0.0.0, which the suite takes for an old one.
version_flags() {
  local version major minor package=k8s.io/component-base/version
  version=$(kubernetes_version)
  IFS=. read -r major minor _ <<<"${version#v}"
  printf -- '-s -w -X %s.gitVersion=%s -X %s.gitMajor=%s -X %s.gitMinor=%s' \
    "$package" "$version" "$package" "$major" "$package" "$minor"
}

build_programs() {
  local stamp name
  stamp=$(programs_stamp) || exit 1
  [[ $(cat "$BIN/stamp" 2>/dev/null) != "$stamp" ]] || return 0
  mkdir -p "$BIN"
  rm -f "$BIN/stamp"
  say "building the programs (5 to 8 minutes on two cores from nothing, 0.7 GB of modules; seconds from Go's cache)"
  for name in agnhost coredns kubernetes; do
    say "building $name"
    go_build build -trimpath -ldflags "$(version_flags)" -o "$BIN/$name" "./$name"
  done
  for name in "${KUBERNETES_PROGRAMS[@]}"; do
    ln -sfn kubernetes "$BIN/$name"
  done
  printf '%s\n' "$stamp" >"$BIN/stamp"
}

# The end-to-end suite, for scripts/conformance.sh.
build_suite() {
  say "building the end-to-end suite (2 minutes; seconds if it is up to date)"
  mkdir -p "$BIN"
  go_build test -c -trimpath -ldflags "$(version_flags)" -o "$BIN/e2e.test" ./e2e
}

# The conformance suite of ClusterNetworkPolicy, a module of its own: it needs other versions of what Kubernetes uses, too.
build_cluster_network_policy_suite() {
  say "building the conformance suite of ClusterNetworkPolicy (1 minute; seconds if it is up to date)"
  mkdir -p "$BIN"
  MODULE=$MODULE/network-policy-api go_build test -c -trimpath -o "$BIN/network-policy-api.test" .
}

build_all() {
  build_programs
  build_images
}
