package build

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/attestations"
	"github.com/moby/buildkit/frontend/attestations/sbom"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/result"

	"github.com/slipway-build/slipway/internal/frontend"
)

// scan adds the SBOMs that the request asks for to a result whose frontend has none, as the Dockerfile frontend does by itself.
func (b *building) scan(ctx context.Context, out *gw.Result) error {
	asked, err := attestations.Parse(b.attrs)
	if err != nil {
		return err
	}
	params, ok := asked[attestations.KeyTypeSbom]
	if !ok || sbom.HasSBOM(out) {
		return nil
	}
	generator, err := reference.ParseNormalizedNamed(params["generator"])
	if err != nil {
		return fmt.Errorf("failed to parse sbom generator %s: %w", params["generator"], err)
	}
	params = maps.Clone(params)
	delete(params, "generator")
	platforms, err := exptypes.ParsePlatforms(out.Metadata)
	if err != nil {
		return fmt.Errorf("reading the frontend's result: %w", err)
	}
	c := frontend.New(b.asking)
	host := b.run.Platform()
	mode := b.attrs["image-resolve-mode"]
	scanner, err := sbom.CreateSBOMScanner(ctx, c, reference.TagNameOnly(generator).String(), host, sourceresolver.Opt{
		ImageOpt: &sourceresolver.ResolveImageOpt{ResolveMode: mode, Platform: &host},
	}, params)
	if err != nil {
		return err
	}
	var opts []llb.ConstraintsOpt
	if v, ok := b.attrs["no-cache"]; ok && v == "" {
		opts = append(opts, llb.IgnoreCache)
	}
	for _, p := range platforms.Platforms {
		ref, ok := out.FindRef(p.ID)
		if !ok {
			return fmt.Errorf("reading the frontend's result: there is none for %s", p.ID)
		}
		if r, ok := ref.(*frontend.Ref); !ok || r == nil {
			continue // the empty filesystem
		}
		st, err := ref.ToState()
		if err != nil {
			return err
		}
		found, err := scanner(ctx, p.ID, st, nil, opts...)
		if err != nil {
			return err
		}
		a, err := result.ConvertAttestation(&found, func(st *llb.State) (gw.Reference, error) { return solved(ctx, c, st) })
		if err != nil {
			return err
		}
		out.AddAttestation(p.ID, *a)
	}
	return nil
}

// solved is a state as a reference of a gateway.
func solved(ctx context.Context, c gw.Client, st *llb.State) (gw.Reference, error) {
	if st == nil {
		return nil, errors.New("the scanner gives nothing")
	}
	def, err := st.Marshal(ctx)
	if err != nil {
		return nil, err
	}
	res, err := c.Solve(ctx, gw.SolveRequest{Definition: def.ToPB()})
	if err != nil {
		return nil, err
	}
	return res.SingleRef()
}
