# NVMe/RDMA over soft-RoCE: a device on a dummy interface, whose own address both ends use.
. /rig/lib.sh
ROCE=10.99.0.1
TRANSPORT='/opt/bin/plugins/*rdma*'

rdma_connect() {
	nvme connect -t rdma -a $ROCE -s $PORT -n "$NQN" --hostnqn=$HOSTNQN --hostid=$HOSTID \
		--reconnect-delay=1 --ctrl-loss-tmo=600 --keep-alive-tmo=5 "$@"
}

step "soft-RoCE"
refuse "no RDMA device" $MOORING doctor rdma
ip link add roce0 type dummy
ip link set roce0 mtu 9000 up
ip addr add $ROCE/24 dev roce0
rdma link add rxe0 type rxe netdev roce0
wait_until 30 "the RDMA device" ls /sys/class/infiniband/*/ports/1/gid_attrs/types/1
ibv_devinfo -v | grep -E 'hca_id|GID|max_qp_rd_atom|max_srq_wr|max_cqe|active_mtu'

step "start"
mkdir /tmp/data
LISTEN="-listen nvme-rdma://$ROCE:$PORT"
target_start /tmp/data
$MOORING doctor rdma # every finding of an error would end the case

step "discover"
nvme discover -t rdma -a $ROCE -s $PORT --hostnqn=$HOSTNQN --hostid=$HOSTID -o json >/results/discover.json

step "connect"
rdma_connect
c=$(controller)
wait_until 60 "the controller to be live" live "$c"
dev=$(namespace 1)
nvme id-ctrl "/dev/$c" -o json >/results/id-ctrl.json

step "fio, 4 KiB" # in capsules
target_evidence before
fio_verify "$dev" --size=12m
target_evidence after

step "fio, up to 1 MiB" # by RDMA READ
fio_verify "$dev" --bsrange=8k-1m --blockalign=4k --size=64m --iodepth=32

step "ext4"
mkfs.ext4 -q -F "$dev"
mount -t ext4 "$dev" /mnt
cp /usr/bin/busybox /usr/bin/fio /mnt/
sha256sum /mnt/busybox /mnt/fio >/tmp/sums
umount /mnt
fsck.ext4 -fn "$dev"
blockdev --flushbufs "$dev"
mount -t ext4 "$dev" /mnt
sha256sum -c -s /tmp/sums
umount /mnt

step "kill -9 of the transport under fio"
before=$(writes "$dev")
fio_verify "$dev" --size=8m &
job=$!
wait_until 60 "fio to write" wrote "$dev" $((before + 500))
kill_transport
wait $job || die "fio over the death of the transport"
wait_until 60 "the controller to be live again" live "$c"

step "kill -9 of the core under fio"
before=$(writes "$dev")
fio_verify "$dev" --size=8m &
job=$!
wait_until 60 "fio to write" wrote "$dev" $((before + 500))
kill_core
wait $job || die "fio over the death of the core"

step "disconnect"
disconnect
no_controller || die "a controller is left: $(controllers)"

step "stop"
target_stop
rdma link delete rxe0
