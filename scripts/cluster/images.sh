# shellcheck shell=bash
# Container images, each made FROM scratch of a program in target/cluster/bin, and kept as archives in
# target/cluster/images.

IMAGES=$BUILD_DIR/images
IMAGE_NAMES=(pause agnhost glibc-dns-testing distroless-iptables coredns)

# Programs of the machine that images hold.
IMAGE_PROGRAMS=(curl wget nc.openbsd busybox dig nslookup getent conntrack)

# The name by which pods and the end-to-end suite ask for image $1: upstream's of the release in go.mod.
image_reference() {
  case $1 in
    pause) printf 'registry.k8s.io/pause:3.10.2\n' ;;
    agnhost) printf 'registry.k8s.io/e2e-test-images/agnhost:2.63.0\n' ;;
    glibc-dns-testing) printf 'registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0\n' ;;
    distroless-iptables) printf 'registry.k8s.io/build-image/distroless-iptables:v0.9.6\n' ;;
    coredns) printf 'registry.k8s.io/coredns/coredns:v%s\n' "$(coredns_version)" ;;
    article) printf '%s\n' "$ARTICLE_IMAGE" ;;
  esac
}

coredns_version() { sed -n 's/^\tgithub\.com\/coredns\/coredns v\([0-9.]*\)$/\1/p' "$MODULE/go.mod"; }

images_stamp() {
  local program
  {
    cat "$BIN/stamp" "$SCRIPTS/cluster/images.sh"
    for program in "${IMAGE_PROGRAMS[@]}"; do sha256sum "$(command -v "$program")"; done
  } | sha256sum | cut -d' ' -f1
}

build_images() {
  local stamp name
  stamp=$(images_stamp)
  [[ $(cat "$IMAGES/stamp" 2>/dev/null) != "$stamp" ]] || return 0
  rm -rf "$IMAGES"
  mkdir -p "$IMAGES"
  for name in "${IMAGE_NAMES[@]}"; do
    say "building image $(image_reference "$name")"
    build_image "$name" "$IMAGES"
  done
  printf '%s\n' "$stamp" >"$IMAGES/stamp"
}

# stage_program ROOT PROGRAM TARGET: copies a program of the machine with the libraries that it is linked to.
stage_program() {
  local root=$1 program=$2 target=$3 library
  mkdir -p "$root${target%/*}"
  cp -L "$program" "$root$target"
  ldd "$program" | grep -oE '/[^ ]+' | while read -r library; do
    mkdir -p "$root${library%/*}"
    cp -L "$library" "$root$library"
  done
}

# A shell and what people expect beside it. Neither the shell nor `nc` are busybox's: its shell prefers its own `nc`, which has no -v;
# what looks names up cannot be: linked statically, it crashes.
stage_busybox() {
  local root=$1 applet
  mkdir -p "$root"/{bin,tmp,etc}
  cp "$(command -v busybox)" "$root/bin/busybox"
  for applet in $(busybox --list); do
    [[ $applet == @(busybox|sh|nc|wget|nslookup) ]] || ln -s busybox "$root/bin/$applet"
  done
  stage_program "$root" "$(command -v dash)" /bin/sh
  printf 'root:x:0:0::/:/bin/sh\n' >"$root/etc/passwd"
  chmod 1777 "$root/tmp"
}

# Stages the content of image $1 in directory $2, its Dockerfile's remaining lines on standard output.
stage_image() {
  local name=$1 root=$2
  case $name in
    pause)
      cp "$BIN/agnhost" "$root/agnhost"
      printf 'ENTRYPOINT ["/agnhost", "pause"]\n'
      ;;
    agnhost)
      cp "$BIN/agnhost" "$root/agnhost"
      # The suite's specs say `/bin/sh -c "curl ..."`, `nc -v -w 2 ...`, `for i in $(seq 1 9); do wget ...`, `dig +search ...`, as in
      # upstream's image; so do people.
      stage_busybox "$root"
      stage_program "$root" "$(command -v curl)" /usr/bin/curl
      stage_program "$root" "$(command -v wget)" /usr/bin/wget
      stage_program "$root" "$(command -v nc.openbsd)" /usr/bin/nc
      stage_program "$root" "$(command -v dig)" /usr/bin/dig
      stage_program "$root" "$(command -v nslookup)" /usr/bin/nslookup
      stage_program "$root" "$(command -v getent)" /usr/bin/getent
      # A name server that specs configure, and what `porter` serves TLS with.
      cp "$BIN/coredns" "$root/coredns"
      cp "$(go_select && cd "$MODULE" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)"/test/images/agnhost/porter/localhost.{crt,key} "$root/"
      printf 'ENTRYPOINT ["/agnhost"]\nCMD ["pause"]\n'
      ;;
    # Where the suite looks names up by glibc, and not by the musl of its other images.
    glibc-dns-testing)
      stage_busybox "$root"
      stage_program "$root" "$(command -v dig)" /usr/bin/dig
      stage_program "$root" "$(command -v getent)" /usr/bin/getent
      printf 'CMD ["sleep", "infinity"]\n'
      ;;
    # Where the suite looks at connections of the node.
    distroless-iptables)
      stage_busybox "$root"
      stage_program "$root" "$(command -v conntrack)" /usr/bin/conntrack
      printf 'CMD ["sleep", "infinity"]\n'
      ;;
    coredns)
      cp "$BIN/coredns" "$root/coredns"
      printf 'ENTRYPOINT ["/coredns"]\n'
      ;;
    article) stage_article "$root" ;;
  esac
}

# Builds image $1 into directory $2. buildah works in a directory of its own, so that the machine's images are left alone.
build_image() {
  local name=$1 directory=$2 scratch status=0
  scratch=$(mktemp -d "$directory/XXXXXX")
  mkdir -p "$scratch/context/root"
  # Networks are not used, but looked for, and by default in the machine's /etc/cni, which is created for it.
  printf '[network]\nnetwork_config_dir = "%s/networks"\n' "$scratch" >"$scratch/containers.conf"
  {
    printf 'FROM scratch\nCOPY root/ /\n'
    stage_image "$name" "$scratch/context/root"
  } >"$scratch/context/Dockerfile"
  {
    run_buildah "$scratch" bud --isolation chroot -t "$name" "$scratch/context" &&
      run_buildah "$scratch" push "$name" "docker-archive:$directory/$name.tar:$(image_reference "$name")"
  } >"$scratch/log" 2>&1 || status=$?
  if ((status)); then
    tail -n 20 "$scratch/log" >&2
    rm -rf "$scratch"
    die "buildah cannot build image $name"
  fi
  rm -rf "$scratch"
}

run_buildah() {
  local scratch=$1
  shift
  CONTAINERS_CONF=$scratch/containers.conf buildah --storage-driver vfs --root "$scratch/storage" --runroot "$scratch/run" "$@"
}

# Imports archives into the containerd of node $1. By standard input: a node does not see all of the machine's files.
node_load() {
  local node=$1 archive
  shift
  for archive in "$@"; do
    in_node "$node" ctr --address /run/containerd/containerd.sock -n k8s.io images import - <"$archive" >/dev/null ||
      die "$node: containerd cannot import $archive"
  done
}

images_load() {
  local archive node
  for archive in "$@"; do
    [[ -r $archive ]] || die "no archive $archive"
  done
  for node in $(running_nodes); do
    node_load "$node" "$@"
    say "$node has $*"
  done
  # For nodes that join later.
  printf '%s\n' "$@" >>"$CLUSTER_DIR/images"
}
