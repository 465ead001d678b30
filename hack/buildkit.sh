#!/bin/sh
# Compiles buildkitd, buildctl and buildx into a directory, from the sources of the releases that slipway
# links, with the versions of modules that each release was tested with.
set -eu

out=${1:?usage: hack/buildkit.sh DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
mod=$(mktemp -d)
trap 'rm -rf "$mod"' EXIT

# compile MODULE PROGRAM...: the first program tells the version that is there.
compile() {
	module=$1
	shift
	version=$(go list -m -f '{{.Version}}' "$module")
	if [ -x "$out/$1" ] && "$out/$1" ${flag---version} | grep -qF " $version "; then
		return
	fi
	go mod download "$module"
	# The module cache is read-only, so go.mod is copied.
	sources=$(go list -m -f '{{.Dir}}' "$module")
	cp "$sources/go.mod" "$sources/go.sum" "$mod"
	chmod u+w "$mod"/*
	for program; do
		set -- "$@" "./cmd/$program"
		shift
	done
	(cd "$sources" && CGO_ENABLED=0 go build -buildvcs=false -mod=mod -modfile="$mod/go.mod" \
		-ldflags "-X $module/version.Version=$version" -o "$out/" "$@")
}

compile github.com/moby/buildkit buildkitd buildctl
flag=version compile github.com/docker/buildx buildx
