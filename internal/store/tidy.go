package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// How often a process that has written something looks whether the cache is larger than policies want, and how long
// it deletes then.
const (
	tidyEvery = 10 * time.Minute
	tidyTime  = 5 * time.Second
	// tidyStep is how much less has to be free than after the last look for another one before its time.
	tidyStep = 64 << 20
)

// DefaultPolicies are those of BuildKit (cmd/buildkitd/config/gcpolicy.go) for the store's disk: what is easily made
// again and was not used for two days goes from a cache of more than 512 MB, then what was not used for 60 days, then
// what was used least recently, then base images. Where limits are given, they take the place of those by the disk's size.
func (s *Store) DefaultPolicies(limits Policy) ([]Policy, error) {
	disk, _, err := s.Disk()
	if err != nil {
		return nil, err
	}
	if limits.ReservedSpace == (Space{}) && limits.MaxUsedSpace == (Space{}) && limits.MinFreeSpace == (Space{}) {
		limits.ReservedSpace = Space{Bytes: min(disk/10, 10e9)}
		limits.MaxUsedSpace = Space{Bytes: min(disk/10*8, 100e9)}
		limits.MinFreeSpace = Space{Percent: 20}
	}
	with := func(p Policy) Policy {
		p.ReservedSpace, p.MaxUsedSpace, p.MinFreeSpace = limits.ReservedSpace, limits.MaxUsedSpace, limits.MinFreeSpace
		return p
	}
	return []Policy{
		{Filters: []string{"type==" + TypeLocal, "type==" + TypeMount, "type==" + TypeGit}, KeepDuration: 48 * time.Hour, MaxUsedSpace: Space{Bytes: 512e6}},
		with(Policy{KeepDuration: 60 * 24 * time.Hour}), with(Policy{}), with(Policy{All: true}),
	}, nil
}

// Keep says what is kept when a store is tidied.
type Keep struct {
	Policies []Policy // of the build cache; none keeps all
	History  *History // of builds; nil keeps all
	// Beside says that this process works meanwhile: what it uses stays as what others use. So it leaves that to the end of its work, unless it works
	// for long, or the disk is short of space.
	Beside bool
}

// Wrote reports whether this process has written layers, blobs or the record of a build: what [Store.Tidy] is for.
func (s *Store) Wrote() bool { return s.wrote.Load() }

// Tidy is [Store.Prune] and [Store.PruneBuilds] by a process that has ended its work: not when it wrote neither layers nor
// blobs nor the record of a build, and seldom, unless the disk gets short of what policies want to be free. The caller must
// not be using layers or blobs, unless keep says Beside; what it used is not held any more. What is not deleted in a few seconds is left to others.
func (s *Store) Tidy(ctx context.Context, keep Keep) error {
	if !s.Wrote() {
		return nil
	}
	due, err := s.tidyDue(&keep)
	if err != nil || !due {
		return err
	}
	err = s.noteTidy() // first: it is this process's turn
	if !keep.Beside {
		err = errors.Join(err, s.letAllGo())
	}
	if err != nil {
		return fmt.Errorf("pruning the build cache: %w", err)
	}
	how := manner{by: time.Now().Add(tidyTime), working: keep.Beside}
	var herr error
	if keep.History != nil {
		if _, _, herr = s.pruneBuilds(*keep.History, how); IsFull(herr) {
			herr = nil
		}
	}
	if len(keep.Policies) == 0 {
		return errors.Join(herr, s.readUses(ctx))
	}
	_, err = s.prune(ctx, how, keep.Policies...)
	if errors.Is(err, errGate) || IsFull(err) { // another time; the reserve is for what a user does
		err = nil
	}
	return errors.Join(herr, err, s.noteTidy())
}

// MakeSpace lets unused cache go when a disk got full while this process works, and returns how many bytes that gave.
// What it uses stays as what others use does. Callers at the same time share the answer.
func (s *Store) MakeSpace(ctx context.Context) (freed int64, err error) {
	disk, _, err := s.Disk()
	if err != nil {
		return 0, err
	}
	gone, err := s.makeSpace(ctx, disk/10+reserveSize)
	return gone.Freed, err
}

// makeSpace lets unused cache of so many bytes go, whatever is free, and if that is not enough the records of builds but the newest.
func (s *Store) makeSpace(ctx context.Context, bytes int64) (Pruned, error) {
	v, err := s.once(ctx, "making space", func(ctx context.Context) (any, error) {
		defer s.keepReserve()
		own, err := s.current()
		if err != nil {
			return Pruned{}, err
		}
		// First what others left that were killed meanwhile.
		all := Pruned{Freed: s.sweep(own, time.Time{})}
		for _, p := range []Policy{{}, {All: true}} { // base images last
			if all.Freed >= bytes || err != nil {
				break
			}
			p.less = bytes - all.Freed
			prune := func() error {
				gone, err := s.prune(ctx, manner{working: true}, p)
				all.Freed, all.all = all.Freed+gone.Freed, p.All && gone.all
				return err
			}
			if err = prune(); IsFull(err) && !s.tookReserve.Swap(true) && s.letGo(openSize) { // the whole is for what a user does
				err = prune()
			}
		}
		if all.Freed < bytes && err == nil { // and then what tells of earlier builds
			_, freed, berr := s.pruneBuilds(History{MaxEntries: 1}, manner{working: true})
			all.Freed, err = all.Freed+freed, berr
		}
		if all.Freed > 0 {
			s.tookReserve.Store(false)
		}
		return all, err
	})
	gone, _ := v.(Pruned)
	return gone, err
}

// tidied is the file that was changed when somebody looked last, and says what was free then.
func (s *Store) tidied() string { return filepath.Join(s.root, "gc") }

func (s *Store) noteTidy() error {
	err := os.WriteFile(s.tidied(), strconv.AppendInt(nil, s.free(), 10), 0o600)
	if IsFull(err) {
		return nil // and the next one looks again
	}
	return err
}

// tidyDue reports whether it is time for a look. In a new store that is later.
func (s *Store) tidyDue(keep *Keep) (bool, error) {
	disk, free, err := s.Disk()
	if err != nil {
		return false, err
	}
	short := false
	for _, p := range keep.Policies {
		short = short || free < p.MinFreeSpace.Of(disk)
	}
	fi, err := os.Lstat(s.tidied())
	if errors.Is(err, os.ErrNotExist) && !short {
		return false, s.noteTidy()
	}
	if err != nil {
		return short, nil
	}
	if age := time.Since(fi.ModTime()); (age < 0 || age >= tidyEvery) && (!keep.Beside || time.Since(s.opened) >= tidyEvery) {
		return true, nil
	}
	text, err := os.ReadFile(s.tidied())
	then, perr := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return short && (err != nil || perr != nil || free < then-min(tidyStep, disk/100)), nil
}
