#!/bin/bash
# Runs the shell's blocks of docs/clients.md, one after the other in one shell, and its program in Go: hack/clients.sh SLIPWAY DIR,
# where DIR has buildx and buildctl, below "bases exec", as root. It sees a /run of its own, and leaves nothing behind.
set -euo pipefail

if [ -z "${CLIENTS_ROOM:-}" ]; then
	slipway=$(readlink -f "${1:?usage: hack/clients.sh SLIPWAY DIR}") tools=$(readlink -f "${2:?usage: hack/clients.sh SLIPWAY DIR}")
	top=$(cd "$(dirname "$0")/.." && pwd)
	room=$(mktemp -d)
	trap 'rm -rf --one-file-system "$room"' EXIT
	# All that is started ends with the first process of the room.
	CLIENTS_ROOM=$room unshare --mount --pid --fork --kill-child --mount-proc "$top/hack/clients.sh" "$slipway" "$tools"
	exit
fi

slipway=$1 tools=$2 room=$CLIENTS_ROOM
top=$(cd "$(dirname "$0")/.." && pwd)
mount -t tmpfs -o mode=755 none /run
mkdir -p "$room"/{bin,far,home,app,lib,certs}
ln -s "$slipway" "$room/bin/slipway"
ln -s "$tools/buildctl" "$room/bin/buildctl"
ln -s "$slipway" "$room/far/buildctl"
printf '#!/bin/sh\n[ "$1" = buildx ] && shift && exec %s "$@"\n' "$tools/buildx" >"$room/bin/docker"
# The other machine is this one.
printf '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift 2\nPATH=%s:$PATH exec "$@"\n' "$room/far" >"$room/bin/ssh"
chmod +x "$room/bin/docker" "$room/bin/ssh"

cat >"$room/registry.yml" <<-EOF
	version: 0.1
	storage: {filesystem: {rootdirectory: $room/registry}}
	http: {addr: "127.0.0.1:0"}
EOF
docker-registry serve "$room/registry.yml" 2>"$room/registry.log" &
until port=$(grep -om1 'listening on 127.0.0.1:[0-9]*' "$room/registry.log"); do
	kill -0 $! || { cat "$room/registry.log" >&2; exit 1; }
	sleep 0.1
done
cp -r "${SLIPWAY_CERTS_DIR:?is set by bases exec}/." "$room/certs"
mkdir "$room/certs/registry.example.com"
printf 'server = "http://127.0.0.1:%s"\n' "${port##*:}" >"$room/certs/registry.example.com/hosts.toml"

cat >"$room/app/Dockerfile" <<-'EOF'
	FROM alpine AS build
	RUN echo hello >/hello

	FROM scratch AS lib

	FROM alpine AS test
	COPY . /src
	RUN --mount=type=secret,id=token,required=true --mount=from=lib,target=/lib cat /lib/part /run/secrets/token

	FROM alpine
	COPY --from=build /hello /
	CMD ["cat", "/hello"]
EOF
cat >"$room/app/docker-bake.hcl" <<-'EOF'
	group "default" { targets = ["app", "build"] }
	target "app" { tags = ["app:v1"] }
	target "build" { target = "build" }
EOF
echo secret >"$room/app/token.txt"
echo part >"$room/lib/part"

awk '/^```go$/ {on = 1; next} /^```/ {on = 0} on' "$top/docs/clients.md" >"$room/main.go"
(cd "$top" && go build -buildvcs=false -o "$room/bin/program" "$room/main.go")
{
	awk '/^```sh$/ {on = 1; next} /^```/ {on = 0} on' "$top/docs/clients.md"
	echo 'rm -rf out; program; grep hello out/file'
} >"$room/script"
export PATH="$room/bin:$PATH" HOME="$room/home" SLIPWAY_CERTS_DIR="$room/certs" SLIPWAY_ROOT="$room/store"
cd "$room/app"
bash -ev "$room/script" </dev/null
echo "docs/clients.md: all of it works"
