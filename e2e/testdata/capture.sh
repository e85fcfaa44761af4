# What a Linux host and nvme-cli say to Mooring and to Linux's own target, kept on the way by wiretap. The test makes the
# captures of the codecs from it.
. /rig/lib.sh
LINUX_NQN=nqn.2014-08.org.example:kernel-target

# tap NAME: from now on connections to $PORT go to $1's port, and are kept.
tap() {
	/opt/bin/wiretap -listen $ADDRESS:$2 -target $ADDRESS:$3 -out "/results/$1-" >"/results/$1.out" &
	wait_until 60 "wiretap for $1" grep -q ready "/results/$1.out"
	TAP=$!
}
untap() { kill -TERM $TAP && wait $TAP; }

# json COMMAND [ARGUMENTS]: what nvme-cli makes of a structure, for the codecs to agree with.
json() {
	nvme "$@" -o json >"/results/$WHO-$1.json"
}

# everything that a host can ask for on a good day; $c and $dev are set.
identify() {
	json id-ctrl "/dev/$c"
	json id-ns "$dev"
	json ns-descs "$dev"
	json list-ns "/dev/$c"
	json ana-log "/dev/$c"
	json smart-log "/dev/$c"
	json changed-ns-list-log "/dev/$c"
	nvme effects-log "/dev/$c" >/dev/null
	nvme error-log "/dev/$c" -e 4 >/dev/null
}
features() {
	for f in 7 11 15; do nvme get-feature "/dev/$c" -f $f >/dev/null; done
}
pattern() { yes "15 bytes a line" | head -c "$1"; }
data() { # in capsules, by R2T, and back
	last=$((4096 / $(blockdev --getss "$dev") - 1)) # of 4 KiB, as nvme-cli counts blocks
	pattern 4096 | dd of="$dev" bs=4096 iflag=fullblock oflag=direct 2>/dev/null
	pattern 65536 | dd of="$dev" bs=65536 seek=1 iflag=fullblock oflag=direct 2>/dev/null
	dd if="$dev" of=/dev/null bs=65536 skip=1 count=1 iflag=direct 2>/dev/null
	pattern 4096 >/tmp/pattern
	nvme flush "$dev" -n 1 >/dev/null
	nvme write-zeroes "$dev" -n 1 -s 256 -c $last >/dev/null || [ "$WHO" = linux ] # tmpfs cannot
	nvme dsm "$dev" -n 1 --ad -s 512,1024 -b 8,16 >/dev/null
}
mooring_only() {
	json fw-log "/dev/$c"
	for log in supported-log-pages fid-support-effects-log resv-notif-log; do nvme $log "/dev/$c" >/dev/null; done
	nvme list-ctrl "/dev/$c" >/dev/null
	nvme list-ns "/dev/$c" --all >/dev/null
	nvme cmdset-ind-id-ns "/dev/$c" -n 1 >/dev/null
	nvme nvm-id-ctrl "/dev/$c" >/dev/null
	nvme nvm-id-ns "$dev" -n 1 >/dev/null
	nvme id-iocs "/dev/$c" >/dev/null
	for f in 1 2 4 5 6 10 14 129 130 131; do nvme get-feature "$dev" -f $f -n 1 >/dev/null || :; done
	nvme set-feature "/dev/$c" -f 130 -v 14 -n 1 >/dev/null
	nvme compare "$dev" -s 0 -c $last -z 4096 -d /tmp/pattern >/dev/null
	nvme verify "$dev" -n 1 -s 0 -c $last >/dev/null
	nvme write "$dev" -s 0 -c $last -z 4096 -d /tmp/pattern --force-unit-access >/dev/null
	nvme read "$dev" -s 0 -c $last -z 4096 -d /tmp/read >/dev/null
	cmp /tmp/pattern /tmp/read
	nvme resv-register "$dev" -n 1 --nrkey=0xa1 --rrega=0 --cptpl=3 >/dev/null
	nvme resv-acquire "$dev" -n 1 --crkey=0xa1 --rtype=1 --racqa=0 >/dev/null
	nvme resv-report "$dev" -n 1 --eds -o json >/results/$WHO-resv-report.json
	nvme resv-release "$dev" -n 1 --crkey=0xa1 --rtype=1 --rrela=0 >/dev/null
	nvme resv-register "$dev" -n 1 --crkey=0xa1 --rrega=1 >/dev/null
}

# session NAME [OPTIONS]: one association through a tap of its own.
session() {
	tap "$1" "$PORT" "$TARGET_PORT"
	shift
	connect --nr-io-queues=1 "$@"
	c=$(controller)
	wait_until 60 "the controller to be live" live "$c"
	dev=$(namespace 1)
}
end_session() {
	disconnect
	no_controller || die "a controller is left: $(controllers)"
	untap
}

# target WHO PORT: a host's days with one target.
target() {
	WHO=$1
	TARGET_PORT=$2
	PORT=4430

	step "$WHO: discover"
	tap "$WHO-discovery" $PORT "$TARGET_PORT"
	nvme discover -t tcp -a $ADDRESS -s $PORT --hostnqn=$HOSTNQN --hostid=$HOSTID -o json >"/results/$WHO-discover.json"
	untap

	step "$WHO: no digests"
	session "$WHO-plain"
	identify
	features
	data
	[ "$WHO" != mooring ] || mooring_only
	end_session

	step "$WHO: both digests"
	session "$WHO-digests" --hdr-digest --data-digest
	data
	end_session
}

step "start"
mkdir /tmp/data /tmp/linux
target_start /tmp/data
target mooring 4420
target_stop

NQN=$LINUX_NQN PORT=4421
. /rig/target-kernel.sh
target_start /tmp/linux
target linux 4421
target_stop

{ uname -r; nvme version; } >/results/versions
