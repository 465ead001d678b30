#!/bin/sh
# Builds and runs every example, behind `make examples`. The operator downloads a module.
set -eu
cd "$(dirname "$0")/.."
hack/demo.sh
. hack/docker-path.sh

# operate IMAGE: two rounds, of which the second must find nothing to do, as the image's user.
operate() {
	state=$(mktemp -d)
	chmod 777 "$state"
	docker run --rm -v "$state:/var/lib/manager" "$1" -once | tee "$work/first"
	docker run --rm -v "$state:/var/lib/manager" "$1" -once | tee "$work/second"
	rm -rf "$state"
	grep -q 'as uid 10001: 3 actions' "$work/first"
	grep -q 'as uid 10001: 0 actions' "$work/second"
}

say "An operator, multi-stage: tests, then the image"
show docker build ${GOPROXY:+--build-arg GOPROXY} --target test examples/operator
show docker build ${GOPROXY:+--build-arg GOPROXY} -t audit-operator:multi-stage examples/operator
operate audit-operator:multi-stage

say "The same operator by the builder pattern (examples/operator/build.sh)"
docker rm -f extract >/dev/null 2>&1 || true
show examples/operator/build.sh
operate audit-operator:latest

say "Sizes"
show docker images
