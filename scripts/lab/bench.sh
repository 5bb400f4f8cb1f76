# shellcheck shell=bash
# Measurements: the same client and server once through sluice and once without any dataplane, in turn, on the same machine
# in the same run. Only the ratio carries over to other machines.

BENCH_CLIENT=bench/client BENCH_SERVER=bench/server
BENCH_PORT=8080
DIRECT4_CLIENT=192.0.2.1 DIRECT4_SERVER=192.0.2.2
# What is measured ends up here, a figure a line, in a file per variant.
BENCH_DIR=$LAB_DIR/bench

bench_command() {
  local what=${1-} seconds=10 rounds=3 mtu=1500 tool
  shift || true
  while (($#)); do
    case $1 in
      --seconds) seconds=${2?} && shift ;;
      --rounds) rounds=${2?} && shift ;;
      --mtu) mtu=${2?} && shift ;;
      *) die "bench: unknown argument $1" ;;
    esac
    shift
  done
  [[ $what == http || $what == tcp ]] || die "bench http|tcp"
  for tool in wrk iperf3 nginx; do
    command -v "$tool" >/dev/null || die "no $tool; run: scripts/setup.sh"
  done

  BENCH_OWN_LAB=0
  if [[ ! -e $LAB_DIR/up ]]; then
    BENCH_OWN_LAB=1
    "$SCRIPTS/lab.sh" up
  fi
  trap bench_cleanup EXIT
  trap 'exit 130' INT TERM
  "$SCRIPTS/lab.sh" agent start
  mkdir -p "$BENCH_DIR"
  rm -f "$BENCH_DIR"/*.figures
  bench_pods "$mtu"
  bench_"$what" "$seconds" "$rounds" "$mtu"
}

bench_cleanup() {
  local record name
  trap - EXIT
  for record in "$BENCH_DIR"/*.process; do
    [[ -e $record ]] && stop_process "$record"
  done
  for name in direct-client direct-server bridge-client bridge-server bridge; do
    if [[ -e /run/netns/$LAB-$name ]]; then ip netns del "$LAB-$name"; fi
  done
  if ((BENCH_OWN_LAB)); then
    "$SCRIPTS/lab.sh" down
    return
  fi
  # Each of them may be what failed.
  "$SCRIPTS/lab.sh" unapply bench.yaml || true
  "$SCRIPTS/lab.sh" pod del "$BENCH_CLIENT" || true
  "$SCRIPTS/lab.sh" pod del "$BENCH_SERVER" || true
  rm -rf "$BENCH_DIR"
}

bench_pods() {
  local mtu=$1
  "$SCRIPTS/lab.sh" pod add "$BENCH_CLIENT" --labels app=client --mtu "$mtu"
  "$SCRIPTS/lab.sh" pod add "$BENCH_SERVER" --labels app=server --mtu "$mtu"
}

# Two namespaces on one veth pair.
bench_direct() {
  local mtu=$1
  prepare_netns "$LAB-direct-client"
  prepare_netns "$LAB-direct-server"
  ip -n "$LAB-direct-client" link add eth0 mtu "$mtu" type veth peer name eth0 mtu "$mtu" netns "$LAB-direct-server"
  bench_addresses direct
}

# Two namespaces on a kernel bridge in a third.
bench_bridge() {
  local mtu=$1 end
  prepare_netns "$LAB-bridge"
  ip -n "$LAB-bridge" link add br0 mtu "$mtu" type bridge
  ip -n "$LAB-bridge" link set br0 up
  for end in client server; do
    prepare_netns "$LAB-bridge-$end"
    ip -n "$LAB-bridge" link add "$end" mtu "$mtu" type veth peer name eth0 mtu "$mtu" netns "$LAB-bridge-$end"
    ip -n "$LAB-bridge" link set "$end" master br0 up
  done
  bench_addresses bridge
}

bench_addresses() {
  ip -n "$LAB-$1-client" addr add "$DIRECT4_CLIENT/24" dev eth0
  ip -n "$LAB-$1-server" addr add "$DIRECT4_SERVER/24" dev eth0
  ip -n "$LAB-$1-client" link set eth0 up
  ip -n "$LAB-$1-server" link set eth0 up
}

# Starts a server in namespace $2 and waits until it accepts connections from namespace $3 at address $4; $1 names it.
bench_serve() {
  local name=$1 server=$2 client=$3 address=$4 deadline=$((SECONDS + 10))
  shift 4
  (start_in_netns "$server" "$@") >"$BENCH_DIR/$name.log" 2>&1 </dev/null &
  record_process "$BENCH_DIR/$name.process" "$!" TERM
  disown
  until in_netns "$client" nc -z -w 1 "$address" "$BENCH_PORT" 2>/dev/null; do
    ((SECONDS < deadline)) || die "no $name server at $address: $(tail -n 5 "$BENCH_DIR/$name.log")"
    sleep 0.05
  done
}

# The policy of the measured pods: $1 is what follows `ports:` in its rule.
bench_policy() {
  cat >"$BENCH_DIR/bench.yaml" <<YAML
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: bench
  namespace: ${BENCH_SERVER%%/*}
spec:
  endpointSelector:
    matchLabels:
      app: server
  ingress:
    - fromEndpoints:
        - matchLabels:
            app: client
      toPorts:
        - ports:
            - port: "$BENCH_PORT"
              protocol: TCP
$1
YAML
  "$SCRIPTS/lab.sh" apply "$BENCH_DIR/bench.yaml"
}

# One worker, no log, connections for ever: the server must not be what is measured.
nginx_configuration() {
  cat <<NGINX
daemon off;
worker_processes 1;
pid $BENCH_DIR/$1.nginx.pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path $BENCH_DIR/$1-body;
  proxy_temp_path $BENCH_DIR/$1-proxy;
  fastcgi_temp_path $BENCH_DIR/$1-fastcgi;
  uwsgi_temp_path $BENCH_DIR/$1-uwsgi;
  scgi_temp_path $BENCH_DIR/$1-scgi;
  server {
    listen $BENCH_PORT;
    location / { default_type text/plain; return 200 "ok\n"; }
  }
}
NGINX
}

# wrk in namespace $2 against $3 for $4 seconds; appends "rps p50 p99 errors", latencies in microseconds.
bench_wrk() {
  local variant=$1 netns=$2 address=$3 seconds=$4 output
  output=$(in_netns "$netns" wrk -t 1 -c 32 -d "${seconds}s" --latency "http://$address:$BENCH_PORT/")
  awk '
    function micros(text) {
      if (text ~ /us$/) return text + 0
      if (text ~ /ms$/) return text * 1000
      return text * 1000000
    }
    $1 == "50%" { p50 = micros($2) }
    $1 == "99%" { p99 = micros($2) }
    /Socket errors:/ { gsub(",", ""); errors += $4 + $6 + $8 + $10 }
    /Non-2xx/ { errors += $NF }
    /^Requests\/sec:/ { rps = $2 }
    END { printf "%.0f %.0f %.0f %d\n", rps, p50, p99, errors }
  ' <<<"$output" >>"$BENCH_DIR/$variant.figures"
  say "$variant: $(tail -n 1 "$BENCH_DIR/$variant.figures") (requests/s, p50 us, p99 us, errors)"
}

# iperf3, one stream; appends bits per second received.
bench_iperf() {
  local variant=$1 netns=$2 address=$3 seconds=$4
  in_netns "$netns" iperf3 -c "$address" -p "$BENCH_PORT" -t "$seconds" -O 1 -J |
    jq '.end.sum_received.bits_per_second // error(.error // "iperf3 has failed") | round' \
      >>"$BENCH_DIR/$variant.figures"
  say "$variant: $(tail -n 1 "$BENCH_DIR/$variant.figures") bit/s"
}

# Prints a case as one JSON line; its ratio is the median of the rounds' ratios, because a round shares what else the machine
# did. Arguments: case, unit, baseline variant, sluice variant, command.
bench_report() {
  local mode
  mode=$(sluice_cli status -o json | jq -c '.mode // ([.endpoints[]?.mode] | unique | join(",")) // null')
  jq -n -c --arg case "$1" --arg unit "$2" --arg against "$3" --arg command "$5" \
    --rawfile baseline "$BENCH_DIR/$3.figures" --rawfile sluice "$BENCH_DIR/$4.figures" \
    --arg cpu "$(sed -n 's/^model name[^:]*: //p;T;q' /proc/cpuinfo)" --argjson cpus "$(nproc)" \
    --arg kernel "$(uname -r)" --argjson mode "$mode" '
    def rows: split("\n") | map(select(. != "") | split(" ") | map(tonumber));
    def column(n): map(.[n]);
    def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
    def figures: rows | {median: (column(0) | median), rounds: column(0)}
      + (if .[0][1] != null then
          {p50_us: (column(1) | median), p99_us: (column(2) | median), errors: (column(3) | add)}
        else {} end);
    ($baseline | figures) as $b | ($sluice | figures) as $s |
    {case: $case, unit: $unit, against: $against, baseline: $b, sluice: $s,
     ratio: ([$s.rounds, $b.rounds] | transpose | map(.[0] / .[1]) | median * 1000 | round / 1000),
     mode: $mode, cpu: $cpu, cpus: $cpus, kernel: $kernel, command: $command}'
}

# The agent's flags for each profile. `tuned` is for nodes where the worker shares few CPUs with the pods.
bench_profile() {
  case $1 in
    tuned) printf '%s\n' --pod-tuning latency --pin-worker --worker-napi ;;
    latency | throughput) printf '%s\n' --pod-tuning "$1" ;;
  esac
}

bench_http() {
  local seconds=$1 rounds=$2 mtu=$3 round server client server_ip variant profile flags profiles=(tuned latency throughput)
  client=$(pod_field "$(existing_pod "$BENCH_CLIENT")" netns)
  server=$(pod_field "$(existing_pod "$BENCH_SERVER")" netns)
  server_ip=$(pod_field "$(existing_pod "$BENCH_SERVER")" ip4)
  bench_direct "$mtu"
  for variant in direct sluice-l7; do nginx_configuration "$variant" >"$BENCH_DIR/$variant.conf"; done
  bench_policy '          rules:
            http:
              - method: GET
                path: /'
  bench_serve direct "$LAB-direct-server" "$LAB-direct-client" "$DIRECT4_SERVER" nginx -c "$BENCH_DIR/direct.conf"
  bench_serve sluice-l7 "$server" "$client" "$server_ip" nginx -c "$BENCH_DIR/sluice-l7.conf"
  for ((round = 0; round < rounds; round++)); do
    bench_wrk direct "$LAB-direct-client" "$DIRECT4_SERVER" "$seconds"
    for profile in "${profiles[@]}"; do
      mapfile -t flags < <(bench_profile "$profile")
      "$SCRIPTS/lab.sh" agent restart -- "${flags[@]}"
      bench_wrk "sluice-l7-$profile" "$client" "$server_ip" "$seconds"
    done
  done
  for profile in "${profiles[@]}"; do
    mapfile -t flags < <(bench_profile "$profile")
    bench_report "http-keepalive-32-$profile" requests/s direct "sluice-l7-$profile" \
      "wrk -t 1 -c 32 -d ${seconds}s, nginx with 1 worker, sluice agent ${flags[*]}"
  done
}

bench_tcp() {
  local seconds=$1 rounds=$2 mtu=$3 round server client server_ip
  client=$(pod_field "$(existing_pod "$BENCH_CLIENT")" netns)
  server=$(pod_field "$(existing_pod "$BENCH_SERVER")" netns)
  server_ip=$(pod_field "$(existing_pod "$BENCH_SERVER")" ip4)
  bench_direct "$mtu"
  bench_bridge "$mtu"
  bench_policy ''
  local serve=(iperf3 -s -p "$BENCH_PORT")
  bench_serve direct "$LAB-direct-server" "$LAB-direct-client" "$DIRECT4_SERVER" "${serve[@]}"
  bench_serve bridge "$LAB-bridge-server" "$LAB-bridge-client" "$DIRECT4_SERVER" "${serve[@]}"
  bench_serve sluice "$server" "$client" "$server_ip" "${serve[@]}"
  for ((round = 0; round < rounds; round++)); do
    bench_iperf direct "$LAB-direct-client" "$DIRECT4_SERVER" "$seconds"
    bench_iperf bridge "$LAB-bridge-client" "$DIRECT4_SERVER" "$seconds"
    bench_iperf sluice "$client" "$server_ip" "$seconds"
  done
  bench_report "tcp-stream-mtu-$mtu" bit/s direct sluice "iperf3 -t $seconds, 1 stream, MTU $mtu"
  bench_report "tcp-stream-mtu-$mtu" bit/s bridge sluice "iperf3 -t $seconds, 1 stream, MTU $mtu"
}
