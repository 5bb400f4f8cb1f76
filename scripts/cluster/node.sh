# shellcheck shell=bash
# A node: network, mount, UTS and PID namespaces of its own, held by one init process, and in them containerd, kubelet and
# kube-proxy. As all its processes and mounts are in those namespaces, ending init ends all of them.

# What kubelet, containerd and CNI plugins write to outside /run, and DaemonSets mount by its usual name. Each node has its own.
NODE_PATHS=(/etc/cni /opt/cni /var/lib/cni /var/lib/containerd /var/lib/kubelet /var/log/containers /var/log/pods)

node_directory() { printf '%s/nodes/%s\n' "$DATA_DIR" "$1"; }

running_nodes() {
  local file
  for file in "$CLUSTER_DIR"/nodes/*.init; do
    [[ ! -e $file ]] || basename "$file" .init
  done
}

in_node() {
  local node=$1 pid
  shift
  [[ -e $CLUSTER_DIR/nodes/$node.init ]] || die "no node '$node'; there are: $(running_nodes | xargs)"
  pid=$(recorded_pid "$CLUSTER_DIR/nodes/$node.init") || die "$node has ended; see: scripts/cluster.sh logs $node"
  nsenter --target "$pid" --mount --uts --net --pid -- "$@"
}

node_exec() {
  (($#)) || die "node-exec NODE -- CMD..."
  local node=$1
  shift
  [[ ${1-} == -- ]] && shift
  (($#)) || die "no command"
  in_node "$node" "$@"
}

# As component_start, on a node.
node_component() {
  local node=$1 name=$2 pid
  shift 2
  pid=$(recorded_pid "$CLUSTER_DIR/nodes/$node.init") || component_failed "$node" "$node has ended"
  component_start "$node-$name" nsenter --target "$pid" --mount --uts --net --pid -- "$@"
}

# A new node.
node_start() {
  local node=$1 directory path
  directory=$(node_directory "$node")
  for path in "${NODE_PATHS[@]}"; do
    mkdir -p "$directory/files$path"
  done
  node_make_cgroups "$CLUSTER-$node"
  node_write_configuration "$node"
  node_boot "$node"
}

# Starts init, which gives the node its namespaces (see there), and containerd.
node_boot() {
  local node=$1 directory pid
  directory=$(node_directory "$node")
  rm -f "$directory/ready"
  component_start "$node" nsenter --net="/run/netns/$(node_netns "$node")" -- \
    unshare --mount --uts --pid --fork --kill-child --mount-proc --propagation private -- \
    bash "$SCRIPTS/cluster/node_init.sh" "$node" "$DATA_DIR" "${NODE_PATHS[@]}"
  wait_for 10 "$node" "$node has set up its mounts" test -e "$directory/ready"
  pid=$(pgrep -P "$(recorded_pid "$CLUSTER_DIR/procs/$node")") || component_failed "$node" "$node has ended"
  record_process "$CLUSTER_DIR/nodes/$node.init" "$pid" KILL
  in_node "$node" test -x "$BIN/kubelet" || die "a node does not see $BIN: it has a /run, /var/lib and /var/log of its own"
  node_component "$node" containerd containerd --config "$directory/containerd.toml"
}

node_make_cgroups() {
  local name=$1 directory controller
  if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
    # kubelet wants them all below its root.
    for controller in cpu cpuset hugetlb io memory pids; do
      echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
    done
    mkdir -p "/sys/fs/cgroup/$name"
    return
  fi
  for directory in /sys/fs/cgroup/*/; do
    mkdir -p "$directory$name"
  done
}

# node_remove_cgroups NAME: those of that name, which may be a pattern.
node_remove_cgroups() {
  local directory deadline=$((SECONDS + 15))
  while read -r directory; do
    # The kernel takes a moment to let go of what has just ended.
    until find "$directory" -depth -type d -exec rmdir {} + 2>/dev/null; do
      [[ -d $directory ]] || break
      if ((SECONDS > deadline)); then
        say "cgroup $directory cannot be removed"
        break
      fi
      sleep 0.1
    done
  done < <(find /sys/fs/cgroup -maxdepth 2 -type d -name "$1" 2>/dev/null)
}

node_write_configuration() {
  local node=$1 directory
  directory=$(node_directory "$node")
  # restrict_oom_score_adj: a root without CAP_SYS_RESOURCE may not lower it, and every pod would fail.
  cat >"$directory/containerd.toml" <<TOML
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$(image_reference pause)"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
TOML
  # Nothing is evicted and no image collected for want of disk: the disk is the machine's, and no registry brings it back.
  cat >"$directory/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $CERTIFICATES/ca.crt}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$CLUSTER-$node
failCgroupV1: false
failSwapOn: false
evictionHard: {}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDomain: cluster.local
clusterDNS: [$DNS_SERVICE_IP4]
resolvConf: $directory/resolv.conf
volumePluginDir: /var/lib/kubelet/volume-plugins
YAML
  printf '# No name server outside the cluster.\n' >"$directory/resolv.conf"
  # nf_conntrack_max is the machine's and is not to be written.
  cat >"$directory/kube-proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $KUBECONFIGS/kube-proxy}
hostnameOverride: $node
clusterCIDR: $POD_CIDR4,$POD_CIDR6
conntrack: {maxPerCore: 0}
YAML
}

# Starts kubelet, which registers the node.
node_join() {
  local node=$1 directory name
  directory=$(node_directory "$node")
  wait_for 30 "$node-containerd" "$node: containerd answers" \
    in_node "$node" ctr --address /run/containerd/containerd.sock version
  for name in "${IMAGE_NAMES[@]}"; do
    node_load "$node" "$IMAGES/$name.tar"
  done
  mkdir -p "$directory/files/opt/cni/bin" "$directory/files/etc/cni/net.d"
  cp /usr/lib/cni/{bridge,host-local,loopback,portmap,ptp} "$directory/files/opt/cni/bin/"
  make_kubeconfig "$node" "/O=system:nodes/CN=system:node:$node"
  node_kubelet "$node"
}

node_kubelet() {
  local node=$1 directory
  directory=$(node_directory "$node")
  node_component "$node" kubelet "$BIN/kubelet" --config "$directory/kubelet.yaml" --kubeconfig "$KUBECONFIGS/$node" \
    --hostname-override "$node" --node-ip "$(node_ip4 "$node"),$(node_ip6 "$node")" --cert-dir /var/lib/kubelet/pki
}

node_kube_proxy() {
  node_component "$1" kube-proxy "$BIN/kube-proxy" --config "$(node_directory "$1")/kube-proxy.yaml"
}

node_pod_cidrs() { kubectl_admin get node "$1" -o jsonpath='{.spec.podCIDRs[*]}' | grep .; }

# Gives the node its pod network, now that its addresses are allocated, and waits until it is ready.
node_finish() {
  local node=$1 kube_proxy=$2 cni=$3 directory cidrs
  directory=$(node_directory "$node")
  wait_for 60 "$node-kubelet" "$node is registered and has addresses for pods" node_pod_cidrs "$node"
  read -r -a cidrs < <(node_pod_cidrs "$node")
  network_route_pods "$node" "${cidrs[@]}"
  node_write_cni "$cni" "$directory" "${cidrs[@]}"
  if [[ $kube_proxy != none ]]; then
    printf 'mode: %s\n' "$kube_proxy" >>"$directory/kube-proxy.yaml"
    node_kube_proxy "$node"
    wait_for 60 "$node-kube-proxy" "$node: kube-proxy is healthy" \
      in_netns "$(node_netns "$node")" curl -sf -m 2 http://127.0.0.1:10256/healthz
  fi
  wait_for 90 "$node-kubelet" "$node is ready" \
    kubectl_admin wait --for condition=Ready "node/$node" --timeout 2s
}

# node_write_cni PLUGIN DIRECTORY CIDR...
node_write_cni() {
  local plugin=$1 configuration=$2/files/etc/cni/net.d ranges=() bridge='' cidr
  shift 2
  # isGateway: cni0 has the subnets' first addresses, which pods' routes lead to and the node reaches its pods by. hairpinMode:
  # a pod that asks for itself by a Service's address needs its own packets back, which a port does not give otherwise.
  [[ $plugin != bridge ]] || bridge='"bridge": "cni0", "isGateway": true, "hairpinMode": true,'
  for cidr in "$@"; do
    ranges+=("[{\"subnet\": \"$cidr\"}]")
  done
  # Renamed into place within the directory: containerd reads it as soon as it is there, but takes no notice of a file that
  # is moved in from elsewhere.
  cat >"$configuration/10-cluster.new" <<JSON
{
  "cniVersion": "1.0.0",
  "name": "$CLUSTER",
  "plugins": [
    {
      "type": "$plugin", $bridge
      "mtu": 1500,
      "ipMasq": false,
      "ipam": {
        "type": "host-local",
        "ranges": [$(IFS=,; printf '%s' "${ranges[*]}")],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
JSON
  mv "$configuration/10-cluster.new" "$configuration/10-cluster.conflist"
}

# Everybody else's pod networks, for a node that has lost its routes.
node_restore_routes() {
  local node=$1 other cidrs
  for other in $(running_nodes); do
    [[ $other != "$node" ]] || continue
    read -r -a cidrs < <(node_pod_cidrs "$other")
    network_route_pods "$other" "${cidrs[@]}"
  done
}

node_command() {
  local verb=${1-} node=${2-} directory
  if [[ $verb == join ]]; then
    node_join_new "$node"
    return
  fi
  directory=$(node_directory "$node")
  [[ -n $node && -d $directory ]] || die "no node '$node'; there are: $(cd "$DATA_DIR/nodes" && echo *)"
  case $verb in
    stop)
      [[ -e $CLUSTER_DIR/nodes/$node.init ]] || die "$node does not run"
      node_stop "$node"
      network_remove_node "$node"
      # With them kubelet would look for each of the containers, three seconds long.
      node_remove_cgroups "$CLUSTER-$node"
      ;;
    start)
      [[ ! -e $CLUSTER_DIR/nodes/$node.init ]] || die "$node runs already"
      network_add_node "$node"
      node_make_cgroups "$CLUSTER-$node"
      node_boot "$node"
      node_restore_routes "$node"
      wait_for 30 "$node-containerd" "$node: containerd answers" \
        in_node "$node" ctr --address /run/containerd/containerd.sock version
      node_kubelet "$node"
      [[ ! -e $CLUSTER_DIR/commands/$node-kube-proxy ]] || node_kube_proxy "$node"
      ;;
    leave)
      [[ ! -e $CLUSTER_DIR/nodes/$node.init ]] || node_command stop "$node"
      kubectl_admin delete node "$node" >&2
      rm -rf --one-file-system "$directory"
      ;;
    *) usage >&2; die "node stop|start|leave|join NODE" ;;
  esac
}

# A machine that has never been in the cluster, under the name of one that has left.
node_join_new() {
  local node=$1 up archives=()
  node_names "$MAX_NODES" | grep -qxF -- "$node" || die "no node can have the name '$node'"
  [[ ! -e $(node_directory "$node") ]] || die "$node has not left"
  up=$(cat "$CLUSTER_DIR/up")
  network_add_node "$node"
  node_start "$node"
  node_join "$node"
  [[ ! -e $CLUSTER_DIR/images ]] || mapfile -t archives < <(sort -u "$CLUSTER_DIR/images")
  ((${#archives[@]} == 0)) || node_load "$node" "${archives[@]}"
  node_restore_routes "$node"
  up=${up#*cni=}
  node_finish "$node" "${up#*kube_proxy=}" "${up%% *}"
}

# Ends node $1 and all that runs on it. Init is a zombie, and so over, only after every other process of its PID namespace.
node_stop() {
  stop_process "$CLUSTER_DIR/nodes/$1.init"
}
