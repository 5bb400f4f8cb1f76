#!/usr/bin/env bash
# A Kubernetes cluster on this machine: real kubelets, containerd, runc and CoreDNS, its nodes network namespaces, its
# programs built from Go modules and its images from those programs. This file owns the names and the commands;
# scripts/cluster/ has the parts.
#
# What it makes lives in namespaces, cgroups and directories named $SLUICE_CLUSTER*; the machine's own network namespace and
# sysctls are left as they are. `cluster.sh down` removes all of it, in whatever state it is.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
export PATH=$PATH:/usr/sbin:/sbin

CLUSTER=${SLUICE_CLUSTER:-sluice-cluster}
# Processes and what ends with a reboot; and what may be large: images, etcd, logs.
CLUSTER_DIR=/run/$CLUSTER
DATA_DIR=/var/lib/$CLUSTER
# shellcheck disable=SC2034 # used by the sourced parts, as are those below
MODULE=$ROOT/tests/cluster
BUILD_DIR=${CARGO_TARGET_DIR:-$ROOT/target}/cluster
BIN=$BUILD_DIR/bin
LOGS=$DATA_DIR/log
KUBECONFIGS=$DATA_DIR/kubeconfig
CONTROL_NS=$CLUSTER-control
OUT_NS=$CLUSTER-outside

# The underlay: one segment, 198.51.100.0/24 and 2001:db8:51::/64. Node i has the host part 10 + i.
CONTROL_IP4=198.51.100.1 CONTROL_IP6=2001:db8:51::1
OUT_IP4=198.51.100.2 OUT_IP6=2001:db8:51::2
POD_CIDR4=10.244.0.0/16 POD_CIDR6=fd00:10:244::/56
SERVICE_CIDR4=10.96.0.0/16 SERVICE_CIDR6=fd00:10:96::/112
API_SERVICE_IP4=10.96.0.1 DNS_SERVICE_IP4=10.96.0.10
MAX_NODES=9

# shellcheck source-path=SCRIPTDIR source=lab/processes.sh
. "$SCRIPTS/lab/processes.sh"
# shellcheck source-path=SCRIPTDIR source=cluster/build.sh
. "$SCRIPTS/cluster/build.sh"
# shellcheck source-path=SCRIPTDIR source=cluster/helm.sh
. "$SCRIPTS/cluster/helm.sh"
# shellcheck source-path=SCRIPTDIR source=cluster/images.sh
. "$SCRIPTS/cluster/images.sh"
# shellcheck source-path=SCRIPTDIR source=cluster/article_image.sh
. "$SCRIPTS/cluster/article_image.sh"
# shellcheck source-path=SCRIPTDIR source=cluster/components.sh
. "$SCRIPTS/cluster/components.sh"
# shellcheck source-path=SCRIPTDIR source=cluster/certificates.sh
. "$SCRIPTS/cluster/certificates.sh"
# shellcheck source-path=SCRIPTDIR source=cluster/network.sh
. "$SCRIPTS/cluster/network.sh"
# shellcheck source-path=SCRIPTDIR source=cluster/control_plane.sh
. "$SCRIPTS/cluster/control_plane.sh"
# shellcheck source-path=SCRIPTDIR source=cluster/node.sh
. "$SCRIPTS/cluster/node.sh"
# shellcheck source-path=SCRIPTDIR source=cluster/scale.sh
. "$SCRIPTS/cluster/scale.sh"
# shellcheck source-path=SCRIPTDIR source=cluster/selftest.sh
. "$SCRIPTS/cluster/selftest.sh"
# shellcheck source-path=SCRIPTDIR source=cluster/sluice.sh
. "$SCRIPTS/cluster/sluice.sh"

usage() {
  cat <<'USAGE'
Usage: scripts/cluster.sh COMMAND

  setup                           install the Debian packages that it needs; fetch Go into target/cluster/go unless the machine's is new enough
  build [--suite | --cluster-network-policy | --helm]
                                  build the programs and images that `up` needs; nothing if they are up to date. With an
                                  option a suite instead, as scripts/conformance.sh does: Kubernetes' own, or that of
                                  ClusterNetworkPolicy; or Helm
  up [--nodes N] [--kube-proxy nftables|iptables|none] [--cni ptp|bridge]
                                  start a cluster (default: 2 nodes, nftables, ptp), build first; nothing if it is up
  down                            stop everything that was started here and remove all of it
  status                          what runs
  stop COMPONENT [SIGNAL]         end one (default: TERM), for tests of what happens without it; pods live on without kubelet
  start COMPONENT                 start it again, as it was
  node stop NODE                  end a node with all that runs on it, without a word to anybody
  node start NODE                 start it again, as a machine after its reboot
  node leave NODE                 end it, and delete its Node and all that it had
  node join NODE                  a new machine of that name comes, with the images that were loaded
  logs [COMPONENT [-f]]           the last lines of every component's log, or all of one's; `audit`: the API server's audit log
  selftest                        pods on all nodes reach each other, Services, names and node ports; prints each step

  install [IMAGE.SH'S OPTIONS]    build the agent's image, load it and the article's, and install sluice
  demo                            play the article "Mastering Cilium Network Policies" with kubectl: set up, build, start a
                                  cluster, install, each step with its expected and its seen outcome; then remove all of it,
                                  but not a cluster that was up. Environment: as of scripts/image.sh

  scale [--pods N] [--policies M] what so many pods of other nodes (default 10000) and policies (1000) cost an agent: memory, start,
                                  bytes from the API server; prints a JSON line. The pods are objects only
  kubectl ARGS...                 kubectl as the cluster's administrator
  helm ARGS...                    helm as the cluster's administrator; builds it first
  load IMAGE_ARCHIVE...           put images into every node's containerd (docker or OCI archive); pods name them with
                                  imagePullPolicy IfNotPresent or Never: there is no registry
  article-image                   print the archive of the image of kind-config/article-local, built if it is not up to date
  kubeconfig                      print the path of the administrator's kubeconfig, for use in control-exec
  control-exec -- CMD...          run a command beside the API server (198.51.100.1)
  node-exec NODE -- CMD...        run a command on a node (node1 is 198.51.100.11), in its namespaces
  outside-exec -- CMD...          run a command on the outside client (198.51.100.2)

Pods get 10.244.0.0/16 and fd00:10:244::/56, Services 10.96.0.0/16 and fd00:10:96::/112. The CNI is `ptp` or, with --cni bridge,
`bridge` (pods of a node are ports of its cni0, in hairpin mode), then `portmap`: on the node in /etc/cni/net.d, without
masquerading; between nodes go plain routes. With --kube-proxy none Service addresses lead nowhere until something else serves
them. With --cni bridge and kube-proxy, those of pods on the asking pod's own node need br_netfilter, or sluice.

Images: registry.k8s.io/e2e-test-images/agnhost (a part of upstream's, with busybox, sh, curl, nc and dig), registry.k8s.io/pause, coredns.

Environment: SLUICE_CLUSTER (name of the cluster, default sluice-cluster). Built: target/cluster. Kept until `down`:
/run/$SLUICE_CLUSTER, /var/lib/$SLUICE_CLUSTER.
USAGE
}

say() { printf 'cluster: %s\n' "$*" >&2; }
die() { printf 'cluster: error: %s\n' "$*" >&2; exit 1; }

in_netns() {
  local name=$1
  shift
  nsenter --net="/run/netns/$name" -- "$@"
}

require_root() { ((EUID == 0)) || die "namespaces, cgroups and mounts need root"; }
require_up() { [[ -e $CLUSTER_DIR/up ]] || die "the cluster is not up; run: scripts/cluster.sh up"; }

# Commands that change the cluster exclude each other. Components do not inherit descriptor 9.
lock() {
  exec 9>"/run/$CLUSTER.lock"
  flock -w 60 9 || die "another cluster.sh is busy for over 60 s"
}

kubectl_admin() {
  in_netns "$CONTROL_NS" "$BIN/kubectl" --kubeconfig "$KUBECONFIGS/admin" --cache-dir "$DATA_DIR/kubectl-cache" "$@"
}

cluster_build() {
  require_root
  lock
  case ${1-} in
    '') build_all ;;
    --suite) build_suite ;;
    --helm) build_helm ;;
    --cluster-network-policy) build_cluster_network_policy_suite ;;
    *) usage >&2; die "build: unknown argument: $1" ;;
  esac
}

cluster_up() {
  local nodes=2 kube_proxy=nftables cni=ptp program node asked
  while (($#)); do
    case $1 in
      --nodes) nodes=${2-}; shift ;;
      --kube-proxy) kube_proxy=${2-}; shift ;;
      --cni) cni=${2-}; shift ;;
      *) usage >&2; die "up: unknown argument: $1" ;;
    esac
    shift || die "up: the last argument lacks its value"
  done
  [[ $nodes =~ ^[1-$MAX_NODES]$ ]] || die "--nodes: 1 to $MAX_NODES, not '$nodes'"
  [[ $kube_proxy =~ ^(nftables|iptables|none)$ ]] || die "--kube-proxy: nftables, iptables or none, not '$kube_proxy'"
  [[ $cni =~ ^(ptp|bridge)$ ]] || die "--cni: ptp or bridge, not '$cni'"
  require_root
  [[ ! $CLUSTER =~ [^a-z0-9-] ]] || die "SLUICE_CLUSTER: only a-z, 0-9 and '-', not '$CLUSTER'"
  lock
  asked="nodes=$nodes cni=$cni kube_proxy=$kube_proxy"
  if [[ -e $CLUSTER_DIR/up ]]; then
    [[ $(cat "$CLUSTER_DIR/up") == "$asked" ]] ||
      die "a cluster with $(cat "$CLUSTER_DIR/up") is up; run: scripts/cluster.sh down"
    say "already up"
    return
  fi
  for program in containerd ctr runc buildah nft iptables openssl "${IMAGE_PROGRAMS[@]}"; do
    command -v "$program" >/dev/null || die "no $program; run: scripts/cluster.sh setup"
  done
  [[ -x /usr/lib/cni/$cni ]] || die "no /usr/lib/cni/$cni; run: scripts/cluster.sh setup"
  build_all
  cluster_remove # what an interrupted `up` left
  trap 'up_failed' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM

  mkdir -p "$CLUSTER_DIR"/{procs,commands,nodes} "$DATA_DIR"/{log,etcd,nodes}
  chmod 700 "$DATA_DIR" "$DATA_DIR/etcd"
  local started=$SECONDS
  certificates_make
  network_up "$nodes"
  control_plane_start
  say "API server ready after $((SECONDS - started)) s"
  for node in $(node_names "$nodes"); do
    node_start "$node"
  done
  for node in $(node_names "$nodes"); do
    node_join "$node"
  done
  for node in $(node_names "$nodes"); do
    node_finish "$node" "$kube_proxy" "$cni"
  done
  addons_apply
  trap - EXIT INT TERM
  printf '%s\n' "$asked" >"$CLUSTER_DIR/up"
  say "up after $((SECONDS - started)) s: $nodes nodes, CNI $cni, kube-proxy $kube_proxy"
}

# Undoes a failed `up`, and keeps the logs, which say why.
up_failed() {
  local kept=$BUILD_DIR/failed-logs
  trap - EXIT INT TERM
  if [[ -d $LOGS ]]; then
    rm -rf "$kept"
    cp -r "$LOGS" "$kept"
    say "the logs are in $kept"
  fi
  cluster_remove
}

# Removes whatever exists of the cluster; never fails for what does not.
cluster_remove() {
  local file
  for file in "$CLUSTER_DIR"/nodes/*.init; do
    [[ ! -e $file ]] || node_stop "$(basename "$file" .init)"
  done
  for file in "$CLUSTER_DIR"/procs/*; do
    [[ ! -e $file ]] || stop_process "$file"
  done
  network_down
  node_remove_cgroups "$CLUSTER-node[1-$MAX_NODES]"
  rm -rf --one-file-system "$DATA_DIR" "$CLUSTER_DIR"
}

# What is still there of the cluster, a line each.
cluster_leftovers() {
  local file
  find /run/netns -maxdepth 1 -name "$CLUSTER-*" -printf 'network namespace %f\n' 2>/dev/null || true
  find /sys/fs/cgroup -maxdepth 2 -name "$CLUSTER-node*" -printf 'cgroup %p\n'
  awk -v directory="$DATA_DIR" 'index($2, directory) { print "mount " $2 }' /proc/mounts
  # Whatever names a file of the cluster, or is in a cgroup of its.
  for file in /proc/[0-9]*; do
    if tr '\0' ' ' 2>/dev/null <"$file/cmdline" | grep -qF "$DATA_DIR/" ||
      grep -qsE "/$CLUSTER-node[0-9]" "$file/cgroup"; then
      printf 'process %s: %s\n' "${file#/proc/}" "$(tr '\0' ' ' <"$file/cmdline" 2>/dev/null | cut -c 1-100)"
    fi
  done
}

cluster_down() {
  local leftovers
  require_root
  lock
  cluster_remove
  rm -f "/run/$CLUSTER.lock"
  leftovers=$(cluster_leftovers)
  [[ -z $leftovers ]] || die "down, but for:"$'\n'"$leftovers"
  say "down"
}

cluster_status() {
  local file name
  if [[ ! -e $CLUSTER_DIR/up ]]; then
    printf 'down\n'
    return
  fi
  printf 'up, %s, directories %s %s\n' "$(cat "$CLUSTER_DIR/up")" "$CLUSTER_DIR" "$DATA_DIR"
  for file in "$CLUSTER_DIR"/procs/*; do
    name=$(basename "$file")
    printf '%s\t%s\n' "$name" "$(recorded_pid "$file" || echo "has ended; see: scripts/cluster.sh logs $name")"
  done | expand -t 32
  kubectl_admin get nodes -o wide
  kubectl_admin get pods -A -o wide
}

cluster_logs() {
  local file
  (($#)) || {
    tail -n 10 -- "$LOGS"/*.log
    return
  }
  file=$LOGS/$1.log
  [[ -e $file ]] || die "no component '$1'; there are: $(cd "$LOGS" && printf '%s ' *.log | sed 's/\.log//g')"
  if [[ ${2-} == -f ]]; then tail -n 100 -F -- "$file"; else cat -- "$file"; fi
}

# Drops the `--` that separates a command from cluster.sh's own arguments.
run_in() {
  local name=$1
  shift
  [[ ${1-} == -- ]] && shift
  (($#)) || die "no command"
  in_netns "$name" "$@"
}

main() {
  local command=${1-}
  shift || true
  case $command in
    setup) cluster_setup ;;
    build) cluster_build "$@" ;;
    up) cluster_up "$@" ;;
    down) cluster_down ;;
    status) cluster_status ;;
    logs) require_up; cluster_logs "$@" ;;
    stop | start) require_up; lock; component_command "$command" "$@" ;;
    node) require_up; lock; node_command "$@" ;;
    install) require_up; require_root; sluice_install "$@" ;;
    demo) require_root; sluice_demo "$@" ;;
    scale) require_up; require_root; cluster_scale "$@" ;;
    selftest) require_up; selftest ;;
    kubectl) require_up; kubectl_admin "$@" ;;
    helm) require_up; build_helm; helm_admin "$@" ;;
    load) require_up; (($#)) || die "load IMAGE_ARCHIVE..."; images_load "$@" ;;
    article-image) require_root; lock; article_image ;;
    kubeconfig) require_up; printf '%s\n' "$KUBECONFIGS/admin" ;;
    control-exec) require_up; run_in "$CONTROL_NS" "$@" ;;
    outside-exec) require_up; run_in "$OUT_NS" "$@" ;;
    node-exec) require_up; node_exec "$@" ;;
    -h | --help | help) usage ;;
    *) usage >&2; exit 2 ;;
  esac
}

main "$@"
