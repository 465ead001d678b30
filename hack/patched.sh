#!/bin/sh
# Makes build/patched: a copy of each module that hack/patches changes, with the change, and a go.mod that has
# them in place of the originals, for "go build -modfile". A patch is named by the module and the version that it
# is for. Without the copies, by a plain "go build", slipway does the same and starts slower.
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
out=build/patched
inputs=$(find go.mod go.sum hack/patched.sh hack/patches -type f | sort | xargs sha256sum)
if [ "$inputs" = "$(cat $out/inputs 2>/dev/null)" ]; then
	exit 0
fi

rm -rf $out $out.new
mkdir -p $out.new
cp go.mod go.sum $out.new
for patch in $(find hack/patches -name '*.patch' | sort); do
	module=${patch#hack/patches/}
	module=${module%.patch}
	used=$($go list -m -f '{{.Path}}@{{.Version}}' "${module%@*}")
	if [ "$used" != "$module" ]; then
		echo "$patch is not for $used, which go.mod has: make it anew, or remove it" >&2
		exit 1
	fi
	dir=$($go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
	mkdir -p "$out.new/$module"
	cp -r "$dir/." "$out.new/$module"
	chmod -R u+w "$out.new/$module"
	patch -s -p1 -F0 --no-backup-if-mismatch -d "$out.new/$module" <"$patch"
	echo "replace ${module%@*} => ./$out/$module" >>$out.new/go.mod
done
echo "$inputs" >$out.new/inputs
mv $out.new $out
