package main

import (
	"encoding/json"
	"os"
	"path/filepath"

	slsa "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/v1"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/export"
)

// provenance tells of files how they were made: of which commit, with which modules and tools. It has no times, as those would
// be others each time; who signs it may add who ran it.
func (d *dist) provenance(files []string) (export.Statement, error) {
	a := export.Attestation{PredicateType: slsa.PredicateSLSAProvenance}
	for _, file := range files {
		sum, err := sha256File(file)
		if err != nil {
			return export.Statement{}, err
		}
		a.Subjects = append(a.Subjects, export.Subject{Name: filepath.Base(file), Digest: map[string]string{"sha256": sum}})
	}
	source := "git+" + home
	var p slsa.ProvenancePredicate
	p.BuildDefinition = slsa.ProvenanceBuildDefinition{
		BuildType:          home + "/blob/main/docs/installing.md#made-again",
		ExternalParameters: map[string]any{"source": source, "version": d.version, "command": "make dist"},
		InternalParameters: map[string]any{"SOURCE_DATE_EPOCH": d.date},
		ResolvedDependencies: []slsa.ResourceDescriptor{
			{URI: source, Digest: map[string]string{"gitCommit": d.commit}},
		},
	}
	for _, name := range []string{"go.mod", "go.sum"} { // which have the digests of all modules
		sum, err := sha256File(name)
		if err != nil {
			return export.Statement{}, err
		}
		p.BuildDefinition.ResolvedDependencies = append(p.BuildDefinition.ResolvedDependencies,
			slsa.ResourceDescriptor{Name: name, Digest: map[string]string{"sha256": sum}})
	}
	for _, tool := range d.tools {
		p.BuildDefinition.ResolvedDependencies = append(p.BuildDefinition.ResolvedDependencies, slsa.ResourceDescriptor{URI: tool})
	}
	p.RunDetails.Builder.ID = home + "/blob/main/hack/dist.sh"
	var err error
	a.Predicate, err = json.Marshal(p)
	return a.Statement(nil), err
}

// sha256File is the digest of a file, in hexadecimal digits.
func sha256File(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	d, err := digest.SHA256.FromReader(f)
	if err != nil {
		return "", err
	}
	return d.Encoded(), nil
}
