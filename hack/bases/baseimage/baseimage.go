// Package baseimage makes base images out of what a Debian or Ubuntu machine already has:
// busybox, the installed Go tool chain, and debootstrap. They stand in for the public images
// of the same names where no public registry can be reached.
//
// # Structure
//
// A layer is written by [tarLayer] in one pass that compresses and hashes; an image is a list
// of such layers and a configuration. All layers are held in memory: the largest is about
// 70 MB compressed. Package library keeps finished images on disk.
//
// # Caveats
//
// The images are for this machine's architecture only. Owners and modes are those that the
// public images have (root, world-readable); modification times are fixed where the files are
// ours, so that the same inputs give the same digests.
package baseimage

import (
	"fmt"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Recipe is part of the identity of every image here. It changes when the code of this package
// gives other images from the same inputs.
const Recipe = "2"

// created is the date of all images and of all files that this package invents: a fixed one,
// so that images are reproducible.
var created = time.Date(2024, time.January, 1, 0, 0, 0, 0, time.UTC)

// step is one layer of an image and the line that its history shows.
type step struct {
	layer v1.Layer
	by    string
}

// assemble puts layers on a base image and sets the configuration.
func assemble(base v1.Image, steps []step, config v1.Config) (v1.Image, error) {
	var adds []mutate.Addendum
	for _, s := range steps {
		adds = append(adds, mutate.Addendum{
			Layer:     s.layer,
			MediaType: types.OCILayer,
			History:   v1.History{CreatedBy: s.by, Created: v1.Time{Time: created}},
		})
	}
	img, err := mutate.Append(base, adds...)
	if err != nil {
		return nil, fmt.Errorf("appending layers: %w", err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading image configuration: %w", err)
	}
	file = file.DeepCopy()
	file.Architecture, file.OS = runtime.GOARCH, "linux"
	file.Created = v1.Time{Time: created}
	file.Config = config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return nil, fmt.Errorf("setting image configuration: %w", err)
	}
	return img, nil
}

// scratch is an image of no layers, in OCI media types.
func scratch() v1.Image {
	return mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
}
