# shellcheck shell=bash
# The cluster's programs, from the Go module in tests/cluster into target/cluster/bin.

KUBERNETES_PROGRAMS=(etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)

kubernetes_version() { sed -n 's/^\tk8s\.io\/kubernetes \(v[0-9.]*\)$/\1/p' "$MODULE/go.mod"; }

GO_DIR=$BUILD_DIR/go

go_needed() { sed -n 's/^go //p' "$MODULE/go.mod"; }

# Prints Go's version as it is inside the module, where GOTOOLCHAIN may have fetched a newer one; fails if it is too old.
go_installed() { command -v go >/dev/null && (cd "$MODULE" && go env GOVERSION) 2>/dev/null; }

# Puts first in PATH the Go that `setup` fetched, unless the machine's own is new enough.
go_select() {
  if ! go_installed >/dev/null && [[ -x $GO_DIR/bin/go ]]; then PATH=$GO_DIR/bin:$PATH; fi
}

go_version() {
  go_select
  go_installed || die "no Go $(go_needed), which Kubernetes $(kubernetes_version) needs; run: scripts/cluster.sh setup"
}

# Fetches Go into target/cluster/go. The machine's distribution has one that is too old to build Kubernetes, but can
# fetch a newer one as a module, proven by the checksum database; it is unpacked for that, not installed.
go_fetch() {
  local package release scratch architecture toolchain
  package=$(apt-cache depends golang-go | sed -n 's/^ *Depends: \(golang-[0-9.]*-go\)$/\1/p')
  [[ -n $package ]] || die "no package golang-go to fetch Go with; get Go $(go_needed) from https://go.dev/dl"
  architecture=$(dpkg --print-architecture)
  toolchain=golang.org/toolchain@v0.0.1-go$(go_needed).linux-$architecture
  say "fetching Go $(go_needed) with Debian's $package"
  mkdir -p "$BUILD_DIR"
  scratch=$(mktemp -d "$BUILD_DIR/go.XXXXXX")
  (
    cd "$scratch"
    # _apt may not write here, of which it warns.
    apt-get download -q "$package" >log 2>&1 || { apt-get update -qq && apt-get download -q "$package" >>log 2>&1; } || {
      tail -n 3 log >&2
      exit 1
    }
    dpkg-deb -x "$package"_*.deb .
    printf 'module fetch\n' >go.mod
    release=${package//[!0-9.]/}
    GOROOT=$scratch/usr/lib/go-$release GOMODCACHE=$scratch/modules GOCACHE=$scratch/cache GOFLAGS=-modcacherw \
      "$scratch/usr/lib/go-$release/bin/go" mod download "$toolchain"
    # A module's archive has no modes.
    find "modules/$toolchain/bin" "modules/$toolchain/pkg/tool" -type f -exec chmod 755 {} +
  ) || {
    rm -rf "$scratch"
    die "Go $(go_needed) cannot be fetched; get it from https://go.dev/dl"
  }
  rm -rf "$GO_DIR"
  mv "$scratch/modules/$toolchain" "$GO_DIR"
  rm -rf "$scratch"
}

cluster_setup() {
  local version
  "$SCRIPTS/setup.sh" --cluster
  go_select
  go_installed >/dev/null || go_fetch
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
  go_select
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
  # Runs its specs side by side.
  go_build build -trimpath -o "$BIN/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
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
