#!/bin/sh
# Builds an image of contrib/image/Dockerfile by slipway: it is in the store then, and as an OCI layout in build/image/TARGET.
#
#   hack/image.sh TARGET [FLAG OF slipway build...]
#
# IMAGE is its name without a tag, "slipway" if unset; the tag of "slipway" is latest, that of other targets is their name.
# VERSION, COMMIT and DATE are what the program says of itself. With PROGRAM=DIR the program is DIR/ARCHITECTURE/slipway, and is not compiled in the image. With
# PLATFORMS=linux/amd64,linux/arm64 the image is an index of both; for the target daemon an emulator is wanted (docs/dockerfile.md).
set -eu
cd "$(dirname "$0")/.."
target=$1
shift
tag=$target
[ "$target" != slipway ] || tag=latest

# root writes an OCI layout of one layer, for both architectures, in which there is nothing but the root directory: every user may add to it and take from
# it, as a step in place does (docs/unprivileged.md). No instruction of a Dockerfile gives a layer that. CRI-O gives the root directory of a container this
# owner and mode; containerd leaves it to root.
root() {
	rm -rf build/image/root
	mkdir -p build/image/root/blobs/sha256 build/image/root/files
	tar --format=ustar --numeric-owner --owner=1000 --group=0 --mode=0777 --mtime=@0 -C build/image/root/files -cf build/image/root/layer .
	rmdir build/image/root/files
	diff=$(sha256sum build/image/root/layer | cut -d' ' -f1)
	gzip -n build/image/root/layer
	layer=$(blob layer.gz) manifests=
	for arch in amd64 arm64; do
		printf '{"created":"1970-01-01T00:00:00Z","architecture":"%s","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"chown 1000 / and chmod 0777 /"}]}' \
			"$arch" "$diff" >build/image/root/config
		config=$(blob config)
		printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json",%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",%s}]}' \
			"$config" "$layer" >build/image/root/manifest
		manifests="$manifests${manifests:+,}{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",$(blob manifest),\"platform\":{\"os\":\"linux\",\"architecture\":\"$arch\"}}"
	done
	printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}' "$manifests" >build/image/root/index
	printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json",%s,"annotations":{"org.opencontainers.image.ref.name":"latest"}}]}' \
		"$(blob index)" >build/image/root/index.json
	printf '{"imageLayoutVersion":"1.0.0"}' >build/image/root/oci-layout
}

# blob FILE moves a file of the layout to where its digest says, and prints what a descriptor says of it.
blob() {
	digest=$(sha256sum "build/image/root/$1" | cut -d' ' -f1)
	printf '"digest":"sha256:%s","size":%s' "$digest" "$(wc -c <"build/image/root/$1")"
	mv "build/image/root/$1" "build/image/root/blobs/sha256/$digest"
}

root
rm -rf "build/image/$target"
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || set -- --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt "$@"
[ -z "${PLATFORMS:-}" ] || set -- --platform "$PLATFORMS" "$@"
[ -z "${PROGRAM:-}" ] || set -- --build-context "program=$PROGRAM" "$@"
bin/slipway build -f contrib/image/Dockerfile --target "$target" --build-context root=oci-layout://build/image/root \
	--build-arg "VERSION=${VERSION:-}" --build-arg "COMMIT=${COMMIT:-}" --build-arg "DATE=${DATE:-}" -t "${IMAGE:-slipway}:$tag" \
	-o type=image -o "type=oci,tar=false,dest=build/image/$target" "$@" .
