// Package ledger remembers what has been applied, in a file that outlives the process.
package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"sort"

	"example.org/audit-operator/api"
)

// Kind is what has to be done about one policy.
type Kind string

// The kinds of action.
const (
	Create Kind = "create"
	Update Kind = "update"
	Delete Kind = "delete"
)

// Action is one difference between what is declared and what is applied.
type Action struct {
	Kind   Kind   `json:"kind"`
	Policy string `json:"policy"`
}

// Ledger has the applied policies by name.
type Ledger map[string]api.Policy

// Load reads a ledger; a missing file is an empty one.
func Load(file string) (Ledger, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return Ledger{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading ledger: %w", err)
	}
	l := Ledger{}
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, fmt.Errorf("reading ledger %s: %w", file, err)
	}
	return l, nil
}

// Save replaces the file as a whole: readers see the old ledger or the new one.
func (l Ledger) Save(file string) error {
	text, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("writing ledger: %w", err)
	}
	if err := os.WriteFile(file+".tmp", append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing ledger: %w", err)
	}
	return os.Rename(file+".tmp", file)
}

// Diff tells what makes the ledger equal to the declared policies, ordered by name.
func (l Ledger) Diff(declared []api.Policy) []Action {
	var actions []Action
	wanted := map[string]bool{}
	for _, p := range declared {
		wanted[p.Name] = true
		applied, ok := l[p.Name]
		switch {
		case !ok:
			actions = append(actions, Action{Create, p.Name})
		case !reflect.DeepEqual(applied, p):
			actions = append(actions, Action{Update, p.Name})
		}
	}
	for name := range l {
		if !wanted[name] {
			actions = append(actions, Action{Delete, name})
		}
	}
	sort.Slice(actions, func(i, j int) bool { return actions[i].Policy < actions[j].Policy })
	return actions
}

// Apply replaces the contents of the ledger.
func (l Ledger) Apply(declared []api.Policy) {
	clear(l)
	for _, p := range declared {
		l[p.Name] = p
	}
}
