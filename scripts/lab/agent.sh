# shellcheck shell=bash
# The sluice agent on the lab's node: its process, the endpoints it is told of, and policies.

sluice_cli() { "$SLUICE" --run-dir "$LAB_DIR/run" "$@"; }

# The running agent's pid.
agent_pid() { [[ -e $LAB_DIR/agent.pid ]] && recorded_pid "$LAB_DIR/agent.pid"; }

agent_command() {
  local verb=${1-}
  shift || true
  [[ ${1-} != -- ]] || shift
  lock
  case $verb in
    start) agent_start "$@" ;;
    stop) stop_process "$LAB_DIR/agent.pid" TERM ;;
    kill) stop_process "$LAB_DIR/agent.pid" KILL ;;
    restart) stop_process "$LAB_DIR/agent.pid" TERM; agent_start "$@" ;;
    cleanup) agent_cleanup ;;
    *) die "agent start|stop|kill|restart|cleanup" ;;
  esac
}

agent_start() {
  local deadline file
  if agent_pid >/dev/null; then
    say "agent runs already"
    return
  fi
  [[ -x $SLUICE ]] || die "no $SLUICE; run: cargo build --release -p sluice"
  (start_in_netns "$NODE_NS" "$SLUICE" --run-dir "$LAB_DIR/run" agent --manifests "$MANIFESTS" \
    --bpffs "$LAB_DIR/bpf" --node-name "$NODE_NAME" --node-address "$NODE_IP4" --node-address "$NODE_IP6" \
    --pod-cidr "$POD_CIDR4" --pod-cidr "$POD_CIDR6" "$@") >>"$LAB_DIR/agent.log" 2>&1 </dev/null 9>&- &
  record_process "$LAB_DIR/agent.pid" "$!" TERM
  disown
  deadline=$((SECONDS + 30))
  until sluice_cli status >/dev/null 2>&1; do
    if ! agent_pid >/dev/null; then
      tail -n 20 "$LAB_DIR/agent.log" >&2
      die "the agent has ended; its log: $LAB_DIR/agent.log"
    fi
    ((SECONDS < deadline)) || die "the agent does not answer within 30 s; its log: $LAB_DIR/agent.log"
    sleep 0.05
  done
  # Only those it was never told of: to adopt the others after a restart is the agent's own duty.
  for file in "$LAB_DIR"/pods/*; do
    [[ -e $file && -z $(pod_field "$file" registered) ]] || continue
    agent_register "$file"
  done
  agent_sync
}

# Takes sluice off the node; a later agent is told of all pods again.
agent_cleanup() {
  stop_process "$LAB_DIR/agent.pid" TERM
  in_netns "$NODE_NS" "$SLUICE" --run-dir "$LAB_DIR/run" cleanup --bpffs "$LAB_DIR/bpf"
  find "$LAB_DIR/pods" -type f -exec sed -i '/^registered=1$/d' {} +
}

# Tells the agent of a pod, as a CNI plugin does.
agent_register() {
  local file=$1 field arguments=()
  for field in ip4 ip6; do
    [[ -z $(pod_field "$file" "$field") ]] || arguments+=("--ipv${field#ip}" "$(pod_field "$file" "$field")")
  done
  sluice_cli endpoint add --pod "$(pod_field "$file" pod)" --interface "$(pod_field "$file" veth)" \
    --mac "$(pod_field "$file" mac)" --netns "/run/netns/$(pod_field "$file" netns)" "${arguments[@]}" >/dev/null
  printf 'registered=1\n' >>"$file"
}

# Waits until every worker enforces what the manifests folder holds: one revision everywhere that stays for longer than the
# agent gathers changes of the folder. Returns at once without an agent.
agent_sync() {
  local deadline=$((SECONDS + 15)) seen last='' quiet=0
  agent_pid >/dev/null || return 0
  while ((quiet < 10)); do
    seen=$(sluice_cli status -o json |
      jq '.revision as $r | if all(.workers[]; .revision >= $r) then $r else null end') ||
      die "the agent does not answer; its log: $LAB_DIR/agent.log"
    if [[ $seen != null && $seen == "$last" ]]; then quiet=$((quiet + 1)); else quiet=0; fi
    last=$seen
    ((SECONDS < deadline)) || die "the workers do not agree on a revision within 15 s"
    sleep 0.04
  done
}

policy_apply() {
  local file problems
  (($#)) || die "apply FILE..."
  lock
  for file in "$@"; do
    [[ -r $file ]] || die "cannot read $file"
  done
  for file in "$@"; do
    replace_file "$MANIFESTS/policies/${file##*/}" <"$file"
  done
  agent_sync
  agent_pid >/dev/null || return 0
  for file in "$@"; do
    problems=$(sluice_cli status -o json |
      jq -r --arg file "policies/${file##*/}" '.source.problems[]? | select(contains($file))')
    [[ -z $problems ]] || die "the agent refuses $file: $problems"
  done
}

policy_unapply() {
  local file
  (($#)) || die "unapply FILE..."
  lock
  for file in "$@"; do
    rm -f "$MANIFESTS/policies/${file##*/}"
  done
  agent_sync
}
