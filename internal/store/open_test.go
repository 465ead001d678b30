package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// childCreates opens a store that may not be there yet and writes one of everything.
func childCreates(root string) error {
	s, err := Open(root)
	if err != nil {
		return err
	}
	ctx := context.Background()
	me := fmt.Sprint(os.Getpid())
	desc, err := s.PutBlob(ctx, "", []byte("the same for all"))
	if err != nil {
		return err
	}
	if _, err := s.PutBlob(ctx, "", []byte(me)); err != nil {
		return err
	}
	if _, err := s.BlobLayer(ctx, digest.FromString("diff"), desc); err != nil {
		return err
	}
	d, err := s.NewLayer()
	if err != nil {
		return err
	}
	id, err := d.Commit(ctx)
	if err != nil {
		return err
	}
	if err := s.PutResult(ctx, me, "slot", Result{Outputs: []layer.Snapshot{{id}}, Created: time.Now()}); err != nil {
		return err
	}
	c, err := s.Cache(ctx, "cache", SharingLocked, noFill)
	if err != nil {
		return err
	}
	c.Release()
	img := Image{ID: desc.Digest, Manifest: desc}
	if err := s.SetImages(ctx, as(img, "docker.io/library/app:v"+me), as(img, "docker.io/library/app:latest")); err != nil {
		return err
	}
	return s.Close()
}

// atOnce runs a command of the tests in several processes at the same time, which have ended when it returns.
func atOnce(t *testing.T, processes int, name, root string) []*exec.Cmd {
	t.Helper()
	cmds := make([]*exec.Cmd, processes)
	outs := make([]bytes.Buffer, processes)
	for i := range cmds {
		cmds[i] = command(t, name, root)
		cmds[i].Stdout, cmds[i].Stderr = &outs[i], &outs[i]
		must(t, cmds[i].Start())
	}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Errorf("process %d: %v: %s", i, err, outs[i].String())
		}
	}
	return cmds
}

func TestManyProcessesCreateStore(t *testing.T) {
	const processes = 10
	for range 3 {
		root := filepath.Join(shm(t), "deeper", "store")
		cmds := atOnce(t, processes, "create", root)
		if left, _ := os.ReadDir(filepath.Join(root, "tmp")); len(left) != 0 {
			t.Errorf("these are left: %v", left)
		}
		s := open(t, root)
		images, err := s.Images(context.Background())
		if err != nil || len(images) != processes+1 {
			t.Errorf("%d images are named, %v, want %d", len(images), err, processes+1)
		}
		index, err := os.ReadFile(filepath.Join(root, "index.json"))
		must(t, err)
		for i, cmd := range cmds {
			me := fmt.Sprint(cmd.Process.Pid)
			if _, found, reason, err := s.Result(context.Background(), me); !found || err != nil {
				t.Errorf("the result of process %d is missing: %s, %v", i, reason, err)
			}
			if !strings.Contains(string(index), "app:v"+me+`"`) {
				t.Errorf("the image of process %d is not in index.json", i)
			}
			if !s.HasBlob(digest.FromString(me)) {
				t.Errorf("the blob of process %d is missing", i)
			}
		}
	}
}

func TestOddRoots(t *testing.T) {
	for _, name := range []string{"with space", "what?is=this", "a#b", "100%", "per%20cent", "ü", "a&b"} {
		root := filepath.Join(shm(t), name)
		s := open(t, root)
		must(t, s.PutMemo(context.Background(), "k", "v"))
		if s.Root() != root {
			t.Errorf("the root is %s, want %s", s.Root(), root)
		}
		if _, err := os.Stat(filepath.Join(root, "meta.db")); err != nil {
			t.Error(err)
		}
	}
}

func TestRootIsNoDirectory(t *testing.T) {
	root := filepath.Join(shm(t), "file")
	must(t, os.WriteFile(root, nil, 0o600))
	_, err := Open(root)
	wantErr(t, err, "opening store "+root)
}

// put makes one record of each kind that speaks of files, all named after name.
func put(t *testing.T, s *Store, name string) layer.ID {
	t.Helper()
	ctx := context.Background()
	_, err := s.PutBlob(ctx, "", []byte(name))
	must(t, err)
	id := made(t, s, map[string]string{"file": name})
	must(t, s.PutResult(ctx, name, "slot", Result{Outputs: []layer.Snapshot{{id}}}))
	must(t, s.PutMemo(ctx, name, name))
	return id
}

// has checks the records that put makes.
func has(t *testing.T, s *Store, name string, id layer.ID, want bool) {
	t.Helper()
	ctx := context.Background()
	if got := s.HasBlob(digest.FromString(name)); got != want {
		t.Errorf("blob %s: %t, want %t", name, got, want)
	}
	if _, err := s.Layer(ctx, id); (err == nil) != want || (err != nil && !errors.Is(err, ErrNotFound)) {
		t.Errorf("layer %s: %v, want it: %t", name, err, want)
	}
	if _, found, reason, err := s.Result(ctx, name); err != nil || found != want {
		t.Errorf("result %s: %t, %q, %v, want %t", name, found, reason, err, want)
	}
	if _, found, err := s.Memo(ctx, name); err != nil || found != want {
		t.Errorf("memo %s: %t, %v, want %t", name, found, err, want)
	}
}

// After a crash of the machine only what was synced counts.
func TestRecordsOfAnotherBoot(t *testing.T) {
	s := newStore(t)
	synced := put(t, s, "synced")
	must(t, s.Sync(context.Background()))
	unsynced := put(t, s, "unsynced")
	other := open(t, s.root) // another process, the same boot
	has(t, other, "unsynced", unsynced, true)
	must(t, other.Close())

	for _, table := range bootTables {
		_, err := s.db.Exec("UPDATE " + table + " SET boot='another-boot' WHERE boot != ''")
		must(t, err)
	}
	must(t, s.Close())
	s = open(t, s.root)
	has(t, s, "synced", synced, true)
	has(t, s, "unsynced", unsynced, false)

	// What is written again counts again. The first writer deletes what the crash left.
	again := put(t, s, "unsynced")
	if _, err := os.Stat(filepath.Join(s.root, "layers", string(unsynced))); err == nil {
		t.Error("the directory of a dropped layer is still there")
	}
	wantClean(t, s)
	if locks, _ := filepath.Glob(filepath.Join(s.root, "tmp", "*.lock")); len(locks) != 1 {
		t.Errorf("there are %q, want the lock of this process", locks)
	}
	must(t, s.Sync(context.Background()))
	must(t, s.Close())
	has(t, open(t, s.root), "unsynced", again, true)
}

// A layer that was synced as a blob is not lost because it was unpacked just before the crash; its
// directory is.
func TestUnpackedJustBeforeCrash(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	id, _, _ := pulled(t, s, map[string]string{"a": "hello"})
	must(t, s.Sync(ctx))
	dir, err := s.Dir(ctx, id)
	must(t, err)
	_, err = s.db.Exec("UPDATE layers SET boot='another-boot' WHERE boot != ''")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "a"), nil, 0o600)) // what a crash may leave of a file
	must(t, s.Close())

	s = open(t, s.root)
	if info, err := s.Layer(ctx, id); err != nil || info.Dir {
		t.Fatalf("the layer is %+v, %v, want it in blob form only", info, err)
	}
	dir, err = s.Dir(ctx, id)
	must(t, err)
	if got, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(got) != "hello" {
		t.Errorf("the file is %q, %v: the directory of before the crash was taken for whole", got, err)
	}
}
