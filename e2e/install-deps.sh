#!/bin/sh
# Installs what the end-to-end tests and the model need on a Debian-like machine. Does nothing, quickly, when all is there.
set -eu

packages="linux-image-amd64 qemu-system-x86 busybox-static kmod xz-utils libc-bin nbdkit
nvme-cli fio e2fsprogs util-linux iproute2 coreutils diffutils
open-iscsi libiscsi-bin qemu-utils qemu-block-extra spin gcc libc6-dev
libibverbs-dev librdmacm-dev ibverbs-providers ibverbs-utils"

# A kernel counts by what it brings: any package of it will do.
kernel_installed() {
	for image in /boot/vmlinuz-*; do
		for module in "/lib/modules/${image#/boot/vmlinuz-}"/kernel/drivers/nvme/host/nvme-tcp.ko*; do
			[ -e "$module" ] && return 0
		done
	done
	return 1
}

missing=
for package in $packages; do
	if [ "$package" = linux-image-amd64 ]; then
		kernel_installed || missing="$missing $package"
	elif [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
		missing="$missing $package"
	fi
done
[ -n "$missing" ] || exit 0

echo "e2e: installing$missing"
as_root=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || { echo "e2e: root is needed to install$missing" >&2; exit 1; }
	as_root=sudo
fi
# The guest brings its own initial file system: none is made for the kernel.
export DEBIAN_FRONTEND=noninteractive INITRD=No
$as_root apt-get -q update
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=$DEBIAN_FRONTEND INITRD=$INITRD \
	apt-get -q install -y --no-install-recommends $missing
