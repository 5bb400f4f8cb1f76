# shellcheck shell=bash
# The underlay: a bridge in the control plane's namespace, and on it the control plane, every node and an outside client.

node_names() {
  local i
  for ((i = 1; i <= $1; i++)); do printf 'node%d\n' "$i"; done
}
node_netns() { printf '%s-%s\n' "$CLUSTER" "$1"; }
node_ip4() { printf '198.51.100.%d\n' $((10 + ${1#node})); }
node_ip6() { printf '2001:db8:51::%d\n' $((10 + ${1#node})); }

# Sysctls of a new namespace, before it has any interface.
prepare_netns() {
  ip netns add "$1"
  in_netns "$1" sysctl -qw net.ipv6.conf.all.accept_ra=0 net.ipv6.conf.default.accept_ra=0 \
    net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0
  ip -n "$1" link set lo up
}

# attach NETNS PORT IP4 IP6: gives the namespace an eth0 on the bridge; PORT is the name of its other end.
attach() {
  local netns=$1 port=$2 ip4=$3 ip6=$4
  ip -n "$CONTROL_NS" link add "$port" type veth peer name eth0 netns "$netns"
  ip -n "$CONTROL_NS" link set "$port" master underlay up
  ip -n "$netns" addr add "$ip4/24" dev eth0
  ip -n "$netns" addr add "$ip6/64" dev eth0 nodad
  ip -n "$netns" link set eth0 up
}

network_up() {
  local node
  prepare_netns "$CONTROL_NS"
  ip -n "$CONTROL_NS" link add underlay type bridge stp_state 0 mcast_snooping 0
  ip -n "$CONTROL_NS" addr add "$CONTROL_IP4/24" dev underlay
  ip -n "$CONTROL_NS" addr add "$CONTROL_IP6/64" dev underlay nodad
  ip -n "$CONTROL_NS" link set underlay up
  prepare_netns "$OUT_NS"
  attach "$OUT_NS" outside "$OUT_IP4" "$OUT_IP6"
  for node in $(node_names "$1"); do
    network_add_node "$node"
  done
}

network_add_node() {
  local node=$1 netns
  netns=$(node_netns "$node")
  prepare_netns "$netns"
  in_netns "$netns" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
    net.ipv6.conf.default.forwarding=1 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1
  attach "$netns" "$node" "$(node_ip4 "$node")" "$(node_ip6 "$node")"
  # The rest of the world is behind the outside client, whatever addresses a test gives it.
  ip -n "$netns" route add default via "$OUT_IP4"
  ip -n "$netns" -6 route add default via "$OUT_IP6"
}

# What ends with the node's power: links, routes, rules, the kernel's tables.
network_remove_node() {
  ip -n "$CONTROL_NS" link del "$1" 2>/dev/null || true
  ip netns del "$(node_netns "$1")"
}

# network_route_pods NODE CIDR...: everybody else's routes to the node's pods. As nothing masquerades, the control plane and the
# outside need them for the replies.
network_route_pods() {
  local node=$1 netns cidr gateway
  shift
  for netns in "$CONTROL_NS" "$OUT_NS" $(running_nodes | sed "s/^/$CLUSTER-/"); do
    [[ $netns != "$(node_netns "$node")" ]] || continue
    for cidr in "$@"; do
      gateway=$(node_ip4 "$node")
      [[ $cidr != *:* ]] || gateway=$(node_ip6 "$node")
      ip -n "$netns" route replace "$cidr" via "$gateway"
    done
  done
}

network_down() {
  local netns
  for netns in "$CONTROL_NS" "$OUT_NS" $(node_names "$MAX_NODES" | sed "s/^/$CLUSTER-/"); do
    [[ ! -e /run/netns/$netns ]] || ip netns del "$netns" || true
  done
}
