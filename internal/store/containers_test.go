package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/slipway-build/slipway/internal/layer"
)

func newContainer(t testing.TB, name string, age time.Duration) Container {
	t.Helper()
	id, err := NewContainerID()
	must(t, err)
	return Container{ID: id, Name: name, Image: "app:v1", Snapshot: layer.Snapshot{"a", "b"}, Config: []byte(`{"cmd":1}`), Created: time.Now().UTC().Add(-age)}
}

func TestContainers(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	old, young := newContainer(t, "old", time.Hour), newContainer(t, "young", 0)
	must(t, s.AddContainer(ctx, old))
	must(t, s.AddContainer(ctx, young))
	if fi, err := os.Stat(filepath.Join(s.ContainerDir(old.ID), "fs")); err != nil || !fi.IsDir() {
		t.Errorf("the container's directory: %v", err)
	}
	if all, err := s.Containers(ctx); err != nil || !reflect.DeepEqual(all, []Container{young, old}) {
		t.Errorf("containers are %+v, %v", all, err)
	}
	for _, ref := range []string{"old", "/old", old.ID, old.ID[:12]} {
		if got, err := s.Container(ctx, ref); err != nil || got.ID != old.ID {
			t.Errorf("container %s is %s, %v", ref, got.ID, err)
		}
	}
	for _, ref := range []string{"", "ol", "nope", "/", "g"} {
		if got, err := s.Container(ctx, ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("container %q is %s, %v, want ErrNotFound", ref, got.Name, err)
		}
	}
	must(t, s.RemoveContainer(ctx, old.ID))
	if _, err := os.Stat(s.ContainerDir(old.ID)); err == nil {
		t.Error("a removed container's files are there")
	}
	if _, err := s.Container(ctx, "old"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a removed container gave %v", err)
	}
	again := newContainer(t, "old", 0)
	must(t, s.AddContainer(ctx, again))
}

func TestAmbiguousContainerID(t *testing.T) {
	s := newStore(t)
	a, b := newContainer(t, "a", 0), newContainer(t, "b", 0)
	b.ID = a.ID[:20] + b.ID[20:]
	must(t, s.AddContainer(context.Background(), a))
	must(t, s.AddContainer(context.Background(), b))
	_, err := s.Container(context.Background(), a.ID[:20])
	wantErr(t, err, "multiple IDs found with provided prefix: "+a.ID[:20])
}

func TestContainerNameTaken(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	stores := []*Store{s, open(t, s.root)}
	var mu sync.Mutex
	var won []Container
	var wg sync.WaitGroup
	for i := range 8 {
		c := newContainer(t, "name", 0)
		wg.Add(1)
		go func() {
			defer wg.Done()
			err := stores[i%2].AddContainer(ctx, c)
			if err == nil {
				mu.Lock()
				won = append(won, c)
				mu.Unlock()
				return
			}
			if !errors.Is(err, ErrNameTaken) {
				t.Errorf("error is %v, want ErrNameTaken", err)
			}
			if _, err := os.Stat(s.ContainerDir(c.ID)); err == nil {
				t.Error("a container that was refused left its directory")
			}
		}()
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d containers have the same name", len(won))
	}
	if _, err := os.Stat(filepath.Join(s.ContainerDir(won[0].ID), "fs")); err != nil {
		t.Error(err)
	}
	err := s.AddContainer(ctx, newContainer(t, "name", 0))
	wantErr(t, err, `by container "`+won[0].ID+`"`)
}

// A container that begins with directories of drafts has them, and needs the layers of its mounts; where it is not recorded the drafts stay.
func TestAdoptedContainer(t *testing.T) {
	s := newStore(t)
	draft := func(file string) *Draft {
		d, err := s.NewLayer()
		must(t, err)
		must(t, os.WriteFile(filepath.Join(d.FS, file), []byte(file), 0o644))
		return d
	}
	shown, unneeded := made(t, s, map[string]string{"shown": "1"}), made(t, s, map[string]string{"unneeded": "1"})
	c := newContainer(t, "failed", 0)
	c.Snapshot, c.Mounted = nil, layer.Snapshot{shown}
	own, mount := draft("own"), draft("changed")
	must(t, s.AddContainer(t.Context(), c, Adopted{"fs", own}, Adopted{"mount-0", mount}))
	for _, name := range []string{"fs/own", "mount-0/changed"} {
		if _, err := os.Stat(filepath.Join(s.ContainerDir(c.ID), name)); err != nil {
			t.Error(err)
		}
	}
	own.Abort()
	mount.Abort()

	other, kept := newContainer(t, "failed", 0), draft("kept")
	if err := s.AddContainer(t.Context(), other, Adopted{"fs", kept}); !errors.Is(err, ErrNameTaken) {
		t.Errorf("a second one of the name: %v", err)
	}
	other.Name = "other"
	if err := s.AddContainer(t.Context(), other, Adopted{"fs", kept}, Adopted{"mount-0", &Draft{FS: filepath.Join(kept.FS, "nosuch")}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("one whose second directory is not there: %v", err)
	}
	if _, err := os.Stat(s.ContainerDir(other.ID)); err == nil {
		t.Error("it has left something")
	}
	must(t, s.AddContainer(t.Context(), other, Adopted{"fs", kept}))
	if _, err := os.Stat(filepath.Join(s.ContainerDir(other.ID), "fs/kept")); err != nil {
		t.Error(err)
	}

	must(t, s.Close())
	s = open(t, s.root)
	_, err := s.Collect(t.Context())
	must(t, err)
	if err := s.Check(t.Context(), layer.Snapshot{shown}); err != nil {
		t.Errorf("the layer of its mount: %v", err)
	}
	if err := s.Check(t.Context(), layer.Snapshot{unneeded}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a layer that nothing needs: %v", err)
	}
	wantClean(t, s)
}

// Names that continue one after a dot are found with it, and no others.
func TestContainersNamed(t *testing.T) {
	s := newStore(t)
	for i, name := range []string{"failed-a", "failed-a.1", "failed-a.2", "failed-a-b", "failed-ab", "failed-", "failed-a/x"} {
		must(t, s.AddContainer(t.Context(), newContainer(t, name, time.Duration(i)*time.Hour)))
	}
	all, err := s.ContainersNamed(t.Context(), "failed-a")
	must(t, err)
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	if !reflect.DeepEqual(names, []string{"failed-a", "failed-a.1", "failed-a.2"}) {
		t.Errorf("names are %q", names)
	}
}

// Each build asks for containers of a name: where there are none, the database is not asked.
func TestNoContainers(t *testing.T) {
	s := newStore(t)
	c := newContainer(t, "failed-a", 0)
	must(t, s.AddContainer(t.Context(), c))
	must(t, s.RemoveContainer(t.Context(), c.ID))
	_, err := s.db.Exec("DROP TABLE containers")
	must(t, err)
	if all, err := s.ContainersNamed(t.Context(), "failed-a"); err != nil || len(all) > 0 {
		t.Errorf("there are %v, %v", all, err)
	}
}
