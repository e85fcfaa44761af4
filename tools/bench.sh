#!/bin/sh
# bench.sh [ARGUMENT...]: measures this build beside others; docs/performance.md explains, `-h` lists the arguments.
set -eu
cd "$(dirname "$0")/.."
command -v fio >/dev/null || echo "bench.sh: fio is not installed; the rows beside it are skipped (Debian: apt-get install fio)" >&2
test -n "${MOORING_BENCH_SPDK:-}" || echo "bench.sh: MOORING_BENCH_SPDK does not name an nvmf_tgt; the rows beside it are skipped" >&2
exec "${GO:-go}" run ./tools/bench "$@"
