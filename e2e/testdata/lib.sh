# What every case uses. A case sources this file first; $NQN, $TARGET and others come from the test.
# Any command that fails ends the case: the test names the step that was running.
set -eu
HOSTNQN=nqn.2014-08.org.nvmexpress:uuid:6f3c1a52-0d6e-4b39-9d4e-3a5b8c7d1e01
HOSTID=6f3c1a52-0d6e-4b39-9d4e-3a5b8c7d1e01
HOSTNQN2=nqn.2014-08.org.nvmexpress:uuid:6f3c1a52-0d6e-4b39-9d4e-3a5b8c7d1e02
HOSTID2=6f3c1a52-0d6e-4b39-9d4e-3a5b8c7d1e02
ADDRESS=127.0.0.1
PORT=4420

say() { echo "$*" >/dev/ttyS1; }
step() { say "step $*"; echo "=== $*"; }
die() { say "fail $*"; echo "FAIL: $*"; exit 1; }

# wait_until SECONDS WHAT COMMAND...: polls until the command succeeds. The limit is for hangs, never a requirement: a machine that
# emulates this guest among other work has four times as long.
wait_until() {
	local limit what
	limit=$(($(cut -d. -f1 /proc/uptime) + 4 * $1))
	what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		[ "$(cut -d. -f1 /proc/uptime)" -lt "$limit" ] || die "not in time: $what"
		sleep 0.1
	done
}
not() { ! "$@"; }
refuse() { # refuse TEXT COMMAND...: the command must fail and say TEXT
	local text out
	text=$1
	shift
	if out=$("$@" 2>&1); then die "not refused: $*: $out"; fi
	case $out in *"$text"*) ;; *) die "refused, but not with \"$text\": $*: $out" ;; esac
}

# --- the host ---

connect() { # connect [nvme connect options]
	nvme connect -t tcp -a $ADDRESS -s $PORT -n "$NQN" --hostnqn=$HOSTNQN --hostid=$HOSTID \
		--reconnect-delay=1 --ctrl-loss-tmo=600 --keep-alive-tmo=5 "$@"
}
# nvme connect takes a second host at the same address for the first one, so this goes straight to the kernel.
connect_second_host() {
	echo "nqn=$NQN,transport=tcp,traddr=$ADDRESS,trsvcid=$PORT,hostnqn=$HOSTNQN2,hostid=$HOSTID2,reconnect_delay=1,ctrl_loss_tmo=600,keep_alive_tmo=5" >/dev/nvme-fabrics
}
disconnect() { nvme disconnect -n "$NQN"; }

controllers() { # names, one a line
	for c in /sys/class/nvme/nvme*; do
		if [ -e "$c/subsysnqn" ] && [ "$(cat "$c/subsysnqn")" = "$NQN" ]; then basename "$c"; fi
	done
}
controller() { controllers | head -n 1; }
live() { [ "$(cat "/sys/class/nvme/$1/state")" = live ]; }
no_controller() { [ -z "$(controllers)" ]; }

# find_namespace NSID [CONTROLLER]: prints the block device of a namespace, under multipath or not.
find_namespace() {
	local d
	for d in /sys/block/nvme*; do
		[ -e "$d/nsid" ] && [ "$(cat "$d/nsid")" = "$1" ] && [ "$(cat "$d/hidden")" = 0 ] || continue
		case $(readlink -f "$d") in
		*/nvme-subsystem/*) ;;
		*/"${2:-$(controller)}"/*) ;;
		*) continue ;;
		esac
		[ -b "/dev/$(basename "$d")" ] || continue
		echo "/dev/$(basename "$d")"
		return 0
	done
	return 1
}
namespace() { # namespace NSID [CONTROLLER]: waits for it
	wait_until 60 "namespace $1 of ${2:-the subsystem}" find_namespace "$@"
	find_namespace "$@"
}
# writes DEVICE: completed since it appeared. Under multipath they are counted in the hidden device of each path.
writes() {
	local name
	name=${1#/dev/nvme}
	cat "/sys/block/nvme$name/stat" "/sys/block/nvme${name%n*}c"*"n${name#*n}/stat" 2>/dev/null |
		awk '{sum += $5} END {print sum}' || :
}
wrote() { [ "$(writes "$1")" -ge "$2" ]; }
sectors() { cat "/sys/block/$(basename "$1")/size"; } # 512 B each

# fio_verify DEVICE [options]: random writes, read back and compared.
fio_verify() {
	local dev=$1
	shift
	fio --name=verify --filename="$dev" --ioengine=libaio --direct=1 --iodepth=16 --rw=randwrite --bs=4k \
		--verify=crc32c --verify_fatal=1 --do_verify=1 --randrepeat=0 --eta=never --output=/results/fio.log "$@" ||
		{ tail -n 40 /results/fio.log; die "fio on $dev"; }
}

# fio_load DEVICE [options]: starts random writes that go on until fio_stop, which fails when one of them failed.
fio_load() {
	local dev=$1
	shift
	fio --name=load --filename="$dev" --ioengine=libaio --direct=1 --iodepth=4 --rw=randwrite --bs=4k \
		--time_based --runtime=3600 --eta=never --output=/results/load.log "$@" &
	LOAD=$!
}
fio_stop() {
	kill -0 $LOAD || die "fio ended by itself: $(cat /results/load.log)"
	kill -INT $LOAD
	wait $LOAD || : # a signal is what ended it
	grep -q 'err= 0' /results/load.log || die "fio failed: $(cat /results/load.log)"
}

# zeros DEVICE OFFSET LENGTH (MiB)
zeros() {
	dd if="$1" bs=1M skip="$2" count="$3" iflag=direct 2>/dev/null | cmp -s -n $(($3 << 20)) - /dev/zero ||
		die "$1 has something else than zeros in $3 MiB at $2 MiB"
}

# --- processes ---

pids_of() { # pids_of PATTERN: processes whose executable's path matches
	local exe path
	for exe in /proc/[0-9]*/exe; do
		path=$(readlink "$exe" 2>/dev/null) || continue
		# shellcheck disable=SC2254
		case $path in $1) exe=${exe%/exe} && echo "${exe#/proc/}" ;; esac
	done
}
none_of() { [ -z "$(pids_of "$1")" ]; }
one_of() { [ "$(pids_of "$1" | wc -l)" = 1 ]; }

. "/rig/target-$TARGET.sh"
