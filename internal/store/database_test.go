package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/layer/layertest"
)

// TestManyLayersFewConnections: whoever looks at many layers at once opens no connection for each, which
// takes longer than the questions.
func TestManyLayersFewConnections(t *testing.T) {
	s, ctx := newStore(t), context.Background()
	var snap layer.Snapshot
	for range 200 {
		draft, err := s.NewLayer()
		must(t, err)
		id, err := draft.Commit(ctx)
		must(t, err)
		snap = append(snap, id)
	}
	for range 3 {
		_, err := s.Dirs(ctx, snap)
		must(t, err)
		_, err = s.Tree(ctx, snap, NeedContent)
		must(t, err)
	}
	if stats := s.db.Stats(); stats.MaxIdleClosed > 0 {
		t.Errorf("connections that were opened beyond the %d that are kept: got %d, want none", maxIdle, stats.MaxIdleClosed)
	}
}

// What SQLite says reaches nobody: neither its words nor its numbers.
func TestDatabaseErrors(t *testing.T) {
	patient(t, 0)
	jargon := regexp.MustCompile(`(?i)sqlite|\(\d+\)|malformed|disk i/o|unable to open`)
	for name, c := range map[string]struct {
		harm func(s *Store)
		want string
	}{
		"no database": {func(s *Store) {
			must(t, os.WriteFile(filepath.Join(s.root, "meta.db"), []byte("this is no database, and it is longer than a header of one is"), 0o600))
		}, "meta.db is damaged: use another --root, or remove the store"},
		"a directory": {func(s *Store) {
			must(t, os.Remove(filepath.Join(s.root, "meta.db")))
			must(t, os.Mkdir(filepath.Join(s.root, "meta.db"), 0o700))
		}, "meta.db cannot be read or written: see whether"},
		"locked": {func(s *Store) {
			other := s.openDatabase(filepath.Join(s.root, "meta.db"))
			other.SetMaxOpenConns(1)
			t.Cleanup(func() { other.Close() })
			for _, q := range []string{"PRAGMA locking_mode=EXCLUSIVE", "UPDATE memo SET value=''"} {
				_, err := other.Exec(q)
				must(t, err)
			}
		}, "another process has locked "},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			must(t, s.Close())
			c.harm(s)
			again, err := Open(s.root)
			if err == nil {
				err = again.PutMemo(t.Context(), "k", "v")
				must(t, again.Close())
			}
			wantErr(t, err, c.want)
			if err != nil && jargon.MatchString(err.Error()) {
				t.Errorf("the error is %q", err)
			}
		})
	}
}

// A store keeps space for the day when there is none, and gives it up then.
func TestReserve(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	disk := shm(t)
	const size = 40 << 20
	must(t, unix.Mount("none", disk, "tmpfs", 0, fmt.Sprint("size=", size)))
	s := open(t, filepath.Join(disk, "store"))
	t.Cleanup(func() {
		must(t, s.Close())
		layertest.Unmount(t, disk)
	})
	reserved := func(when string, want int64) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(s.reserve(), &st); err != nil || st.Size != want || st.Blocks*512 != want {
			t.Errorf("%s the reserve has %d bytes and takes %d, %v, want %d", when, st.Size, st.Blocks*512, err, want)
		}
	}
	// leave fills the disk until n bytes are free.
	filler, err := os.Create(filepath.Join(disk, "filler"))
	must(t, err)
	defer filler.Close()
	leave := func(n int64) {
		t.Helper()
		must(t, filler.Truncate(0))
		must(t, unix.Fallocate(int(filler.Fd()), 0, 0, s.free()-n))
	}
	put(t, s, "a")
	reserved("with a first write", reserveSize)
	if !s.letGo(openSize) {
		t.Error("nothing was let go")
	}
	reserved("after a part of it was let go", reserveSize-openSize)
	s.makeRoom()()
	reserved("when it is filled again", reserveSize)

	leave(2 * reserveSize)
	done := s.makeRoom()
	reserved("with enough space to delete something", reserveSize)
	done()
	leave(2*reserveSize - 64<<10)
	done = s.makeRoom()
	reserved("with little space to delete something", 0)
	done()
	reserved("as long as there is little space", 0)
	leave(4 * reserveSize)
	s.makeRoom()()
	reserved("when there is space again", reserveSize)

	if !s.letGo(2*reserveSize) || s.letGo(1) {
		t.Error("not all was let go at once")
	}
	reserved("after all of it was let go", 0)
}

// A filesystem without inodes is full, however many bytes it has.
func TestNoInodes(t *testing.T) {
	needRoot(t)
	disk := shm(t)
	must(t, unix.Mount("none", disk, "tmpfs", 0, "size=40m,nr_inodes=200"))
	s := open(t, filepath.Join(disk, "store"))
	t.Cleanup(func() {
		must(t, s.Close())
		layertest.Unmount(t, disk)
	})
	must(t, s.Full())
	for i := range 150 {
		must(t, os.WriteFile(filepath.Join(disk, fmt.Sprint(i)), nil, 0o600))
	}
	if err := s.Full(); !IsFull(err) || !strings.Contains(err.Error(), "no inodes left on "+s.root) {
		t.Errorf("without inodes the error is %v", err)
	}
}
