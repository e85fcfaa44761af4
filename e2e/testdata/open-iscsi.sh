# What Linux's own iSCSI initiator does with a target: discovery, CHAP both ways, digests, a file system, a live resize,
# and I/O over the death of our processes.
. /rig/lib.sh
IQN=iqn.2026-11.io.mooring:dev
GUARDED=iqn.2026-11.com.example:guarded
PORTAL=$ADDRESS:3260
ISCSI=$PORTAL # target_start listens there as well
TRANSPORT='/opt/bin/plugins/*iscsi*' # whom kill_transport kills

set_node() { # set_node NAME VALUE: of the record of $TARGET_IQN
	iscsiadm -m node -T "$TARGET_IQN" -p $PORTAL -o update -n "$1" -v "$2"
}
login() { iscsiadm -m node -T "$TARGET_IQN" -p $PORTAL --login; }
logout() { iscsiadm -m node -T "$TARGET_IQN" -p $PORTAL --logout; }
find_disk() { # find_disk LUN: of the one session there is
	local b
	for b in /sys/class/iscsi_session/session*/device/target*/*:"$1"/block/*; do
		[ -b "/dev/$(basename "$b")" ] || continue
		echo "/dev/$(basename "$b")"
		return 0
	done
	return 1
}
disk() {
	wait_until 60 "LUN $1" find_disk "$1"
	find_disk "$1"
}
no_session() { [ -z "$(ls /sys/class/iscsi_session 2>/dev/null)" ]; }
wrote_sd() { [ "$(awk '{print $5}' "/sys/block/$(basename "$1")/stat")" -ge "$2" ]; }
attribute() { cat /sys/class/iscsi_connection/connection*/"$1"; }

step "start"
mkdir -p /tmp/data /etc/iscsi /run/lock/iscsi /var/lib/iscsi
echo InitiatorName=iqn.2026-11.com.example:linux >/etc/iscsi/initiatorname.iscsi
printf 'iscsid.startup = /bin/false\nnode.startup = manual\nnode.session.timeo.replacement_timeout = 600\nnode.conn[0].timeo.noop_out_interval = 2\nnode.conn[0].timeo.noop_out_timeout = 5\n' >/etc/iscsi/iscsid.conf
target_start /tmp/data
setsid iscsid -f >/results/iscsid.log 2>&1 &
ISCSID=$!

step "discover"
iscsiadm -m discovery -t sendtargets -p $PORTAL | tee /results/discovery.txt
grep -q "^$PORTAL,1 $IQN$" /results/discovery.txt || die "the target is not found"

step "login"
TARGET_IQN=$IQN
login
dev=$(disk 0)
[ "$(sectors "$dev")" = $((1 << 21)) ] || die "$dev has $(sectors "$dev") sectors"
grep -q MOORING "/sys/block/${dev#/dev/}/device/vendor" || die "the vendor is another"
[ "$(cat "/sys/block/${dev#/dev/}/queue/logical_block_size")" = 4096 ] || die "the block size is another"
fio_verify "$dev" --bsrange=4k-1m --blockalign=4k --size=64m
logout
wait_until 60 "the session to end" no_session

step "CHAP"
$MOORING volume create guarded -size 64MiB -block-size 512
$MOORING target create $GUARDED -allow-any-host
$MOORING lun attach $GUARDED -volume guarded
echo initiators-know >/tmp/theirs
echo the-target-knows >/tmp/ours
$MOORING target chap $GUARDED -user me -secret-file /tmp/theirs -mutual-user we -mutual-secret-file /tmp/ours
iscsiadm -m discovery -t sendtargets -p $PORTAL >/dev/null
TARGET_IQN=$GUARDED
refuse "authorization failure" login
set_node node.session.auth.authmethod CHAP
set_node node.session.auth.username me
set_node node.session.auth.password wrong-but-long
refuse "authorization failure" login
set_node node.session.auth.password initiators-know
login
disk 0
logout
wait_until 60 "the session to end" no_session

step "mutual CHAP"
set_node node.session.auth.username_in we
set_node node.session.auth.password_in something-else
refuse "fail" login
wait_until 60 "the session to end" no_session
set_node node.session.auth.password_in the-target-knows
login
fio_verify "$(disk 0)" --bs=512 --size=4m
logout
wait_until 60 "the session to end" no_session

step "digests"
TARGET_IQN=$IQN
set_node "node.conn[0].iscsi.HeaderDigest" CRC32C
set_node "node.conn[0].iscsi.DataDigest" CRC32C
login
dev=$(disk 0)
[ "$(attribute header_digest)$(attribute data_digest)" = 11 ] || die "no digests"
fio_verify "$dev" --bsrange=4k-256k --blockalign=4k --size=64m

step "ext4"
mkfs.ext4 -q -F "$dev"
mount -t ext4 "$dev" /mnt
mkdir /mnt/files
cp /usr/bin/busybox /usr/bin/fio /mnt/files/
(cd /mnt/files && sha256sum ./*) >/tmp/sums
sync
umount /mnt
fsck.ext4 -fn "$dev"
blockdev --flushbufs "$dev"
mount -t ext4 "$dev" /mnt
(cd /mnt/files && sha256sum -c -s /tmp/sums)
umount /mnt

step "blkdiscard"
yes pattern | head -c $((16 << 20)) | dd of="$dev" bs=1M iflag=fullblock oflag=direct 2>/dev/null
blkdiscard -o $((4 << 20)) -l $((8 << 20)) "$dev"
zeros "$dev" 4 8
yes pattern | head -c $((4 << 20)) | cmp -n $((4 << 20)) - "$dev" || die "blkdiscard went too far down"

step "resize under I/O"
fio_load "$dev" --size=64m --rate_iops=500
wait_until 60 "I/O" wrote_sd "$dev" 100
volume_resize dev 2048
resized() { echo 1 >"/sys/block/${dev#/dev/}/device/rescan" && [ "$(sectors "$dev")" = $((2 << 21)) ]; }
wait_until 60 "the initiator to see the new size" resized

step "kill -9 of the front end under I/O"
kill_transport
before=$(awk '{print $5}' "/sys/block/${dev#/dev/}/stat")
wait_until 120 "I/O after the front end's death" wrote_sd "$dev" $((before + 200))

step "kill -9 of the core under I/O"
kill_core
before=$(awk '{print $5}' "/sys/block/${dev#/dev/}/stat")
wait_until 120 "I/O after the core's death" wrote_sd "$dev" $((before + 200))
fio_stop
fio_verify "$dev" --size=24m

step "logout"
logout
wait_until 60 "the session to end" no_session
kill $ISCSID
wait $ISCSID 2>/dev/null || :

step "stop"
target_stop
