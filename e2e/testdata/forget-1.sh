# Writes that were flushed, then writes that were not; the test cuts the power when it reads "now".
. /rig/lib.sh
step write
yes flushed | head -c 1048576 | dd of=/dev/vda bs=4k oflag=direct conv=fsync 2>/dev/null
yes unflushed | head -c 1048576 | dd of=/dev/vda bs=4k seek=256 oflag=direct 2>/dev/null
say now
sleep 600
