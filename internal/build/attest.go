package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	intoto "github.com/in-toto/in-toto-golang/in_toto"
	"github.com/moby/buildkit/frontend/attestations"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/result"

	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/frontend"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// maxAttestation bounds the bytes of one attestation, as BuildKit does.
const maxAttestation = 80 << 20

// attest completes the products with the attestations that the request asks for: those that the
// frontend had made (SBOMs, by a scanner image), and provenance.
func (b *building) attest(ctx context.Context, out *gw.Result, products []*product) error {
	asked, err := attestations.Parse(b.attrs)
	if err != nil {
		return err
	}
	for _, p := range products {
		for _, a := range out.Attestations[p.id] {
			all, err := b.unbundle(ctx, &a)
			if err != nil {
				return fmt.Errorf("reading attestations for %s: %w", p.id, err)
			}
			p.Attestations = append(p.Attestations, all...)
		}
		attrs, ok := asked[attestations.KeyTypeProvenance]
		if !ok {
			continue
		}
		a, err := b.provenance(ctx, p, attrs)
		if err != nil {
			return err
		}
		p.Attestations = append(p.Attestations, a)
	}
	return nil
}

// willAttest tells the run what will be read of stages for attestations.
func (b *building) willAttest(out *gw.Result) {
	for _, all := range out.Attestations {
		for _, a := range all {
			if ref, ok := a.Ref.(*frontend.Ref); ok && ref != nil {
				b.run.WillRead(ref.Edge())
			}
		}
	}
}

// unbundle reads what a frontend's attestation holds: one predicate, or a directory of statements.
// The rules are those of BuildKit's exporter/attestation.
func (b *building) unbundle(ctx context.Context, a *result.Attestation[gw.Reference]) ([]export.Attestation, error) {
	ref, ok := a.Ref.(*frontend.Ref)
	if !ok || ref == nil {
		return nil, errors.New("no ref provided for attestation bundle")
	}
	value, err := b.run.Result(ctx, ref.Edge())
	if err != nil {
		return nil, err
	}
	tree, err := b.run.Tree(ctx, value, store.NeedContent)
	if err != nil {
		return nil, err
	}
	inline, _ := strconv.ParseBool(string(a.Metadata[result.AttestationInlineOnlyKey]))
	if a.Kind == gwpb.AttestationKind_InToto {
		data, err := readAttestation(tree, a.Path)
		if err != nil {
			return nil, err
		}
		one := export.Attestation{File: a.Path, PredicateType: a.InToto.PredicateType, Predicate: data, InlineOnly: inline}
		if err := addSubjects(&one, a.InToto.Subjects); err != nil {
			return nil, err
		}
		one.CoreSBOM = isCore(a, one)
		return []export.Attestation{one}, fromFrontend(one)
	}
	dir, err := layer.Resolve(tree, a.Path, true)
	if err != nil {
		return nil, err
	}
	entries, err := tree.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []export.Attestation
	for _, e := range entries {
		one, err := statement(tree, e.Path, a.InToto.PredicateType)
		if err != nil {
			return nil, err
		}
		one.InlineOnly, one.CoreSBOM = inline, isCore(a, one)
		all = append(all, one)
	}
	// The core of an SBOM comes before what scanners found elsewhere.
	core := string(a.Metadata[result.AttestationSBOMCore])
	slices.SortStableFunc(all, func(x, y export.Attestation) int {
		rank := func(a export.Attestation) int {
			if name, _, _ := strings.Cut(path.Base(a.File), "."); name == core {
				return 0
			}
			return 1
		}
		return rank(x) - rank(y)
	})
	return all, nil
}

// isCore reports whether one of the statements of a frontend's attestation is the SBOM of the image itself.
func isCore(a *result.Attestation[gw.Reference], one export.Attestation) bool {
	core, ok := a.Metadata[result.AttestationSBOMCore]
	name, _, _ := strings.Cut(path.Base(one.File), ".")
	return ok && name == string(core) && one.PredicateType == intoto.PredicateSPDX
}

// statement reads a file that is an in-toto statement.
func statement(tree layer.Tree, file, predicateType string) (export.Attestation, error) {
	var none export.Attestation
	data, err := readAttestation(tree, file)
	if err != nil {
		return none, err
	}
	var stmt export.Statement
	if err := json.Unmarshal(data, &stmt); err != nil {
		return none, fmt.Errorf("cannot decode in-toto statement %s: %w", file, err)
	}
	if predicateType != "" && stmt.PredicateType != predicateType {
		return none, fmt.Errorf("bundle entry %s does not match required predicate type %s", stmt.PredicateType, predicateType)
	}
	a := export.Attestation{File: file, PredicateType: stmt.PredicateType, Predicate: stmt.Predicate, Subjects: stmt.Subject}
	a.Self = len(a.Subjects) == 0
	return a, fromFrontend(a)
}

// addSubjects adds what an attestation is about; with nothing said it is the result itself.
func addSubjects(a *export.Attestation, subjects []result.InTotoSubject) error {
	a.Self = len(subjects) == 0
	for _, s := range subjects {
		if s.Kind == gwpb.InTotoSubjectKind_Self {
			a.Self = true
			continue
		}
		for _, d := range s.Digest {
			if err := d.Validate(); err != nil {
				return fmt.Errorf("invalid digest %q of a subject: %w", d, err)
			}
		}
		name := s.Name
		if name == "" {
			name = "_"
		}
		a.Subjects = append(a.Subjects, export.Subject{Name: name, Digest: result.ToDigestMap(s.Digest...)})
	}
	return nil
}

// fromFrontend refuses what a frontend must not claim.
func fromFrontend(a export.Attestation) error {
	if strings.HasPrefix(a.PredicateType, "https://slsa.dev/provenance/") {
		return errors.New("frontend may not set provenance attestations")
	}
	return nil
}

func readAttestation(tree layer.Tree, file string) ([]byte, error) {
	p, err := layer.Resolve(tree, file, true)
	if err != nil {
		return nil, err
	}
	e, err := tree.Lstat(p)
	if err != nil {
		return nil, err
	}
	switch {
	case !e.IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", file)
	case e.Size > maxAttestation:
		return nil, fmt.Errorf("%s exceeds %d bytes", file, maxAttestation)
	}
	data, err := layer.ReadFile(tree, p)
	if len(data) == 0 {
		return nil, err // null, where it is put into a statement
	}
	return data, err
}
