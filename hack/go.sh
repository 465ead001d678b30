#!/bin/sh
# Runs the go command so that what it builds is linked with musl, if musl and a libseccomp that links with it are there.
# The start of glibc asks the processor some forty times what it can do, and each question is an exit of a virtual
# machine: 0.3 ms of each start of slipway, where musl's asks nothing. Of C, slipway has little that cares.
set -eu
go=${GO:-go}
# Whoever chooses a compiler has it.
if [ -n "${CC:-}" ] || ! command -v musl-gcc >/dev/null 2>&1; then
	exec "$go" "$@"
fi
# The libraries and headers of others are looked for after musl's own, and linked statically: what is shared is glibc's.
# A thread of musl's would have 128 KiB of stack.
headers="-idirafter /usr/include"
libraries="-static -Wl,-z,stack-size=0x100000"
if multiarch=$(gcc -print-multiarch 2>/dev/null) && [ -n "$multiarch" ]; then
	headers="$headers -idirafter /usr/include/$multiarch"
	libraries="$libraries -L/usr/lib/${multiarch%-gnu}-musl -L/usr/lib/$multiarch"
fi
# libzstd is four per cent quicker with -O3, which is what its own Makefile takes.
export CC=musl-gcc CGO_CFLAGS="-O3 -g $headers" CGO_LDFLAGS="-O2 -g $libraries"
exec "$go" "$@"
