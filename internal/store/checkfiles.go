package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// names lists a directory of the store; one that is missing is empty.
func (c *checker) names(dir ...string) ([]fs.DirEntry, error) {
	entries, err := readDir(filepath.Join(append([]string{c.s.root}, dir...)...))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return entries, err
}

// living reads what living processes use.
func (c *checker) living() (others, error) { return c.s.readLeases("") }

// orphans looks for files that no record knows of, and no process that lives.
func (l *survey) orphans(ctx context.Context) error {
	o, err := l.living()
	if err != nil {
		return err
	}
	algorithms, err := l.names("blobs")
	if err != nil {
		return err
	}
	for _, a := range algorithms {
		entries, err := l.names("blobs", a.Name())
		if err != nil {
			return err
		}
		for _, e := range entries {
			d := digest.NewDigestFromEncoded(digest.Algorithm(a.Name()), e.Name())
			if _, ok := l.inv.blobs[d]; !ok && !o.useBlob(d) {
				l.orphan(filepath.Join("blobs", a.Name(), e.Name()), "no record knows of the blob", func(o others) (bool, error) {
					recorded, err := l.exists(ctx, "blobs", "digest", d.String())
					return recorded || o.useBlob(d), err
				})
			}
		}
	}
	return errors.Join(l.layerOrphans(ctx, o), l.containerOrphans(ctx, o))
}

func (l *survey) layerOrphans(ctx context.Context, o others) error {
	entries, err := l.names("layers")
	if err != nil {
		return err
	}
	for _, e := range entries {
		id := layer.ID(e.Name())
		info, recorded := l.inv.layers[id]
		if o.useLayer(id) {
			continue
		}
		if !recorded {
			l.orphan(filepath.Join("layers", e.Name()), "no record knows of the layer", func(o others) (bool, error) {
				recorded, err := l.exists(ctx, "layers", "id", string(id))
				return recorded || o.useLayer(id), err
			})
			continue
		}
		parts, err := l.names("layers", e.Name())
		if err != nil {
			return err
		}
		for _, p := range parts {
			path := filepath.Join("layers", e.Name(), p.Name())
			inUse := func(o others) (bool, error) { return o.useLayer(id), nil }
			switch {
			case p.Name() == "fs" && !info.Dir:
				l.orphan(path, "no record knows of the directory", func(o others) (bool, error) {
					recorded, err := l.exists(ctx, "layers", "dir=1 AND id", string(id))
					return recorded || o.useLayer(id), err
				})
			case overName().MatchString(p.Name()) && !strings.HasPrefix(p.Name(), l.s.overPrefix()):
				l.orphan(path, "it was stacked on the layer before the machine started last, and may not be whole", inUse)
			case !slices.Contains([]string{"fs", "fs.owners", "index", "implied", "digests"}, p.Name()) && !strings.HasPrefix(p.Name(), "over-"):
				l.orphan(path, "it is no part of a layer", inUse)
			}
		}
	}
	return nil
}

// containerOrphans looks for directories of containers that are not recorded. They are made before the record, so
// as long as somebody is at work nothing is said.
func (l *survey) containerOrphans(ctx context.Context, o others) error {
	entries, err := l.names("containers")
	if err != nil || len(o.leases) > 0 {
		return err
	}
	for _, e := range entries {
		recorded, err := l.exists(ctx, "containers", "id", e.Name())
		if err != nil {
			return err
		}
		if !recorded {
			l.orphan(filepath.Join("containers", e.Name()), "no record knows of the container", func(o others) (bool, error) {
				recorded, err := l.exists(ctx, "containers", "id", e.Name())
				return recorded || len(o.leases) > 0, err
			})
		}
	}
	return nil
}

// exists reports whether a table has a row with a key.
func (c *checker) exists(ctx context.Context, table, key, value string) (there bool, err error) {
	err = c.s.db.QueryRowContext(ctx, "SELECT EXISTS(SELECT 1 FROM "+table+" WHERE "+key+"=?)", value).Scan(&there)
	return there, err
}

// orphan is a finding about files that are deleted unless somebody needs them by then.
func (l *survey) orphan(path, problem string, needed func(others) (bool, error)) {
	l.find(Finding{Kind: "orphan", Subject: path, Problem: problem, Means: "it takes space", Repair: "delete it", mend: func(ctx context.Context) error {
		return l.takeAway(ctx, []string{filepath.Join(l.s.root, path)}, needed, nil)
	}})
}

// leftovers looks for what dead processes left, which the next one that writes deletes.
func (l *survey) leftovers(context.Context) error {
	entries, err := l.names("tmp")
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, isLock := strings.CutSuffix(e.Name(), ".lock")
		path := filepath.Join(l.s.root, "tmp", id+".lock")
		if !isLock {
			if _, err := os.Lstat(path); err == nil {
				continue // told of the lock
			}
		}
		_, alive, err := readLease(path)
		if err != nil {
			return fmt.Errorf("reading what processes use: %w", err)
		}
		if alive {
			continue
		}
		l.find(Finding{Kind: "leftover", Subject: filepath.Join("tmp", id), Problem: "a process that has ended left it", Means: "it takes space",
			Repair: "delete it, as the next process that writes does", mend: func(context.Context) error {
				own, err := l.s.current()
				if err != nil {
					return err
				}
				if l.s.sweep(own, time.Now().Add(sweepTime)); isLock {
					return nil
				}
				if _, alive, err := readLease(path); alive || err != nil { // a lock is there before the directory
					return err
				}
				return os.RemoveAll(filepath.Join(l.s.root, "tmp", id))
			}})
	}
	return nil
}

// modes looks for what others than the owner could read, would they get there, and at the key of masks.
func (l *survey) modes(context.Context) error {
	paths, dirs := []string{l.s.root}, []string{".", "builds", "tmp", "blobs", "layers", "containers"}
	builds, err := l.names("builds")
	for _, b := range builds {
		dirs = append(dirs, filepath.Join("builds", b.Name()))
	}
	for _, dir := range dirs {
		entries, rerr := l.names(dir)
		err = errors.Join(err, rerr)
		for _, e := range entries {
			paths = append(paths, filepath.Join(l.s.root, dir, e.Name()))
		}
	}
	if err != nil {
		return err
	}
	for _, path := range paths {
		fi, err := os.Lstat(path)
		if err != nil || fi.Mode().Perm()&0o077 == 0 || !fi.IsDir() && !fi.Mode().IsRegular() {
			continue // what is gone was a process's beside this one
		}
		if filepath.Base(filepath.Dir(path)) == "containers" {
			continue // made with the mode of a container's files, behind the store's own
		}
		l.find(Finding{Kind: "mode", Subject: l.relative(path), Problem: fmt.Sprintf("its mode is %04o, others than its owner may use it", fi.Mode().Perm()),
			Means: "only the store's directory keeps them out", Repair: "take it from them", mend: func(context.Context) error {
				f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
				if err != nil {
					return err
				}
				return errors.Join(f.Chmod(fi.Mode().Perm()&0o700), f.Close())
			}})
	}
	mask := filepath.Join(l.s.root, "mask")
	if fi, err := os.Lstat(mask); err == nil && (!fi.Mode().IsRegular() || fi.Size() != sha256.Size) {
		l.find(Finding{Kind: "mask", Subject: "mask", Problem: fmt.Sprintf("it has %d bytes, want %d", fi.Size(), sha256.Size), Means: "no build can be recorded",
			Repair: "make another one: for values of before, a miss cannot tell whether they changed", mend: func(context.Context) error { return os.Remove(mask) }})
	}
	return nil
}

func (c *checker) relative(path string) string {
	rel, err := filepath.Rel(c.s.root, path)
	if err != nil {
		return path
	}
	return rel
}

// caches looks at cache mounts and their locks.
func (l *survey) caches(context.Context) error {
	entries, err := l.names("caches")
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(l.s.root, "caches", e.Name())
		name, isLock := strings.CutSuffix(path, ".lock")
		if !isLock {
			if !e.IsDir() && mountName(path) == path { // else it is found out again
				l.find(Finding{Kind: "cache mount", Subject: l.relative(path), Problem: "it is no directory", Means: "steps that use it fail",
					Repair: "delete it", mend: func(context.Context) error { return os.Remove(path) }})
			}
			continue
		}
		if _, err := os.Lstat(name); err == nil {
			continue
		}
		if _, alive, err := readLease(path); err != nil || alive { // somebody makes the cache
			continue
		}
		l.find(Finding{Kind: "cache mount", Subject: l.relative(path), Problem: "it is the lock of a cache that is not there", Means: "nothing",
			Repair: "delete it", mend: func(context.Context) error {
				trash, err := l.s.TempDir()
				if err != nil {
					return err
				}
				_, err = l.s.pruneMount(filepath.Base(name), time.Now(), trash)
				return errors.Join(err, os.RemoveAll(trash))
			}})
	}
	return nil
}
