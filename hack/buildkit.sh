#!/bin/sh
# Compiles buildkitd, buildctl and buildx, or the programs that are named, of which there are docker and docker-compose
# as well, into a directory, from the sources of the releases that slipway links, with the versions of modules that each
# release was tested with.
set -eu

out=${1:?usage: hack/buildkit.sh DIR [PROGRAM...]}
shift
wanted=" ${*:-buildkitd buildctl buildx} "
mkdir -p "$out"
out=$(cd "$out" && pwd)
mod=$(mktemp -d)
trap 'rm -rf "$mod"' EXIT

# compose is the newest release that the Go of go.mod compiles. Slipway links nothing of it.
compose=v5.6.0

# wanted PROGRAM: it was asked for.
wanted() {
	case $wanted in
	*" $1 "*) ;;
	*) return 1 ;;
	esac
}

# compile PROGRAM MODULE VERSION VARIABLE PACKAGE FLAG...: a program that tells the version with the flags is there already.
# The variable is what tells it.
compile() {
	program=$1 module=$2 version=$3 variable=$4 package=$5
	shift 5
	if [ -x "$out/$program" ] && "$out/$program" "$@" | grep -qE "(^|[ ])$version([, ]|\$)"; then
		return
	fi
	# The module cache is read-only, so go.mod is copied; where it is called vendor.mod, all is.
	sources=$(cd "$mod" && go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
	rm -rf "$mod/sources" "$mod/go.mod" "$mod/go.sum"
	if [ -e "$sources/vendor.mod" ]; then
		cp -r "$sources" "$mod/sources"
		chmod -R u+w "$mod/sources"
		rm -rf "$mod/sources/vendor"
		sources=$mod/sources
		mv "$sources/vendor.mod" "$sources/go.mod"
		mv "$sources/vendor.sum" "$sources/go.sum"
	fi
	cp "$sources/go.mod" "$sources/go.sum" "$mod"
	chmod u+w "$mod/go.mod" "$mod/go.sum"
	(cd "$sources" && CGO_ENABLED=0 go build -buildvcs=false -mod=mod -modfile="$mod/go.mod" \
		-ldflags "-X $variable=$version" -o "$out/$program" "$package")
}

# linked MODULE: the version of it that slipway links.
linked() { go list -m -f '{{.Version}}' "$1"; }

for program in buildkitd buildctl; do
	if wanted $program; then
		version=$(linked github.com/moby/buildkit)
		compile $program "github.com/moby/buildkit@$version" "$version" github.com/moby/buildkit/version.Version ./cmd/$program --version
	fi
done
if wanted buildx; then
	version=$(linked github.com/docker/buildx)
	compile buildx "github.com/docker/buildx@$version" "$version" github.com/docker/buildx/version.Version ./cmd/buildx version
fi
if wanted docker; then
	version=$(linked github.com/docker/cli)
	plain=${version#v}
	compile docker "github.com/docker/cli@$version" "${plain%+incompatible}" github.com/docker/cli/cli/version.Version ./cmd/docker --version
fi
if wanted docker-compose; then
	compile docker-compose "github.com/docker/compose/v5@$compose" $compose github.com/docker/compose/v5/internal.Version ./cmd version
fi
