# shellcheck shell=bash
# One certificate authority for the cluster, a certificate per client and server, and kubeconfigs of them.

CERTIFICATES=$DATA_DIR/certificates
API_SERVER_URL=https://$CONTROL_IP4:6443
CERTIFICATE_DAYS=30

# make_certificate NAME SUBJECT USAGE [SUBJECT_ALT_NAMES]
make_certificate() {
  local name=$1 subject=$2 usage=$3 names=${4-} file=$CERTIFICATES/$1
  make_key "$file.key"
  openssl req -new -key "$file.key" -subj "$subject" -out "$file.csr"
  {
    printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%s\n' "$usage"
    [[ -z $names ]] || printf 'subjectAltName=%s\n' "$names"
  } >"$file.extensions"
  openssl x509 -req -in "$file.csr" -CA "$CERTIFICATES/ca.crt" -CAkey "$CERTIFICATES/ca.key" -CAcreateserial \
    -days "$CERTIFICATE_DAYS" -extfile "$file.extensions" -out "$file.crt" 2>/dev/null ||
    die "openssl cannot make certificate $name"
  rm -f "$file.csr" "$file.extensions"
}

make_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

# make_kubeconfig NAME SUBJECT: a client's certificate and its kubeconfig, with everything inside.
make_kubeconfig() {
  local name=$1 subject=$2
  make_certificate "client-$name" "$subject" clientAuth
  cat >"$KUBECONFIGS/$name" <<YAML
apiVersion: v1
kind: Config
clusters:
- name: $CLUSTER
  cluster:
    server: $API_SERVER_URL
    certificate-authority-data: $(base64 -w 0 "$CERTIFICATES/ca.crt")
users:
- name: $name
  user:
    client-certificate-data: $(base64 -w 0 "$CERTIFICATES/client-$name.crt")
    client-key-data: $(base64 -w 0 "$CERTIFICATES/client-$name.key")
contexts:
- name: $CLUSTER
  context: {cluster: $CLUSTER, user: $name}
current-context: $CLUSTER
YAML
}

certificates_make() {
  local names
  mkdir -p "$CERTIFICATES" "$KUBECONFIGS"
  chmod 700 "$CERTIFICATES" "$KUBECONFIGS"
  make_key "$CERTIFICATES/ca.key"
  openssl req -x509 -new -key "$CERTIFICATES/ca.key" -subj "/CN=$CLUSTER" -days "$CERTIFICATE_DAYS" \
    -addext keyUsage=critical,keyCertSign,cRLSign -out "$CERTIFICATES/ca.crt"
  names=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc
  names+=,DNS:kubernetes.default.svc.cluster.local
  names+=,IP:127.0.0.1,IP:$CONTROL_IP4,IP:$CONTROL_IP6,IP:$API_SERVICE_IP4
  make_certificate apiserver /CN=kube-apiserver serverAuth "$names"
  make_certificate apiserver-kubelet /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
  make_key "$CERTIFICATES/service-account.key"
  openssl ec -in "$CERTIFICATES/service-account.key" -pubout -out "$CERTIFICATES/service-account.pub" 2>/dev/null
  make_kubeconfig admin /O=system:masters/CN=admin
  make_kubeconfig controller-manager /CN=system:kube-controller-manager
  make_kubeconfig scheduler /CN=system:kube-scheduler
  make_kubeconfig kube-proxy /CN=system:kube-proxy
}
