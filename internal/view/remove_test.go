package view

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
)

// words are what was removed, in one line; images by their labels.
func words(gone []Removed, images ...store.Image) string {
	var all []string
	for _, r := range gone {
		if r.Untagged != "" {
			all = append(all, r.Untagged)
		}
		for i, img := range images {
			if r.Deleted && r.ID == img.ID {
				all = append(all, string(rune('A'+i)))
			}
		}
	}
	return strings.Join(all, " ")
}

// The rules are those of Docker's engine.
func TestRemoveImage(t *testing.T) {
	l := newLab(t)
	a, b := l.image("a", "amd64", 0), l.image("b", "amd64", 0)
	l.name(a, "a:1")
	l.name(a, "a:2")
	b = l.name(b, "b:1")
	stopped := l.container("stopped", b, 0, container.Config{}, container.State{})
	remove := func(name string, force bool, gone, message string) {
		t.Helper()
		got, err := RemoveImage(t.Context(), l.s, name, force)
		if want(t, name, words(got, a, b), gone); (err == nil) != (message == "") || err != nil && !strings.Contains(err.Error(), message) {
			t.Errorf("removing %s: %v, want %q", name, err, message)
		}
	}
	remove("nosuch", true, "", "No such image: nosuch")
	remove("b:1", false, "", `unable to remove repository reference "b:1" (must force) - container `+stopped.ID[:12])
	remove(b.ID.Encoded()[:12], false, "", "(must be forced) - image is being used by stopped container "+stopped.ID[:12])
	remove(a.ID.String(), false, "", "image is referenced in multiple repositories")
	remove("a:1", false, "a:1", "")
	l.name(a, "a:3")
	remove(a.ID.String(), true, "a:2 a:3 A", "")
	runs := l.container("runs", b, 0, container.Config{}, container.State{PID: 1, Started: time.Now()})
	l.run(runs)
	remove(b.ID.String(), true, "", "(cannot be forced) - image is being used by running container "+runs.ID[:12])
	remove("b:1", true, "b:1", "")
	want(t, "it stays without its name", l.filtered(), "<none>")

	// By a digest what the repository calls the image goes, and a digest with the last tag of its repository.
	a = l.name(l.image("a", "amd64", 0), "a:1")
	of := "@" + a.RepoDigest().String()
	for _, name := range []string{"c:1", "c:2", "a:2", "a" + of, "d" + of} {
		l.name(a, name)
	}
	remove("c:3"+of, true, "", "No such image: c:3"+of)
	remove("c:2"+of, false, "c:2", "") // with a tag it is that one
	l.name(a, "c:2")
	remove("c"+of, false, "c:1 c:2", "")
	l.name(a, "c:1")
	l.name(a, "c"+of)
	remove("c:1"+of, false, "c:1 c"+of, "")
	remove("a:2", false, "a:2", "")
	remove("a:1", false, "a:1 a"+of, "")
	remove("c"+of, false, "", "No such image: c"+of)
	remove("d"+of, false, "d"+of+" A", "")
}

func TestPruneImages(t *testing.T) {
	l := newLab(t)
	a, b, c := l.image("a", "amd64", 0, l.layer(strings.Repeat("a", 100_000))), l.image("b", "amd64", time.Hour), l.image("c", "amd64", 2*time.Hour)
	l.name(a, "a:1")
	l.name(b, "b:1")
	l.name(b, "b:2")
	l.name(c, "")
	l.container("box", b, 0, container.Config{}, container.State{})
	prune := func(f ImageFilter, gone, left string) (freed int64) {
		t.Helper()
		got, freed, err := PruneImages(t.Context(), l.s, f, l.s.Collect)
		must(t, err)
		want(t, "gone", words(got, a, b, c), gone)
		want(t, "left", l.filtered(), left)
		return freed
	}
	prune(ImageFilter{Dangling: []bool{true}, Labels: []string{"is=a"}}, "", "a:1 b:1 b:2 <none>")
	prune(ImageFilter{Dangling: []bool{true}}, "C", "a:1 b:1 b:2")
	if freed := prune(ImageFilter{}, "a:1 A", "b:1 b:2"); freed < 100_000 {
		t.Errorf("%d bytes are free", freed)
	}
	must(t, l.s.RemoveContainer(t.Context(), l.only()))
	prune(ImageFilter{}, "b:1 b:2 B", "")
	if _, _, err := PruneImages(t.Context(), l.s, ImageFilter{Before: []string{"nosuch"}}, l.s.Collect); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("before an unknown image: %v", err)
	}
}

// only is the ID of the one container.
func (l *lab) only() string {
	l.t.Helper()
	all, err := l.s.Containers(l.t.Context())
	must(l.t, err)
	if len(all) != 1 {
		l.t.Fatalf("%d containers", len(all))
	}
	return all[0].ID
}

// mount leaves a cache mount of some bytes.
func (l *lab) mount(id string, bytes int, used time.Time) {
	l.t.Helper()
	c, err := l.s.Cache(l.t.Context(), id, store.SharingShared, func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "file"), make([]byte, bytes), 0o644)
	})
	must(l.t, err)
	c.Release()
	must(l.t, os.Chtimes(c.Dir+".lock", used, used))
}

// build leaves the record of a build.
func (l *lab) build(name string, when time.Time) {
	l.t.Helper()
	b, err := l.s.NewBuild(name)
	must(l.t, err)
	must(l.t, os.WriteFile(filepath.Join(b.Path, "log"), []byte("log"), 0o600))
	must(l.t, b.Close())
	must(l.t, os.Chtimes(b.Path, when, when))
}

// Records of builds go with all of the cache, and otherwise those that nobody wants to keep.
func TestPruneCache(t *testing.T) {
	l := newLab(t)
	old := time.Now().Add(-time.Hour)
	left := func(records, builds int) {
		t.Helper()
		cache, err := CacheRecords(t.Context(), l.s, CacheFilter{})
		must(t, err)
		names, err := l.s.Builds()
		must(t, err)
		if len(cache) != records || len(names) != builds {
			t.Errorf("%d records of the cache and %d of builds are left, want %d and %d", len(cache), len(names), records, builds)
		}
	}
	l.mount("one", 5000, old)
	l.mount("two", 5000, time.Now())
	l.build("2026-01", old)
	l.build("2026-02", time.Now())
	_, err := PruneCache(t.Context(), l.s, store.Policy{KeepDuration: 10 * time.Minute}, nil)
	must(t, err)
	left(1, 2)
	pruned, err := PruneCache(t.Context(), l.s, store.Policy{}, &store.History{MaxEntries: 1})
	must(t, err)
	if left(0, 1); len(pruned.Records) != 1 || pruned.Freed < 5000 {
		t.Errorf("it says %+v", pruned)
	}
	l.build("2026-03", old)
	for _, p := range []store.Policy{{All: true, MaxUsedSpace: store.Space{Bytes: 1}}, {All: true, Filters: []string{"mutable"}}} {
		_, err = PruneCache(t.Context(), l.s, p, nil)
		must(t, err)
		left(0, 2)
	}
	_, err = PruneCache(t.Context(), l.s, store.Policy{All: true, KeepDuration: 10 * time.Minute}, nil)
	must(t, err)
	left(0, 1)
	pruned, err = PruneCache(t.Context(), l.s, store.Policy{All: true}, nil)
	must(t, err)
	if left(0, 0); len(pruned.Records) != 0 || pruned.Freed < 3 {
		t.Errorf("of a build's record it says %+v", pruned)
	}
}
