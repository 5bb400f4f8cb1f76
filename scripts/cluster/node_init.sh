#!/usr/bin/env bash
# PID 1 of a node: node_init.sh NODE DATA_DIR PATH... . Gives the node's mount namespace what a machine of its own would have,
# each PATH included, says so by the file DATA_DIR/nodes/NODE/ready, and then collects the processes that lose their parents.
set -euo pipefail

node=$1 data=$2 directory=$2/nodes/$1
shift 2

# Sysctls of the whole machine that kubelet sets, or refuses to run without: it shall set copies.
SYSCTLS=(
  kernel/keys/root_maxbytes kernel/keys/root_maxkeys kernel/panic kernel/panic_on_oops vm/overcommit_memory
  vm/panic_on_oom
)

hostname "$node"

# /sys shows the network devices of the namespace it was mounted in; the cgroups below it have to stay.
mkdir -p "$directory/cgroup"
mount --rbind /sys/fs/cgroup "$directory/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$directory/cgroup" /sys/fs/cgroup
umount -l "$directory/cgroup"
mount -t bpf bpf /sys/fs/bpf

# Places to mount on, without making any on the machine: it may have none of the paths, and another cluster may be using them.
for parent in /etc /opt; do
  mkdir -p "$directory"/{upper,work}"$parent"
  mount -t overlay -o "lowerdir=$parent,upperdir=$directory/upper$parent,workdir=$directory/work$parent" overlay "$parent"
done
# Not an overlay: $data is below it, and must not be below its own lower directory.
mkdir -p "$directory/var-lib"
mount -t tmpfs -o mode=755 tmpfs "$directory/var-lib"
mkdir "$directory/var-lib/${data##*/}"
mount --bind "$data" "$directory/var-lib/${data##*/}"
mount --move "$directory/var-lib" /var/lib
mount -t tmpfs -o mode=755 tmpfs /var/log
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/netns /run/lock
for path in "$@"; do
  mkdir -p "$path"
  mount --bind "$directory/files$path" "$path"
done
for name in "${SYSCTLS[@]}"; do
  [[ -e /proc/sys/$name ]] || continue
  mkdir -p "$directory/sysctl/${name%/*}"
  cat "/proc/sys/$name" >"$directory/sysctl/$name"
  mount --bind "$directory/sysctl/$name" "/proc/sys/$name"
done
# Last: a pod's mountPropagation needs shared mounts, but while they are shared, the umount above would reach both copies.
mount --make-rshared /

: >"$directory/ready"
trap '' HUP INT TERM
while :; do
  # bash collects every child that ends, not only its own; `wait` returns at each signal.
  sleep infinity &
  wait "$!" || true
done
