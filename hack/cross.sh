#!/bin/sh
# Runs a command that compiles slipway for amd64 or arm64, on either of them: hack/cross.sh arm64 make build. On Debian, as root, where it is not this machine's:
# then it installs Debian's cross-compiler and takes Debian's libseccomp, in build/dist-ARCH.
set -eu
cd "$(dirname "$0")/.."
arch=${1:?usage: hack/cross.sh amd64|arm64 COMMAND...}
shift
if [ "$arch" != "$("${GO:-go}" env GOHOSTARCH)" ]; then
	hack/deps.sh "cross-$arch"
	dir=$PWD/build/dist-$arch
	. hack/foreign.sh
	foreign_libraries
	foreign_compiler root
fi
exec "$@"
