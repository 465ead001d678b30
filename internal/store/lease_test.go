package store

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// childStopsHalfway has something of everything half-done: a draft, a blob, a temporary directory,
// and a layer directory that is in its place but not recorded. One layer is done.
func childStopsHalfway(root string) error {
	s, err := Open(root)
	if err != nil {
		return err
	}
	d, err := s.NewLayer()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.FS, "half"), []byte("half"), 0o600); err != nil {
		return err
	}
	w, err := s.NewBlob(digest.Canonical)
	if err != nil {
		return err
	}
	if _, err := w.Write([]byte("half")); err != nil {
		return err
	}
	tmp, err := s.TempDir()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "half"), nil, 0o600); err != nil {
		return err
	}
	unrecorded, err := s.NewLayer()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(unrecorded.FS, "file"), nil, 0o600); err != nil {
		return err
	}
	if err := s.update(context.Background(), func(tx *sql.Tx) error { _, err := unrecorded.place(tx); return err }); err != nil {
		return err
	}
	unrecorded.Abort()
	done, err := s.NewLayer()
	if err != nil {
		return err
	}
	id, err := done.Commit(context.Background())
	if err != nil {
		return err
	}
	say(s.lease.id, unrecorded.id, id)
	return nil
}

// halfway is a process that stops halfway, as seen from outside.
type halfway struct {
	*child
	lease, lock, unrecorded string // paths
	done                    layer.ID
}

func startHalfway(t *testing.T, root string) *halfway {
	t.Helper()
	c := start(t, "halfway", root)
	if len(c.ready) != 3 {
		t.Fatalf("the child says %q", c.ready)
	}
	h := &halfway{child: c, done: layer.ID(c.ready[2])}
	h.lease = filepath.Join(root, "tmp", c.ready[0])
	h.lock = h.lease + ".lock"
	h.unrecorded = filepath.Join(root, "layers", c.ready[1])
	return h
}

// check tells whether what the process left is there, and that what it finished is.
func (h *halfway) check(t *testing.T, s *Store, when string, there bool) {
	t.Helper()
	for _, path := range []string{h.lease, h.lock, h.unrecorded} {
		if _, err := os.Lstat(path); (err == nil) != there {
			t.Errorf("%s: %s is there: %t, want %t", when, path, err == nil, there)
		}
	}
	if there {
		if left, _ := filepath.Glob(h.lease + "/*"); len(left) != 3 {
			t.Errorf("%s: the lease holds %q, want a draft, a blob and a directory", when, left)
		}
		if _, err := os.Lstat(filepath.Join(h.unrecorded, "fs", "file")); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	dir, err := s.Dir(context.Background(), h.done)
	if err != nil {
		t.Errorf("%s: a layer that was done is gone: %v", when, err)
		return
	}
	if _, err := os.Lstat(dir); err != nil {
		t.Errorf("%s: %v", when, err)
	}
}

// What a process that was killed left half-done is deleted by the next one that writes, and
// nothing else is.
func TestSweepAfterKill(t *testing.T) {
	root := filepath.Join(shm(t), "store")
	dead, alive := startHalfway(t, root), startHalfway(t, root)
	dead.kill()

	reader := open(t, root)
	if _, _, _, err := reader.Result(context.Background(), "key"); err != nil {
		t.Fatal(err)
	}
	dead.check(t, reader, "after a reader", true)

	writer := open(t, root)
	mine := made(t, writer, map[string]string{"a": "1"})
	dead.check(t, writer, "dead, after a writer", false)
	alive.check(t, writer, "alive, after a writer", true)

	alive.kill()
	another := open(t, root)
	made(t, another, nil)
	alive.check(t, another, "killed, after another writer", false)
	if _, err := writer.Dir(context.Background(), mine); err != nil {
		t.Error(err)
	}
	if files, _ := filepath.Glob(filepath.Join(root, "tmp", "*.lock")); len(files) != 3 {
		t.Errorf("locks are %q, want those of the two writers and of the reader, which looked at a layer", files)
	}
}

func TestCloseGivesLeaseUp(t *testing.T) {
	root := filepath.Join(shm(t), "store")
	s := open(t, root)
	d, err := s.NewLayer()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(d.FS, "x"), nil, 0o600))
	must(t, s.Close())
	if left, _ := os.ReadDir(filepath.Join(root, "tmp")); len(left) != 0 {
		t.Errorf("a closed store left %v", left)
	}
}

// Names never repeat, across leases and within one.
func TestLeaseNames(t *testing.T) {
	root := filepath.Join(shm(t), "store")
	seen := map[string]bool{}
	for range 3 {
		s := open(t, root)
		for range 100 {
			dir, err := s.TempDir()
			must(t, err)
			if name := filepath.Base(dir); seen[name] {
				t.Fatalf("the name %s was given twice", name)
			} else {
				seen[name] = true
			}
		}
	}
}

// Leases are taken while others sweep: nobody loses a lease that was just made.
func TestLeasesWhileSweeping(t *testing.T) {
	root := filepath.Join(shm(t), "store")
	open(t, root)
	errs := make(chan error)
	const workers = 8
	for range workers {
		go func() {
			for range 20 {
				s, err := Open(root)
				if err == nil {
					var dir string
					if dir, err = s.TempDir(); err == nil {
						err = os.WriteFile(filepath.Join(dir, "x"), nil, 0o600)
					}
					s.Close()
				}
				if err != nil {
					errs <- fmt.Errorf("using the store: %w", err)
					return
				}
			}
			errs <- nil
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
