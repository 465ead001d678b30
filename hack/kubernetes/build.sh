#!/bin/sh
# Compiles what a cluster is made of from Go's module proxy into build/kubernetes/bin, as far as it is not there: hyperkube (all commands of Kubernetes),
# containerd with its shim, and runc. Once, some 30 minutes of a core.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bin=${SLIPWAY_KUBERNETES:-$here/../../build/kubernetes}/bin
mkdir -p "$bin"
bin=$(cd "$bin" && pwd)
version=1.33.5 # 1.35 and later refuse cgroups of version 1
export GOFLAGS="-buildvcs=false -trimpath"

# build NAME MODULE ARGUMENT...: one program, which is there whole or not at all
build() {
	[ ! -e "$bin/$1" ] || return 0
	echo "compiling $1"
	name=$1 module=$2
	shift 2
	(cd "$here/testdata/modules/$module" && nice -n 5 "${GO:-go}" build -p 2 -o "$bin/$name.new" "$@")
	mv "$bin/$name.new" "$bin/$name"
}

stamp="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
	stamp="$stamp -X $package.gitVersion=v$version -X $package.gitMajor=1 -X $package.gitMinor=33 -X $package.gitTreeState=clean"
done
CGO_ENABLED=0 build hyperkube hyperkube -ldflags "$stamp" .
containerd=github.com/containerd/containerd/v2
for name in containerd containerd-shim-runc-v2; do
	CGO_ENABLED=0 build $name containerd -tags "netgo osusergo static_build no_btrfs no_devmapper no_zfs" -ldflags "-s -w -X $containerd/version.Version=2.3.4" $containerd/cmd/$name
done
CGO_ENABLED=1 build runc runc -tags "seccomp urfave_cli_no_docs" -ldflags "-s -w" github.com/opencontainers/runc
for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
	ln -sf hyperkube "$bin/$name"
done
