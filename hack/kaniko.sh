#!/bin/sh
# Compiles the last release of kaniko, to be timed beside slipway, from its module.
set -eu

out=${1:?usage: hack/kaniko.sh FILE}
module=github.com/GoogleContainerTools/kaniko
version=v1.24.0
[ ! -x "$out" ] || exit 0
mkdir -p "$(dirname "$out")"
out=$(cd "$(dirname "$out")" && pwd)/$(basename "$out")
mod=$(mktemp -d)
trap 'rm -rf "$mod"' EXIT
cd "$mod"
printf 'module x\n' >go.mod
sources=$(go mod download -json "$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
# The module cache is read-only, so go.mod is copied.
cp "$sources/go.mod" "$sources/go.sum" "$mod"
chmod u+w "$mod"/*
cd "$sources"
CGO_ENABLED=0 go build -buildvcs=false -trimpath -mod=mod -modfile="$mod/go.mod" -o "$out" ./cmd/executor
