# shellcheck shell=bash
# Processes that the lab, or the cluster, started: recorded as pid and start time, so that a reused pid is never taken for one of ours.

# Start time of process $1 in clock ticks since boot (proc(5), /proc/PID/stat, field 22).
start_time() {
  local stat
  # In one read: the process may end at any moment.
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  stat=${stat##*) }
  # shellcheck disable=SC2086
  set -- $stat
  printf '%s\n' "${20}"
}

# Writes record $1 for process $2; $3 is the signal that ends it.
record_process() {
  printf '%s %s %s\n' "$2" "$(start_time "$2" || echo 0)" "$3" >"$1"
}

# The pid in record $1 if that very process still runs.
recorded_pid() {
  local pid started
  read -r pid started _ <"$1" 2>/dev/null || return 1
  [[ $(start_time "$pid") == "$started" ]] || return 1
  # A zombie has ended; nobody has asked for its status yet.
  ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null || return 1
  printf '%s\n' "$pid"
}

# Ends the process of record $1 with signal $2 (default: the recorded one), with SIGKILL after 10 s, and its group.
stop_process() {
  local record=$1 pid signal=${2-} deadline
  if ! pid=$(recorded_pid "$record" 2>/dev/null); then
    rm -f "$record"
    return 0
  fi
  [[ -n $signal ]] || read -r _ _ signal <"$record"
  # Started with setsid: the pid is the group's, too.
  kill -s "$signal" -- "$pid" 2>/dev/null || true
  deadline=$((SECONDS + 10))
  while recorded_pid "$record" >/dev/null 2>&1; do
    if ((SECONDS > deadline)); then
      say "process $pid ignores SIG$signal for 10 s, killing it"
      kill -s KILL -- "$pid" 2>/dev/null || true
      deadline=$((SECONDS + 10))
    fi
    sleep 0.02
  done
  kill -s TERM -- "-$pid" 2>/dev/null || true
  rm -f "$record"
}
