package export

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Annotations are those that the user asked for, by the place where they go. Those of manifests
// and of their descriptors are for one platform ("linux/arm64") or, under "", for all.
type Annotations struct {
	Index, IndexDescriptor       map[string]string
	Manifest, ManifestDescriptor map[string]map[string]string
}

// of returns the annotations of a platform's manifest, and of the descriptor of that.
func (a *Annotations) of(p ocispec.Platform) (manifest, descriptor map[string]string) {
	join := func(of map[string]map[string]string) map[string]string {
		if len(of) == 0 {
			return nil
		}
		all := map[string]string{}
		maps.Copy(all, of[""])
		maps.Copy(all, of[platforms.FormatAll(p)])
		if len(all) == 0 {
			return nil
		}
		return all
	}
	return join(a.Manifest), join(a.ManifestDescriptor)
}

// check finds annotations that have no place to go to.
func (a *Annotations) check(sources []Source, index bool) error {
	if !index && len(a.Index)+len(a.IndexDescriptor) > 0 {
		return errors.New("index annotations not supported for single platform export")
	}
	for _, of := range []map[string]map[string]string{a.Manifest, a.ManifestDescriptor} {
		for name := range of {
			if name != "" && !slices.ContainsFunc(sources, func(s Source) bool { return platforms.FormatAll(s.Platform) == name }) {
				return fmt.Errorf("invalid annotation: no platform %s found in source", name)
			}
		}
	}
	return nil
}
