# Sourced: Debian's packages of an architecture, downloaded and unpacked without a change of this machine's. It wants
# $arch, Debian's name of it, and $dir, where the lists and packages are kept.

# foreign COMMAND...: apt-get or apt-cache with the lists and packages of the architecture.
foreign() {
	command=$1
	shift
	"$command" -o APT::Architecture="$arch" -o APT::Architectures="$arch" -o Dir::State="$dir/apt" -o Dir::State::status=/dev/null -o Dir::Cache="$dir/apt" "$@"
}

foreign_update() {
	mkdir -p "$dir/apt/lists/partial" "$dir/apt/archives/partial"
	foreign apt-get update -qq
}

# unpack_foreign INTO PACKAGE...: into a directory of $dir.
unpack_foreign() (
	cd "$dir"
	into=$1
	shift
	foreign apt-get download -qq "$@"
	for package; do dpkg-deb -x "$package"_*.deb "$into"; done
)

# foreign_compiler ROOT: from here on the go command compiles for it, with the libraries that were unpacked into ROOT. The flags name ROOT, and pkg-config
# does not, because Go's build cache keeps what pkg-config said for whoever compiles in another directory.
foreign_compiler() {
	triple=aarch64-linux-gnu
	[ "$arch" = arm64 ] || triple=x86_64-linux-gnu
	export CGO_ENABLED=1 GOARCH="$arch" CC="$triple-gcc" PKG_CONFIG_LIBDIR="$dir/$1/usr/lib/$triple/pkgconfig"
	export CGO_CFLAGS="-O3 -g -I$dir/$1/usr/include" CGO_LDFLAGS="-O2 -g -L$dir/$1/usr/lib/$triple"
}

# foreign_libraries: what slipway is linked with, in $dir/root.
foreign_libraries() {
	[ -e "$dir/root/usr/include/seccomp.h" ] && return
	foreign_update
	unpack_foreign root libseccomp-dev
}
