# shellcheck shell=bash
# etcd, API server, controller manager and scheduler, in the control plane's network namespace; and what every cluster runs
# besides: CoreDNS.

control_component() {
  local name=$1
  shift
  component_start "$name" nsenter --net="/run/netns/$CONTROL_NS" -- "$BIN/$name" "$@"
}

control_plane_start() {
  # Without fsync: a cluster of an hour's life does not survive a power cut, and etcd's latency is everybody's.
  control_component etcd --data-dir "$DATA_DIR/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster default=http://127.0.0.1:2380
  wait_for 30 etcd "etcd answers" in_netns "$CONTROL_NS" curl -sf -m 2 http://127.0.0.1:2379/health
  # InternalIP: nothing resolves nodes' names, and exec and logs would try to.
  control_component kube-apiserver --etcd-servers http://127.0.0.1:2379 --secure-port 6443 \
    --advertise-address "$CONTROL_IP4" --service-cluster-ip-range "$SERVICE_CIDR4,$SERVICE_CIDR6" \
    --tls-cert-file "$CERTIFICATES/apiserver.crt" --tls-private-key-file "$CERTIFICATES/apiserver.key" \
    --client-ca-file "$CERTIFICATES/ca.crt" --authorization-mode RBAC,Node --allow-privileged=true \
    --enable-admission-plugins NodeRestriction \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file "$CERTIFICATES/service-account.pub" \
    --service-account-signing-key-file "$CERTIFICATES/service-account.key" \
    --kubelet-client-certificate "$CERTIFICATES/apiserver-kubelet.crt" \
    --kubelet-client-key "$CERTIFICATES/apiserver-kubelet.key" --kubelet-preferred-address-types InternalIP \
    --audit-policy-file "$SCRIPTS/cluster/audit_policy.yaml" --audit-log-path "$LOGS/audit.log" \
    --profiling=false
  wait_for 90 kube-apiserver "the API server is ready" kubectl_admin get --raw /readyz
  control_component kube-controller-manager --kubeconfig "$KUBECONFIGS/controller-manager" \
    --authentication-kubeconfig "$KUBECONFIGS/controller-manager" \
    --authorization-kubeconfig "$KUBECONFIGS/controller-manager" --bind-address 127.0.0.1 --leader-elect=false \
    --allocate-node-cidrs --cluster-cidr "$POD_CIDR4,$POD_CIDR6" \
    --service-cluster-ip-range "$SERVICE_CIDR4,$SERVICE_CIDR6" --use-service-account-credentials \
    --flex-volume-plugin-dir "$DATA_DIR/volume-plugins" --root-ca-file "$CERTIFICATES/ca.crt" \
    --service-account-private-key-file "$CERTIFICATES/service-account.key" --profiling=false
  control_component kube-scheduler --kubeconfig "$KUBECONFIGS/scheduler" \
    --authentication-kubeconfig "$KUBECONFIGS/scheduler" --authorization-kubeconfig "$KUBECONFIGS/scheduler" \
    --bind-address 127.0.0.1 --leader-elect=false --profiling=false
  wait_for 60 kube-controller-manager "the namespace default has its service account" \
    kubectl_admin -n default get serviceaccount default
  wait_for 60 kube-scheduler "the scheduler is healthy" \
    in_netns "$CONTROL_NS" curl -ksf -m 2 https://127.0.0.1:10259/healthz
}

# CoreDNS talks to the API server's own address: it has to come up before anything serves 10.96.0.1.
addons_apply() {
  sed -e "s|IMAGE|$(image_reference coredns)|" -e "s|DNS_SERVICE_IP|$DNS_SERVICE_IP4|" \
    -e "s|API_SERVER_IP|$CONTROL_IP4|" "$SCRIPTS/cluster/coredns.yaml" | kubectl_admin apply -f - >/dev/null ||
    die "the API server does not take scripts/cluster/coredns.yaml"
  kubectl_admin -n kube-system rollout status deployment/coredns --timeout 90s >/dev/null || {
    kubectl_admin -n kube-system describe pods -l k8s-app=kube-dns | tail -n 20 >&2
    component_failed node1-kubelet "CoreDNS is not ready after 90 s"
  }
}
