package build

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	slsa02 "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/v0.2"
	slsa1 "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/v1"
	"github.com/moby/buildkit/frontend/attestations"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/llbsolver/provenance"
	provenancetypes "github.com/moby/buildkit/solver/llbsolver/provenance/types"
	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/frontend"
	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/outbound"
	gitsource "github.com/slipway-build/slipway/internal/source/git"
)

// provenance makes the SLSA provenance of a product: what it was made of, and how. The predicate is
// BuildKit's (docs/attestations/slsa-definitions.md there), and so are the attributes: mode=min|max,
// version=v1|v0.2, builder-id, reproducible, inline-only, filename, complete-materials.
func (b *building) provenance(ctx context.Context, p *product, attrs map[string]string) (export.Attestation, error) {
	a := export.Attestation{File: "provenance.json", PredicateType: slsa1.PredicateSLSAProvenance, Self: true}
	if name := attrs["filename"]; name != "" {
		a.File = name
	}
	version := provenancetypes.ProvenanceSLSA(attrs["version"])
	if err := version.Validate(); err != nil {
		return a, err
	}
	flags := map[string]bool{"inline-only": false, "reproducible": false, "complete-materials": false}
	for key := range flags {
		if v, ok := attrs[key]; ok {
			on, err := strconv.ParseBool(v)
			if err != nil {
				return a, fmt.Errorf("failed to parse %s flag %q: %w", key, v, err)
			}
			flags[key] = on
		}
	}
	a.InlineOnly = flags["inline-only"]
	capture, err := b.capture(ctx, p)
	if err != nil {
		return a, err
	}
	pr, err := b.predicate(capture, attrs["builder-id"])
	if err != nil {
		return a, err
	}
	meta := pr.RunDetails.Metadata
	if flags["complete-materials"] && !meta.Completeness.ResolvedDependencies {
		return a, incompleteMaterials(capture)
	}
	meta.Reproducible = flags["reproducible"]
	switch attrs["mode"] {
	case "min":
		if scrub(&pr.BuildDefinition.ExternalParameters.Request) {
			meta.Completeness.Request = false
		}
	case "", "max", "full":
		steps, err := addSteps(ctx, pr, capture, p)
		if err != nil {
			return a, err
		}
		stacks, err := b.run.Stacks(ctx, p.edge())
		if err != nil {
			return a, err
		}
		a.Complete = func(layers []ocispec.Descriptor) (json.RawMessage, error) {
			meta.BuildKitMetadata.Layers = layersOf(steps, stacks, layers)
			return written(pr, version)
		}
	default:
		return a, fmt.Errorf("invalid mode %q", attrs["mode"])
	}
	if version == provenancetypes.ProvenanceSLSA02 {
		a.PredicateType = slsa02.PredicateSLSAProvenance
	}
	a.Predicate, err = written(pr, version)
	return a, err
}

// written is a predicate in a version of SLSA.
func written(pr *provenancetypes.ProvenancePredicateSLSA1, version provenancetypes.ProvenanceSLSA) (json.RawMessage, error) {
	if version == provenancetypes.ProvenanceSLSA02 {
		return marshalPredicate(pr.ConvertToSLSA02())
	}
	return marshalPredicate(pr)
}

// layersOf lists the layers of an image that stands on steps by these, as "step0:0" with the number of the output.
func layersOf(steps map[digest.Digest]int, stacks map[digest.Digest]engine.Stack, layers []ocispec.Descriptor) map[string][][]ocispec.Descriptor {
	all := map[string][][]ocispec.Descriptor{}
	for step, n := range steps {
		s := stacks[step]
		if len(s.Layers) > 0 {
			all[fmt.Sprintf("step%d:0", n)] = [][]ocispec.Descriptor{s.Layers}
		}
		for i, count := range s.Counts {
			if count > 0 && count <= len(layers) {
				all[fmt.Sprintf("step%d:%d", n, i)] = [][]ocispec.Descriptor{layers[:count]}
			}
		}
	}
	return all
}

// predicate is what there is to say of a product in any mode.
func (b *building) predicate(capture *provenance.Capture, builder string) (*provenancetypes.ProvenancePredicateSLSA1, error) {
	pr, err := provenance.NewPredicate(capture)
	if err != nil {
		return nil, fmt.Errorf("making provenance: %w", err)
	}
	now := time.Now().UTC()
	meta := pr.RunDetails.Metadata
	meta.StartedOn, meta.FinishedOn, meta.InvocationID = &b.record.Started, &now, b.record.ID
	pr.RunDetails.Builder.ID = builder
	pr.BuildDefinition.InternalParameters.ProvenanceCustomEnv = b.req.ProvenanceEnv
	if capture.Request.Frontend == frontendDockerfile {
		pr.BuildDefinition.InternalParameters.DockerfileVersion = frontend.Version()
	}
	pr.BuildDefinition.ExternalParameters.Request.CompatibilityVersion = b.req.compatibility()
	return pr, nil
}

// addSteps adds what mode=max tells of the steps, and of the Dockerfile. It returns the numbers of the steps.
func addSteps(ctx context.Context, pr *provenancetypes.ProvenancePredicateSLSA1, capture *provenance.Capture, p *product) (map[digest.Digest]int, error) {
	if p.ref == nil {
		return nil, nil
	}
	steps, err := provenance.AddBuildConfig(ctx, pr, capture, definition{def: p.ref.Definition()}, false)
	if err != nil {
		return nil, fmt.Errorf("making provenance: %w", err)
	}
	if src := pr.RunDetails.Metadata.BuildKitMetadata.Source; src != nil {
		for i := range src.Infos { // Dockerfiles, which are base64 in JSON
			src.Infos[i].Data = []byte(outbound.Redact(string(src.Infos[i].Data)))
		}
	}
	return steps, nil
}

// marshalPredicate writes a predicate. The definition and the arguments have passwords of URLs; what they are for is told without.
func marshalPredicate(predicate any) ([]byte, error) {
	data, err := json.MarshalIndent(predicate, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("making provenance: %w", err)
	}
	return []byte(outbound.Redact(string(data))), nil
}

// tell makes the provenance that the result has, whatever the image gets: that which buildx writes into --metadata-file. It is in
// version 0.2, with the arguments; in the mode "min" it has neither the steps nor what it says of itself.
func (b *building) tell(ctx context.Context, products []*product) (map[string]json.RawMessage, error) {
	asked, err := attestations.Parse(b.attrs)
	if err != nil {
		return nil, err
	}
	all := map[string]json.RawMessage{}
	for _, p := range products {
		if p.ref == nil {
			continue // an empty result, of which BuildKit has none either
		}
		capture, err := b.capture(ctx, p)
		if err != nil {
			return nil, err
		}
		pr, err := b.predicate(capture, asked[attestations.KeyTypeProvenance]["builder-id"])
		if err == nil && b.req.TellProvenance != ProvenanceMin {
			_, err = addSteps(ctx, pr, capture, p)
		}
		if err != nil {
			return nil, err
		}
		platform := ""
		if b.byPlatform {
			platform = p.id
		}
		if b.req.TellProvenance == ProvenanceRecord {
			if all[platform], err = marshalPredicate(pr); err != nil {
				return nil, err
			}
			continue
		}
		if capture.TargetPlatform != "" { // which version 0.2 has no field for
			env := provenancetypes.ProvenanceCustomEnv{"targetPlatform": capture.TargetPlatform}
			maps.Copy(env, b.req.ProvenanceEnv)
			pr.BuildDefinition.InternalParameters.ProvenanceCustomEnv = env
		}
		told := pr.ConvertToSLSA02()
		if b.req.TellProvenance == ProvenanceMin {
			told.BuildConfig, told.Metadata = nil, nil
		}
		if all[platform], err = marshalPredicate(told); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// scrub leaves out what mode=min does not tell: arguments and labels, and the names of secrets. It reports whether there were any
// arguments or labels.
func scrub(req *provenancetypes.Parameters) (incomplete bool) {
	if req == nil {
		return false
	}
	for k := range req.Args {
		if strings.HasPrefix(k, "build-arg:") || strings.HasPrefix(k, "label:") {
			delete(req.Args, k)
			incomplete = true
		}
	}
	req.Secrets, req.SSH = nil, nil
	for _, in := range req.Inputs {
		incomplete = scrub(in.Request) || incomplete
	}
	if req.Root != nil {
		incomplete = scrub(req.Root.Request) || incomplete
	}
	return incomplete
}

func incompleteMaterials(c *provenance.Capture) error {
	var b strings.Builder
	b.WriteString("provenance materials are incomplete\n\nThe build requested complete provenance materials, but not all dependencies could be captured.\n\nUncaptured local sources:")
	for _, l := range c.Sources.Local {
		fmt.Fprintf(&b, "\n  - %s\n    reason: local_source", l.Name)
	}
	return errors.New(b.String())
}

// capture walks the graph of a product, and what the frontend read, for their sources.
func (b *building) capture(ctx context.Context, p *product) (*provenance.Capture, error) {
	c := &provenance.Capture{TargetPlatform: platforms.FormatAll(p.Platform)}
	seen := map[digest.Digest]bool{}
	var walk func(v *graph.Vertex) error
	walk = func(v *graph.Vertex) error {
		if v == nil || seen[v.Digest] {
			return nil
		}
		seen[v.Digest] = true
		if err := b.captureVertex(ctx, c, v); err != nil {
			return err
		}
		for _, in := range v.Inputs {
			if err := walk(in.Vertex); err != nil {
				return err
			}
		}
		return nil
	}
	if p.ref != nil {
		if err := walk(p.ref.Edge().Vertex); err != nil {
			return nil, err
		}
	}
	b.mu.Lock()
	read := b.read
	b.mu.Unlock()
	for _, e := range read {
		if e.Vertex != nil && e.Vertex.Op.GetSource() != nil { // a result of another platform has more
			if err := walk(e.Vertex); err != nil {
				return nil, err
			}
		}
	}
	b.captureRequest(c, p)
	if err := c.OptimizeImageSources(); err != nil {
		return nil, fmt.Errorf("making provenance: %w", err)
	}
	c.Sort()
	return c, nil
}

// rootRequest is what whoever asked for the build has asked.
func (b *building) rootRequest() *frontend.Asked {
	name := cmp.Or(b.req.Frontend, frontendDockerfile)
	if b.req.Evaluate != nil || b.req.Definition != nil {
		name = ""
	}
	return &frontend.Asked{Frontend: name, Attrs: b.attrs, Inputs: b.req.Inputs}
}

// captureVertex notes what one vertex takes from elsewhere.
func (b *building) captureVertex(ctx context.Context, c *provenance.Capture, v *graph.Vertex) error {
	switch op := v.Op.Op.(type) {
	case *pb.Op_Source:
		return b.captureSource(ctx, c, v, op.Source)
	case *pb.Op_Exec:
		for _, m := range op.Exec.Mounts {
			switch m.MountType {
			case pb.MountType_SECRET:
				c.AddSecret(provenancetypes.Secret{ID: m.SecretOpt.GetID(), Optional: m.SecretOpt.GetOptional()})
			case pb.MountType_SSH:
				c.AddSSH(provenancetypes.SSH{ID: m.SSHOpt.GetID(), Optional: m.SSHOpt.GetOptional()})
			}
		}
		for _, s := range op.Exec.Secretenv {
			c.AddSecret(provenancetypes.Secret{ID: s.GetID(), Optional: s.GetOptional()})
		}
		c.NetworkAccess = c.NetworkAccess || op.Exec.Network != pb.NetMode_NONE
	}
	return nil
}

// captureSource notes a source with what it was resolved to.
func (b *building) captureSource(ctx context.Context, c *provenance.Capture, v *graph.Vertex, src *pb.SourceOp) error {
	scheme, id, _ := strings.Cut(src.Identifier, "://")
	switch scheme {
	case "docker-image", "oci-layout":
		named, err := reference.ParseNormalizedNamed(id)
		if err != nil {
			return fmt.Errorf("making provenance: %w", err)
		}
		img := provenancetypes.ImageSource{Ref: named.String(), Local: scheme == "oci-layout"}
		if d, ok := named.(reference.Digested); ok {
			img.Digest = d.Digest()
			if t, ok := named.(reference.Tagged); ok { // the frontend added the digest
				img.Ref = reference.TrimNamed(named).String() + ":" + t.Tag()
			}
		}
		if img.Digest == "" { // of a graph that no frontend made
			pin, err := b.run.Pin(ctx, v)
			if err != nil {
				return err
			}
			img.Digest = digest.Digest(pin)
		}
		if p := v.Op.Platform; p != nil {
			img.Platform = &ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion}
		}
		c.AddImage(img)
	case srctypes.DockerImageBlobScheme, srctypes.OCIBlobScheme:
		named, err := reference.ParseNormalizedNamed(id)
		if err != nil {
			return fmt.Errorf("making provenance: %w", err)
		}
		if d, ok := named.(reference.Digested); ok {
			c.AddImageBlob(provenancetypes.ImageBlobSource{Ref: named.String(), Digest: d.Digest(), Local: scheme == srctypes.OCIBlobScheme})
		}
	case "local":
		c.AddLocal(provenancetypes.LocalSource{Name: id})
	case "git":
		return b.captureGit(ctx, c, v, src)
	case "http", "https":
		pin, err := b.run.Pin(ctx, v)
		if err != nil {
			return err
		}
		c.AddHTTP(provenancetypes.HTTPSource{URL: src.Identifier, Digest: digest.Digest(pin)})
	default:
		c.IncompleteMaterials = true
	}
	return nil
}

func (b *building) captureGit(ctx context.Context, c *provenance.Capture, v *graph.Vertex, src *pb.SourceOp) error {
	req, err := gitsource.Parse(src)
	if err != nil {
		return err
	}
	commit, err := b.run.Pin(ctx, v)
	if err != nil {
		return err
	}
	url := req.Remote
	if req.Ref != "" {
		url += "#" + req.Ref
	}
	c.AddGit(provenancetypes.GitSource{URL: url, Commit: commit})
	for _, id := range []string{req.AuthTokenSecret, req.AuthHeaderSecret} {
		if id != "" {
			c.AddSecret(provenancetypes.Secret{ID: id, Optional: true})
		}
	}
	if req.SSHAgent != "" {
		c.AddSSH(provenancetypes.SSH{ID: req.SSHAgent, Optional: true})
	}
	return nil
}

// definition is a graph as BuildKit's own functions ask for it.
type definition struct {
	solver.ResultProxy
	def *pb.Definition
}

// Definition implements solver.ResultProxy, of which nothing else is used.
func (d definition) Definition() *pb.Definition { return d.def }
