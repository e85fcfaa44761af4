# One life of a machine that is going to lose power. The test cuts it under load; the next boot, from the same disk, looks
# for what had been acknowledged in all lives before: blocks in /rig/acks, volumes in $VOLUMES.
. /rig/lib.sh
BLOCKS=8192 # of 4 KiB, at the start of namespace 1; fio writes behind them

step "start $LIFE"
[ "$LIFE" != 1 ] || mkfs.ext4 -q -F -E lazy_itable_init=0 /dev/vda
mount -t ext4 /dev/vda /mnt
mkdir -p /mnt/data
target_start /mnt/data
connect
dev=$(namespace 1)

step "verify"
ackwrite verify -dev "$dev" -blocks $BLOCKS -acks /rig/acks >/results/found || die "acknowledged writes are lost"
for v in $VOLUMES; do volume_exists "$v" || die "volume $v was acknowledged and is lost"; done

if [ "$LAST" ]; then
	step "stop"
	disconnect
	target_stop
	umount /mnt
	fsck.ext4 -fn /dev/vda
	exit 0
fi

step "load"
fio_load "$dev" --offset=512m --size=256m
wait_until 60 "fio to write" wrote "$dev" 100
ackwrite write -dev "$dev" -blocks $BLOCKS -writers 8 -from $((LIFE << 32)) -seed "$SEED$LIFE" >/dev/ttyS1 &
writer=$!
volume_create "life$LIFE" 64
say "volume life$LIFE"
wait $writer
die "the writer ended"
