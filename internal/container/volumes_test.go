package container

import (
	"context"
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

// TestVolumeIsDeletedUnlocked: others do not wait while the files of a volume are deleted, and what a crash leaves of it is no volume and goes with the next prune.
func TestVolumeIsDeletedUnlocked(t *testing.T) {
	m := openAt(t, t.TempDir())
	v := made(t, m, "data", map[string]string{"old": ""})
	must(t, os.WriteFile(filepath.Join(v.Dir, "f"), []byte("12345"), 0o600))
	taken, err := m.takeVolume(t.Context(), "data", func(Volume) bool { return true })
	must(t, err)
	if _, err := os.Stat(filepath.Join(taken.Dir, "f")); err != nil {
		t.Errorf("its files: %v", err)
	}
	release, err := m.LockVolumes(t.Context())
	must(t, err)
	must(t, release())
	if list, err := m.Volumes(); err != nil || len(list) > 0 {
		t.Errorf("there are %+v, %v", list, err)
	}
	again := made(t, m, "data", nil)
	if entries, err := os.ReadDir(again.Dir); err != nil || len(entries) > 0 || len(again.Labels) > 0 {
		t.Errorf("made again, it is %+v with %v, %v", again, entries, err)
	}
	if _, err := m.Volume(filepath.Base(filepath.Dir(taken.Dir))); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("what was taken is a volume: %v", err)
	}
	gone, _, err := m.PruneVolumes(t.Context(), func(Volume) bool { return false })
	must(t, err)
	if _, err := os.Lstat(filepath.Dir(taken.Dir)); !errors.Is(err, os.ErrNotExist) || len(gone) > 0 {
		t.Errorf("pruned were %v, left is %v", gone, err)
	}
	must(t, m.RemoveVolume(t.Context(), "data", false))
	if entries, err := os.ReadDir(filepath.Dir(m.volumePath("any"))); err != nil || len(entries) != 1 { // the lock
		t.Errorf("left are %v, %v", entries, err)
	}
}

// TestPruneLooksAgain: what happens to volumes after they were listed counts.
func TestPruneLooksAgain(t *testing.T) {
	m := openAt(t, t.TempDir())
	for _, name := range []string{"again", "free", "gone", "used"} {
		must(t, os.WriteFile(filepath.Join(made(t, m, name, nil).Dir, "f"), []byte("12345"), 0o600))
	}
	recorded(t, m, "a", filepath.Join(m.volumePath("used"), volumeData))
	seen := map[string]int{}
	gone, freed, err := m.PruneVolumes(t.Context(), func(v Volume) bool {
		if seen[v.Name]++; seen[v.Name] == 1 { // not locked yet
			switch v.Name {
			case "again":
				must(t, m.RemoveVolume(t.Context(), v.Name, false))
				made(t, m, v.Name, map[string]string{"keep": ""})
			case "gone":
				must(t, m.RemoveVolume(t.Context(), v.Name, false))
			}
		}
		_, keep := v.Labels["keep"]
		return !keep
	})
	if err != nil || len(gone) != 1 || gone[0] != "free" || freed != 5 {
		t.Errorf("gone are %v with %d bytes, %v", gone, freed, err)
	}
	if seen["used"] != 1 {
		t.Error("what is in use was locked")
	}
	ctx, cancel := context.WithCancel(t.Context())
	made(t, m, "first", nil)
	gone, _, err = m.PruneVolumes(ctx, func(v Volume) bool {
		if v.Name == "first" {
			cancel()
		}
		return false
	})
	if !errors.Is(err, context.Canceled) || len(gone) > 0 {
		t.Errorf("ended meanwhile: %v, %v", gone, err)
	}
}
