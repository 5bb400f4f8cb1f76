# shellcheck shell=bash
# What many pods and policies cost an agent: objects of the API server only, bound to Nodes that nobody is.

# The agent's container on node $1, as its process's number in the node's PID namespace.
agent_pid() { run_in_node "$1" pgrep -x -f '/usr/bin/sluice agent .*' | head -n 1; }

run_in_node() {
  local node=$1
  shift
  "$SCRIPTS/cluster.sh" node-exec "$node" -- "$@"
}

# Bytes that the agent on node $1 has received from the API server, by its own address or the Service's, over the connections that it
# has now.
agent_bytes() {
  run_in_node "$1" ss -tniHp '( dport = :443 or dport = :6443 )' | awk -v pid="pid=$(agent_pid "$1")," '
    /users:/ { is_agent = index($0, pid) > 0 }
    is_agent && match($0, /bytes_received:[0-9]+/) { sum += substr($0, RSTART + 15, RLENGTH - 15) }
    END { print sum + 0 }'
}

agent_kib() { run_in_node "$1" sed -n 's/^VmRSS:\s*\([0-9]*\) kB/\1/p' "/proc/$(agent_pid "$1")/status"; }

# Objects that the agent on node $1 holds of kind $2, or its readiness.
agent_status() {
  local pod
  pod=$(kubectl_admin -n kube-system get pods -l app.kubernetes.io/name=sluice --field-selector "spec.nodeName=$1,status.phase=Running" -o name | head -n 1)
  kubectl_admin -n kube-system exec "$pod" -- sluice status -o json 2>/dev/null | jq -r "$2"
}

# Waits up to $1 s until the agent on node $2 holds $3 Pods, its own included or not, and is in sync.
wait_for_pods() {
  local deadline=$((SECONDS + $1)) seen
  until seen=$(agent_status "$2" '.source.objects.Pod // 0') && ((seen >= $3)); do
    ((SECONDS < deadline)) || die "scale: the agent on $2 holds ${seen:-no} pods, not $3, after $1 s"
    sleep 0.5
  done
}

population() {
  KUBECONFIG=$KUBECONFIGS/admin in_netns "$CONTROL_NS" "${CARGO_TARGET_DIR:-$ROOT/target}/debug/cluster-population" "$@" || die "scale: cluster-population has failed"
}

cluster_scale() {
  local pods=10000 policies=1000 churned=500 node=node1 started ready bytes rss idle_rss before after
  while (($#)); do
    case $1 in
      --pods) pods=${2?} ;;
      --policies) policies=${2?} ;;
      *) usage >&2; die "scale: unknown argument: $1" ;;
    esac
    shift 2
  done
  (cd "$ROOT" && PATH=$PATH:$HOME/.cargo/bin cargo build --quiet --locked --workspace --bins) || die "scale: no cluster-population"
  idle_rss=$(agent_kib "$node")
  # shellcheck disable=SC2064 # the numbers are local
  trap "population remove $pods $policies" EXIT
  started=$SECONDS
  say "creating $pods pods and $policies policies"
  population create "$pods" "$policies"
  say "created after $((SECONDS - started)) s"
  wait_for_pods 120 "$node" "$pods"
  rss=$(agent_kib "$node")

  say "starting the agent anew"
  kubectl_admin -n kube-system delete pod -l app.kubernetes.io/name=sluice --field-selector "spec.nodeName=$node" --wait >/dev/null
  kubectl_admin -n kube-system rollout status daemonset/sluice --timeout 120s >&2
  wait_for_pods 120 "$node" "$pods"
  ready=$(agent_start_seconds "$node")
  bytes=$(agent_bytes "$node")
  before=$bytes
  population churn "$churned" 0
  wait_for_pods 60 "$node" "$pods"
  after=$(agent_bytes "$node")
  jq -n -c --argjson pods "$pods" --argjson policies "$policies" --argjson idle "$idle_rss" --argjson rss "$rss" \
    --argjson anew "$(agent_kib "$node")" --argjson ready "$ready" --argjson bytes "$bytes" \
    --argjson churn "$(((after - before) / churned))" --arg kernel "$(uname -r)" --argjson cpus "$(nproc)" '
    {case: "scale", pods: $pods, policies: $policies, agent_mib: {empty: ($idle / 1024 | round), filled: ($rss / 1024 | round),
     started_anew: ($anew / 1024 | round)}, start_seconds: $ready, list_mib: ($bytes / 1048576 * 10 | round / 10),
     bytes_per_churned_pod: $churn, cpus: $cpus, kernel: $kernel}'
}

# Seconds from the start of the agent's container on node $1 to the moment its log says that every kind has been listed.
agent_start_seconds() {
  local pod from to
  pod=$(kubectl_admin -n kube-system get pods -l app.kubernetes.io/name=sluice --field-selector "spec.nodeName=$1" -o name | head -n 1)
  from=$(kubectl_admin -n kube-system get "$pod" -o jsonpath='{.status.containerStatuses[0].state.running.startedAt}')
  to=$(kubectl_admin -n kube-system logs "$pod" | sed -n '/all kinds of objects have been listed/{s/ .*//p;q}')
  awk -v from="$(date -d "$from" +%s.%N)" -v to="$(date -d "$to" +%s.%N)" 'BEGIN { printf "%.1f\n", to - from }'
}
