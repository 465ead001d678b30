package engine

import (
	"fmt"
	"slices"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/util/archutil"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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
