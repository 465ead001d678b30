#!/bin/sh
# Tries what hack/dist.sh left in build/dist: made again in another place, without the caches of the first time, it is the same; the packages are installed in a
# bare Debian and removed again; the program for arm64 runs in an emulator.
#
#   hack/dist-test.sh again     the first part: some minutes of compiling
#   hack/dist-test.sh packages  the rest, on the stand-in base images (SLIPWAY_CERTS_DIR, see hack/bases)
#   hack/dist-test.sh images    slipway's own images, of the programs that are released, on the stand-in base images
set -eu
cd "$(dirname "$0")/.."
dist=$PWD/build/dist
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
fail() {
	echo "dist-test: $*" >&2
	exit 1
}
# one PATTERN: the one file of build/dist.
one() {
	# shellcheck disable=SC2086 # a pattern
	set -- "$dist"/$1
	[ $# = 1 ] && [ -e "$1" ] || fail "not one file but: $*"
	echo "$1"
}

again() {
	mkdir "$tmp/tree" "$tmp/cache"
	git ls-files -z --cached --others --exclude-standard | tar --null --ignore-failed-read -cf - -T - | tar -xf - -C "$tmp/tree"
	export VERSION="${VERSION:-$(hack/version.sh)}" COMMIT="${COMMIT:-$(hack/version.sh commit)}" DATE="${DATE:-$(hack/version.sh date)}"
	(cd "$tmp/tree" && umask 077 && TZ=Asia/Tokyo GOCACHE="$tmp/cache" hack/dist.sh >/dev/null)
	diff -r "$dist" "$tmp/tree/build/dist" || fail "made again, it is not the same"
	echo "dist-test: made again, all $(ls "$dist" | wc -l) files are the same"
}

packages() {
	(cd "$dist" && sha256sum --quiet -c SHA256SUMS)
	provenance=$(one 'slipway-*.provenance.json') deb=$(one 'slipway_*_amd64.deb') rpm=$(one 'slipway-*.x86_64.rpm')
	# shellcheck disable=SC2034 # only the digest is looked for
	while read -r digest name; do
		case $name in *.provenance.json) continue ;; esac
		grep -q "$digest" "$provenance" || fail "the provenance does not tell of $name"
	done <"$dist/SHA256SUMS"

	dpkg-deb -x "$deb" "$tmp/deb"
	rpm -qpl "$rpm" 2>/dev/null | sed 's|site-functions|vendor-completions|' | sort >"$tmp/rpm-files"
	dpkg-deb -c "$deb" | awk '$1 !~ /^d/ { print substr($6, 2) }' | sort >"$tmp/deb-files"
	comm -13 "$tmp/rpm-files" "$tmp/deb-files" | grep . && fail "the .rpm does not have these files"
	[ "$(rpm -qpc "$rpm" 2>/dev/null)" = /etc/slipway/slipway.toml ] || fail "the .rpm has no configuration file"
	rpm -qp --qf '[%{FILENAMES} %{FILEFLAGS:fflags}\n]' "$rpm" 2>/dev/null | grep -q '^/etc/slipway/slipway.toml cn$' || fail "the .rpm would replace the configuration"
	rpm_installed "$rpm"
	units "$tmp/deb"
	cross

	mkdir "$tmp/context"
	cp "$deb" "$tmp/context/slipway.deb"
	cp hack/dist/debian.sh "$tmp/context/"
	printf 'FROM debian:bookworm\nRUN --network=none --mount=type=bind,target=/dist sh /dist/debian.sh\n' >"$tmp/context/Dockerfile"
	bin/slipway --root "$tmp/store" build --progress plain --no-cache -o type=cacheonly "$tmp/context" >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; fail "the package does not do in Debian"; }
	echo "dist-test: installed in Debian and purged, nothing is left"
}

# rpm_installed RPM: rpm itself installs it into a root with busybox alone, where its scripts run, upgrades and removes it, and leaves what was changed.
rpm_installed() {
	root=$tmp/rpm
	own_rpm() { rpm --root "$root" --dbpath /var/lib/rpm --force-debian --nodeps "$@"; }
	mkdir -p "$root/bin" "$root/tmp" "$root/etc/apparmor.d/abi"
	touch "$root/etc/apparmor.d/abi/4.0"
	busybox --install "$root/bin" && rm "$root/bin/busybox" && cp "$(command -v busybox)" "$root/bin/busybox"
	(cd "$root" && find . ! -path './var/lib/rpm*' ! -type d | sort) >"$tmp/rpm-before"
	own_rpm -i "$1" 2>"$tmp/rpm-says" || fail "$(cat "$tmp/rpm-says")"
	chroot "$root" /usr/bin/slipway version | grep ' linux/amd64 ' || fail "the program of the .rpm does not run"
	own_rpm -V slipway || fail "what is installed is not what the .rpm says"
	cmp "$root/usr/share/slipway/apparmor" "$root/etc/apparmor.d/slipway" || fail "the .rpm does not install AppArmor's profile"
	echo 'debug = true' >>"$root/etc/slipway/slipway.toml"
	own_rpm -U --force "$1" 2>"$tmp/rpm-says" || fail "$(cat "$tmp/rpm-says")"
	grep -q '^debug = true$' "$root/etc/slipway/slipway.toml" || fail "another .rpm replaces the configuration"
	[ -e "$root/etc/apparmor.d/slipway" ] || fail "another .rpm removes AppArmor's profile"
	own_rpm -e slipway 2>"$tmp/rpm-says" || fail "$(cat "$tmp/rpm-says")"
	grep -q '^debug = true$' "$root/etc/slipway/slipway.toml.rpmsave" || fail "removing the .rpm loses the configuration"
	rm "$root/etc/slipway/slipway.toml.rpmsave"
	(cd "$root" && find . ! -path './var/lib/rpm*' ! -type d | sort) >"$tmp/rpm-after"
	diff "$tmp/rpm-before" "$tmp/rpm-after" || fail "the .rpm leaves something, or removes what is not its own"
	[ ! -e "$root/usr/share/slipway" ] && [ ! -e "$root/usr/share/doc/slipway" ] || fail "the .rpm leaves directories"
	echo "dist-test: rpm installs, upgrades and removes the .rpm"
}

# units ROOT: systemd takes the units of a package, for the machine and for a user.
units() {
	if ! command -v systemd-analyze >/dev/null; then
		echo "dist-test: SKIPPED: the units are not verified: there is no systemd-analyze (Debian's package systemd)"
		return
	fi
	for manager in system user; do
		mkdir "$tmp/units"
		# They are verified against the program at the path where it is.
		sed "s|/usr/bin/slipway|$1/usr/bin/slipway|" "$1/usr/lib/systemd/$manager/slipway.service" >"$tmp/units/slipway.service"
		cp "$1/usr/lib/systemd/$manager/slipway.socket" "$tmp/units/"
		said=$(systemd-analyze verify --man=no "$tmp/units/slipway.socket" "$tmp/units/slipway.service" 2>&1) || fail "systemd does not take the units: $said"
		[ -z "$said" ] || fail "systemd says of the units: $said"
		grep -q 'ExecStart=/usr/bin/slipway ' "$1/usr/lib/systemd/$manager/slipway.service" || fail "the units do not start the package's program"
		rm -r "$tmp/units"
	done
	echo "dist-test: systemd takes the units"
}

# cross: the program for arm64 runs, and builds.
cross() {
	mkdir -p "$tmp/arm64" "$tmp/files"
	tar -C "$tmp/arm64" --strip-components=1 -xzf "$(one 'slipway-*-linux-arm64.tar.gz')"
	qemu-aarch64-static "$tmp/arm64/bin/slipway" version | grep ' linux/arm64 ' || fail "the program for arm64 does not say that it is that"
	printf 'FROM scratch\nCOPY hello /\n' >"$tmp/files/Dockerfile"
	echo hello >"$tmp/files/hello"
	qemu-aarch64-static "$tmp/arm64/bin/slipway" --root "$tmp/arm64-store" build -q -o "$tmp/arm64-out" "$tmp/files"
	cmp "$tmp/files/hello" "$tmp/arm64-out/hello"
	echo "dist-test: the program for arm64 builds"
}

# images: each of slipway's own images is one of both architectures, and what it has for arm64 runs in an emulator.
images() {
	for arch in amd64 arm64; do
		mkdir -p "$tmp/program/$arch"
		tar -C "$tmp/program/$arch" --strip-components=2 --wildcards -xzf "$(one "slipway-*-linux-$arch.tar.gz")" '*/bin/slipway'
	done
	for target in slipway debug; do
		tag=$target
		[ "$target" != slipway ] || tag=latest
		SLIPWAY_ROOT=$tmp/store PROGRAM=$tmp/program PLATFORMS=linux/amd64,linux/arm64 hack/image.sh "$target" --progress plain -o "type=local,dest=$tmp/$target" >"$tmp/log" 2>&1 ||
			{ cat "$tmp/log" >&2; fail "the image $target is not built"; }
		bin/slipway imagetools inspect "oci-layout://build/image/$target:$tag" >"$tmp/log"
		for arch in amd64 arm64; do
			grep -q "Platform: *linux/$arch\$" "$tmp/log" || fail "the image $target is not for $arch: $(cat "$tmp/log")"
			cmp "$tmp/program/$arch/slipway" "$tmp/$target/linux_$arch/.slipway/bin/slipway"
		done
	done
	qemu-aarch64-static "$tmp/slipway/linux_arm64/.slipway/bin/slipway" version | grep ' linux/arm64 ' || fail "the program in the image for arm64 is not for that"
	[ "$(qemu-aarch64-static "$tmp/debug/linux_arm64/.slipway/busybox/busybox" uname -m)" = aarch64 ] || fail "the shell in the image for arm64 is not for that"
	echo "dist-test: the images slipway and debug are for amd64 and arm64"
}

case ${1:-} in
again | packages | images) "$1" ;;
*) echo "usage: hack/dist-test.sh again|packages|images" >&2; exit 2 ;;
esac
