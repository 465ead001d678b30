#!/bin/sh
# Runs the tests of the sandbox on another machine than this one: Debian's kernel in QEMU, with cgroups of version 2
# alone and, on amd64, with AppArmor. hack/vm.sh amd64|arm64 [-test.FLAG...]; without hardware virtualization it takes some
# minutes, as it does always for arm64, whose programs are cross-compiled.
set -eu
arch=$1
shift
cd "$(dirname "$0")/.."
dir=$PWD/build/vm-$arch
root=$dir/root
rm -rf "$root"
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/tmp" "$root/test" "$root/root" "$root/run" "$root/lib/x86_64-linux-gnu" "$root/lib64" "$root/etc" "$root/usr"

. hack/foreign.sh

# The kernel of this Debian for clouds: small, with its modules. Of the other architecture also what programs are linked
# with, and busybox.
if ! ls "$dir"/kernel/boot/vmlinuz-* >/dev/null 2>&1; then
	foreign_update
	image=$(foreign apt-cache depends "linux-image-cloud-$arch" | sed -n 's/^ *Depends: //p' | head -n 1)
	unpack_foreign kernel libseccomp-dev busybox-static "$image"
fi
flags=
for flag; do flags="$flags '$flag'"; done
release=$(basename "$dir"/kernel/boot/vmlinuz-* | cut -d- -f2-)
cp -r "$dir/kernel/lib/modules" "$root/lib/"
depmod -b "$root" "$release"

case $arch in
amd64)
	machine="qemu-system-x86_64 -accel tcg,thread=multi -cpu max" console=ttyS0 security=apparmor
	cp "$(command -v apparmor_parser)" "$root/bin/"
	cp -L /lib/x86_64-linux-gnu/libc.so.6 "$root/lib/x86_64-linux-gnu/"
	cp -L /lib64/ld-linux-x86-64.so.2 "$root/lib64/"
	cp -r /etc/apparmor.d "$root/etc/"
	;;
arm64)
	machine="qemu-system-aarch64 -M virt -accel tcg,thread=multi -cpu cortex-a72" console=ttyAMA0 security=
	foreign_compiler kernel
	;;
esac
export CGO_ENABLED=1 GOARCH="$arch"
for package in sandbox sandbox/initproc; do
	${GO:-go} test -c -buildvcs=false -tags "seccomp netgo osusergo" -ldflags "-extldflags -static" -o "$root/test/$(basename "$package").test" "./internal/$package"
done
cp "$dir/kernel/bin/busybox" "$root/bin/busybox"
for name in sh mount cp cat grep modprobe ip mkdir poweroff switch_root find; do ln -s busybox "$root/bin/$name"; done
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\n' >"$root/etc/group"
printf 'nameserver 192.0.2.1\n' >"$root/etc/resolv.conf"

# The kernel's first root cannot be pivoted away from, so the system runs in another one.
cat >"$root/init" <<'INIT'
#!/bin/sh
export PATH=/bin
mkdir -p /new && mount -t tmpfs -o mode=755,size=80% root /new
for d in bin dev proc sys tmp test etc root run lib lib64 usr second; do cp -a /$d /new/; done
exec switch_root /new /second
INIT
cat >"$root/second" <<INIT
#!/bin/sh
export PATH=/bin HOME=/root TMPDIR=/tmp
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm; mount -t devpts pts /dev/pts
# A filesystem whose owners can be mapped, as a tmpfs's cannot before Linux 6.3.
modprobe virtio_pci; modprobe virtio_blk; modprobe ext4 2>/dev/null; mount -t ext4 /dev/vda /tmp
mount -t securityfs security /sys/kernel/security; mount -t cgroup2 cgroup /sys/fs/cgroup
# As a service manager does: nobody is in the root's cgroup.
mkdir /sys/fs/cgroup/user; echo 1 >/sys/fs/cgroup/user/cgroup.procs; echo "+memory +pids +cpu +cpuset" >/sys/fs/cgroup/cgroup.subtree_control
modprobe overlay; modprobe tun; ip link set lo up
modprobe dummy; ip link add out type dummy; ip addr add 198.51.100.2/24 dev out; ip link set out up; ip route add default dev out
cd /test && ./initproc.test -test.v -test.skip StandsAlone 2>&1 && ./sandbox.test -test.v $flags 2>&1 && echo "the virtual machine's tests passed"
poweroff -f
INIT
chmod +x "$root/init" "$root/second"
(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$dir/initrd"
truncate -s 2G "$dir/tmp"
mkfs.ext4 -q -F "$dir/tmp"
log=$dir/log
$machine -smp 2 -m 3000 -nographic -no-reboot -kernel "$dir"/kernel/boot/vmlinuz-* -initrd "$dir/initrd" -drive file="$dir/tmp",if=virtio,format=raw,cache=unsafe \
	-append "console=$console panic=-1 quiet ${security:+security=$security apparmor=1}" </dev/null >"$log" 2>&1
grep -a -E '^ *--- |_test\.go:|^(PASS|FAIL)|tests passed' "$log" || true
grep -q -a "the virtual machine's tests passed" "$log"
