#!/bin/sh
# The first process of the guest: mounts, modules, then the case's script, then its status on the second serial port.
export PATH=/opt/bin:/usr/bin HOME=/root TERM=dumb
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /proc /sys /tmp /run /root /results /mnt /var /dev/pts /dev/shm
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devpts devpts /dev/pts
for dir in /dev/shm /tmp /run; do mount -t tmpfs -o mode=1777 tmpfs $dir; done
ln -s /run /var/run
ln -s /proc/self/fd /dev/fd
for i in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${i%:*}" "/dev/${i#*:}"; done
ip link set lo up
exec </dev/null >/dev/console 2>&1
stty -F /dev/ttyS1 raw -echo
while read -r module params; do
	insmod $module $params || echo "rig: $module cannot be inserted"
done </rig/modules/order
mount -t configfs configfs /sys/kernel/config 2>/dev/null
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 results /results || echo "rig: no results folder"
. /rig/env
cd /root
echo "rig: up" >/dev/ttyS1
sh /rig/case.sh
status=$?
dmesg >/results/dmesg
sync
echo "rig: exit $status" >/dev/ttyS1
poweroff -f
