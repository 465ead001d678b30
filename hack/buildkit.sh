#!/bin/sh
# Compiles buildkitd, buildctl and buildx, or those of them that are named, into a directory, from the sources of the
# releases that slipway links, with the versions of modules that each release was tested with.
set -eu

out=${1:?usage: hack/buildkit.sh DIR [PROGRAM...]}
shift
wanted=" ${*:-buildkitd buildctl buildx} "
mkdir -p "$out"
out=$(cd "$out" && pwd)
mod=$(mktemp -d)
trap 'rm -rf "$mod"' EXIT

# compile PROGRAM MODULE FLAG: a program that tells the module's version with the flag is there already.
compile() {
	program=$1 module=$2 flag=$3
	case $wanted in
	*" $program "*) ;;
	*) return ;;
	esac
	version=$(go list -m -f '{{.Version}}' "$module")
	if [ -x "$out/$program" ] && "$out/$program" "$flag" | grep -qF " $version "; then
		return
	fi
	go mod download "$module"
	# The module cache is read-only, so go.mod is copied.
	sources=$(go list -m -f '{{.Dir}}' "$module")
	cp "$sources/go.mod" "$sources/go.sum" "$mod"
	chmod u+w "$mod"/*
	(cd "$sources" && CGO_ENABLED=0 go build -buildvcs=false -mod=mod -modfile="$mod/go.mod" \
		-ldflags "-X $module/version.Version=$version" -o "$out/$program" "./cmd/$program")
}

compile buildkitd github.com/moby/buildkit --version
compile buildctl github.com/moby/buildkit --version
compile buildx github.com/docker/buildx version
