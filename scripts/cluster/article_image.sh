# shellcheck shell=bash
# The image of the article's pods, kind-config/article-local: a Debian userland with Flask, PostgreSQL, curl and nc, kept in
# target/cluster/article as an archive. Made of Debian packages alone, as there is no registry.

ARTICLE=$BUILD_DIR/article
ARTICLE_PACKAGES=(curl iproute2 netcat-openbsd postgresql python3-flask python3-prometheus-client python3-psycopg2)
ARTICLE_SUITE=bookworm
ARTICLE_IMAGE=docker.io/sluice/article:1

article_stamp() {
  {
    printf '%s\n' "$ARTICLE_IMAGE" "$ARTICLE_SUITE" "${ARTICLE_PACKAGES[@]}"
    cat "$SCRIPTS"/cluster/{article_image,images}.sh "$ROOT/kind-config/article/app/app.py" \
      "$ROOT/kind-config/article-local/postgres.sh"
  } | sha256sum | cut -d' ' -f1
}

# Where the machine's own packages come from.
debian_mirror() {
  local mirror
  # shellcheck disable=SC2016 # fields of apt-get's format
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(CODENAME)' 'Created-By: Packages' 2>/dev/null |
    awk -v suite="$ARTICLE_SUITE" '$2 == "Debian" && $3 == suite { print $1; exit }')
  printf '%s\n' "${mirror:-http://deb.debian.org/debian/}"
}

# The userland, as directory $1. The first stage downloads; the second installs, without a network and in a PID namespace that
# ends with it, so that no package can leave a service running.
article_userland() {
  local tree=$1
  debootstrap --variant=minbase --foreign --include="$(IFS=,; printf '%s' "${ARTICLE_PACKAGES[*]}")" \
    "$ARTICLE_SUITE" "$tree" "$(debian_mirror)" || return
  printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
  chmod 755 "$tree/usr/sbin/policy-rc.d"
  mkdir -p "$tree/etc/postgresql-common/createcluster.d"
  printf 'create_main_cluster = false\n' >"$tree/etc/postgresql-common/createcluster.d/article.conf"
  unshare --mount --net --pid --fork --kill-child --propagation private -- \
    chroot "$tree" /debootstrap/debootstrap --second-stage || return
  rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/usr/share/{doc,man,locale,info}/*
}

# Stages the image's content in directory $1, its Dockerfile's remaining lines on standard output.
stage_article() {
  local tree=$1
  rmdir "$tree"
  article_userland "$tree" >"$ARTICLE/debootstrap.log" 2>&1 || {
    tail -n 20 "$ARTICLE/debootstrap.log" "$tree/debootstrap/debootstrap.log" >&2 || true
    die "debootstrap cannot make the article's userland"
  }
  install -D -m 644 "$ROOT/kind-config/article/app/app.py" "$tree/app/app.py"
  install -D -m 755 "$ROOT/kind-config/article-local/postgres.sh" "$tree/app/postgres.sh"
  printf 'ENV PYTHONDONTWRITEBYTECODE=1\nCMD ["sleep", "infinity"]\n'
}

# Prints the archive, built if it is not up to date.
article_image() {
  local stamp
  command -v debootstrap >/dev/null || die "no debootstrap; run: scripts/cluster.sh setup"
  stamp=$(article_stamp)
  if [[ $(cat "$ARTICLE/stamp" 2>/dev/null) != "$stamp" ]]; then
    say "building image $ARTICLE_IMAGE (2 minutes on two cores, 100 MB of packages)"
    rm -rf "$ARTICLE"
    mkdir -p "$ARTICLE"
    build_image article "$ARTICLE"
    printf '%s\n' "$stamp" >"$ARTICLE/stamp"
  fi
  printf '%s\n' "$ARTICLE/article.tar"
}
