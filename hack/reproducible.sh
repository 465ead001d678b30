#!/bin/sh
# Runs a go build command twice, the second time in a copy of the tree elsewhere and without the
# build cache of the first, and compares the binaries.
set -eu
cd "$(dirname "$0")/.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/tree"
git ls-files -z --cached --others --exclude-standard | tar --null --ignore-failed-read -cf - -T - | tar -xf - -C "$tmp/tree"

both() {
	out=$1
	shift
	hack/patched.sh
	"$@" -o "$out" ./cmd/slipway
}
both "$tmp/first" "$@"
(cd "$tmp/tree" && export GOCACHE="$tmp/cache" && both "$tmp/second" "$@")
if ! cmp "$tmp/first" "$tmp/second"; then
	echo "the same source gave two different binaries" >&2
	exit 1
fi
echo "reproducible: $(sha256sum <"$tmp/first" | cut -c1-64)"
