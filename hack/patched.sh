#!/bin/sh
# Makes build/patched: a copy of each module that hack/patches changes, with the change, and a go.mod that has
# them in place of the originals, for "go build -modfile". A patch is named by the module and the version that it
# is for. Without the copies, by a plain "go build", slipway does the same and starts slower.
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
out=build/patched
mkdir -p build
exec 9>$out.lock
flock 9
inputs=$(find go.mod go.sum hack/patched.sh hack/patches -type f | sort | xargs sha256sum)
# sum is over what the go command will compile, which it does not verify for a module that is replaced.
sum() { (cd $out 2>/dev/null && find . -type f ! -name made | sort | xargs -d '\n' sha256sum | sha256sum); }
if [ "$inputs $(sum)" = "$(cat $out/made 2>/dev/null)" ]; then
	exit 0
fi

rm -rf $out
mkdir $out
cp go.mod go.sum $out
for patch in $(find hack/patches -name '*.patch' | sort); do
	module=${patch#hack/patches/}
	module=${module%.patch}
	used=$($go list -m -f '{{.Path}}@{{.Version}}' "${module%@*}")
	if [ "$used" != "$module" ]; then
		echo "$patch is not for $used, which go.mod has: make it anew, or remove it" >&2
		exit 1
	fi
	dir=$($go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
	mkdir -p "$out/$module"
	cp -r "$dir/." "$out/$module"
	chmod -R u+w "$out/$module"
	patch -s -p1 -F0 --no-backup-if-mismatch -d "$out/$module" <"$patch"
	# Who finds a changed file is told so, as licences want it.
	sed -n 's/^+++ b\/\([^\t]*\).*/\1/p' "$patch" | while read -r file; do
		sed -i '1i// This file was changed for slipway, see its hack/patches.\n' "$out/$module/$file"
	done
	echo "replace ${module%@*} => ./$out/$module" >>$out/go.mod
done
echo "$inputs $(sum)" >$out/made
