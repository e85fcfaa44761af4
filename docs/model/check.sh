#!/bin/sh
# Checks extent.pml with spin: it holds as it is, with every pair of kinds of faults, and fails, with a
# counter-example, without any one of the rules.
set -eu
model=$(cd "$(dirname "$0")" && pwd)/extent.pml
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for tool in spin cc; do
    command -v $tool >/dev/null || { echo "$tool is missing: apt-get install spin gcc" >&2; exit 1; }
done

# search NAME FLAGS...: leaves what pan says in NAME/out, and a trail if it found an error.
search() {
    dir=$work/$1
    shift
    mkdir -p "$dir"
    cd "$dir"
    spin -a "$@" "$model" >/dev/null
    cc -O2 -w -DSAFETY -DCOLLAPSE -DVECTORSZ=1024 -o pan pan.c
    ./pan -E -m100000 -w24 >out 2>&1
}

# story FLAGS...: what happens on the trail.
story() {
    spin -t -k extent.pml.trail "$@" "$model" | sed -n 's/^ *\(the \|node \|store \)/    \1/p'
}

# holds FLAGS...: the rules are enough, with these faults.
holds() {
    search whole "$@"
    states=$(awk '/states, stored/ { print $1 }' out)
    if grep -q "errors: 0" out && ! grep -q "not completed\|max search depth too small" out; then
        echo "the rules hold: $states states, $*"
        return
    fi
    echo "THE RULES DO NOT HOLD, $*:"
    if [ -e extent.pml.trail ]; then story "$@"; else cat out; fi
    exit 1
}

# needs RULE: the other rules are not enough.
needs() {
    # The faults that it takes; fewer make the counter-example shorter.
    case $1 in
    3) faults="-DBREAKS=0 -DDOWNS=0 -DLOSSES=0" ;;
    6) faults="-DBREAKS=0 -DDOWNS=0" ;;
    *) faults="-DLOSSES=0" ;;
    esac
    # shellcheck disable=SC2086
    search without "-DNO$1" $faults
    if ! [ -e extent.pml.trail ]; then
        echo "RULE $1 CAN BE LEFT OUT: the model does not need it"
        exit 1
    fi
    ./pan -E -m100000 -w24 -i >out 2>&1 || true # a shorter one
    echo "without rule $1:"
    # shellcheck disable=SC2086
    story "-DNO$1" $faults
}

case ${1:-} in
holds | needs) "$@" ;;
*) # A search has one thread. Each says in one piece what it found; xargs fails when one of them does.
    xargs -P "$(nproc)" -I{} sh -c 'out=$("$0" {} 2>&1) && result=0 || result=1; echo "$out"; exit $result' "$0" <<EOF
holds -DBREAKS=1 -DDOWNS=1 -DLOSSES=0
holds -DBREAKS=1 -DDOWNS=0 -DLOSSES=1
holds -DBREAKS=0 -DDOWNS=1 -DLOSSES=1
needs 2
needs 3
needs 4
needs 5
needs 6
needs 7
needs 8
EOF
    ;;
esac
