#!/bin/sh
# Three nodes on this machine as one cluster, until Ctrl-C; then everything is removed.
# Run by `make demo-cluster`. NVME_PORT and NODE_PORT are the first ports that it takes.
set -eu
bin=$(cd "$(dirname "$0")/../bin" && pwd)
nvme=${NVME_PORT:-4420}
port=${NODE_PORT:-7400}
dir=$(mktemp -d /tmp/mooring-demo-XXXXXX)
pids=""
nqn=nqn.2026-11.io.mooring:demo

end() {
	trap - EXIT INT TERM
	echo
	echo "stopping the nodes"
	for p in $pids; do kill "$p" 2>/dev/null || true; done
	for p in $pids; do wait "$p" 2>/dev/null || true; done
	rm -rf "$dir"
}
trap end EXIT
trap 'exit 0' INT TERM

config() { # NAME, NUMBER
	cat >"$dir/$1.hcl" <<H
data_dir = "$dir/$1"
node {
  name    = "$1"
  address = "127.0.0.1:$((port + 10 * $2))"
}
cluster {
  embed = true
}
log {
  level = "warn"
}
admin {
  metrics = "off"
}
store "main" {
  capacity = "4GiB"
}
plugin "transport-tcp" {
  listen = ["nvme-tcp://127.0.0.1:$((nvme + $2))"]
}
H
}

mooring() { # NODE, ARGUMENTS
	node=$1
	shift
	"$bin/mooring" -socket "$dir/$node/mooring.sock" "$@"
}

start() { # NODE
	"$bin/mooring" agent -config "$dir/$1.hcl" -trust-plugins >"$dir/$1.log" 2>&1 &
	pids="$pids $!"
	echo $! >"$dir/$1.pid"
	while ! grep -qx "mooring: ready" "$dir/$1.log"; do
		if ! kill -0 "$(cat "$dir/$1.pid")" 2>/dev/null; then
			echo "node $1 does not start:" >&2
			cat "$dir/$1.log" >&2
			exit 1
		fi
		sleep 0.1
	done
	echo "node $1 is ready"
}

i=0
for n in a b c; do
	config $n $i
	if [ $n = a ]; then
		"$bin/mooring" cluster init -config "$dir/a.hcl" >/dev/null
	else
		mooring a cluster token | "$bin/mooring" cluster join -config "$dir/$n.hcl" - >/dev/null 2>&1
	fi
	start $n
	i=$((i + 1))
done
mooring a volume create demo -size 1GiB >/dev/null
mooring a subsystem create $nqn -allow-any-host >/dev/null
mooring a namespace attach $nqn -volume demo >/dev/null
while [ "$(mooring a cluster status | grep -cE ' (votes|leads) ')" -lt 3 ]; do sleep 0.5; done

cat <<H

Three nodes are one cluster. In another terminal:

  S=$dir
  M=$bin/mooring
  \$M -socket \$S/a/mooring.sock node list
  \$M -socket \$S/b/mooring.sock cluster status
  \$M -socket \$S/c/mooring.sock volume list
  \$M -socket \$S/b/mooring.sock path watch       # leave it running
  \$M bench 'nvme-tcp://127.0.0.1:$nvme/$nqn?ns=1' -rw randrw -verify -time 10s
  kill -9 \$(cat \$S/c.pid)                       # node c dies; what do the others say?
  \$M -socket \$S/a/mooring.sock node list
  \$M agent -config \$S/c.hcl                      # and comes back

Logs are $dir/*.log. Ctrl-C stops the nodes and removes everything.
H
while :; do sleep 3600 & wait $!; done
