#!/bin/sh
# Records what README.md shows, docs/session.svg: hack/session.sh SLIPWAY, with build/tools/record, on the base images of SLIPWAY_CERTS_DIR.
set -eu
cd "$(dirname "$0")/.."
program=$(realpath "$1") record=$PWD/build/tools/record out=$PWD/docs/session.svg
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/bin" "$tmp/hello"
ln -s "$program" "$tmp/bin/slipway"
cd "$tmp/hello"
cat >Dockerfile <<'END'
FROM alpine AS build
WORKDIR /src
COPY message .
RUN tr a-z A-Z <message >shout
FROM alpine
COPY --from=build /src/shout /
CMD ["cat", "/shout"]
END
echo "hello from a container" >message
cat >"$tmp/script" <<'END'
# No daemon runs. slipway is one static program.
cat Dockerfile
slipway build -t hello .
slipway run --rm hello
# Something changes: what depends on it runs again, and slipway tells why.
echo "hello again" >message
slipway build -t hello .
slipway why
slipway images
END
env PATH="$tmp/bin:$PATH" SLIPWAY_ROOT="$tmp/store" XDG_CONFIG_HOME="$tmp/none" "$record" -columns 100 -o "$out" "$tmp/script"
