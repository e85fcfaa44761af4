# NVMe/RDMA: what the kernel's host never sends, and what no host ought to, beside the kernel's host. Nothing may be left of it.
. /rig/lib.sh
ROCE=10.99.0.1
TRANSPORT='/opt/bin/plugins/*rdma*'

step "soft-RoCE"
ip link add roce0 type dummy
ip link set roce0 mtu 9000 up
ip addr add $ROCE/24 dev roce0
rdma link add rxe0 type rxe netdev roce0
wait_until 30 "the RDMA device" ls /sys/class/infiniband/*/ports/1/gid_attrs/types/1

step "start"
mkdir /tmp/data
LISTEN="-listen nvme-rdma://rxe0:$PORT" # by the name of the device
target_start /tmp/data
nvme connect -t rdma -a $ROCE -s $PORT -n "$NQN" --hostnqn=$HOSTNQN --hostid=$HOSTID --reconnect-delay=1 --ctrl-loss-tmo=120 --keep-alive-tmo=5
dev=$(namespace 1)
transport=$(pids_of "$TRANSPORT")
resources() { rdma resource show | sed 's/.*: //;s/cm_id [0-9]*//'; } # queue pairs, completion queues, memory regions
pool() { # KiB in use, as the plugin last said
	wget -q -O - "$(sed -n 's/^ *metrics  *//p' $agent_out)" | sed -n 's/^mooring_plugin_pool_used_bytes{plugin="transport-rdma"} //p' |
		awk '{printf "%d\n", $1 / 1024}'
}
pool_known() { [ -n "$(pool)" ]; }
fio_verify "$dev" --size=1m # the host has all queues, the target all memory that it keeps
wait_until 60 "the plugin's counters" pool_known
resources >/results/resources-before
before=$(pool)
fio_load "$dev" --size=64m --iodepth=4

step "hostile"
MOORING_RDMA=$ROCE:$PORT MOORING_NQN=$NQN /rig/hostile -test.v ${HOSTILE_RUN:+-test.run "$HOSTILE_RUN"} || die "the hostile host's tests"
[ "$(pids_of "$TRANSPORT")" = "$transport" ] || die "the transport was started anew"

step "nothing is left"
as_before() { resources >/tmp/resources-now; cmp /tmp/resources-now /results/resources-before; }
no_more() { [ "$(pool)" -le "$before" ]; } # less, if the host's commands were counted before
fio_stop # without an error
wait_until 120 "queue pairs and memory regions to be as before: $(resources)" as_before
wait_until 120 "the pool to be as before, $before KiB; it is $(pool)" no_more
nvme disconnect -n "$NQN"
target_stop
