#!/usr/bin/env bash
# Compares the benches of two revisions on this machine: builds both in worktrees under target/, runs them in turns so that
# what else the machine does falls on both, and prints the ratio of the medians of each bench.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: scripts/bench-ab.sh BASE HEAD [FILTER]

  BASE, HEAD   git revisions; `WORK` as HEAD is the working tree as it is
  FILTER       criterion's filter: benches whose name has this text (a regular expression)

Environment: ROUNDS (default 3) runs of each revision; the figure of a bench is the median of its rounds' medians.
A ratio below 1 means that HEAD is faster. Differences below some 5 % are noise unless more rounds say otherwise.
USAGE
}

if [ $# -lt 2 ] || [ $# -gt 3 ]; then
  usage >&2
  exit 2
fi
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BASE=$1 HEAD=$2 FILTER=${3:-}
ROUNDS=${ROUNDS:-3}
DIR=$ROOT/target/bench-ab
mkdir -p "$DIR"

WORKTREES=()
cleanup() {
  local tree
  for tree in "${WORKTREES[@]}"; do
    git -C "$ROOT" worktree remove --force "$tree" || true
  done
}
trap cleanup EXIT

# Checks a revision out as side $1 and prints nothing; sets TREE.
checkout() {
  local side=$1 revision=$2
  if [ "$revision" = WORK ]; then
    TREE=$ROOT
    return
  fi
  local commit
  commit=$(git -C "$ROOT" rev-parse --verify --quiet "$revision^{commit}") || {
    echo "bench-ab: no such revision: $revision" >&2
    exit 2
  }
  TREE=$DIR/$side-tree
  git -C "$ROOT" worktree remove --force "$TREE" 2>/dev/null || true
  git -C "$ROOT" worktree add --quiet --detach "$TREE" "$commit"
  WORKTREES+=("$TREE")
}

# Runs cargo bench of side $1 in the tree $2; the rest are its arguments. Each side keeps its builds for the next comparison.
bench() {
  local side=$1 tree=$2
  shift 2
  (cd "$tree" && CARGO_TARGET_DIR=$DIR/$side CRITERION_HOME=$DIR/$side-figures cargo bench --quiet -p sluice-bench "$@")
}

# Prints "SIDE NAME MEDIAN" (nanoseconds a batch) of every bench that side $1 has just run.
medians() {
  local side=$1 file name median
  while IFS= read -r file; do
    median=$(sed -n 's/.*"median":{"confidence_interval":{[^}]*},"point_estimate":\([0-9.eE+-]*\).*/\1/p' "$file")
    name=$(sed -n 's/.*"full_id":"\([^"]*\)".*/\1/p' "${file%/*}/benchmark.json")
    echo "$side $name $median"
  done < <(find "$DIR/$side-figures" -path '*/new/estimates.json' | sort)
}

checkout base "$BASE"
BASE_TREE=$TREE
checkout head "$HEAD"
HEAD_TREE=$TREE

for side in base head; do
  tree=$BASE_TREE
  [ "$side" = base ] || tree=$HEAD_TREE
  echo "building $side" >&2
  bench "$side" "$tree" --no-run
done

figures=$DIR/figures
: >"$figures"
for ((round = 1; round <= ROUNDS; round++)); do
  order=(base head)
  [ $((round % 2)) = 1 ] || order=(head base)
  for side in "${order[@]}"; do
    tree=$BASE_TREE
    [ "$side" = base ] || tree=$HEAD_TREE
    echo "round $round of $ROUNDS: $side" >&2
    rm -rf "$DIR/$side-figures"
    bench "$side" "$tree" -- ${FILTER:+"$FILTER"} >"$DIR/$side.log" 2>&1 || {
      tail -n 20 "$DIR/$side.log" >&2
      exit 1
    }
    medians "$side" >>"$figures"
  done
done

awk '
  function median(values, count,    i, j, held, sorted) {
    for (i = 1; i <= count; i++) sorted[i] = values[i] + 0
    for (i = 2; i <= count; i++) {
      held = sorted[i]
      for (j = i - 1; j >= 1 && sorted[j] > held; j--) sorted[j + 1] = sorted[j]
      sorted[j + 1] = held
    }
    return count % 2 ? sorted[(count + 1) / 2] : (sorted[count / 2] + sorted[count / 2 + 1]) / 2
  }
  { key = $1 SUBSEP $2; rounds[key]++; figure[key, rounds[key]] = $3; if (!($2 in seen)) { seen[$2] = 1; names[++known] = $2 } }
  END {
    printf "%-44s %14s %14s %8s\n", "bench", "base ns", "head ns", "ratio"
    for (n = 1; n <= known; n++) {
      name = names[n]
      split("base head", sides, " ")
      for (s = 1; s <= 2; s++) {
        key = sides[s] SUBSEP name
        count = rounds[key] + 0
        for (i = 1; i <= count; i++) values[i] = figure[key, i]
        result[s] = count ? median(values, count) : 0
      }
      if (result[1] && result[2]) printf "%-44s %14.1f %14.1f %8.3f\n", name, result[1], result[2], result[2] / result[1]
      else printf "%-44s %14s %14s %8s\n", name, result[1] ? result[1] : "-", result[2] ? result[2] : "-", "-"
    }
    if (!known) { print "no bench matches" > "/dev/stderr"; exit 1 }
  }
' "$figures"
