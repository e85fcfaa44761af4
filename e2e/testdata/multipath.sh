# Two access points of one node, native multipath: the path goes where the host writes, under I/O and without an error.
. /rig/lib.sh
AREA=32m      # of namespace 1, for fio
BEYOND=100000 # a block outside of it, and within the namespace, whatever the block size

# Native multipath writes at the optimized access point only. What is to be written elsewhere goes through the controller.
put() { head -c "$bs" /dev/urandom | nvme write "/dev/$1" -n 1 -s $BEYOND -c 0 -z "$bs" -d /dev/stdin; }
get() { nvme read "/dev/$1" -n 1 -s $BEYOND -c 0 -z "$bs" -d /dev/null; }
state() { cat "/sys/class/nvme/$1"/nvme*c*n1/ana_state; }
is() { [ "$(state "$1")" = "$2" ]; }
moved_to() { # moved_to CONTROLLER OTHER
	wait_until 60 "$1 to be optimized" is "$1" optimized
	wait_until 60 "$2 to be non-optimized" is "$2" non-optimized
}

step "start"
target_start /tmp/data $((PORT + 1))
connect
A=$(controller)
PORT=$((PORT + 1)) connect
B=$(controllers | grep -v "^$A\$")
wait_until 60 "the second path to be live" live "$B"
dev=$(namespace 1)
bs=$(blockdev --getss "$dev")
moved_to "$A" "$B"
echo round-robin >"/sys/class/nvme-subsystem/$(basename "$(readlink -f /sys/class/nvme-subsystem/nvme-subsys*)")/iopolicy"

step "what does not write moves nothing"
get "$B"
nvme flush "/dev/$B" -n 1
nvme id-ctrl "/dev/$B" >/dev/null
nvme ana-log "/dev/$B" >/dev/null
is "$A" optimized && is "$B" non-optimized || die "$A is $(state "$A"), $B is $(state "$B")"

step "writes move the path under fio"
before=$(writes "$dev")
fio_verify "$dev" --size=$AREA &
job=$!
for to in "$B $A" "$A $B" "$B $A"; do
	wait_until 60 "fio to write" wrote "$dev" $((before + 200))
	put "${to% *}"
	# shellcheck disable=SC2086
	moved_to $to
	before=$(writes "$dev")
	kill -0 $job || die "fio ended before the path had moved often enough"
done
wait $job || die "fio"

step "the optimized access point is left under fio"
before=$(writes "$dev")
fio_verify "$dev" --size=$AREA &
job=$!
wait_until 60 "fio to write" wrote "$dev" $((before + 500))
nvme disconnect -d "$B"
wait $job || die "fio"
wait_until 60 "$A to be optimized" is "$A" optimized

step "it comes back and is written at"
PORT=$((PORT + 1)) connect
B=$(controllers | grep -v "^$A\$")
wait_until 60 "the second path to be live" live "$B"
moved_to "$A" "$B"
put "$B"
moved_to "$B" "$A"
fio_verify "$dev" --size=4m

step "stop"
disconnect
target_stop
