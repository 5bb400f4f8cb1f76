#!/usr/bin/env bash
# The static part of CI: form, lints, crate directions, what the documents cite, and the committed eBPF object. Runs every
# check, says which failed, and ends with a count.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
export PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin

# What they cite must exist.
DOCUMENTS=(README.md ARCHITECTURE.md CONTRIBUTING.md SECURITY.md docs/conformance.md)

usage() {
  cat <<'USAGE'
Usage: scripts/check.sh [CHECK...]

Runs all checks, or those named:
  format       cargo fmt --check
  clippy       cargo clippy, warnings are errors
  rustdoc      cargo doc, broken links are errors
  shellcheck   every shell script
  directions   agent -> control -> policy <- l7 <- datapath <- agent -> cni, and no other way
  citations    every path, name and test in the documents exists, and every clause of docs/conformance.md has a test
  places       no path of somebody's machine; unsafe only where it is allowed
  chart        the chart's CustomResourceDefinitions are those of deploy/crds, deploy/kubernetes is what it renders (with Helm only)
  object       the committed eBPF object is what its source builds; only where its toolchain is installed
USAGE
}

# Prints a finding and remembers that there is one.
FOUND=0
finding() {
  printf '  %s\n' "$*"
  FOUND=1
}

# The tree's own files, those git does not know yet included.
tree() {
  git ls-files --cached --others --exclude-standard -- "$@" 2>/dev/null | while read -r file; do
    if [[ -f $file ]]; then printf '%s\n' "$file"; fi
  done
}

# Without git (an unpacked archive) everything but what is built counts.
if ! git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
  tree() {
    local pattern file
    find . -path ./target -prune -o -path ./fuzz/target -prune -o -type f -printf '%P\n' | while read -r file; do
      (($#)) || printf '%s\n' "$file"
      for pattern in "$@"; do
        # shellcheck disable=SC2053 # the patterns are meant as such
        if [[ $file == $pattern || $file == $pattern/* ]]; then printf '%s\n' "$file"; fi
      done
    done
  }
fi

check_format() { cargo fmt --all -- --check -l; }

check_clippy() { cargo clippy --quiet --locked --workspace --all-targets -- -D warnings; }

# Links to private items are for those who read the source; rustdoc need not resolve them.
check_rustdoc() {
  RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' cargo doc --quiet --locked --workspace --no-deps
}

check_shellcheck() {
  local scripts
  mapfile -t scripts < <(tree '*.sh' '.ci/*')
  shellcheck --external-sources "${scripts[@]}"
}

# "PACKAGE -> PACKAGE" for what one crate of the workspace needs of another, tests included.
dependencies() {
  cargo metadata --format-version 1 --no-deps --locked |
    jq -r '.packages[] | .name as $from | .dependencies[] | select(.path) | "\($from) -> \(.name)"' | sort -u
}

check_directions() {
  local edge allowed=(
    'sluice-l7 -> sluice-policy' 'sluice-control -> sluice-policy'
    'sluice-datapath -> sluice-policy' 'sluice-datapath -> sluice-l7' 'sluice-datapath -> xdp-redirect'
    'sluice -> sluice-cni' 'sluice -> sluice-control' 'sluice -> sluice-datapath' 'sluice -> sluice-policy'
    'sluice-bench -> sluice-control' 'sluice-bench -> sluice-datapath' 'sluice-bench -> sluice-l7' 'sluice-bench -> sluice-policy'
    'sluice-e2e -> sluice-policy' 'sluice-e2e -> sluice-datapath'
  )
  FOUND=0
  while read -r edge; do
    printf '%s\n' "${allowed[@]}" | grep -qxF -- "$edge" || finding "$edge: against the direction of the crates"
  done < <(dependencies)
  # Kubernetes and asynchronous code end at control and agent; sockets and eBPF at datapath.
  while read -r edge; do
    finding "$edge: a dependency that the crate may not have"
  done < <(cargo metadata --format-version 1 --no-deps --locked | jq -r '
    {"sluice-policy": ["tokio", "kube", "k8s-openapi", "aya", "xsk-rs", "libc"],
     "sluice-l7": ["tokio", "kube", "k8s-openapi", "aya", "xsk-rs", "libc"],
     "sluice-datapath": ["tokio", "kube", "k8s-openapi"],
     "sluice-control": ["aya", "xsk-rs", "smoltcp"],
     "sluice-cni": ["tokio", "kube", "k8s-openapi", "aya", "xsk-rs", "libc"],
     "sluice": ["aya", "xsk-rs"]} as $never
    | .packages[] | .name as $from | .dependencies[] | select(.kind != "dev")
    | select(.name as $to | $never[$from] // [] | index($to)) | "\($from) -> \(.name)"')
  return "$FOUND"
}

# Whether Rust code has an item, variant, field or module named $2 in one of the files $3 and on; $1 is how it is used.
defined() {
  local how=$1 name=$2
  shift 2
  (($#)) || return 1
  case $how in
    module) grep -qE "^ *(pub(\([a-z]+\))? +)?mod $name\b" "$@" ;;
    *)
      grep -qE "\b(fn|struct|enum|trait|type|const|static|macro_rules!) $name\b|^ *(pub +)?$name *([,({:=]|$)|pub use .*\b$name\b" "$@"
      ;;
  esac
}

# Whether `a::b::c` is there: modules and crates by name, and the last part in a file that defines or implements the part
# before it.
name_exists() {
  local path=$1 parts=() scope=() files=() i owner last
  IFS=: read -r -a parts <<<"${path//::/:}"
  case ${parts[0]} in
    policy | l7 | datapath | control | cni | agent) mapfile -t scope < <(tree "${parts[0]}" | grep '\.rs$') ;;
    *) mapfile -t scope < <(tree | grep '\.rs$') ;;
  esac
  last=${parts[-1]}
  for ((i = 0; i < ${#parts[@]} - 1; i++)); do
    owner=${parts[i]}
    if ((i == 0)) && [[ $owner =~ ^(policy|l7|datapath|control|cni|agent|xdp_redirect)$ ]]; then continue; fi
    if [[ $owner == [a-z]* ]]; then
      defined module "$owner" "${scope[@]}" || return 1
    else
      mapfile -t files < <(grep -lE "\b(struct|enum|trait|type) $owner\b|impl\b.*\b$owner\b|enum $owner" "${scope[@]}")
      scope=("${files[@]}")
      ((${#scope[@]})) || return 1
    fi
  done
  defined item "$last" "${scope[@]}" || defined module "$last" "${scope[@]}"
}

# What a document says in backticks, one piece a line, fenced blocks left out.
quoted() {
  # shellcheck disable=SC2016 # backticks are what is looked for
  awk '/^ *```/ { fenced = !fenced; next } !fenced' "$1" | grep -oE '`[^`]+`' | tr -d '`' | sort -u
}

# Rows of a table of clauses that name no test, "n/a" in their second column aside.
untested() {
  grep -E '^\| ' "$1" | grep -vE '^\| clause \||^\|[^|]*\| n/a:' | grep -v '\.rs::' | cut -d'|' -f2
}

check_citations() {
  local document text path sources
  FOUND=0
  mapfile -t sources < <(tree | grep -E '\.(rs|sh|toml|yaml)$')
  for document in "${DOCUMENTS[@]}"; do
    if [[ ! -f $document ]]; then
      finding "$document: missing"
      continue
    fi
    while read -r text; do
      path=${text%% *}
      path=${path%/}
      if [[ $text =~ ^[A-Za-z_][A-Za-z0-9_]*(::[A-Za-z_][A-Za-z0-9_]*)+(\(\))?$ ]]; then
        name_exists "${text%()}" || finding "$document: \`$text\` is not in the source"
      elif [[ $text =~ ^[A-Za-z0-9_./-]+\.rs:: ]]; then
        path=${text%%::*}
        if [[ ! -f $path ]] || ! grep -qE "\bfn ${text##*::}\b" "$path"; then
          finding "$document: there is no test \`$text\`"
        fi
      elif [[ $path =~ ^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$ && $path != target/* ]] &&
        [[ $path =~ \.(rs|sh|md|toml|yaml)$ || ($path == */* && -e ${path%%/*}) ]]; then
        [[ -e $path ]] || finding "$document: \`$text\` does not exist"
      elif [[ $text =~ ^[A-Z][A-Za-z0-9]*[a-z][A-Z][A-Za-z0-9]*$ || $text =~ ^[a-z0-9_]+\(\)$ ||
        ($text =~ ^[A-Z][A-Z0-9]+(_[A-Z0-9]+)+$ && $text != CAP_*) ]]; then
        grep -qw -- "${text%()}" "${sources[@]}" || finding "$document: \`$text\` occurs nowhere in the source"
      fi
    done < <(quoted "$document")
    while read -r path; do
      [[ -e $path ]] || finding "$document: links to $path, which does not exist"
    done < <(grep -oE '\]\([^)#:]+[)#]' "$document" | sed 's/^](//; s/[)#]$//' | sort -u)
    while read -r path; do
      [[ -e $path ]] || finding "$document: names $path, which does not exist"
    done < <(grep -oE '\b(scripts|kind-config)/[A-Za-z0-9_./-]*[A-Za-z0-9]' "$document" | sort -u)
  done
  while read -r text; do
    finding "docs/conformance.md: \"$text\" names no test"
  done < <(untested docs/conformance.md)
  return "$FOUND"
}

check_places() {
  local file line
  FOUND=0
  while IFS= read -r line; do
    finding "${line:0:160}: a path of somebody's machine"
  done < <(tree | grep -v '\.o$' | tr '\n' '\0' | xargs -0 grep -nIE '/(work|root)/' --)
  while read -r file; do
    case $file in
      datapath/src/xsk/* | xdp-redirect/ebpf/*) continue ;;
    esac
    while IFS= read -r line; do
      finding "$file:$line: unsafe outside datapath/src/xsk and xdp-redirect/ebpf"
    done < <(grep -nE '^[^/"]*(\bunsafe +(\{|fn|impl|extern|trait)|#\[unsafe)' "$file")
  done < <(tree | grep '\.rs$')
  for file in policy l7 control cni agent xdp-redirect; do
    grep -q '^#!\[forbid(unsafe_code)\]$' "$file/src/lib.rs" || finding "$file/src/lib.rs: does not forbid unsafe code"
  done
  grep -q '^#!\[deny(unsafe_code)\]$' datapath/src/lib.rs || finding "datapath/src/lib.rs: does not deny unsafe code"
  return "$FOUND"
}

check_chart() { scripts/chart.sh render --check; }

check_object() { scripts/build-ebpf.sh --check; }

# Why a check cannot be made here; nothing if it can.
obstacle() {
  if [[ $1 == object ]] && ! command -v bpf-linker >/dev/null; then
    echo "no eBPF toolchain; install it by scripts/setup.sh --ebpf"
  fi
}

main() {
  local checks=() check reason passed=0 failed=() skipped=0
  while (($#)); do
    case $1 in
      -h | --help) usage; return ;;
      -*) usage >&2; exit 2 ;;
      *)
        declare -F "check_$1" >/dev/null || { usage >&2; exit 2; }
        checks+=("$1")
        ;;
    esac
    shift
  done
  ((${#checks[@]})) || checks=(format shellcheck directions citations places chart clippy rustdoc object)
  for check in "${checks[@]}"; do
    reason=$(obstacle "$check")
    if [[ -n $reason ]]; then
      printf 'check %s ... skipped: %s\n' "$check" "$reason"
      skipped=$((skipped + 1))
      continue
    fi
    if "check_$check"; then
      printf 'check %s ... ok\n' "$check"
      passed=$((passed + 1))
    else
      printf 'check %s ... FAILED\n' "$check"
      failed+=("$check")
    fi
  done
  ((skipped == 0)) || printf '%d skipped\n' "$skipped"
  ((${#failed[@]} == 0)) || printf 'failed: %s\n' "${failed[*]}"
  printf '%d passed, %d failed\n' "$passed" "${#failed[@]}"
  ((${#failed[@]} == 0))
}

main "$@"
