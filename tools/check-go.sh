#!/bin/sh
# Says clearly when Go is missing or too old to build this module.
go=${1:-go}
want=$(sed -n 's/^go \([0-9]*\.[0-9]*\).*/\1/p' go.mod)
have=$("$go" env GOVERSION 2>/dev/null | sed -E 's/^go([0-9]+\.[0-9]+).*/\1/')
if [ -z "$have" ]; then
    echo "Go is not installed or not in PATH; Mooring needs Go $want or newer: https://go.dev/dl" >&2
    exit 1
fi
oldest=$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)
if [ "$oldest" != "$want" ]; then
    echo "Go $have is too old; Mooring needs Go $want or newer: https://go.dev/dl" >&2
    exit 1
fi
