package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostile are stores whose records and files were made to lead a check somewhere else, or to hold it up.
var hostile = map[string]func(c *checkable, victim string){
	"blob outside": func(c *checkable, victim string) {
		c.exec("INSERT INTO blobs(digest,size,boot) VALUES(?,6,'')", "sha256:../../"+c.outside(victim)+"/file")
		c.exec("INSERT INTO blobs(digest,size,boot) VALUES(?,6,'')", "../"+c.outside(victim)+":file")
	},
	"blob without an algorithm": func(c *checkable, _ string) {
		c.exec("INSERT INTO blobs(digest,size,boot) VALUES('nonsense',6,'')")
		c.exec("UPDATE layers SET blob='nonsense' WHERE id=?", string(c.base))
		c.exec("UPDATE layers SET diff_id='nonsense' WHERE id=?", string(c.own))
	},
	"layer outside": func(c *checkable, victim string) {
		for _, id := range []string{"../" + c.outside(victim), "../" + c.outside(victim) + "/dir", "..", ".", ""} {
			c.exec("INSERT OR REPLACE INTO layers(id,diff_id,blob,media_type,blob_size,claimed,dir,size,created,boot) VALUES(?,?,'','',0,0,1,9,0,'')", id, c.ownBlob.String())
		}
	},
	"container outside": func(c *checkable, victim string) {
		c.exec("UPDATE containers SET record=replace(record,?,?)", `"ID":"aaaa`, `"ID":"../`+c.outside(victim)+`/aaaa`)
	},
	"pipes": func(c *checkable, _ string) {
		for _, path := range []string{
			c.blobPath(c.conf.Digest), c.blobPath(c.manifest.Digest), c.blobPath(c.baseBlob), c.indexPath(c.base), c.indexPath(c.own), c.stackingFile(c.base), c.path("index.json"),
			c.path("tmp", "dead.lock"), c.path("caches", "x.lock"), c.path("containers", "x"), c.path("layers", string(c.run), "fs", "pipe"),
		} {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				c.t.Fatal(err)
			}
			must(c.t, unix.Mkfifo(path, 0o600))
		}
	},
	"linked directories": func(c *checkable, victim string) {
		for _, path := range []string{"builds/x", "blobs/x", "layers/x", "layers/" + string(c.run), "containers/x", "caches/x", "tmp/x", "contexts"} {
			must(c.t, os.RemoveAll(c.path(path)))
			must(c.t, os.Symlink(victim, c.path(path)))
		}
	},
	"endless files": func(c *checkable, _ string) {
		for _, path := range []string{c.stackingFile(c.base), c.indexPath(c.base), c.path("index.json")} {
			must(c.t, os.RemoveAll(path))
			must(c.t, os.WriteFile(path, []byte("["), 0o600))
			must(c.t, os.Truncate(path, 1<<40))
		}
	},
	"links": func(c *checkable, victim string) {
		for _, path := range []string{
			c.blobPath(c.conf.Digest), c.indexPath(c.base), c.stackingFile(c.base), c.path("tmp", "dead.lock"), c.path("tmp", "dead"), c.path("caches", "x"), c.path("caches", "x.lock"),
			c.path("layers", string(c.base), "fs"), c.path("containers", "x"), c.path("layers", "x"), c.path("mask"),
		} {
			must(c.t, os.RemoveAll(path))
			to := victim
			if filepath.Base(path) != "fs" && filepath.Base(path) != "x" && filepath.Base(path) != "dead" {
				to = filepath.Join(victim, "file")
			}
			must(c.t, os.Symlink(to, path))
		}
	},
}

// outside is the path of a directory beside the store, from the store's.
func (c *checkable) outside(path string) string {
	rel, err := filepath.Rel(c.root, path)
	must(c.t, err)
	return rel
}

// TestCheckOfAHostileStore: whatever records and files say, a check ends, and what it mends is the store's.
func TestCheckOfAHostileStore(t *testing.T) {
	if testing.Short() {
		t.Skip("long: stores of endless files")
	}
	for name, spoil := range hostile {
		t.Run(name, func(t *testing.T) {
			c := newCheckable(t)
			victim := t.TempDir()
			for _, path := range []string{"file", "fs/file", "dir/fs/file", "index", "implied"} {
				must(t, os.MkdirAll(filepath.Dir(filepath.Join(victim, path)), 0o755))
				must(t, os.WriteFile(filepath.Join(victim, path), []byte("victim"), 0o644))
			}
			spoil(c, victim)
			must(t, c.endLease())
			before := snapshotOf(t, victim)
			for _, opt := range []CheckOptions{{Quick: true}, {}, {Repair: true}, {Repair: true}} {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, _ = c.CheckAll(ctx, opt) // that it cannot go on is fine
				}()
				select {
				case <-done:
				case <-ctx.Done():
					t.Fatalf("%+v: the check does not end", opt)
				}
				cancel()
				if after := snapshotOf(t, victim); after != before {
					t.Fatalf("%+v: files outside of the store were\n%s\nand are\n%s", opt, before, after)
				}
				if _, err := os.Stat(c.path("meta.db")); err != nil {
					t.Fatalf("%+v: %v", opt, err)
				}
				must(t, c.endLease())
			}
		})
	}
}

// What is in the parts of a store and needed by nobody is deleted: a link in the place of one leads to nothing of that. A
// store whose processes are told of elsewhere is none.
func TestStoreOfLinks(t *testing.T) {
	needRoot(t)
	for _, part := range []string{"blobs", "blobs/sha256", "layers", "builds", "containers", "caches", "used", "contexts", "tmp"} {
		s := newStore(t)
		root := s.Root()
		must(t, s.Close())
		victim := t.TempDir()
		for _, path := range []string{"file", "dir/file", "sha256/file"} {
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(victim, path)), 0o755))
			must(t, os.WriteFile(filepath.Join(victim, path), nil, 0o644))
		}
		before := snapshotOf(t, victim)
		must(t, os.RemoveAll(filepath.Join(root, part)))
		must(t, os.Symlink(victim, filepath.Join(root, part)))
		s, err := Open(root)
		if part == "tmp" {
			if err == nil {
				t.Error("a store was opened whose tmp is a link")
				must(t, s.Close())
			}
			continue
		}
		must(t, err)
		_, _ = s.Collect(context.Background()) // that it cannot is fine
		_, _ = s.Prune(context.Background())
		_, _ = s.CheckAll(context.Background(), CheckOptions{Repair: true})
		must(t, s.Close())
		if after := snapshotOf(t, victim); after != before {
			t.Errorf("%s is a link: where it leads to there was\n%s\nand is\n%s", part, before, after)
		}
	}
}
