package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipway-build/slipway/internal/store"
)

// TestManyNetworks: all networks are read to find one, so that there are not any number of them.
func TestManyNetworks(t *testing.T) {
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := &Manager{Store: s}
	if _, err := m.MakeNetwork(Network{Name: "first"}); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < maxNetworks; i++ {
		path := m.networkPath(fmt.Sprint("n", i))
		if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.MakeNetwork(Network{Name: "last"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("one more than %d: %v", maxNetworks, err)
	}
	if err := os.Remove(filepath.Join(s.Root(), "networks", "n1.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.MakeNetwork(Network{Name: "last", Docker: make([]byte, maxAsked+1)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a large one: %v", err)
	}
	if _, err := m.MakeNetwork(Network{Name: "last"}); err != nil {
		t.Error(err)
	}
}
