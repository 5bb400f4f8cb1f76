# shellcheck shell=bash
# Components: the cluster's long-running programs. Each has a record in $CLUSTER_DIR/procs, its command in
# $CLUSTER_DIR/commands and a log in $LOGS.

# Starts component $1 by command $2...; the command has to set up its namespaces itself.
component_start() {
  local name=$1
  shift
  printf '%s\0' "$@" >"$CLUSTER_DIR/commands/$name"
  # In a session of its own: `$!` is then the command's pid and its group's, and no terminal's Ctrl-C reaches it.
  (
    close_inherited
    exec setsid -- "$@"
  ) >>"$LOGS/$name.log" 2>&1 </dev/null &
  # Nothing of it is kept, so nobody has to end in order.
  record_process "$CLUSTER_DIR/procs/$name" "$!" KILL
  disown
}

# Closes all descriptors but the standard ones: whoever waits for a lock, or for the end of a pipe, that cluster.sh was started with
# would otherwise wait for the component's end.
close_inherited() {
  local descriptor
  for descriptor in "/proc/$BASHPID/fd"/*; do
    descriptor=${descriptor##*/}
    ((descriptor <= 2)) || eval "exec $descriptor>&-"
  done
}

# The pid of component $1 itself. On a node, its record is of the `nsenter` that waits for it outside of the PID namespace.
component_pid() {
  local pid
  pid=$(recorded_pid "$CLUSTER_DIR/procs/$1") || return 1
  if [[ $(cat "/proc/$pid/comm") == nsenter ]]; then pgrep -P "$pid"; else printf '%s\n' "$pid"; fi
}

# For tests of what happens without it.
component_command() {
  local verb=$1 name=${2-} arguments=() pid deadline
  [[ -n $name && -e $CLUSTER_DIR/commands/$name ]] ||
    die "no component '$name'; there are: $(cd "$CLUSTER_DIR/commands" && echo *)"
  [[ $name != node[0-9] ]] || die "$name is a node and cannot be stopped alone: pods and mounts end with it"
  if [[ $verb == start ]]; then
    ! recorded_pid "$CLUSTER_DIR/procs/$name" >/dev/null || die "$name runs already"
    mapfile -d '' -t arguments <"$CLUSTER_DIR/commands/$name"
    component_start "$name" "${arguments[@]}"
    return
  fi
  pid=$(component_pid "$name") || die "$name does not run"
  kill -s "${3:-TERM}" "$pid"
  deadline=$((SECONDS + 90))
  while recorded_pid "$CLUSTER_DIR/procs/$name" >/dev/null; do
    ((SECONDS <= deadline)) || die "$name ignores SIG${3:-TERM} for 90 s"
    sleep 0.1
  done
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
