#!/bin/sh
# Builds and runs every example, behind `make examples`. It needs a network: the operator downloads
# a module, and the last image installs a package. Every layer is written both ways and compared.
set -eu
cd "$(dirname "$0")/.."
export SLIPWAY_VERIFY=forms
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

say "A package installed in RUN, and copied to an image without it"
mkdir -p "$work/package"
cat > "$work/package/Dockerfile" <<'END'
FROM debian:stable-slim AS tools
RUN apt-get update && apt-get install -y --no-install-recommends tree && rm -rf /var/lib/apt/lists/*
FROM debian:stable-slim
COPY --from=tools /usr/bin/tree /usr/bin/
RUN tree --version
END
show docker build -t package:latest "$work/package"
docker run --rm package:latest tree --version | grep -i '^tree v'

say "What advise says of builds with real package managers, and images by its patches"
hack/advise.sh

say "Sizes"
show docker images
