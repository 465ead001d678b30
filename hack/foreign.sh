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
