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
    *) die "agent start|stop|kill|restart" ;;
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
    --bpffs "$LAB_DIR/bpf" --node-name "$NODE_NAME" --node-address "$NODE_IP4" \
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

# The revision of the agent's snapshot; empty without an agent.
agent_revision() {
  if agent_pid >/dev/null; then sluice_cli status -o json | jq .revision; fi
}

# Waits until every worker enforces a revision later than $1; returns at once for an empty one.
agent_wait_revision() {
  local before=$1 deadline=$((SECONDS + 10))
  [[ -n $before ]] || return 0
  until sluice_cli status -o json |
    jq -e --argjson before "$before" \
      '.revision as $r | $r > $before and all(.workers[]; .revision >= $r)' >/dev/null; do
    agent_pid >/dev/null || die "the agent has ended; its log: $LAB_DIR/agent.log"
    if ((SECONDS >= deadline)); then
      sluice_cli status >&2 || true
      die "no revision after $before is enforced by all workers within 10 s"
    fi
    sleep 0.02
  done
}

policy_apply() {
  local file before
  (($#)) || die "apply FILE..."
  lock
  for file in "$@"; do
    [[ -r $file ]] || die "cannot read $file"
  done
  for file in "$@"; do
    if cmp -s "$file" "$MANIFESTS/policies/${file##*/}"; then continue; fi
    before=$(agent_revision)
    replace_file "$MANIFESTS/policies/${file##*/}" <"$file"
    agent_wait_revision "$before"
  done
}

policy_unapply() {
  local file before
  (($#)) || die "unapply FILE..."
  lock
  for file in "$@"; do
    [[ -e $MANIFESTS/policies/${file##*/} ]] || continue
    before=$(agent_revision)
    rm -f "$MANIFESTS/policies/${file##*/}"
    agent_wait_revision "$before"
  done
}
