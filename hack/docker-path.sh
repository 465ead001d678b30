# shellcheck shell=sh
# Sourced by the demonstration scripts, from the repository's root: puts a directory into PATH in
# which docker is slipway, and gives slipway a store of its own.
work=$PWD/build/demo
mkdir -p "$work/bin"
ln -sf "$PWD/bin/slipway" "$work/bin/docker"
PATH=$work/bin:$PATH
SLIPWAY_ROOT=$PWD/build/demo-store
export PATH SLIPWAY_ROOT

# say TEXT: a heading.
say() { printf '\n== %s\n' "$*"; }

# show COMMAND...: prints a command and runs it.
show() {
	printf '$ %s\n' "$*"
	"$@"
}
