#!/bin/sh
# fuzz.sh [-list] [TIME [PATTERN]]: runs the module's native fuzz targets for TIME each (default
# 20s), one after the other; with PATTERN, those whose "package Target" matches it.
# An input that fails is kept in the package's testdata/fuzz, where every `go test` tries it again.
set -eu
cd "$(dirname "$0")/.."
only_list=
if [ "${1:-}" = -list ]; then
    only_list=yes
    shift
fi
each=${1:-20s}
pattern=${2:-.}
go=${GO:-go}

case $each in
    [1-9]*[smh] | [1-9]*x) ;;
    *) echo "fuzz.sh: TIME is a duration such as 20s or 5m, or a count such as 1000x; it is \"$each\"" >&2; exit 2 ;;
esac

# "./package Target" a line; other modules (docs/examples) are left out.
targets=$(grep -rE --include='*_test.go' --exclude-dir=testdata --exclude-dir=examples '^func Fuzz[A-Za-z0-9_]*\(' . |
    sed -E 's|/[^/]*_test\.go:func (Fuzz[A-Za-z0-9_]*)\(.*| \1|' | sort | grep -E -- "$pattern" || true)
if [ -z "$targets" ]; then
    echo "fuzz.sh: no fuzz target matches \"$pattern\"" >&2
    exit 2
fi
if [ -n "$only_list" ]; then
    echo "$targets"
    exit 0
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM
count=$(echo "$targets" | wc -l)
n=0
failed=0
while read -r package target; do
    n=$((n + 1))
    printf '%2d/%d  %-45s %-20s ' "$n" "$count" "$package" "$target"
    # Inputs whose coverage varies, as with sockets, would be made smaller for a minute each.
    if "$go" test -fuzzminimizetime 20x -run '^$' -fuzz "^$target\$" -fuzztime "$each" -timeout 5m "$package" >"$log" 2>&1; then
        # The last progress line: how many inputs were tried.
        inputs=$(sed -n 's/^fuzz: elapsed: .*execs: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
        echo "${inputs:-no new} inputs"
    else
        failed=$((failed + 1))
        echo "FAILED"
        sed 's/^/       /' "$log"
    fi
done <<EOF
$targets
EOF
if [ "$failed" -gt 0 ]; then
    echo "fuzz.sh: $failed of $count targets failed"
    exit 1
fi
echo "fuzz.sh: $count targets, $each each, nothing found"
