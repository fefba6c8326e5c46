#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# /init of the lab's initramfs, run by busybox: stacks the read-only images under a tmpfs,
# mounts what tracing needs and hands over to wgtrace.lab.guest. Any failure here ends
# process 1, which is a panic, which the host reports with these messages.
set -e

fail() { echo "lab: $*" >/dev/console; exit 1; }

mkdir -p /proc /dev /rw /root
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
	insmod "$module" || fail "cannot load $module"
done

# The KVM probe: this much of a boot is proof enough.
grep -qw wgtrace.probe /proc/cmdline && { echo "wgtrace-probe-ok" >/dev/console; reboot -f; }

for disk in vda vdb vdc; do # userland, modules, this run
	mkdir -p /lower/$disk
	mount -t squashfs -o ro /dev/$disk /lower/$disk || fail "cannot mount /dev/$disk"
done
mount -t tmpfs -o size=80% tmpfs /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/lower/vdc:/lower/vdb:/lower/vda,upperdir=/rw/upper,workdir=/rw/work \
	overlay /root || fail "cannot mount the overlay"

umount /proc
mount -t proc proc /root/proc
mount -t sysfs sys /root/sys
mount -t tracefs trace /root/sys/kernel/tracing
mount -t debugfs debug /root/sys/kernel/debug
mount -t bpf bpf /root/sys/fs/bpf
mount -t cgroup2 cgroup /root/sys/fs/cgroup
mount --move /dev /root/dev
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /root/dev/pts
for directory in dev/shm tmp run; do
	mount -t tmpfs tmpfs /root/$directory
done
chmod 1777 /root/tmp /root/dev/shm
ln -sf /proc/self/fd /root/dev/fd
for stream in 0:stdin 1:stdout 2:stderr; do
	ln -sf /proc/self/fd/${stream%:*} /root/dev/${stream#*:}
done
ip link set lo up
hostname lab
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 TERM=linux
exec switch_root /root /usr/bin/python3 -I -m wgtrace.lab.guest
