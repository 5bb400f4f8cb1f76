#!/usr/bin/env bash
# The lab: one Kubernetes node and its pods as network namespaces, wired as the `ptp` CNI plugin wires them, and the
# sluice agent on that node. This file owns the node, the outside client and the commands' names; scripts/lab/ has the rest.
#
# Everything it makes lives in namespaces named $SLUICE_LAB* and in /run/$SLUICE_LAB; the machine's own network namespace
# is left as it is. `lab.sh down` removes all of it, in whatever state it is.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
export PATH=$PATH:/usr/sbin:/sbin

LAB=${SLUICE_LAB:-sluice-lab}
LAB_DIR=/run/$LAB
# shellcheck disable=SC2034 # used by the sourced parts, as are those below
SLUICE=${SLUICE_BIN:-${CARGO_TARGET_DIR:-$ROOT/target}/release/sluice}
NODE_NS=$LAB-node
OUT_NS=$LAB-out
MANIFESTS=$LAB_DIR/manifests

NODE_NAME=lab-node
NODE_IP4=198.51.100.1 NODE_IP6=2001:db8:51::1
OUT_IP4=198.51.100.2 OUT_IP6=2001:db8:51::2
POD_CIDR4=10.244.0.0/16 POD_CIDR6=fd00:10:244::/64
GATEWAY4=10.244.0.1 GATEWAY6=fd00:10:244::1

# shellcheck source-path=SCRIPTDIR source=lab/processes.sh
. "$SCRIPTS/lab/processes.sh"
# shellcheck source-path=SCRIPTDIR source=lab/pods.sh
. "$SCRIPTS/lab/pods.sh"
# shellcheck source-path=SCRIPTDIR source=lab/services.sh
. "$SCRIPTS/lab/services.sh"
# shellcheck source-path=SCRIPTDIR source=lab/agent.sh
. "$SCRIPTS/lab/agent.sh"
# shellcheck source-path=SCRIPTDIR source=lab/bench.sh
. "$SCRIPTS/lab/bench.sh"

usage() {
  cat <<'USAGE'
Usage: scripts/lab.sh COMMAND

The lab
  up                              make the node, the outside client and the directories; nothing if they are there
  down                            stop everything that was started here and remove all of it
  status [-o json]                what is there
  node-exec -- CMD...             run a command on the node
  outside-exec -- CMD...          run a command on the outside client (198.51.100.2, 2001:db8:51::2)

Pods
  pod add NS/NAME [--ip4 A|none] [--ip6 A|none] [--mtu N] [--labels K=V,...] [--port NAME=N]... [--no-agent]
  pod label NS/NAME --labels K=V,...
  pod del NS/NAME [--no-agent]    --no-agent: as if the CNI plugin had not told the agent
  pod show NS/NAME [FIELD]        fields: ip4 ip6 mac veth gateway_mac mtu netns labels
  exec NS/NAME -- CMD...          run a command in a pod; names of services resolve
  spawn NS/NAME [--user U] [--signal S] -- CMD...
                                  the same in the background, until the pod goes; prints the pid, output in the log folder

Services
  service add NS/NAME (--vip A [--vip6 A] | --headless) --port P:TARGET [--node-port N] --selector K=V,...
  service del NS/NAME             manifests of Service and EndpointSlices, kept up to date as pods come and go
  nodeport add PORT BACKEND...    nft rules as kube-proxy makes them; BACKEND: ADDR:PORT, [ADDR6]:PORT, VIP:PORT or NS/NAME
  nodeport del PORT

Agent
  agent start [-- FLAGS...] | stop | kill | restart [-- FLAGS...] | cleanup
  apply FILE...                   put policies into the manifests folder and wait until all workers enforce them
  unapply FILE...                 take them out again, and wait
  sluice ARGS...                  the agent's command line tool, pointed at this lab's agent

Measurements
  bench http|tcp [--seconds N] [--rounds N] [--mtu N]
                                  one JSON line per case: sluice, the same without a dataplane, and their ratio;
                                  http restarts the agent, with the flags of each case

Environment: SLUICE_LAB (name of the lab, default sluice-lab), SLUICE_BIN (default target/release/sluice).
USAGE
}

say() { printf 'lab: %s\n' "$*" >&2; }
die() { printf 'lab: error: %s\n' "$*" >&2; exit 1; }

in_netns() {
  local name=$1
  shift
  nsenter --net="/run/netns/$name" "$@"
}

# The same in place of the calling shell, in a session of its own: in `(start_in_netns ...) &`, `$!` is the command's pid
# and its group's.
start_in_netns() {
  local name=$1
  shift
  exec nsenter --net="/run/netns/$name" setsid -- "$@"
}

require_up() { [[ -e $LAB_DIR/up ]] || die "the lab is not up; run: scripts/lab.sh up"; }

# Commands that change the lab exclude each other. Background processes must not inherit descriptor 9.
lock() {
  exec 9>"/run/$LAB.lock"
  flock -w 60 9 || die "another lab.sh is busy for over 60 s"
}

# Replaces file $1 by standard input at once: a watcher never reads half a manifest.
replace_file() {
  local temporary
  temporary=$(mktemp "$LAB_DIR/tmp/XXXXXX")
  cat >"$temporary"
  chmod 644 "$temporary"
  mv -f "$temporary" "$1"
}

# Sysctls of a new namespace, before it has any interface.
prepare_netns() {
  ip netns add "$1"
  in_netns "$1" sysctl -qw net.ipv6.conf.all.accept_ra=0 net.ipv6.conf.default.accept_ra=0 \
    net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0
  ip -n "$1" link set lo up
}

lab_up() {
  ((EUID == 0)) || die "network namespaces need root"
  lock
  if [[ -e $LAB_DIR/up ]]; then
    say "already up"
    return
  fi
  lab_remove # what an interrupted `up` left
  trap 'lab_remove' EXIT
  mkdir -p "$LAB_DIR"/{bpf,run,tmp,log,procs,pods,services,nodeports,hosts} \
    "$MANIFESTS"/{namespaces,pods,services,policies}
  chmod 755 "$LAB_DIR"
  # In the caller's mount namespace: `ip netns exec` would give the agent one of its own, and pins would die with it.
  mount -t bpf -o mode=0700 bpf "$LAB_DIR/bpf"

  prepare_netns "$NODE_NS"
  in_netns "$NODE_NS" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
    net.ipv6.conf.default.forwarding=1 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1
  prepare_netns "$OUT_NS"
  ip -n "$NODE_NS" link add uplink0 type veth peer name eth0 netns "$OUT_NS"
  ip -n "$NODE_NS" addr add "$NODE_IP4/24" dev uplink0
  ip -n "$NODE_NS" addr add "$NODE_IP6/64" dev uplink0 nodad
  ip -n "$NODE_NS" link set uplink0 up
  ip -n "$OUT_NS" addr add "$OUT_IP4/24" dev eth0
  ip -n "$OUT_NS" addr add "$OUT_IP6/64" dev eth0 nodad
  ip -n "$OUT_NS" link set eth0 up
  # As another node on the same segment has them: without these the outside could reach pods through NodePorts only.
  ip -n "$OUT_NS" route add "$POD_CIDR4" via "$NODE_IP4"
  ip -n "$OUT_NS" route add "$POD_CIDR6" via "$NODE_IP6"
  trap - EXIT
  : >"$LAB_DIR/up"
  say "up: node $NODE_NS ($NODE_IP4), outside $OUT_NS ($OUT_IP4), directory $LAB_DIR"
}

# Removes whatever exists of the lab; never fails for what does not.
lab_remove() {
  local file name
  if [[ -d $LAB_DIR ]]; then
    stop_process "$LAB_DIR/agent.pid" TERM || true
    for file in "$LAB_DIR"/procs/*; do
      [[ -e $file ]] && stop_process "$file"
    done
  fi
  for name in $(lab_namespaces); do
    ip netns del "$name" || true
  done
  if mountpoint -q "$LAB_DIR/bpf"; then umount "$LAB_DIR/bpf" || umount -l "$LAB_DIR/bpf"; fi
  rm -rf --one-file-system "$LAB_DIR"
}

# Every namespace that this lab made. Names are taken from its records, so that a lab whose name begins with this one's
# loses nothing.
lab_namespaces() {
  local file
  {
    printf '%s\n' "$NODE_NS" "$OUT_NS" "$LAB-direct-client" "$LAB-direct-server" "$LAB-bridge"
    printf '%s\n' "$LAB-bridge-client" "$LAB-bridge-server"
    for file in "$LAB_DIR"/pods/*; do
      [[ -e $file ]] && sed -n 's/^netns=//p' "$file"
    done
  } | while read -r name; do
    [[ -e /run/netns/$name ]] && printf '%s\n' "$name"
  done || true
}

lab_down() {
  ((EUID == 0)) || die "network namespaces need root"
  lock
  lab_remove
  rm -f "/run/$LAB.lock"
  say "down"
}

lab_status() {
  local json
  if [[ ! -e $LAB_DIR/up ]]; then
    if [[ ${1-} == -o ]]; then printf '{"up":false}\n'; else printf 'down\n'; fi
    return
  fi
  json=$(pods_json | jq -c --arg node "$NODE_NS" --arg outside "$OUT_NS" --arg dir "$LAB_DIR" \
    --argjson agent "$(agent_pid || echo null)" \
    '{up: true, directory: $dir, node: $node, outside: $outside, agent_pid: $agent, pods: .}')
  if [[ ${1-} == -o ]]; then
    printf '%s\n' "$json"
    return
  fi
  jq -r '"node \(.node), outside \(.outside), directory \(.directory), agent pid \(.agent_pid // "-")",
    (.pods[] | "\(.pod)\t\(.ip4)\t\(.ip6)\t\(.veth)\t\(.labels)")' <<<"$json" | expand -t 32,48,72,88
  if agent_pid >/dev/null; then sluice_cli status || true; fi
}

# Drops the `--` that separates a command from lab.sh's own arguments.
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
    up) lab_up ;;
    down) lab_down ;;
    status) lab_status "$@" ;;
    node-exec) require_up; run_in "$NODE_NS" "$@" ;;
    outside-exec) require_up; run_in "$OUT_NS" "$@" ;;
    exec) require_up; pod_exec "$@" ;;
    spawn) require_up; pod_spawn "$@" ;;
    pod) require_up; pod_command "$@" ;;
    service) require_up; service_command "$@" ;;
    nodeport) require_up; nodeport_command "$@" ;;
    agent) require_up; agent_command "$@" ;;
    apply) require_up; policy_apply "$@" ;;
    unapply) require_up; policy_unapply "$@" ;;
    sluice) require_up; sluice_cli "$@" ;;
    bench) bench_command "$@" ;;
    -h | --help | help) usage ;;
    *) usage >&2; exit 2 ;;
  esac
}

main "$@"
