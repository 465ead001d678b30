#!/bin/sh
# Makes a small store by a released slipway, which every later one has to upgrade (TestReleasedStores in internal/store):
#   hack/store-fixture.sh PROGRAM VERSION
set -eu
program=$(realpath "$1") version=$2
cd "$(dirname "$0")/.."
out=$PWD/internal/store/testdata/store-$version.tar.gz
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/example" "$(dirname "$out")"
cd "$tmp/example"
printf 'FROM scratch AS files\nCOPY hello /greeting\nFROM files\nCOPY --from=files /greeting /again\nENV NAME=value\n' >Dockerfile
echo hello >hello
printf '[history]\nmaxEntries = 0\n' >"$tmp/settings" # records of builds tell of this machine
slipway() { "$program" --config-file "$tmp/settings" --root "$tmp/store" "$@" >/dev/null 2>&1; }
SOURCE_DATE_EPOCH=1700000000 slipway build -t example.com/fixture:v1 .
slipway create --name kept example.com/fixture:v1 /x
slipway save -o "$tmp/saved" example.com/fixture:v1
rm -rf "$tmp/store/reserve" "$tmp/store/spare"
tar -C "$tmp" --sort=name --numeric-owner --owner=0 --group=0 -cf - store | gzip -9n >"$out"
