# shellcheck shell=bash
# Pods: a network namespace each, wired as the `ptp` CNI plugin does it, their manifests and their processes.
#
# State of a pod: $LAB_DIR/pods/NS.NAME, lines of KEY=VALUE. A namespace's name has no dot, so the first dot separates.

pod_file() {
  [[ $1 =~ ^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-.a-z0-9]*[a-z0-9])?$ ]] || die "not NS/NAME: $1"
  printf '%s\n' "$LAB_DIR/pods/${1/\//.}"
}

pod_field() { sed -n "s/^$2=//p" "$1"; }

# State file of an existing pod.
existing_pod() {
  local file
  file=$(pod_file "$1")
  [[ -e $file ]] || die "no pod $1"
  printf '%s\n' "$file"
}

pods_json() {
  local file
  for file in "$LAB_DIR"/pods/*; do
    [[ -e $file ]] || continue
    jq -R -n '[inputs | capture("^(?<key>[^=]+)=(?<value>.*)$")] | from_entries' "$file"
  done | jq -s .
}

pod_command() {
  local verb=${1-}
  shift || true
  case $verb in
    add) lock; pod_add "$@" ;;
    del) lock; pod_del "$@" ;;
    label) lock; pod_label "$@" ;;
    show) pod_show "$@" ;;
    *) die "pod add|del|label|show" ;;
  esac
}

pod_show() {
  local file
  file=$(existing_pod "${1-}")
  if [[ -n ${2-} ]]; then pod_field "$file" "$2"; else cat "$file"; fi
}

# Addresses in use, one per line.
used_addresses() {
  local file
  for file in "$LAB_DIR"/pods/*; do
    [[ -e $file ]] && sed -n 's/^ip[46]=//p' "$file"
  done || true
}

# A host number of 10.244.0.0/24 and of fd00:10:244::/112 that no pod uses: the same in both families.
free_host_number() {
  local used n
  used=$(used_addresses)
  for ((n = 2; n < 255; n++)); do
    if ! grep -qxF -e "10.244.0.$n" -e "$(printf 'fd00:10:244::%x' "$n")" <<<"$used"; then
      printf '%d\n' "$n"
      return
    fi
  done
  die "no free pod address"
}

pod_add() {
  local pod=${1-} ip4='' ip6='' mtu=1500 labels='' ports='' tell=1 file namespace name number
  file=$(pod_file "$pod")
  shift
  while (($#)); do
    case $1 in
      --ip4) ip4=${2?} && shift ;;
      --ip6) ip6=${2?} && shift ;;
      --mtu) mtu=${2?} && shift ;;
      --labels) labels=${2?} && shift ;;
      --port) ports+=${ports:+,}${2?} && shift ;;
      --no-agent) tell=0 ;;
      *) die "pod add: unknown argument $1" ;;
    esac
    shift
  done
  namespace=${pod%%/*} name=${pod#*/}
  [[ ! -e $file ]] || die "pod $pod exists"
  [[ ! -e /run/netns/$LAB-$namespace-$name ]] || die "namespace $LAB-$namespace-$name exists"
  number=$(free_host_number)
  ip4=${ip4:-10.244.0.$number}
  ip6=${ip6:-$(printf 'fd00:10:244::%x' "$number")}
  [[ $ip4 != none ]] || ip4=''
  [[ $ip6 != none ]] || ip6=''

  local netns=$LAB-$namespace-$name veth mac gateway_mac
  veth=veth$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n')
  cat >"$file" <<STATE
pod=$pod
netns=$netns
veth=$veth
ip4=$ip4
ip6=$ip6
mtu=$mtu
labels=$labels
ports=$ports
STATE
  prepare_netns "$netns"
  ip -n "$NODE_NS" link add "$veth" mtu "$mtu" type veth peer name eth0 mtu "$mtu" netns "$netns"
  pod_wire "$netns" "$veth" "$ip4" "$ip6"
  mac=$(ip -n "$netns" -j link show dev eth0 | jq -r '.[0].address')
  gateway_mac=$(ip -n "$NODE_NS" -j link show dev "$veth" | jq -r '.[0].address')
  printf 'mac=%s\ngateway_mac=%s\n' "$mac" "$gateway_mac" >>"$file"

  namespace_manifest "$namespace"
  pod_manifest "$file"
  services_refresh "$namespace"
  if ! ((tell)); then
    printf 'registered=never\n' >>"$file"
  elif agent_pid >/dev/null; then
    agent_register "$file"
    agent_sync
  fi
}

# What `ptp` configures: the pod's subnet is not on the link, everything goes to the gateway, which each host-side veth has.
pod_wire() {
  local netns=$1 veth=$2 ip4=$3 ip6=$4 subnet
  ip -n "$NODE_NS" link set "$veth" up
  ip -n "$netns" link set eth0 up
  if [[ -n $ip4 ]]; then
    subnet=${ip4%.*}.0/24
    ip -n "$netns" addr add "$ip4/24" dev eth0
    ip -n "$netns" route del "$subnet" dev eth0 proto kernel scope link
    ip -n "$netns" route add "$GATEWAY4/32" dev eth0 scope link src "$ip4"
    ip -n "$netns" route add "$subnet" via "$GATEWAY4" dev eth0 src "$ip4"
    ip -n "$netns" route add default via "$GATEWAY4" dev eth0
    ip -n "$NODE_NS" addr add "$GATEWAY4/32" dev "$veth"
    ip -n "$NODE_NS" route add "$ip4/32" dev "$veth" scope host
  fi
  if [[ -n $ip6 ]]; then
    ip -n "$netns" addr add "$ip6/64" dev eth0 nodad
    ip -n "$netns" -6 route flush dev eth0 proto kernel root fc00::/7
    ip -n "$netns" route add "$GATEWAY6/128" dev eth0 src "$ip6"
    ip -n "$netns" route add "$POD_CIDR6" via "$GATEWAY6" dev eth0 src "$ip6"
    ip -n "$netns" route add default via "$GATEWAY6" dev eth0
    ip -n "$NODE_NS" addr add "$GATEWAY6/128" dev "$veth" nodad
    ip -n "$NODE_NS" route add "$ip6/128" dev "$veth"
  fi
}

pod_label() {
  local pod=${1-} file
  file=$(existing_pod "$pod")
  [[ ${2-} == --labels && $# == 3 ]] || die "pod label NS/NAME --labels K=V,..."
  sed -i "s|^labels=.*|labels=$3|" "$file"
  pod_manifest "$file"
  services_refresh "${pod%%/*}"
  agent_sync
}

pod_del() {
  local pod=${1-} file netns veth tell=1 record
  file=$(pod_file "$pod")
  [[ ${2-} != --no-agent ]] || tell=0
  [[ -e $file ]] || return 0
  netns=$(pod_field "$file" netns)
  veth=$(pod_field "$file" veth)
  if ((tell)) && agent_pid >/dev/null; then sluice_cli endpoint delete --pod "$pod" >/dev/null; fi
  for record in "$LAB_DIR/procs/${file##*/}"=*; do
    [[ -e $record ]] && stop_process "$record"
  done
  # Before the namespace, which would linger with a process that somebody else started in it.
  ip -n "$NODE_NS" link del "$veth" 2>/dev/null || true
  if [[ -e /run/netns/$netns ]]; then ip netns del "$netns"; fi
  rm -f "$MANIFESTS/pods/${file##*/}.yaml" "$file"
  services_refresh "${pod%%/*}"
  if ((tell)); then agent_sync; fi
}

namespace_manifest() {
  local file=$MANIFESTS/namespaces/$1.yaml
  [[ ! -e $file ]] || return 0
  replace_file "$file" <<YAML
apiVersion: v1
kind: Namespace
metadata:
  name: "$1"
  labels:
    kubernetes.io/metadata.name: "$1"
YAML
  hosts_refresh
}

# Prints labels K=V,... as a YAML mapping, indented by $2.
labels_yaml() {
  local pair pairs
  IFS=, read -ra pairs <<<"$1"
  if ((${#pairs[@]} == 0)); then
    printf '%s{}\n' "$2"
    return
  fi
  for pair in "${pairs[@]}"; do
    printf '%s"%s": "%s"\n' "$2" "${pair%%=*}" "${pair#*=}"
  done
}

# The Pod as the API server would show it once it runs.
pod_manifest() {
  local file=$1 pod ip4 ip6 port ports
  pod=$(pod_field "$file" pod) ip4=$(pod_field "$file" ip4) ip6=$(pod_field "$file" ip6)
  IFS=, read -ra ports <<<"$(pod_field "$file" ports)"
  {
    cat <<YAML
apiVersion: v1
kind: Pod
metadata:
  namespace: "${pod%%/*}"
  name: "${pod#*/}"
  labels:
$(labels_yaml "$(pod_field "$file" labels)" '    ')
spec:
  nodeName: $NODE_NAME
  containers:
    - name: main
      image: lab
YAML
    if ((${#ports[@]})); then printf '      ports:\n'; fi
    for port in "${ports[@]}"; do
      printf '        - {name: "%s", containerPort: %d}\n' "${port%%=*}" "${port#*=}"
    done
    cat <<YAML
status:
  phase: Running
  hostIP: $NODE_IP4
  podIP: "${ip4:-$ip6}"
  conditions:
    - {type: Ready, status: "True"}
  podIPs:
YAML
    [[ -z $ip4 ]] || printf '    - ip: "%s"\n' "$ip4"
    [[ -z $ip6 ]] || printf '    - ip: "%s"\n' "$ip6"
  } | replace_file "$MANIFESTS/pods/${file##*/}.yaml"
}

# Runs a command in a pod: its network, its host name, and /etc/hosts with the services as its namespace sees them.
# Replaces the calling process, so call it in a subshell or last.
enter_pod() {
  local file=$1 user=$2 pod prefix=()
  shift 2
  pod=$(pod_field "$file" pod)
  if [[ -n $user ]]; then
    prefix=(setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups --)
  fi
  # Slave propagation, or the copied mounts of /run/netns would keep deleted namespaces alive. Own files, written in
  # place: a bind mount holds the inode.
  # shellcheck disable=SC2016
  exec nsenter --net="/run/netns/$(pod_field "$file" netns)" unshare --mount --uts --propagation slave \
    sh -c 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"' \
    sh "${pod#*/}" "$LAB_DIR/hosts/${pod%%/*}" "${prefix[@]}" "$@"
}

pod_exec() {
  local file
  file=$(existing_pod "${1-}")
  shift
  [[ ${1-} == -- ]] && shift
  (($#)) || die "no command"
  enter_pod "$file" '' "$@"
}

pod_spawn() {
  local pod=${1-} file user='' signal=TERM log number=0 pid
  file=$(existing_pod "$pod")
  shift
  while (($#)); do
    case $1 in
      --user) user=${2?} && shift 2 ;;
      --signal) signal=${2?} && shift 2 ;;
      --) shift && break ;;
      *) break ;;
    esac
  done
  (($#)) || die "no command"
  lock
  while [[ -e $LAB_DIR/procs/${file##*/}=$number ]]; do number=$((number + 1)); done
  log=$LAB_DIR/log/${file##*/}.$number.log
  # `=` cannot occur in a pod's name: the records of db/a are not those of db/a.0.
  (enter_pod "$file" "$user" setsid -- "$@") >"$log" 2>&1 </dev/null 9>&- &
  pid=$!
  record_process "$LAB_DIR/procs/${file##*/}=$number" "$pid" "$signal"
  printf '%s\n' "$pid"
}
