# shellcheck shell=bash
# Container images, each made FROM scratch of a program in target/cluster/bin, and kept as archives in
# target/cluster/images.

IMAGES=$BUILD_DIR/images
IMAGE_NAMES=(pause agnhost coredns)

# The name by which pods and the end-to-end suite ask for image $1: upstream's of the release in go.mod.
image_reference() {
  case $1 in
    pause) printf 'registry.k8s.io/pause:3.10.2\n' ;;
    agnhost) printf 'registry.k8s.io/e2e-test-images/agnhost:2.63.0\n' ;;
    coredns) printf 'registry.k8s.io/coredns/coredns:v%s\n' "$(coredns_version)" ;;
    article) printf '%s\n' "$ARTICLE_IMAGE" ;;
  esac
}

coredns_version() { sed -n 's/^\tgithub\.com\/coredns\/coredns v\([0-9.]*\)$/\1/p' "$MODULE/go.mod"; }

images_stamp() {
  {
    cat "$BIN/stamp" "$SCRIPTS/cluster/images.sh"
    sha256sum "$(command -v curl)" "$(command -v nc.openbsd)" "$(command -v busybox)"
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
      # The suite's Service specs say `/bin/sh -c "curl ..."` and `nc -v -w 2 ...`; so do people.
      # Not by busybox: its shell prefers its own `nc`, which has no -v.
      mkdir -p "$root"/{bin,tmp,etc}
      cp "$(command -v busybox)" "$root/bin/busybox"
      for name in cat echo env grep hostname ip ls printf ps sleep test true wc; do
        ln -s busybox "$root/bin/$name"
      done
      stage_program "$root" "$(command -v dash)" /bin/sh
      stage_program "$root" "$(command -v curl)" /usr/bin/curl
      stage_program "$root" "$(command -v nc.openbsd)" /usr/bin/nc
      printf 'root:x:0:0::/:/bin/sh\n' >"$root/etc/passwd"
      chmod 1777 "$root/tmp"
      printf 'ENTRYPOINT ["/agnhost"]\nCMD ["pause"]\n'
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
}
