# What a Linux host does with a target on a good day. The data directory has no O_DIRECT.
. /rig/lib.sh

step "start"
mkdir /tmp/data
target_start /tmp/data

step "discover"
nvme discover -t tcp -a $ADDRESS -s $PORT --hostnqn=$HOSTNQN --hostid=$HOSTID -o json >/results/discover.json

step "connect"
connect
c=$(controller)
wait_until 60 "the controller to be live" live "$c"
dev=$(namespace 1)

step "identify and logs" # the test judges what they say
nvme id-ctrl "/dev/$c" -o json >/results/id-ctrl.json
nvme id-ns "$dev" -o json >/results/id-ns.json
nvme ns-descs "$dev" -o json >/results/ns-descs.json
nvme list-ns "/dev/$c" -o json >/results/list-ns.json
nvme ana-log "/dev/$c" -o json >/results/ana-log.json
nvme smart-log "/dev/$c" -o json >/results/smart-log.json
if [ $TARGET = mooring ]; then
	for log in error-log fw-log effects-log supported-log-pages; do
		nvme $log "/dev/$c" >"/results/$log.txt"
	done
	nvme get-feature "/dev/$c" -f 7 >/results/number-of-queues.txt
fi
cat /sys/block/nvme*c*n1/ana_state >/results/ana-state.txt

step "disconnect cleanly"
disconnect
no_controller || die "a controller is left: $(controllers)"

step "connect with both digests"
connect --hdr-digest --data-digest
c=$(controller)
dev=$(namespace 1)

step "fio, 4 KiB"
target_evidence before
fio_verify "$dev" --size=24m
target_evidence after

step "fio, up to 256 KiB" # in capsules and by R2T
fio_verify "$dev" --bsrange=4k-256k --blockalign=4k --size=64m

step "ext4"
mkfs.ext4 -q -F "$dev"
mount -t ext4 "$dev" /mnt
mkdir /mnt/files
cp /usr/bin/busybox /usr/bin/fio /usr/bin/nvme /mnt/files/
(cd /mnt/files && sha256sum ./*) >/tmp/sums
sync
umount /mnt
fsck.ext4 -fn "$dev"
blockdev --flushbufs "$dev"
mount -t ext4 "$dev" /mnt
(cd /mnt/files && sha256sum -c -s /tmp/sums)
umount /mnt

step "blkdiscard"
[ "$(cat "/sys/block/${dev#/dev/}/queue/discard_max_bytes")" -gt 0 ] || die "no discard"
yes pattern | head -c $((16 << 20)) | dd of="$dev" bs=1M iflag=fullblock oflag=direct 2>/dev/null
blkdiscard -o $((4 << 20)) -l $((8 << 20)) "$dev"
zeros "$dev" 4 8
blkdiscard -z -o $((12 << 20)) -l $((2 << 20)) "$dev"
zeros "$dev" 12 2
yes pattern | head -c $((4 << 20)) | cmp -n $((4 << 20)) - "$dev" || die "blkdiscard went too far down"
yes pattern | head -c $((16 << 20)) | tail -c $((2 << 20)) >/tmp/want
dd if="$dev" bs=1M skip=14 count=2 iflag=direct 2>/dev/null | cmp - /tmp/want || die "blkdiscard went too far up"
blkdiscard "$dev"
zeros "$dev" 0 32

step "attach under I/O" # the rest of the live changes too: fio on namespace 1 must not notice
fio_load "$dev" --rate_iops=500
wait_until 60 "I/O on namespace 1" wrote "$dev" 100
volume_create live 64
volume_attach live 2
dev2=$(namespace 2)
[ "$(sectors "$dev2")" = $((64 << 11)) ] || die "$dev2 has $(sectors "$dev2") sectors"
fio_verify "$dev2" --size=8m

step "resize under I/O"
yes before | head -c 1048576 | dd of="$dev2" bs=1M iflag=fullblock oflag=direct 2>/dev/null
volume_resize live 128
resized() { [ "$(sectors "$dev2")" = $((128 << 11)) ]; }
wait_until 60 "the host to see the new size" resized
yes before | head -c 1048576 | cmp -n 1048576 - "$dev2" || die "resizing changed the data"
zeros "$dev2" 64 64
yes after | head -c 1048576 | dd of="$dev2" bs=1M seek=127 iflag=fullblock oflag=direct 2>/dev/null

step "detach under I/O"
volume_detach 2
wait_until 60 "$dev2 to disappear" not find_namespace 2
fio_stop

step "attach again" # what was on it is still there
volume_attach live 2
dev2=$(namespace 2)
yes after | head -c 1048576 >/tmp/want
dd if="$dev2" bs=1M skip=127 iflag=direct 2>/dev/null | cmp - /tmp/want || die "the volume's data is not there"

step "disconnect"
disconnect
no_controller || die "a controller is left: $(controllers)"

step "stop"
target_stop
