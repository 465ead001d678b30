#!/bin/sh
# Makes what is released, in build/dist: for linux/amd64 and linux/arm64 the static program in a .tar.gz, a .deb and a .rpm, with an SBOM; a statement
# of provenance, and SHA256SUMS of all of them. The same commit gives the same bytes with the same versions of the tools, which provenance names.
# VERSION, COMMIT and DATE are those of hack/version.sh; on amd64 alone.
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
NFPM=github.com/goreleaser/nfpm/v2@v2.45.2 # pinned, as a new one may write other bytes
VERSION=${VERSION:-$(hack/version.sh)} COMMIT=${COMMIT:-$(hack/version.sh commit)} DATE=${DATE:-$(hack/version.sh date)}
if [ -z "$VERSION" ] || [ -z "$COMMIT" ] || [ -z "$DATE" ]; then
	echo "hack/dist.sh: this is no git repository: VERSION, COMMIT and DATE have to say of what commit it is" >&2
	exit 1
fi
if [ "$(uname -m)" != x86_64 ]; then
	echo "hack/dist.sh: this is $(uname -m): the tools of another machine would give other bytes than those of amd64" >&2
	exit 1
fi
SOURCE_DATE_EPOCH=$(date -u -d "$DATE" +%s)
export SOURCE_DATE_EPOCH VERSION TZ=UTC0 LC_ALL=C.UTF-8
umask 022
out=build/dist work=$PWD/build/dist-work
rm -rf "$out" "$work"
mkdir -p "$out" "$work"

hack/patched.sh
flags="-modfile=build/patched/go.mod -trimpath -buildvcs=false -tags=seccomp,netgo,osusergo,grpcnotrace"
stamp=github.com/slipway-build/slipway/internal/cli
# own PACKAGE DIR: a program of this repository for this machine.
# shellcheck disable=SC2086 # several flags
own() { hack/go.sh build $flags -o "$work/tools/$(basename "$1")" "./$1"; }
own hack/dist
own hack/commands

# What of Debian is linked, and what links it. Of the other architecture it is in build/dist-arm64.
arch=arm64 dir=$PWD/build/dist-arm64
. hack/foreign.sh
foreign_libraries
version_of() { dpkg-query -W -f '${Version}' "$1"; }
foreign_version=$(dpkg-deb -f "$dir"/libseccomp-dev_*.deb Version)
purl() { echo "pkg:deb/debian/$1@$(echo "$2" | sed 's/:/%3A/g; s/+/%2B/g')?arch=$3"; }

# compile ARCH: into $work/ARCH/slipway. Its build ID would be of the path to libseccomp of the other architecture.
# shellcheck disable=SC2086
compile() (
	export CGO_ENABLED=1 GOARCH="$1"
	[ "$1" = amd64 ] || foreign_compiler root
	GO="$go" hack/go.sh build $flags -ldflags "-s -w -buildid= -extldflags -static -X $stamp.Version=$VERSION -X $stamp.Commit=$COMMIT -X $stamp.Date=$DATE" -o "$work/$1/slipway" ./cmd/slipway
)

# about ARCH COMMAND...: what is told of the program of an architecture.
about() {
	arch=$1
	shift
	libseccomp=$(version_of libseccomp-dev) libc="musl,$(version_of musl-dev),MIT,/usr/share/doc/musl-dev/copyright"
	[ "$arch" = amd64 ] || libseccomp=$foreign_version libc="glibc,$(version_of libc6-dev-arm64-cross),LGPL-2.1-or-later,/usr/share/doc/libc6-dev-arm64-cross/copyright"
	"$work/tools/dist" -version "$VERSION" -commit "$COMMIT" -date "$DATE" -library "libseccomp,$libseccomp,LGPL-2.1-only,/usr/share/doc/libseccomp-dev/copyright" -library "$libc" "$@"
}

# prefix ARCH DIR PREFIX: what is installed below a prefix, but for the completions of zsh, whose place is each system's own.
prefix() {
	mkdir -p "$2/bin" "$2/share/man/man1" "$2/share/bash-completion/completions" "$2/share/fish/vendor_completions.d" "$2/share/doc/slipway/docs/schemas" "$2/share/slipway" "$2/lib/systemd/system" "$2/lib/systemd/user"
	install -m 755 "$work/$1/slipway" "$2/bin/slipway"
	cp "$work"/man/*.gz "$2/share/man/man1/"
	cp "$work/completion/bash" "$2/share/bash-completion/completions/slipway"
	cp "$work/completion/fish" "$2/share/fish/vendor_completions.d/slipway.fish"
	cp README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE "$2/share/doc/slipway/"
	cp docs/*.md docs/*.svg "$2/share/doc/slipway/docs/"
	cp docs/schemas/*.json "$2/share/doc/slipway/docs/schemas/"
	about "$1" licences "$work/$1/slipway" >"$2/share/doc/slipway/THIRD-PARTY-LICENCES"
	gzip -9n "$2/share/doc/slipway/THIRD-PARTY-LICENCES"
	"$work/tools/dist" apparmor "$3/bin/slipway" >"$2/share/slipway/apparmor"
	for unit in slipway.socket slipway.service; do
		sed "s|/usr/local/bin/|$3/bin/|" "contrib/systemd/$unit" >"$2/lib/systemd/system/$unit"
		cp "$2/lib/systemd/system/$unit" "$2/lib/systemd/user/$unit"
	done
}

# dated DIR: all of it is as old as the commit.
dated() { find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +; }

# pack ARCH: its tarball and packages.
pack() {
	name=slipway-$VERSION-linux-$1 tree=$work/$1/package
	prefix "$1" "$work/$1/$name" /usr/local
	mkdir "$work/$1/$name/share/zsh" "$work/$1/$name/share/zsh/site-functions"
	cp "$work/completion/zsh" "$work/$1/$name/share/zsh/site-functions/_slipway"
	cp contrib/slipway.toml "$work/$1/$name/share/slipway/"
	dated "$work/$1/$name"
	tar --format=ustar --sort=name --numeric-owner --owner=0 --group=0 -C "$work/$1" -cf - "$name" | gzip -9n >"$out/$name.tar.gz"

	prefix "$1" "$tree/usr" /usr
	printf 'slipway is licensed under Apache-2.0 (LICENSE here, and /usr/share/common-licenses/Apache-2.0).\nWhat its program has linked in is under the licences of THIRD-PARTY-LICENCES.gz.\n' >"$tree/usr/share/doc/slipway/copyright"
	mkdir -p "$tree/etc/slipway" "$tree/zsh"
	cp contrib/slipway.toml "$tree/etc/slipway/"
	cp "$work/completion/zsh" "$tree/zsh/_slipway"
	dated "$tree"
	for packager in deb rpm; do
		ARCH=$1 TREE=$tree "$work/tools/nfpm" package --config contrib/packages/nfpm.yaml --packager "$packager" --target "$out/" >&2
	done
	about "$1" sbom "$work/$1/slipway" >"$out/$name.spdx.json"
}

(cd "$work" && GOBIN="$work/tools" CGO_ENABLED=0 GOFLAGS= "$go" install "${NFPM%@*}/cmd/nfpm@${NFPM#*@}")
compile amd64
compile arm64
"$work/tools/commands" -man "$work/man" -version "$VERSION"
gzip -9n "$work"/man/*
mkdir "$work/completion"
for shell in bash zsh fish; do "$work/amd64/slipway" completion "$shell" >"$work/completion/$shell"; done
pack amd64
pack arm64

"$work/tools/dist" -version "$VERSION" -commit "$COMMIT" -date "$DATE" \
	-tool "pkg:generic/go@$("$go" env GOVERSION | sed 's/^go//')?arch=amd64" \
	-tool "pkg:golang/$NFPM" \
	-tool "$(purl gcc "$(version_of gcc)" amd64)" -tool "$(purl musl-dev "$(version_of musl-dev)" amd64)" -tool "$(purl libseccomp-dev "$(version_of libseccomp-dev)" amd64)" \
	-tool "$(purl gcc-aarch64-linux-gnu "$(version_of gcc-aarch64-linux-gnu)" amd64)" -tool "$(purl libc6-dev-arm64-cross "$(version_of libc6-dev-arm64-cross)" all)" \
	-tool "$(purl libseccomp-dev "$foreign_version" arm64)" \
	provenance "$out"/* >"$work/provenance"
mv "$work/provenance" "$out/slipway-$VERSION.provenance.json"
(cd "$out" && sha256sum -- * >"$work/sums" && mv "$work/sums" SHA256SUMS)
rm -rf "$work"
ls -l "$out" | sed 1d | awk '{ printf "%10d  %s\n", $5, $9 }'
