// Package tools keeps modules in go.mod while the packages that use them are being written.
package tools

import (
	_ "github.com/containerd/containerd/v2/core/remotes/docker"
	_ "github.com/containerd/containerd/v2/core/remotes/docker/config"
	_ "github.com/containerd/continuity/fs"
	_ "github.com/containerd/platforms"
	_ "github.com/cyphar/filepath-securejoin"
	_ "github.com/docker/cli/cli/config"
	_ "github.com/docker/go-units"
	_ "github.com/google/go-containerregistry/pkg/registry"
	_ "github.com/klauspost/compress/zstd"
	_ "github.com/klauspost/pgzip"
	_ "github.com/moby/buildkit/frontend/dockerfile/builder"
	_ "github.com/moby/buildkit/frontend/gateway/client"
	_ "github.com/moby/buildkit/util/progress/progressui"
	_ "github.com/moby/patternmatcher/ignorefile"
	_ "github.com/moby/profiles/seccomp"
	_ "github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
	_ "github.com/opencontainers/runc/libcontainer/specconv"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/spf13/cobra"
	_ "github.com/tonistiigi/fsutil"
	_ "modernc.org/sqlite"
)
