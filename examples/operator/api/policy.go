// Package api has the objects that a user declares.
package api

import (
	"errors"
	"fmt"
	"slices"

	"github.com/goccy/go-yaml"
)

// Levels tell how much of a request is kept, least first.
var Levels = []string{"none", "metadata", "request"}

// Policy asks for an audit trail of some resources.
type Policy struct {
	Name       string   `yaml:"name" json:"name"`
	Resources  []string `yaml:"resources" json:"resources"`
	Level      string   `yaml:"level" json:"level"`
	RetainDays int      `yaml:"retainDays" json:"retainDays"`
}

// Validate tells everything that is wrong with a policy.
func (p Policy) Validate() error {
	var errs []error
	if p.Name == "" {
		errs = append(errs, errors.New("name is empty"))
	}
	if len(p.Resources) == 0 {
		errs = append(errs, errors.New("resources is empty"))
	}
	if !slices.Contains(Levels, p.Level) {
		errs = append(errs, fmt.Errorf("level is %q, want one of %q", p.Level, Levels))
	}
	if p.RetainDays < 1 {
		errs = append(errs, fmt.Errorf("retainDays is %d, want 1 or more", p.RetainDays))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("policy %q: %w", p.Name, err)
	}
	return nil
}

// Parse reads a list of policies. Unknown fields, invalid policies and two of the same name
// are errors.
func Parse(text []byte) ([]Policy, error) {
	var list []Policy
	if err := yaml.UnmarshalWithOptions(text, &list, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("reading policies: %w", err)
	}
	seen := map[string]bool{}
	for _, p := range list {
		if err := p.Validate(); err != nil {
			return nil, err
		}
		if seen[p.Name] {
			return nil, fmt.Errorf("policy %q is declared twice", p.Name)
		}
		seen[p.Name] = true
	}
	return list, nil
}
