# Deaths of our processes under I/O, and reservations that outlive them. The data directory has O_DIRECT, on /dev/vda.
# The host has multipath on, as Debian does: without it the kernel fails writes of a broken connection to the application.
. /rig/lib.sh
SIZE=32m TOTAL=8192 # writes of one fio_verify
EARLY=1500           # writes after which a process dies

# under_fio DEVICE COMMAND...: runs the command in the middle of the writes of an fio that then reads them back.
under_fio() {
	local dev=$1 before job now
	shift
	before=$(writes "$dev")
	fio_verify "$dev" --size=$SIZE &
	job=$!
	wait_until 60 "fio to write" wrote "$dev" $((before + EARLY))
	now=$(($(writes "$dev") - before))
	[ $now -lt $TOTAL ] || die "fio was too quick: $now writes before the fault"
	"$@"
	wait $job || die "fio with $1"
	say "note $1 came after $now of $TOTAL writes"
}

step "start"
mkfs.ext4 -q -F /dev/vda
mount -t ext4 /dev/vda /mnt
mkdir /mnt/data
target_start /mnt/data
connect
c=$(controller)
dev=$(namespace 1)

# Each host's commands go through its own controller, /dev/nvmeN: the disk is the same for both. The kernel passes
# commands on there only while the controller has one namespace.
step "two hosts"
connect_second_host
c2=$(controllers | grep -v "^$c\$")
wait_until 60 "the second controller to be live" live "$c2"
A=/dev/$c B=/dev/$c2
bs=$(blockdev --getss "$dev")
put() { head -c "$bs" /dev/urandom | nvme write "$1" -n 1 -s 0 -c 0 -z "$bs" -d /dev/stdin; }
get() { nvme read "$1" -n 1 -s 0 -c 0 -z "$bs" -d /dev/null; }
put $A
put $B
get $A
get $B

if [ $HAVE_RESERVATIONS ]; then
	step "reservations"
	conflict() { refuse "Reservation Conflict" "$@"; }
	report() { nvme resv-report "$1" -n 1 -e -o json >"/results/resv-$2.json"; }
	nvme resv-register $A -n 1 --nrkey=0xa1 --rrega=0 --cptpl=3
	nvme resv-register $B -n 1 --nrkey=0xb2 --rrega=0 --cptpl=3
	report $A registered
	nvme resv-acquire $A -n 1 --crkey=0xa1 --rtype=1 --racqa=0 # write exclusive
	report $B acquired
	put $A
	conflict put $B
	get $B
	conflict nvme resv-acquire $B -n 1 --crkey=0xb2 --rtype=1 --racqa=0
	conflict nvme resv-release $A -n 1 --crkey=0xdead --rtype=1 --rrela=0
	nvme resv-acquire $B -n 1 --crkey=0xb2 --prkey=0xa1 --rtype=1 --racqa=1 # preempt
	report $B preempted
	put $B
	conflict put $A

	step "a reservation outlives the core"
	kill_core
	wait_until 60 "the first host to be back" live "$c"
	wait_until 60 "the second host to be back" live "$c2"
	report $B restarted
	put $B
	conflict put $A
	nvme resv-release $B -n 1 --crkey=0xb2 --rtype=1 --rrela=0
	put $A
	nvme resv-register $B -n 1 --crkey=0xb2 --rrega=1
	report $A unregistered
fi
nvme disconnect -d "$c2"

step "a second volume"
volume_create kept 64
volume_attach kept 2
kept=$(namespace 2)
fio_verify "$kept" --size=4m
sha256sum "$kept" >/tmp/kept

step "kill -9 of the transport under fio"
under_fio "$dev" kill_transport

step "kill -9 of the core under fio"
under_fio "$dev" kill_core

step "what was there before"
volume_exists kept
blockdev --flushbufs "$kept"
sha256sum -c -s /tmp/kept || die "namespace 2 has changed"
target_evidence end

step "disconnect"
disconnect
no_controller || die "a controller is left: $(controllers)"

step "stop"
target_stop
umount /mnt
fsck.ext4 -fn /dev/vda
