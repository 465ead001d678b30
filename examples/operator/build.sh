#!/bin/sh
# Builds audit-operator:latest by the builder pattern. What the Dockerfile beside it does in one
# go takes two Dockerfiles, a container and this script.
set -e
cd "$(dirname "$0")"

echo Building audit-operator:build
# A module proxy of the environment is passed on; without one Go's default holds.
docker build --no-cache ${GOPROXY:+--build-arg GOPROXY} -t audit-operator:build . -f Dockerfile.build

docker create --name extract audit-operator:build
docker cp extract:/workspace/manager ./manager
docker rm -f extract

echo Building audit-operator:latest
docker build --no-cache -t audit-operator:latest . -f Dockerfile.runtime
rm manager
