package store

import (
	"archive/tar"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/reasons"
)

// checkable is a store with something of everything.
type checkable struct {
	*Store
	t              *testing.T
	base, own      layer.ID // pulled and unpacked; made here and packed
	run            layer.ID // made here, a directory alone
	baseBlob       digest.Digest
	ownBlob        digest.Digest
	manifest, conf ocispec.Descriptor
}

func newCheckable(t *testing.T) *checkable {
	t.Helper()
	needRoot(t)
	ctx := context.Background()
	c := &checkable{Store: newStore(t), t: t}
	id, desc, _ := pulled(t, c.Store, map[string]string{"etc/passwd": "root", "etc/group": "wheel", "bin/sh": "#!"})
	c.base, c.baseBlob = id, desc.Digest
	_, err := c.Dir(ctx, id)
	must(t, err)
	c.own = made(t, c.Store, map[string]string{"app/main": "program", "app/conf": "settings"})
	own, _, err := c.Blob(ctx, c.own, layer.Encoding{})
	must(t, err)
	c.ownBlob = own.Digest
	c.run = made(t, c.Store, map[string]string{"log": "line"})
	_, err = c.Size(ctx, c.run)
	must(t, err)
	c.conf, err = c.PutBlob(ctx, ocispec.MediaTypeImageConfig, []byte(`{}`))
	must(t, err)
	data, err := json.Marshal(ocispec.Manifest{Config: c.conf, Layers: []ocispec.Descriptor{desc, own}})
	must(t, err)
	c.manifest, err = c.PutBlob(ctx, ocispec.MediaTypeImageManifest, data)
	must(t, err)
	must(t, c.SetImages(ctx, Image{Name: "docker.io/library/app:v1", Manifest: c.manifest, ID: c.conf.Digest, Layers: layer.Snapshot{c.base, c.own}, Size: -1}))
	must(t, c.PutResult(ctx, "key", "Dockerfile\n[2/2]", Result{Outputs: []layer.Snapshot{{c.base, c.run}}, Created: time.Now()}))
	must(t, c.PutMemo(ctx, "selection", "a layer: "+string(c.run)))
	must(t, c.SetRef(ctx, "docker.io/library/app:v1", "linux/amd64", c.manifest.Digest))
	must(t, c.AddContainer(ctx, Container{ID: strings.Repeat("a", 64), Name: "box", ImageID: c.conf.Digest, Snapshot: layer.Snapshot{c.base, c.own}, Created: time.Now()}))
	if _, err := c.maskKey(); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *checkable) check(opt CheckOptions) []Finding {
	c.t.Helper()
	r, err := c.CheckAll(context.Background(), opt)
	must(c.t, err)
	return r.Findings
}

// write writes to a file of the store, whatever its mode, and keeps its times.
func (c *checkable) write(path, content string) {
	c.t.Helper()
	fi, err := os.Lstat(path)
	must(c.t, err)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(c.t, err)
	_, err = f.WriteAt([]byte(content), 0)
	must(c.t, err)
	must(c.t, f.Close())
	must(c.t, os.Chtimes(path, fi.ModTime(), fi.ModTime()))
}

func (c *checkable) exec(query string, args ...any) {
	c.t.Helper()
	_, err := c.db.ExecContext(context.Background(), query, args...)
	must(c.t, err)
}

func (c *checkable) path(parts ...string) string {
	return filepath.Join(append([]string{c.root}, parts...)...)
}

// damages are what may be wrong with a store, what is said of it, and what of that stays after it was mended.
var damages = map[string]struct {
	do    func(c *checkable)
	want  string // kind, subject, problem
	of    string
	files string
	quick bool // is seen without reading
	stays bool
}{
	"blob content": {
		do:   func(c *checkable) { c.write(c.blobPath(c.conf.Digest), `[]`) },
		want: "blob sha256:", of: "image docker.io/library/app:v1", stays: true,
	},
	"blob of a packed layer": {
		do:   func(c *checkable) { c.write(c.blobPath(c.ownBlob), "x") },
		want: "blob sha256:", of: "image docker.io/library/app:v1",
	},
	"blob of a pulled layer": {
		do:   func(c *checkable) { c.write(c.blobPath(c.baseBlob), "xx") },
		want: "blob sha256:", of: "image docker.io/library/app:v1", stays: true,
	},
	"blob size": {
		do:   func(c *checkable) { must(c.t, os.Truncate(c.blobPath(c.ownBlob), 100)) },
		want: "it has 100 bytes", quick: true,
	},
	"blob missing": {
		do:   func(c *checkable) { must(c.t, os.Remove(c.blobPath(c.ownBlob))) },
		want: "its file is missing", quick: true,
	},
	"file of a pulled layer": {
		do:   func(c *checkable) { c.write(c.path("layers", string(c.base), "fs/etc/passwd"), "toor") },
		want: "1 files of its directory", of: "step [2/2] of Dockerfile", files: "changed /etc/passwd: content",
	},
	"mode in a pulled layer": {
		do:    func(c *checkable) { must(c.t, os.Chmod(c.path("layers", string(c.base), "fs/bin/sh"), 0o4755)) },
		want:  "1 files of its directory",
		files: "changed /bin/sh: mode",
	},
	"owner in a pulled layer": {
		do:    func(c *checkable) { must(c.t, os.Chown(c.path("layers", string(c.base), "fs/bin/sh"), 1, 2)) },
		want:  "1 files of its directory",
		files: "changed /bin/sh: owner",
	},
	"attribute in a pulled layer": {
		do: func(c *checkable) {
			must(c.t, unix.Setxattr(c.path("layers", string(c.base), "fs/bin/sh"), "trusted.x", []byte("y"), 0))
		},
		want:  "1 files of its directory",
		files: "changed /bin/sh: xattrs",
	},
	"file more in a pulled layer": {
		do: func(c *checkable) {
			must(c.t, os.WriteFile(c.path("layers", string(c.base), "fs/bin/evil"), nil, 0o755))
		},
		want:  "files of its directory",
		files: "added /bin/evil",
	},
	"file less in a pulled layer": {
		do:    func(c *checkable) { must(c.t, os.Remove(c.path("layers", string(c.base), "fs/bin/sh"))) },
		want:  "files of its directory",
		files: "removed /bin/sh",
	},
	"file of a packed layer": {
		do:    func(c *checkable) { c.write(c.path("layers", string(c.own), "fs/app/conf"), "nothings") },
		want:  "packed, it is sha256:",
		files: "changed /app/conf: content",
	},
	"file of a layer that nobody packed": {
		do:   func(c *checkable) { must(c.t, os.Truncate(c.path("layers", string(c.run), "fs/log"), 1)) },
		want: "its files have 1 bytes, want 4", of: "step [2/2] of Dockerfile",
	},
	"directory missing": {
		do:   func(c *checkable) { must(c.t, os.RemoveAll(c.path("layers", string(c.base), "fs"))) },
		want: "its directory is missing", quick: true,
	},
	"layer without anything": {
		do:   func(c *checkable) { c.exec("UPDATE layers SET dir=0 WHERE id=?", string(c.run)) },
		want: "neither a directory nor a blob", quick: true,
	},
	"false diffID": {
		do: func(c *checkable) {
			must(c.t, c.SetImages(context.Background()))
			c.exec("UPDATE layers SET diff_id=? WHERE id=?", digest.FromString("other").String(), string(c.base))
		},
		want: "expected diffID", of: "image docker.io/library/app:v1", stays: true,
	},
	"index damaged": {
		do:   func(c *checkable) { c.write(c.path("layers", string(c.own), "index"), "X") },
		want: "it is damaged",
	},
	"index of a layer, cut off": {
		do:   func(c *checkable) { must(c.t, os.Truncate(c.path("layers", string(c.own), "index"), 60)) },
		want: "it is damaged",
	},
	"index of another layer": {
		do: func(c *checkable) {
			other := made(c.t, c.Store, map[string]string{"app/main": "PROGRAM", "app/conf": "settings"})
			_, _, err := c.Blob(context.Background(), other, layer.Encoding{})
			must(c.t, err)
			data, err := os.ReadFile(c.indexPath(other))
			must(c.t, err)
			must(c.t, os.WriteFile(c.indexPath(c.own), data, 0o600))
		},
		want: "files in it are not as in the blob", files: "changed /app/main: content",
	},
	"implied missing": {
		do:   func(c *checkable) { must(c.t, os.Remove(c.stackingFile(c.base))) },
		want: "it is not what the blob tells",
	},
	"implied damaged": {
		do:   func(c *checkable) { c.write(c.stackingFile(c.base), "x") },
		want: "implied ",
	},
	"result damaged": {
		do:   func(c *checkable) { c.exec("UPDATE results SET record='{'") },
		want: "result key its record is damaged", quick: true,
	},
	"result of a layer that is not there": {
		do: func(c *checkable) {
			c.exec(`UPDATE results SET record='{"outputs":[["000000000000-1"]]}'`)
		},
		want: "result key its layer 000000000000-1 is not here", of: "step [2/2] of Dockerfile", quick: true,
	},
	"memo of a layer that is not there": {
		do:   func(c *checkable) { c.exec("UPDATE memo SET value='of 000000000000-1'") },
		want: "memo selection its layer 000000000000-1 is not here", quick: true,
	},
	"reference to a manifest that is not there": {
		do:   func(c *checkable) { c.exec("UPDATE refs SET digest=?", digest.FromString("no").String()) },
		want: "reference docker.io/library/app:v1 linux/amd64 its manifest", quick: true,
	},
	"image of a layer that is not there": {
		do: func(c *checkable) {
			c.exec("UPDATE images SET record=replace(record, ?, '000000000000-1')", string(c.own))
		},
		want: "image docker.io/library/app:v1 its layer 000000000000-1 is not here", quick: true, stays: true,
	},
	"image of a blob that is not there": {
		do: func(c *checkable) {
			must(c.t, os.Remove(c.blobPath(c.ownBlob)))
			c.exec("DELETE FROM blobs WHERE digest=?", c.ownBlob.String())
		},
		want: "image docker.io/library/app:v1 its blob sha256:", quick: true,
	},
	"image damaged": {
		do:   func(c *checkable) { c.exec("UPDATE images SET record='{'") },
		want: "image docker.io/library/app:v1 its record is damaged", quick: true, stays: true,
	},
	"container of a layer that is not there": {
		do: func(c *checkable) {
			c.exec("UPDATE containers SET record=replace(record, ?, '000000000000-1')", string(c.own))
		},
		want: "container box its layer 000000000000-1 is not here", quick: true, stays: true,
	},
	"container without a directory": {
		do:   func(c *checkable) { must(c.t, os.RemoveAll(c.path("containers", strings.Repeat("a", 64), "fs"))) },
		want: "container box its directory fs is missing", quick: true,
	},
	"blob record of a blob that is not there": {
		do: func(c *checkable) {
			c.exec("INSERT INTO layer_blobs VALUES(?,?,'',1,1)", c.ownBlob.String(), digest.FromString("gz").String())
		},
		want: "blob record sha256:", quick: true,
	},
	"index.json without an image": {
		do: func(c *checkable) {
			must(c.t, os.WriteFile(c.path("index.json"), []byte(`{"schemaVersion":2,"manifests":[]}`), 0o600))
		},
		want: "index.json index.json it does not have the images", quick: true,
	},
	"index.json damaged": {
		do:   func(c *checkable) { must(c.t, os.WriteFile(c.path("index.json"), []byte(`{"schema`), 0o600)) },
		want: "index.json index.json it is damaged", quick: true,
	},
	"blob without a record": {
		do: func(c *checkable) {
			must(c.t, os.WriteFile(c.blobPath(digest.FromString("nobody's")), []byte("nobody's"), 0o644))
		},
		want: "orphan blobs/sha256/", quick: true,
	},
	"layer without a record": {
		do:   func(c *checkable) { must(c.t, os.MkdirAll(c.path("layers/000000000000-7/fs/a"), 0o700)) },
		want: "orphan layers/000000000000-7 no record", quick: true,
	},
	"directory without a record": {
		do:   func(c *checkable) { c.exec("UPDATE layers SET dir=0 WHERE id=?", string(c.own)) },
		want: "/fs no record knows of the directory", quick: true,
	},
	"something beside a layer": {
		do:   func(c *checkable) { must(c.t, os.WriteFile(c.path("layers", string(c.own), "odd"), nil, 0o600)) },
		want: "/odd it is no part of a layer", quick: true,
	},
	"stacked before the last boot": {
		do: func(c *checkable) {
			must(c.t, os.Mkdir(c.path("layers", string(c.own), "over-00000000-0123456789abcdef"), 0o700))
		},
		want: "over-00000000-0123456789abcdef it was stacked", quick: true,
	},
	"container without a record": {
		do:   func(c *checkable) { must(c.t, os.MkdirAll(c.path("containers", strings.Repeat("b", 64), "fs"), 0o700)) },
		want: "orphan containers/bbb", quick: true,
	},
	"dead lease": {
		do: func(c *checkable) {
			must(c.t, os.WriteFile(c.path("tmp/000000000000.lock"), nil, 0o600))
			must(c.t, os.MkdirAll(c.path("tmp/000000000000/half"), 0o700))
		},
		want: "leftover tmp/000000000000 a process", quick: true,
	},
	"directory of no lease": {
		do:   func(c *checkable) { must(c.t, os.MkdirAll(c.path("tmp/000000000001/half"), 0o700)) },
		want: "leftover tmp/000000000001 a process", quick: true,
	},
	"mode of the key": {
		do:   func(c *checkable) { must(c.t, os.Chmod(c.path("mask"), 0o644)) },
		want: "mode mask its mode is 0644", quick: true,
	},
	"mode of the store": {
		do:   func(c *checkable) { must(c.t, os.Chmod(c.root, 0o755)) },
		want: "mode . its mode is 0755", quick: true,
	},
	"key": {
		do:   func(c *checkable) { must(c.t, os.Truncate(c.path("mask"), 3)) },
		want: "mask mask it has 3 bytes", quick: true,
	},
	"list of a build": {
		do: func(c *checkable) {
			must(c.t, os.Mkdir(c.path("builds/20010101-a"), 0o700))
			must(c.t, os.WriteFile(c.path("builds/20010101-a/files-"+reasons.PieceName([]byte("x"))), []byte("x"), 0o600))
			must(c.t, os.WriteFile(c.path("builds/20010101-a/files-"+reasons.PieceName([]byte("y"))), []byte("z"), 0o600))
		},
		want: "list builds/20010101-a/files-" + reasons.PieceName([]byte("y")) + " it has another content",
	},
	"lock of no cache": {
		do:   func(c *checkable) { must(c.t, os.WriteFile(c.path("caches/abc.lock"), nil, 0o600)) },
		want: "cache mount caches/abc.lock", quick: true,
	},
	"cache that is a file": {
		do:   func(c *checkable) { must(c.t, os.WriteFile(c.path("caches/abc"), nil, 0o600)) },
		want: "cache mount caches/abc it is no directory", quick: true,
	},
}

func (f Finding) text() string { return fmt.Sprintf("%s %s %s", f.Kind, f.Subject, f.Problem) }

func TestCheckFindsAndMends(t *testing.T) {
	for name, d := range damages {
		t.Run(name, func(t *testing.T) {
			c := newCheckable(t)
			if found := c.check(CheckOptions{}); len(found) > 0 {
				t.Fatalf("before anything is damaged, these are found: %+v", found)
			}
			d.do(c)
			must(t, c.endLease()) // nothing of it is in use
			before := snapshotOf(t, c.root)
			if found := c.check(CheckOptions{Quick: true}); (len(found) > 0) != d.quick {
				t.Errorf("without reading, these are found: %+v", found)
			}
			found := c.check(CheckOptions{})
			if after := snapshotOf(t, c.root); after != before {
				t.Errorf("a check changed the store from\n%s\nto\n%s", before, after)
			}
			var hit *Finding
			for i := range found {
				if strings.Contains(found[i].text(), d.want) {
					hit = &found[i]
				}
			}
			if hit == nil {
				t.Fatalf("found %+v, want %q", found, d.want)
			}
			if of := strings.Join(hit.Of, "\n"); !strings.Contains(of, d.of) {
				t.Errorf("it is of %q, want %q", of, d.of)
			}
			if files := strings.Join(hit.Files, "\n"); !strings.Contains(files, d.files) {
				t.Errorf("its files are %q, want %q", files, d.files)
			}
			r, err := c.CheckAll(context.Background(), CheckOptions{Repair: true})
			must(t, err)
			if r.Clean() == d.stays {
				t.Errorf("all of it was mended is %v: %+v", r.Clean(), r.Findings)
			}
			must(t, c.endLease())
			if left := c.check(CheckOptions{}); (len(left) > 0) != d.stays {
				t.Errorf("after it was mended, these are found: %+v", left)
			}
		})
	}
}

// snapshotOf tells what files a store has, but for the database's.
func snapshotOf(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || strings.Contains(e.Name(), "meta.db") {
			return err
		}
		fi, err := e.Info()
		if err == nil && !e.IsDir() {
			fmt.Fprintln(&b, path, fi.Mode(), fi.Size(), fi.ModTime())
		} else {
			fmt.Fprintln(&b, path, fi.Mode())
		}
		return err
	}))
	return b.String()
}

// What is named is kept, with what is left of it; the cache that needs it is not used any more.
func TestRepairKeepsTheLastFormOfWhatIsNamed(t *testing.T) {
	ctx := context.Background()
	c := newCheckable(t)
	must(t, c.PutResult(ctx, "own", "Dockerfile\n[1/2]", Result{Outputs: []layer.Snapshot{{c.own}}, Created: time.Now()}))
	c.write(c.path("layers", string(c.own), "fs/app/conf"), "nothings")
	c.write(c.blobPath(c.ownBlob), "x")
	must(t, c.endLease())
	r, err := c.CheckAll(ctx, CheckOptions{Repair: true})
	must(t, err)
	if r.Clean() {
		t.Errorf("all of it was mended: %+v", r.Findings)
	}
	data, err := os.ReadFile(c.path("layers", string(c.own), "fs/app/main"))
	if err != nil || string(data) != "program" {
		t.Errorf("the image's other file is %q, %v", data, err)
	}
	if _, found, _, err := c.Result(ctx, "own"); err != nil || found {
		t.Errorf("the result is still used: %t, %v", found, err)
	}
	if _, err := c.Image(ctx, "app:v1"); err != nil {
		t.Errorf("the image is gone: %v", err)
	}
	plain := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: c.ownBlob, Size: 1}
	if id, err := c.BlobLayer(ctx, c.ownBlob, plain); err != nil || id == c.own {
		t.Errorf("who has the blob gets the damaged layer %s, %v", id, err)
	}
}

// What somebody else uses stays until he has ended.
func TestRepairLeavesWhatOthersUse(t *testing.T) {
	ctx := context.Background()
	c := newCheckable(t)
	other := open(t, c.root)
	_, err := other.Layer(ctx, c.base)
	must(t, err)
	c.write(c.path("layers", string(c.base), "fs/etc/passwd"), "toor")
	must(t, c.endLease())
	r, err := c.CheckAll(ctx, CheckOptions{Repair: true})
	must(t, err)
	if len(r.Findings) != 1 || r.Findings[0].Mended || !strings.Contains(r.Findings[0].Failed, "another process uses it") {
		t.Errorf("findings are %+v", r.Findings)
	}
	if _, err := os.Lstat(c.layerFS(c.base)); err != nil {
		t.Error(err)
	}
	must(t, other.Close())
	if r, err = c.CheckAll(ctx, CheckOptions{Repair: true}); err != nil || !r.Clean() {
		t.Errorf("then: %+v, %v", r, err)
	}
	if _, err := os.Lstat(c.layerFS(c.base)); err == nil {
		t.Error("the damaged directory is still there")
	}
}

// A layer that another process makes, and a blob that it has placed, are nobody's leftovers.
func TestCheckBesideOthers(t *testing.T) {
	c := newCheckable(t)
	other := open(t, c.root)
	l, err := other.current()
	must(t, err)
	must(t, os.MkdirAll(c.path("layers", l.name(), "fs"), 0o700))
	d := digest.FromString("on its way")
	if other.HasBlob(d) {
		t.Fatal("the blob is there")
	}
	must(t, os.WriteFile(c.blobPath(d), []byte("on its way"), 0o644))
	if found := c.check(CheckOptions{}); len(found) > 0 {
		t.Errorf("found %+v", found)
	}
}

func TestCheckOfAReadOnlyStore(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	c := newCheckable(t)
	c.write(c.path("layers", string(c.base), "fs/etc/passwd"), "toor")
	root := c.root
	must(t, c.Close())
	must(t, unix.Mount(root, root, "", unix.MS_BIND, ""))
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	must(t, unix.Mount("", root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	s, err := Open(root)
	must(t, err)
	defer s.Close()
	r, err := s.CheckAll(context.Background(), CheckOptions{})
	must(t, err)
	if len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Files[0], "/etc/passwd") {
		t.Errorf("findings are %+v", r.Findings)
	}
	_, err = s.CheckAll(context.Background(), CheckOptions{Repair: true})
	wantErr(t, err, "read-only")
}

// An index of the database that lost a row is made again.
func TestCheckOfTheDatabase(t *testing.T) {
	c := newCheckable(t)
	must(t, c.update(context.Background(), func(tx *sql.Tx) error {
		for _, q := range []string{"PRAGMA writable_schema=ON",
			"UPDATE sqlite_schema SET sql='CREATE INDEX results_slot ON results(slot, key)' WHERE name='results_slot'", "PRAGMA writable_schema=OFF"} {
			if _, err := tx.Exec(q); err != nil {
				return err
			}
		}
		return nil
	}))
	root := c.root
	must(t, c.Close())
	s := open(t, root)
	r, err := s.CheckAll(context.Background(), CheckOptions{})
	must(t, err)
	if len(r.Findings) != 1 || r.Findings[0].Kind != "database" {
		t.Fatalf("findings are %+v", r.Findings)
	}
	if r, err = s.CheckAll(context.Background(), CheckOptions{Repair: true}); err != nil || !r.Clean() {
		t.Errorf("it was not mended: %+v, %v", r, err)
	}
}

// Layers whose archives are not like those that are made here are what they should be, too: they have names twice,
// hard links, files without their directories, whiteouts, links to files of layers below.
func TestCheckOfUnusualLayers(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s := newStore(t)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeReg, Name: "z", Mode: 0o644, Size: 1}, {Typeflag: tar.TypeLink, Name: "a", Linkname: "z"},
		{Typeflag: tar.TypeReg, Name: "deep/er/file", Mode: 0o600, Size: 1, ModTime: time.Unix(7, 0)},
		{Typeflag: tar.TypeDir, Name: "twice/", Mode: 0o755}, {Typeflag: tar.TypeReg, Name: "twice/x", Mode: 0o644, Size: 1},
		{Typeflag: tar.TypeReg, Name: "twice", Mode: 0o644, Size: 1}, {Typeflag: tar.TypeReg, Name: "dir/.wh.gone"},
		{Typeflag: tar.TypeDir, Name: "new/", Mode: 0o1777}, {Typeflag: tar.TypeReg, Name: "new/.wh..wh..opq"},
		{Typeflag: tar.TypeLink, Name: "below", Linkname: "bin/sh"}, {Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o622},
		{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "/nowhere"}, {Typeflag: tar.TypeChar, Name: "tty", Devmajor: 5},
		{Typeflag: tar.TypeReg, Name: "cap", Mode: 0o755, Size: 1, PAXRecords: map[string]string{"SCHILY.xattr.user.k": "v"}},
	} {
		must(t, w.WriteHeader(&h))
		_, err := w.Write([]byte("x")[:h.Size])
		must(t, err)
	}
	must(t, w.Close())
	for _, c := range []layer.Compression{layer.Gzip, layer.Zstd} {
		desc, err := s.PutBlob(ctx, layerMediaType(c), packed(t, b.Bytes(), c))
		must(t, err)
		id, err := s.BlobLayer(ctx, digest.FromBytes(b.Bytes()), desc)
		must(t, err)
		if c == layer.Gzip {
			info, err := s.Layer(ctx, id)
			must(t, err)
			_, err = s.index(ctx, info, NeedMetadata) // which makes one
			must(t, err)
		}
		_, err = s.Dir(ctx, id)
		must(t, err)
	}
	r, err := s.CheckAll(ctx, CheckOptions{})
	must(t, err)
	if !r.Clean() {
		t.Errorf("found %+v", r.Findings)
	}
}

// A check of a large blob does not hold it.
func TestCheckHoldsNoContent(t *testing.T) {
	s := newStore(t)
	w, err := s.NewBlob(digest.Canonical)
	must(t, err)
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for range 64 {
		_, err := w.Write(chunk)
		must(t, err)
	}
	_, err = w.Commit(context.Background())
	must(t, err)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, err := s.CheckAll(context.Background(), CheckOptions{})
	must(t, err)
	runtime.ReadMemStats(&after)
	if r.Bytes != 64<<20 {
		t.Errorf("%d bytes were read", r.Bytes)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
		t.Errorf("%d bytes were allocated", got)
	}
}
