# After the power cut: what was flushed is there, what was not is gone.
. /rig/lib.sh
step read
yes flushed | head -c 1048576 | cmp -n 1048576 - /dev/vda || die "flushed data is not there"
dd if=/dev/vda bs=1M skip=1 count=1 2>/dev/null | cmp -n 1048576 - /dev/zero || die "the disk does not forget"
