package engine

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/util/archutil"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/sandbox"
)

// Platforms are those whose programs this machine runs, itself or by an emulator that is registered with binfmt_misc: its own
// first.
func Platforms() []ocispec.Platform { return archutil.SupportedPlatforms(false) }

// canRun reports, with an error, that this machine cannot run programs of a platform, neither
// itself nor by an emulator that is registered with binfmt_misc. Another architecture is tried out
// once in a process, in an empty root: an emulator that needs files of the host does not do.
func canRun(p ocispec.Platform) error {
	host := platforms.Normalize(platforms.DefaultSpec())
	if p.OS == host.OS && p.Architecture == host.Architecture {
		return nil
	}
	if p.OS == host.OS && slices.ContainsFunc(Platforms(), func(s ocispec.Platform) bool {
		return s.Architecture == p.Architecture
	}) {
		return nil
	}
	return fmt.Errorf("cannot run programs of %s on %s: no emulator for them is registered with binfmt_misc; "+
		"install one (such as Debian's package qemu-user-static), or let this stage run on the building machine: FROM --platform=$BUILDPLATFORM",
		platforms.FormatAll(p), platforms.FormatAll(host))
}

// foreign explains why a program did not start when it is for a platform whose programs this machine does not run. An image that only
// says that it is for that platform has programs which start.
func foreign(p ocispec.Platform, err error) error {
	if !errors.Is(err, sandbox.ErrCommandNotExecutable) {
		return err
	}
	return cmp.Or(canRun(p), err)
}
