#!/usr/bin/env bash
# Plays "Mastering Cilium Network Policies" end to end in network namespaces, with real parts: PostgreSQL, three Flask
# replicas behind a Service, curl and nc. See kind-config/article.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
ARTICLE=$ROOT/kind-config/article
export PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
# A lab of its own, so that one that is up for other work stays as it is.
export SLUICE_LAB=sluice-lab-demo
LAB_DIR=/run/$SLUICE_LAB
DATABASE_DIR=$LAB_DIR/postgres

NODE_IP=198.51.100.1
VIP=10.96.0.80
NODE_PORT=30008
REPLICAS=(flask-app-1 flask-app-2 flask-app-3)

usage() {
  cat <<'USAGE'
Usage: scripts/demo.sh [--keep]

Sets the machine up, builds sluice and plays the article: without policy, with the L3 policy, with the L7 policy, and
without policy again. Prints each step with its expected and its seen outcome; exits 0 if all are as expected.
  --keep   leave the lab up afterwards (SLUICE_LAB=sluice-lab-demo scripts/lab.sh status)

Environment: SLUICE_BIN (a built sluice: nothing is built then).
USAGE
}

say() { printf '\n== %s\n' "$*"; }
die() { printf 'demo: error: %s\n' "$*" >&2; exit 1; }
lab() { "$SCRIPTS/lab.sh" "$@"; }

# Waits until a command succeeds, 30 s at most. $1 says what for.
wait_until() {
  local what=$1 deadline=$((SECONDS + 30))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || die "$what: not within 30 s"
    sleep 0.1
  done
}

KEEP=0
finish() {
  local status=$?
  trap - EXIT
  if ((status != 0)) && [[ -e $LAB_DIR/agent.log ]]; then
    say "last lines of the agent's log"
    tail -n 20 "$LAB_DIR/agent.log"
  fi
  if ((KEEP)) && [[ -e $LAB_DIR/up ]]; then
    say "the lab stays up: SLUICE_LAB=$SLUICE_LAB scripts/lab.sh status, ... down"
  else
    lab down || status=1
  fi
  exit "$status"
}

build() {
  if [[ -n ${SLUICE_BIN-} ]]; then return; fi
  (cd "$ROOT" && cargo build --release -p sluice)
}

as_postgres() {
  setpriv --reuid postgres --regid "$(id -g postgres)" --init-groups -- "$@"
}

# Real PostgreSQL in the pod's namespace, with data of its own.
start_postgres() {
  local bin
  bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
  [[ -x $bin/initdb ]] || die "no PostgreSQL under /usr/lib/postgresql"
  install -d -o postgres -m 700 "$DATABASE_DIR"
  (cd / && as_postgres "$bin/initdb" -D "$DATABASE_DIR/data" -U postgres -E UTF8 --no-locale --no-sync \
    --auth-local=trust --auth-host=scram-sha-256 >"$LAB_DIR/log/initdb.log")
  printf 'host all all all scram-sha-256\n' >>"$DATABASE_DIR/data/pg_hba.conf"
  # SIGINT: fast shutdown, without waiting for clients.
  lab spawn db/postgres --user postgres --signal INT -- "$bin/postgres" -D "$DATABASE_DIR/data" \
    -k "$DATABASE_DIR" -c listen_addresses='*' -c fsync=off -c dynamic_shared_memory_type=mmap >/dev/null
  wait_until "PostgreSQL" "$bin/pg_isready" -q -h "$DATABASE_DIR"
  local psql=("$bin/psql" -q -X -v ON_ERROR_STOP=1 -h "$DATABASE_DIR")
  "${psql[@]}" -U postgres -d postgres -c "CREATE ROLE flask LOGIN PASSWORD 'flask'" -c "CREATE DATABASE weather OWNER flask"
  "${psql[@]}" -U flask -d weather -f - <"$ARTICLE/db/init.sql"
}

start_flask() {
  local replica
  # The pods run as `nobody`, who may not be able to read the checkout.
  install -m 644 "$ARTICLE/app/app.py" "$LAB_DIR/app.py"
  for replica in "${REPLICAS[@]}"; do
    lab spawn "db/$replica" --user nobody -- env DB_HOST=mydb-service DB_NAME=weather DB_USER=flask DB_PASSWORD=flask \
      PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -u "$LAB_DIR/app.py" >/dev/null
  done
  for replica in "${REPLICAS[@]}"; do
    wait_until "$replica" lab exec "db/$replica" -- nc -z 127.0.0.1 5000
  done
}

deploy() {
  local replica
  lab up
  lab agent start
  lab pod add db/postgres --labels app=postgres --port postgres=5432
  for replica in "${REPLICAS[@]}"; do
    lab pod add "db/$replica" --labels app=flask-app --port http=5000
  done
  lab pod add db/debug --labels app=debug
  lab pod add dummy/debug --labels app=debug
  lab service add db/mydb-service --headless --port 5432:5432 --selector app=postgres
  lab service add db/flask-app-service --vip "$VIP" --port 80:5000 --node-port "$NODE_PORT" --selector app=flask-app
  start_postgres
  start_flask
}

# Runs a command where $1 says: a pod, or `outside`.
at() {
  local where=$1
  shift
  if [[ $where == outside ]]; then lab outside-exec -- "$@"; else lab exec "$where" -- "$@"; fi
}

# Outcome of `nc -v -z -w 2`: open, timeout, refused or what nc says.
connect() {
  local output
  output=$(at "$1" nc -v -z -w 2 "$2" "$3" 2>&1) || true
  case $output in
    *succeeded*) echo open ;;
    *timed\ out*) echo timeout ;;
    *refused*) echo refused ;;
    *) echo "${output:-nothing}" ;;
  esac
}

# Outcome of a GET: the status and what the body is, or how the request failed.
get() {
  local body=$LAB_DIR/tmp/body code status=0
  : >"$body"
  code=$(at "$1" curl -s -o "$body" -w '%{http_code}' --connect-timeout 3 --max-time 10 "$2") || status=$?
  case $status in
    0) ;;
    7) echo refused; return ;;
    28) echo timeout; return ;;
    *) echo "curl exit $status"; return ;;
  esac
  if cmp -s "$body" <(printf 'Access denied\r\n'); then
    echo "$code Access denied"
  elif grep -q '^temperatures, served by flask-app-[123]$' "$body" && (($(wc -l <"$body") == 9)); then
    echo "$code temperatures"
  elif grep -q '<polyline' "$body"; then
    echo "$code plot"
  elif grep -q 'flask_app_requests_total' "$body"; then
    echo "$code metrics"
  else
    echo "$code: $(head -c 60 "$body" | tr -d '\r\n')"
  fi
}

# How many replicas answer at the Service's address, each request on a new connection, until all have or 15 s are over.
replicas_seen() {
  local deadline=$((SECONDS + 15)) name
  local -A seen=()
  while ((${#seen[@]} < ${#REPLICAS[@]} && SECONDS < deadline)); do
    name=$(at db/debug curl -s --max-time 3 "http://$VIP/" | sed -n 's/^temperatures, served by //p') || true
    if [[ -n $name ]]; then seen[$name]=1; fi
  done
  echo "${#seen[@]}"
}

PHASE='' PHASES=()
declare -A PASSED FAILED
phase() {
  PHASE=$1
  PHASES+=("$1")
  PASSED[$1]=0 FAILED[$1]=0
  say "$2"
}

# step DESCRIPTION EXPECTED SEEN
step() {
  local result=ok
  if [[ $2 == "$3" ]]; then
    PASSED[$PHASE]=$((PASSED[$PHASE] + 1))
  else
    FAILED[$PHASE]=$((FAILED[$PHASE] + 1))
    result=FAILED
  fi
  printf '%-62s expected %-18s seen %-18s %s\n' "$1" "$2" "$3" "$result"
}

step_connect() { step "$1: nc -v -z -w 2 $2 $3" "$4" "$(connect "$1" "$2" "$3")"; }
step_get() { step "$1: GET $2" "$3" "$(get "$1" "$2")"; }

database_steps() {
  local expected=$1 who
  for who in db/debug dummy/debug; do
    step_connect "$who" "$DB4" 5432 "$expected"
    step_connect "$who" "$DB6" 5432 "$expected"
    step_connect "$who" mydb-service.db 5432 "$expected"
  done
  step_connect db/flask-app-1 "$DB4" 5432 open
  step_connect db/flask-app-2 "$DB6" 5432 open
}

# $1: what /metrics is expected to answer.
web_steps() {
  local metrics=$1 who base
  for who in db/debug dummy/debug; do
    for base in "http://$APP4:5000" "http://[$APP6]:5000" "http://$VIP:80" http://flask-app-service.db; do
      step_get "$who" "$base/" '200 temperatures'
      step_get "$who" "$base/metrics" "$metrics"
    done
  done
  step_get db/debug "http://$VIP/plot/temp" '200 plot'
  base=http://$NODE_IP:$NODE_PORT
  step_get outside "$base/" '200 temperatures'
  step_get outside "$base/plot/temp" '200 plot'
  step_get outside "$base/metrics" "$metrics"
  step "db/debug: replicas that answer at $VIP:80" "${#REPLICAS[@]}" "$(replicas_seen)"
}

play() {
  DB4=$(lab pod show db/postgres ip4) DB6=$(lab pod show db/postgres ip6)
  APP4=$(lab pod show db/flask-app-1 ip4) APP6=$(lab pod show db/flask-app-1 ip6)

  phase 'no policy' 'Without policy: everything connects'
  database_steps open
  web_steps '200 metrics'

  phase 'L3 policy' 'L3 policy flask-app-to-db: only flask-app reaches PostgreSQL'
  lab apply "$ARTICLE/policies/flask-app-to-db.yaml"
  database_steps timeout
  web_steps '200 metrics'

  phase 'L7 policy' 'L7 policy l7-rule: GET / and GET /plot/temp, nothing else'
  lab apply "$ARTICLE/policies/l7-rule.yaml"
  database_steps timeout
  web_steps '403 Access denied'

  say 'What was denied: sluice flows --last 20 --verdict dropped'
  lab sluice flows --last 20 --verdict dropped

  phase 'policies removed' 'Policies removed: everything connects again'
  lab unapply flask-app-to-db.yaml l7-rule.yaml
  database_steps open
  web_steps '200 metrics'
}

# Prints the table; fails if any step has.
summary() {
  local name failed=0
  say 'Summary'
  printf '%-20s %8s %8s\n' phase passed failed
  for name in "${PHASES[@]}"; do
    printf '%-20s %8d %8d\n' "$name" "${PASSED[$name]}" "${FAILED[$name]}"
    failed=$((failed + FAILED[$name]))
  done
  if ((failed)); then
    printf '\nFAILED: %d steps are not as expected\n' "$failed"
    return 1
  fi
  printf '\nall steps as expected\n'
}

main() {
  while (($#)); do
    case $1 in
      --keep) KEEP=1 ;;
      -h | --help) usage; return ;;
      *) usage >&2; die "unknown argument: $1" ;;
    esac
    shift
  done
  ((EUID == 0)) || die "network namespaces need root"
  "$SCRIPTS/setup.sh"
  build
  if [[ -e $LAB_DIR ]]; then lab down; fi # kept by an earlier run
  trap finish EXIT
  trap 'exit 130' INT TERM
  deploy
  play
  summary
}

main "$@"
