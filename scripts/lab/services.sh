# shellcheck shell=bash
# Services: the manifests that the API server and its endpoint-slice controller would show, names for /etc/hosts, and
# NodePorts as kube-proxy's nftables mode makes them.
#
# State of a service: $LAB_DIR/services/NS.NAME, lines of KEY=VALUE; of a NodePort: $LAB_DIR/nodeports/PORT, a backend a line.

service_command() {
  local verb=${1-}
  shift || true
  case $verb in
    add) lock; service_add "$@" ;;
    del) lock; service_del "$@" ;;
    *) die "service add|del" ;;
  esac
}

service_add() {
  local service=${1-} vip='' vip6='' headless=0 port='' node_port='' selector='' file
  pod_file "$service" >/dev/null # the same form of name
  shift
  while (($#)); do
    case $1 in
      --vip) vip=${2?} && shift ;;
      --vip6) vip6=${2?} && shift ;;
      --headless) headless=1 ;;
      --port) port=${2?} && shift ;;
      --node-port) node_port=${2?} && shift ;;
      --selector) selector=${2?} && shift ;;
      *) die "service add: unknown argument $1" ;;
    esac
    shift
  done
  [[ $port =~ ^[0-9]+:[0-9]+$ ]] || die "service add: --port P:TARGET"
  [[ -n $selector ]] || die "service add: --selector K=V,..."
  if ((headless)); then vip=None vip6=''; elif [[ -z $vip$vip6 ]]; then die "service add: --vip or --headless"; fi
  file=$LAB_DIR/services/${service/\//.}
  printf 'service=%s\nvip=%s\nvip6=%s\nport=%s\nnode_port=%s\nselector=%s\n' \
    "$service" "$vip" "$vip6" "$port" "$node_port" "$selector" >"$file"
  namespace_manifest "${service%%/*}"
  service_manifest "$file"
  hosts_refresh
  if [[ -n $node_port ]]; then
    printf '%s\n' "$service" >"$LAB_DIR/nodeports/$node_port"
  fi
  nodeports_refresh
  agent_sync
}

service_del() {
  local service=${1-} file node_port
  file=$LAB_DIR/services/${service/\//.}
  [[ -e $file ]] || return 0
  node_port=$(pod_field "$file" node_port)
  rm -f "$file" "$MANIFESTS/services/${file##*/}.yaml"
  if [[ -n $node_port ]]; then rm -f "$LAB_DIR/nodeports/$node_port"; fi
  hosts_refresh
  nodeports_refresh
  agent_sync
}

# State files of the pods that the service of state file $1 selects.
service_pods() {
  local namespace selector pair file pairs
  namespace=$(basename "$1")
  namespace=${namespace%%.*}
  IFS=, read -ra pairs <<<"$(pod_field "$1" selector)"
  for file in "$LAB_DIR/pods/$namespace".*; do
    [[ -e $file ]] || continue
    for pair in "${pairs[@]}"; do
      [[ ,$(pod_field "$file" labels), == *",$pair,"* ]] || continue 2
    done
    printf '%s\n' "$file"
  done
}

# The addresses of family $2 (ip4, ip6) behind the service of state file $1.
service_backends() {
  local file
  for file in $(service_pods "$1"); do
    pod_field "$file" "$2" | sed '/^$/d'
  done
}

# Prints those of the arguments that are not empty as items of a YAML list.
list_yaml() {
  local item
  for item in "$@"; do
    [[ -z $item ]] || printf '    - "%s"\n' "$item"
  done
}

service_manifest() {
  local file=$1 service namespace name vip vip6 port node_port address family backends
  service=$(pod_field "$file" service)
  namespace=${service%%/*} name=${service#*/}
  vip=$(pod_field "$file" vip) vip6=$(pod_field "$file" vip6)
  port=$(pod_field "$file" port) node_port=$(pod_field "$file" node_port)
  {
    cat <<YAML
apiVersion: v1
kind: Service
metadata:
  namespace: "$namespace"
  name: "$name"
spec:
  type: $(if [[ -n $node_port ]]; then echo NodePort; else echo ClusterIP; fi)
  clusterIP: "${vip:-$vip6}"
  clusterIPs:
$(list_yaml "$vip" "$vip6")
  selector:
$(labels_yaml "$(pod_field "$file" selector)" '    ')
  ports:
    - name: main
      protocol: TCP
      port: ${port%%:*}
      targetPort: ${port##*:}
YAML
    if [[ -n $node_port ]]; then printf '      nodePort: %d\n' "$node_port"; fi
    for family in ip4 ip6; do
      mapfile -t backends < <(service_backends "$file" "$family")
      ((${#backends[@]})) || continue
      cat <<YAML
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  namespace: "$namespace"
  name: "$name-$family"
  labels:
    kubernetes.io/service-name: "$name"
addressType: IPv${family#ip}
ports:
  - name: main
    protocol: TCP
    port: ${port##*:}
endpoints:
YAML
      for address in "${backends[@]}"; do
        printf '  - addresses: ["%s"]\n    conditions: {ready: true}\n    nodeName: %s\n' "$address" "$NODE_NAME"
      done
    done
  } | replace_file "$MANIFESTS/services/${file##*/}.yaml"
}

# Writes services of namespace $1 anew, after its pods have changed.
services_refresh() {
  local file
  for file in "$LAB_DIR/services/$1".*; do
    [[ -e $file ]] && service_manifest "$file"
  done || true
  hosts_refresh
  nodeports_refresh
}

# /etc/hosts of each namespace's pods; short names resolve in their own namespace only, as with cluster DNS.
hosts_refresh() {
  local hosts namespace file service name address
  for hosts in "$MANIFESTS"/namespaces/*.yaml; do
    [[ -e $hosts ]] || continue
    namespace=$(basename "$hosts" .yaml)
    {
      printf '127.0.0.1 localhost\n::1 localhost\n'
      for file in "$LAB_DIR"/services/*; do
        [[ -e $file ]] || continue
        service=$(pod_field "$file" service)
        name=${service#*/}.${service%%/*}
        name="$name $name.svc $name.svc.cluster.local"
        if [[ ${service%%/*} == "$namespace" ]]; then name="${service#*/} $name"; fi
        if [[ $(pod_field "$file" vip) == None ]]; then
          for address in $(service_backends "$file" ip4) $(service_backends "$file" ip6); do
            printf '%s %s\n' "$address" "$name"
          done
        else
          for address in $(pod_field "$file" vip) $(pod_field "$file" vip6); do
            printf '%s %s\n' "$address" "$name"
          done
        fi
      done
    } >"$LAB_DIR/hosts/$namespace"
  done
}

nodeport_command() {
  local verb=${1-} port=${2-}
  [[ $port =~ ^[0-9]+$ ]] || die "nodeport add PORT BACKEND... | del PORT"
  shift 2
  lock
  case $verb in
    add)
      (($#)) || die "nodeport add PORT BACKEND..."
      printf '%s\n' "$@" >"$LAB_DIR/nodeports/$port"
      ;;
    del) rm -f "$LAB_DIR/nodeports/$port" ;;
    *) die "nodeport add|del" ;;
  esac
  nodeports_refresh
}

# Prints ADDR:PORT or [ADDR6]:PORT of each backend that $1 stands for: a service, a service's VIP:PORT, or a backend itself.
expand_backend() {
  local file target address
  for file in "$LAB_DIR"/services/*; do
    [[ -e $file ]] || continue
    target=$(pod_field "$file" port)
    case $1 in
      "$(pod_field "$file" service)" | "$(pod_field "$file" vip):${target%%:*}" | "[$(pod_field "$file" vip6)]:${target%%:*}")
        for address in $(service_backends "$file" ip4); do printf '%s:%s\n' "$address" "${target##*:}"; done
        for address in $(service_backends "$file" ip6); do printf '[%s]:%s\n' "$address" "${target##*:}"; done
        return
        ;;
    esac
  done
  [[ $1 != */* ]] || die "no service $1"
  printf '%s\n' "$1"
}

# One chain per NodePort and family: mark for masquerading, then one backend at random.
nodeport_chain() {
  local port=$1 family=$2 n=0 map='' backend
  shift 2
  for backend in "$@"; do
    printf '  chain port-%s-%s-%d { meta l4proto tcp dnat %s to %s; }\n' "$port" "$family" "$n" "$family" "$backend"
    map+="${map:+, }$n : goto port-$port-$family-$n"
    n=$((n + 1))
  done
  printf '  chain port-%s-%s {\n    meta mark set meta mark or 0x4000\n' "$port" "$family"
  if ((n)); then printf '    numgen random mod %d vmap { %s }\n' "$n" "$map"; else printf '    drop\n'; fi
  printf '  }\n'
}

# The whole ruleset, replaced at once.
nodeports_refresh() {
  local file port backend backends v4 v6 jumps=''
  {
    printf 'table inet lab-nodeports\ndelete table inet lab-nodeports\ntable inet lab-nodeports {\n'
    for file in "$LAB_DIR"/nodeports/*; do
      [[ -e $file ]] || continue
      port=${file##*/} v4=() v6=()
      mapfile -t backends < <(while read -r backend; do expand_backend "$backend"; done <"$file")
      for backend in "${backends[@]}"; do
        if [[ $backend == \[* ]]; then v6+=("$backend"); else v4+=("$backend"); fi
      done
      nodeport_chain "$port" ip "${v4[@]}"
      nodeport_chain "$port" ip6 "${v6[@]}"
      jumps+="    fib daddr type local meta nfproto ipv4 tcp dport $port goto port-$port-ip"$'\n'
      jumps+="    fib daddr type local meta nfproto ipv6 tcp dport $port goto port-$port-ip6"$'\n'
    done
    cat <<NFT
  chain prerouting {
    type nat hook prerouting priority dstnat
$jumps  }
  chain output {
    type nat hook output priority -100
$jumps  }
  chain postrouting {
    type nat hook postrouting priority srcnat
    meta mark and 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random
  }
}
NFT
  } >"$LAB_DIR/tmp/nodeports.nft"
  in_netns "$NODE_NS" nft -f "$LAB_DIR/tmp/nodeports.nft"
}
