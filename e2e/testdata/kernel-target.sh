# The rig itself: the kernel's host and the kernel's target in one guest.
. /rig/lib.sh
step start
mkdir /tmp/data
target_start /tmp/data
step discover
nvme discover -t tcp -a $ADDRESS -s $PORT --hostnqn=$HOSTNQN --hostid=$HOSTID | grep -q "$NQN"
step connect
connect
step fio
fio_verify "$(namespace 1)" --size=8m
step disconnect
disconnect
target_stop
