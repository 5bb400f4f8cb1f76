# shellcheck shell=bash
# Components: the cluster's long-running programs. Each has a record in $CLUSTER_DIR/procs and a log in $LOGS.

# Starts component $1 by command $2...; the command has to set up its namespaces itself.
component_start() {
  local name=$1
  shift
  # In a session of its own: `$!` is then the command's pid and its group's, and no terminal's Ctrl-C reaches it.
  (exec setsid -- "$@") >>"$LOGS/$name.log" 2>&1 </dev/null 9>&- &
  # Nothing of it is kept, so nobody has to end in order.
  record_process "$CLUSTER_DIR/procs/$name" "$!" KILL
  disown
}

component_failed() {
  local name=$1
  shift
  say "last lines of $name's log:"
  tail -n 20 "$LOGS/$name.log" | cut -c 1-400 >&2
  die "$*"
}

# wait_for SECONDS COMPONENT WHAT COMMAND...: until the command succeeds. Ends early, with the component's log, if the component
# has ended.
wait_for() {
  local limit=$1 name=$2 what=$3 deadline=$((SECONDS + $1))
  shift 3
  until "$@" >/dev/null 2>&1; do
    recorded_pid "$CLUSTER_DIR/procs/$name" >/dev/null || component_failed "$name" "$name has ended; waited for: $what"
    ((SECONDS <= deadline)) || component_failed "$name" "not after $limit s: $what"
    sleep 0.3
  done
}
