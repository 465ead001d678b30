package store

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// deep makes a directory with so many levels below it that no path and no set of descriptors reaches the last.
func deep(t *testing.T, dir string, levels int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	for range levels {
		must(t, unix.Mkdirat(fd, "d", 0o755))
		next, err := unix.Openat(fd, "d", unix.O_PATH|unix.O_DIRECTORY, 0)
		must(t, err)
		unix.Close(fd)
		fd = next
	}
	f, err := unix.Openat(fd, "file", unix.O_CREAT|unix.O_WRONLY, 0o644)
	must(t, err)
	_, err = unix.Write(f, make([]byte, 1<<20))
	must(t, err)
	unix.Close(f)
	unix.Close(fd)
}

// A step makes directories as deep as it likes, and the store gets rid of them.
func TestDeepDirectoriesAreDeleted(t *testing.T) {
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	few := limit
	few.Cur = min(256, limit.Max)
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &few))
	t.Cleanup(func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) })
	s, ctx := newStore(t), t.Context()
	freed := func(what string, c Collected, err error) {
		t.Helper()
		if err != nil || c.Busy || c.Bytes < 1<<20 {
			t.Errorf("%s: %+v, %v, want at least 1 MiB free", what, c, err)
		}
	}

	cache, err := s.Cache(ctx, "cache", SharingShared, noFill)
	must(t, err)
	deep(t, cache.Dir, 100_000)
	cache.Release()
	c, err := s.PruneCache(ctx, CachePrune{All: true, Results: true, Mounts: true})
	freed("a cache mount", c, err)

	draft, err := s.NewLayer()
	must(t, err)
	deep(t, draft.FS, 20_000)
	_, err = draft.Commit(ctx)
	must(t, err)
	c, err = s.Collect(ctx)
	freed("a layer", c, err)

	must(t, s.AddContainer(ctx, Container{ID: "c", Name: "c"}))
	deep(t, filepath.Join(s.ContainerDir("c"), "fs"), 20_000)
	must(t, s.RemoveContainer(ctx, "c"))
	if _, err := os.Lstat(s.ContainerDir("c")); err == nil {
		t.Error("the container's directory is still there")
	}

	draft, err = s.NewLayer()
	must(t, err)
	deep(t, draft.FS, 20_000)
	draft.Abort()
	deep(t, s.lease.dir, 20_000)
	root := s.root
	must(t, s.Close())
	if left, _ := os.ReadDir(filepath.Join(root, "tmp")); len(left) > 0 {
		t.Errorf("these are left: %v", left)
	}
}
