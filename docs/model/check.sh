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

result=0
for faults in "-DBREAKS=1 -DDOWNS=1 -DLOSSES=0" "-DBREAKS=1 -DDOWNS=0 -DLOSSES=1" "-DBREAKS=0 -DDOWNS=1 -DLOSSES=1"; do
    search whole $faults
    states=$(awk '/states, stored/ { print $1 }' out)
    if grep -q "errors: 0" out && ! grep -q "not completed\|max search depth too small" out; then
        echo "the rules hold: $states states, $faults"
    else
        echo "THE RULES DO NOT HOLD, $faults:"
        if [ -e extent.pml.trail ]; then story $faults; else cat out; fi
        result=1
    fi
    rm -rf "$work/whole"
done

for rule in 2 3 4 5 6 7 8; do
    # The faults that it takes; fewer make the counter-example shorter.
    case $rule in
    3) faults="-DBREAKS=0 -DDOWNS=0 -DLOSSES=0" ;;
    6) faults="-DBREAKS=0 -DDOWNS=0" ;;
    *) faults="-DLOSSES=0" ;;
    esac
    search without -DNO$rule $faults
    if [ -e extent.pml.trail ]; then
        ./pan -E -m100000 -w24 -i >out 2>&1 || true # a shorter one
        echo "without rule $rule:"
        story -DNO$rule $faults
    else
        echo "RULE $rule CAN BE LEFT OUT: the model does not need it"
        result=1
    fi
    rm -rf "$work/without"
done
exit $result
