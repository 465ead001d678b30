package store

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/slipway-build/slipway/internal/layer"
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

// A store keeps space for the day when there is none.
func TestReserve(t *testing.T) {
	s := newStore(t)
	put(t, s, "a")
	size := func() int64 {
		fi, err := os.Lstat(s.reserve())
		must(t, err)
		return fi.Size()
	}
	if size() != reserveSize {
		t.Errorf("the reserve has %d bytes", size())
	}
	if !s.letGo(openSize) || size() != reserveSize-openSize {
		t.Errorf("after a part of it was let go the reserve has %d bytes", size())
	}
	s.makeRoom()()
	if size() != reserveSize {
		t.Errorf("the reserve has %d bytes again", size())
	}
	if !s.letGo(2*reserveSize) || size() != 0 || s.letGo(1) {
		t.Errorf("after all of it was let go the reserve has %d bytes", size())
	}
}
