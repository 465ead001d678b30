package build

import (
	"cmp"
	"slices"

	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/llbsolver/compat"
)

// compatibility is the version of BuildKit's whose images the build makes.
func (r *Request) compatibility() int {
	return cmp.Or(r.Compatibility, compat.CompatibilityVersionCurrent)
}

// formats says how an image and its attestations are written. Where the output does not say it, that depends on the version: BuildKit's own
// images had Docker's media types, and had attestations as images, before that of release 0.31.
func (r *Request) formats(o *Output, products []*product) (dockerTypes, imageManifest bool, err error) {
	version := r.compatibility()
	if compression := o.Attrs["compression"]; version == compat.CompatibilityVersion013 && compression == "zstd" {
		return false, false, errdefs.NewUnsupportedCompatibilityFeatureError(version, string(o.Type)+" exporter compression="+compression)
	}
	today := version >= compat.CompatibilityVersion031
	attested := slices.ContainsFunc(products, func(p *product) bool { return len(p.Attestations) > 0 })
	oci := o.is("oci-mediatypes", today || attested || o.Type == OutputOCI)
	return !oci, !o.is("oci-artifact", today && oci), nil
}
