#!/bin/sh
# The demonstration behind `make demo`: the builder pattern and its multi-stage counterpart, with
# docker being slipway. SLIPWAY_CERTS_DIR names a registry with the base images.
set -eu
cd "$(dirname "$0")/.."
. hack/docker-path.sh

say "The builder pattern: two Dockerfiles and a script (examples/builder-pattern/build.sh)"
# A run that was interrupted may have left its container.
docker container rm -f welcome-builder-container >/dev/null 2>&1 || true
show examples/builder-pattern/build.sh
show docker run --rm welcome-runtime:v1

say "The same in one multi-stage Dockerfile (examples/multi-stage)"
show docker image build -t multi-stage:v1 examples/multi-stage
show docker image build --target builder -t multi-stage-dev:v1 examples/multi-stage
show docker run --rm multi-stage:v1 you

say "Once more: nothing has changed, nothing runs"
start=$(date +%s%N)
show docker image build -q -t multi-stage:v1 examples/multi-stage
echo "took $((($(date +%s%N) - start) / 1000000)) ms"

say "Sizes: builder against runtime"
show docker image ls
