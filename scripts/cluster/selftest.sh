# shellcheck shell=bash
# Whether the cluster does what a cluster does: each step is printed with its result, and all are made.

SELFTEST_NAMESPACE=selftest
NODE_PORT=30080 HOST_PORT=30090
SELFTEST_FAILED=0

# step DESCRIPTION COMMAND...: prints the command's output only if it fails.
selftest_step() {
  local what=$1 output
  shift
  if output=$("$@" 2>&1); then
    printf 'ok      %s\n' "$what"
  else
    printf 'FAILED  %s\n' "$what"
    tail -n 20 <<<"$output" | sed 's/^/          /'
    SELFTEST_FAILED=$((SELFTEST_FAILED + 1))
  fi
}

selftest_kubectl() { kubectl_admin -n "$SELFTEST_NAMESPACE" "$@"; }

selftest_manifest() {
  local nodes=$1
  cat <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: $((nodes * 2))
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector:
          matchLabels: {app: web}
      containers:
      - name: netexec
        image: $(image_reference agnhost)
        imagePullPolicy: Never
        args: [netexec, --http-port=8080, --udp-port=8081]
        readinessProbe:
          httpGet: {path: /healthz, port: 8080}
          periodSeconds: 1
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: $NODE_PORT}
---
apiVersion: v1
kind: Pod
metadata:
  name: host-port
spec:
  terminationGracePeriodSeconds: 1
  nodeName: node1
  containers:
  - name: netexec
    image: $(image_reference agnhost)
    imagePullPolicy: Never
    args: [netexec, --http-port=8080, --udp-port=8081]
    ports:
    - {containerPort: 8080, hostPort: $HOST_PORT}
    readinessProbe:
      httpGet: {path: /healthz, port: 8080}
      periodSeconds: 1
YAML
}

# Lines "POD NODE IP4 IP6".
selftest_pods() {
  selftest_kubectl get pods -l app=web -o json | jq -r '
    .items[] | [.metadata.name, .spec.nodeName, (.status.podIPs | map(.ip) | .[])] | join(" ")'
}

every_node_has_pods() {
  local found
  found=$(selftest_pods | cut -d' ' -f2 | sort -u | wc -l)
  [[ $found == "$1" ]] || {
    printf 'pods on %s of %s nodes\n' "$found" "$1"
    return 1
  }
}

# in_pod POD COMMAND...
in_pod() {
  local pod=$1
  shift
  selftest_kubectl exec "$pod" -- "$@"
}

# The answer of netexec's /hostname is the name of a pod.
answers_with_pod() {
  local answer
  answer=$("$@" -sS -m 5 --retry 3 --retry-connrefused) || return 1
  [[ $answer == web-* || $answer == host-port ]] || {
    printf 'not the name of a pod: %s\n' "$answer"
    return 1
  }
}

selftest_services() {
  local pod=$1 node address
  local name=web.$SELFTEST_NAMESPACE.svc.cluster.local
  for address in $(selftest_kubectl get service web -o jsonpath='{.spec.clusterIPs[*]}'); do
    [[ $address != *:* ]] || address="[$address]"
    selftest_step "pod -> Service address $address" answers_with_pod in_pod "$pod" curl "http://$address/hostname"
  done
  selftest_step "pod -> http://$name" answers_with_pod in_pod "$pod" curl "http://$name/hostname"
  selftest_step "pod -> http://web (search list)" answers_with_pod in_pod "$pod" curl http://web/hostname
  for node in $(running_nodes); do
    for address in "$(node_ip4 "$node")" "[$(node_ip6 "$node")]"; do
      selftest_step "outside -> node port $address:$NODE_PORT" \
        answers_with_pod in_netns "$OUT_NS" curl "http://$address:$NODE_PORT/hostname"
    done
  done
}

selftest() {
  local nodes pods=() from to pod node ip4 ip6 target target_node
  SELFTEST_FAILED=0
  nodes=$(running_nodes | wc -l)
  selftest_step "$nodes nodes are ready" kubectl_admin wait --for condition=Ready nodes --all --timeout 30s
  trap 'kubectl_admin delete namespace "$SELFTEST_NAMESPACE" --ignore-not-found --timeout 60s >/dev/null' EXIT
  kubectl_admin delete namespace "$SELFTEST_NAMESPACE" --ignore-not-found --timeout 60s >/dev/null
  kubectl_admin create namespace "$SELFTEST_NAMESPACE" >/dev/null
  selftest_manifest "$nodes" | selftest_kubectl apply -f - >/dev/null || die "the API server does not take the test's objects"
  selftest_step "Deployment web is ready" selftest_kubectl rollout status deployment/web --timeout 60s
  selftest_step "every node has pods of it" every_node_has_pods "$nodes"

  mapfile -t pods < <(selftest_pods)
  # From one pod of every node, to all.
  for from in $(printf '%s\n' "${pods[@]}" | sort -u -k2,2 | cut -d' ' -f1); do
    for to in "${pods[@]}"; do
      read -r target target_node ip4 ip6 <<<"$to"
      [[ $target != "$from" ]] || continue
      node=$(printf '%s\n' "${pods[@]}" | awk -v pod="$from" '$1 == pod { print $2 }')
      selftest_step "pod on $node -> pod $ip4 on $target_node" \
        in_pod "$from" /agnhost connect "$ip4:8080" --timeout 3s
      selftest_step "pod on $node -> pod $ip6 on $target_node" \
        in_pod "$from" /agnhost connect "[$ip6]:8080" --timeout 3s
    done
  done
  read -r pod _ <<<"${pods[0]}"
  if [[ $(cat "$CLUSTER_DIR/up") == *kube_proxy=none* ]]; then
    printf 'skipped Services, names and node ports: nothing serves them (--kube-proxy none)\n'
  else
    selftest_services "$pod"
  fi
  selftest_step "Pod host-port is ready" selftest_kubectl wait --for condition=Ready pod/host-port --timeout 30s
  selftest_step "outside -> host port $(node_ip4 node1):$HOST_PORT" \
    answers_with_pod in_netns "$OUT_NS" curl "http://$(node_ip4 node1):$HOST_PORT/hostname"
  selftest_step "logs of a pod" selftest_kubectl logs "$pod" --tail 5
  if ((SELFTEST_FAILED)); then die "$SELFTEST_FAILED steps failed"; fi
  printf 'all steps passed\n'
}
