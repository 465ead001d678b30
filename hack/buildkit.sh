#!/bin/sh
# Compiles buildkitd and buildctl into a directory, from the sources of the release of BuildKit that
# slipway links, with the versions of modules that this release was tested with.
set -eu

out=${1:?usage: hack/buildkit.sh DIR}
module=github.com/moby/buildkit
mkdir -p "$out"
out=$(cd "$out" && pwd)
version=$(go list -m -f '{{.Version}}' "$module")
if [ -x "$out/buildkitd" ] && "$out/buildkitd" --version | grep -qF " $version "; then
	exit 0
fi
go mod download "$module"
mod=$(mktemp -d)
trap 'rm -rf "$mod"' EXIT
# The module cache is read-only, so go.mod is copied.
sources=$(go list -m -f '{{.Dir}}' "$module")
cp "$sources/go.mod" "$sources/go.sum" "$mod"
chmod u+w "$mod"/*
cd "$sources"
CGO_ENABLED=0 go build -buildvcs=false -mod=mod -modfile="$mod/go.mod" \
	-ldflags "-X $module/version.Version=$version" -o "$out/" ./cmd/buildkitd ./cmd/buildctl
