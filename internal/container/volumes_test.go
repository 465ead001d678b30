package container

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// openAt is a manager of a store.
func openAt(t *testing.T, root string) *Manager {
	t.Helper()
	s, err := store.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &Manager{Store: s}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// made is a volume that was made.
func made(t *testing.T, m *Manager, name string, labels map[string]string) Volume {
	t.Helper()
	v, _, err := m.MakeVolume(t.Context(), name, labels, false)
	must(t, err)
	return v
}

// recorded is a container that has what lies at paths.
func recorded(t *testing.T, m *Manager, name string, binds ...string) store.Container {
	t.Helper()
	id, err := store.NewContainerID()
	must(t, err)
	var config Config
	for _, b := range binds {
		config.Mounts = append(config.Mounts, sandbox.Mount{Dest: "/data", Bind: b})
	}
	data, err := json.Marshal(config)
	must(t, err)
	c := store.Container{ID: id, Name: name, Config: data}
	must(t, m.Store.AddContainer(t.Context(), c))
	return c
}

// TestVolumeUsers: a container has its volume whatever path the store is opened by, and also when that is not there any more.
func TestVolumeUsers(t *testing.T) {
	dir := t.TempDir()
	root, link, other := filepath.Join(dir, "store"), filepath.Join(dir, "link"), filepath.Join(dir, "other")
	must(t, os.Mkdir(root, 0o700))
	must(t, os.Symlink("store", link))
	must(t, os.MkdirAll(filepath.Join(other, "volumes", "free", volumeData), 0o700))
	served, m := openAt(t, link), openAt(t, root)
	used := made(t, served, "used", nil)
	made(t, served, "lost", nil)
	free := made(t, served, "free", nil)
	recorded(t, served, "a", used.Dir, filepath.Join(dir, "moved", "volumes", "lost", volumeData), filepath.Join(other, "volumes", "free", volumeData))
	for name, want := range map[string]error{"used": ErrVolumeInUse, "lost": ErrVolumeInUse, "free": nil} {
		if err := m.RemoveVolume(t.Context(), name, false); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	if _, err := os.Stat(used.Dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(free.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what has the name of a volume at another place counts as that: %v", err)
	}
}

// TestUnreadableUser: no volume goes while it is not known what a container has.
func TestUnreadableUser(t *testing.T) {
	m := openAt(t, t.TempDir())
	v := made(t, m, "data", nil)
	id, err := store.NewContainerID()
	must(t, err)
	must(t, m.Store.AddContainer(t.Context(), store.Container{ID: id, Name: "later", Config: json.RawMessage(`{"mounts":1}`)}))
	if err := m.RemoveVolume(t.Context(), "data", false); err == nil || !strings.Contains(err.Error(), "container later") {
		t.Errorf("removed: %v", err)
	}
	if _, err := os.Stat(v.Dir); err != nil {
		t.Error(err)
	}
}
