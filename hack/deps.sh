#!/bin/sh
# Installs what is missing for a purpose: build, demo, bases, test, page, bench, suites, clients, kubernetes, vm, arm64, cross-ARCH, dist, dist-test or all. On Debian and Ubuntu,
# as root, by apt-get; anywhere else it says in a sentence what is missing.
set -eu

purpose=${1:?usage: hack/deps.sh build|demo|bases|test|page|bench|suites|clients|kubernetes|vm|arm64|cross-ARCH|dist|dist-test|all}
packages=
sentences=

# missing PACKAGES SENTENCE: notes what to install, and what to say where that is impossible.
missing() {
	case $packages in
	*" $1"*) return ;; # two purposes ask for it
	esac
	packages="$packages $1"
	sentences="$sentences
  $2"
}

# need COMMAND PACKAGE WHY
need() {
	command -v "$1" >/dev/null 2>&1 || missing "$2" "$1 is missing: it $3 (Debian's package $2)."
}

# The test is the thing itself: a static program that uses the library.
links_seccomp() {
	command -v gcc >/dev/null 2>&1 && command -v pkg-config >/dev/null 2>&1 || return 1
	pkg-config --atleast-version=2.5 libseccomp 2>/dev/null || return 1 # hack/patches does not ask for older ones
	out=$(mktemp)
	code=0
	# shellcheck disable=SC2046 # several flags
	printf '#include <seccomp.h>\nint main(void) { return seccomp_api_get() == 0; }\n' |
		gcc -x c - -static -o "$out" $(pkg-config --cflags --libs --static libseccomp 2>/dev/null) 2>/dev/null || code=1
	rm -f "$out"
	return $code
}

static_busybox() {
	command -v busybox >/dev/null 2>&1 && ! ldd "$(command -v busybox)" >/dev/null 2>&1
}

for_build() {
	certificates
	need patch patch "changes modules that would make the start of slipway slow"
	need musl-gcc musl-tools "links what starts sooner than with glibc"
	links_seccomp || missing "gcc libc6-dev libseccomp-dev pkg-config" \
		"A C compiler that links libseccomp (2.5 or newer) statically is missing (Debian's packages gcc, libc6-dev, libseccomp-dev, pkg-config)."
}

# Go needs them to download modules, and the stand-in Go image too.
certificates() {
	[ -e /etc/ssl/certs/ca-certificates.crt ] || missing ca-certificates \
		"/etc/ssl/certs/ca-certificates.crt is missing: downloading modules needs it (Debian's package ca-certificates)."
}

for_demo() {
	certificates
	static_busybox || missing busybox-static \
		"A static busybox is missing: the stand-in base images are made of it (Debian's package busybox-static)."
}

for_bases() {
	for_demo
	need debootstrap debootstrap "makes the stand-in Debian image"
	if [ "$(. /etc/os-release 2>/dev/null; echo "${ID:-}")" = debian ] && [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
		missing debian-archive-keyring "The keys of Debian's archive are missing (package debian-archive-keyring)."
	fi
}

for_test() {
	for_build
	for_demo
	need runc runc "is the second OCI runtime that the sandbox is tested with, and starts containers with few rights"
	need newuidmap uidmap "gives users of this machine the IDs of their namespaces"
	need setpriv util-linux "starts programs as users with few rights"
	need ssh-keygen openssh-client "signs what a release is signed by"
	need skopeo skopeo "checks the images that are written"
	need bzip2 bzip2 "makes archives that the tests unpack"
	need xz xz-utils "unpacks archives, and makes those that the tests unpack"
	need zstd zstd "makes archives that the tests unpack"
	need git git "makes and serves the repositories that the tests build from"
	need strace strace "counts system calls where the kernel does not let a process count them"
	need script bsdutils "gives the tests a terminal"
	need docker-registry docker-registry "is the registry that images are pushed to and pulled from"
	need umoci umoci "checks the image layouts that are written"
	need mkfs.ext4 e2fsprogs "makes the small filesystems that tests fill"
	need mkfs.btrfs btrfs-progs "makes filesystems that lose what was not synced"
	need strace strace "makes system calls fail, or the last ones of a process"
}

for_page() {
	for_build
	need chromium chromium "shows the page of history open to its test"
}

for_bench() {
	for_build
	for_bases
	need buildah buildah "is what slipway is timed beside"
	need curl curl "bounds pulls"
	need docker-registry docker-registry "has the results of other machines"
	need pigz pigz "bounds compressing with gzip, and unpacking it"
	need runc runc "bounds the start of containers"
	need zstd zstd "bounds compressing with zstd"
}

for_suites() {
	for_build
	for_demo
	need docker-registry docker-registry "is the registry that BuildKit's tests push to and pull from"
	need git git "makes and serves the repositories that they build from"
	need gpg gnupg "signs what they verify"
	need ssh-keygen openssh-client "signs what they verify"
}

for_clients() {
	for_test
	for_suites
	need npm npm "installs Docker's SDK for Node.js"
	need node nodejs "runs it"
}

for_kubernetes() {
	for_bases
	need curl curl "opens the gates at which steps wait"
	need docker-registry docker-registry "is the registry of the cluster"
	need etcd etcd-server "keeps the state of the cluster"
	need conntrack conntrack "is asked by its proxy"
	need ip iproute2 "joins its nodes"
	need nft nftables "leads to its services"
	need openssl openssl "makes its certificates"
	need socat socat "leads from its network to its registry"
	[ -x /usr/lib/cni/bridge ] || missing containernetworking-plugins "/usr/lib/cni/bridge is missing: it gives pods their network (Debian's package containernetworking-plugins)."
}

for_vm() {
	for_build
	need qemu-system-x86_64 qemu-system-x86 "is the machine"
	need apparmor_parser apparmor "loads profiles there"
	for_machine
}

for_arm64() {
	for_build
	need qemu-system-aarch64 qemu-system-arm "is the machine"
	for_cross arm64
	for_machine
}

# for_cross ARCH
for_cross() {
	triple=aarch64-linux-gnu compiler=gcc-aarch64-linux-gnu
	[ "$1" = arm64 ] || triple=x86_64-linux-gnu compiler=gcc-x86-64-linux-gnu
	need $triple-gcc $compiler "compiles for $1"
	[ -e /usr/$triple/lib/libc.a ] || missing "libc6-dev-$1-cross" \
		"/usr/$triple/lib/libc.a is missing: programs for $1 are linked with it (Debian's package libc6-dev-$1-cross)."
	need dpkg-deb dpkg "unpacks what programs for $1 are linked with"
}

for_dist() {
	for_build
	for_cross arm64
}

for_dist_test() {
	need qemu-aarch64-static qemu-user-static "runs the program for arm64"
	need rpm rpm "reads the .rpm"
}

for_machine() {
	need cpio cpio "makes its first filesystem"
	need mkfs.ext4 e2fsprogs "makes its other one"
	need depmod kmod "lists its modules"
}

if ! command -v go >/dev/null 2>&1; then
	echo "slipway: go is missing: install Go from https://go.dev/dl/ and put its bin directory into PATH." >&2
	exit 1
fi
if [ "$(uname -s)" != Linux ]; then
	echo "slipway: this is $(uname -s): slipway builds and runs on Linux only." >&2
	exit 1
fi

case $purpose in
build) for_build ;;
demo) for_demo ;;
bases) for_bases ;;
test) for_test ;;
page) for_page ;;
bench) for_bench ;;
suites) for_suites ;;
clients) for_clients ;;
kubernetes) for_kubernetes ;;
vm) for_vm ;;
arm64) for_arm64 ;;
cross-amd64 | cross-arm64) for_build; for_cross "${purpose#cross-}" ;;
dist) for_dist ;;
dist-test) for_dist_test ;;
all) for_test; for_bases ;;
*) echo "hack/deps.sh: unknown purpose $purpose" >&2; exit 2 ;;
esac

case $purpose in
demo | bases | test | bench | suites | clients | kubernetes | dist-test)
	if [ "$(id -u)" -ne 0 ]; then
		echo "slipway: containers are run as root today: run make $purpose as root." >&2
		exit 1
	fi
	;;
esac

[ -n "$packages" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
	echo "slipway: this machine has no apt-get to install what is missing:$sentences" >&2
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "slipway: only root can install what is missing:$sentences" >&2
	exit 1
fi

echo "installing$packages"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# A mirror that cannot be reached makes update fail, but the lists may be there all the same.
apt-get update -qq >"$log" 2>&1 || true
# shellcheck disable=SC2086 # a list of packages
if ! apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 $packages >>"$log" 2>&1; then
	tail -n 20 "$log" >&2
	echo "slipway: apt-get could not install what is missing:$sentences" >&2
	exit 1
fi
