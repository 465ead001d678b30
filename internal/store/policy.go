package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// Policy says what of the build cache goes. Its words are BuildKit's, and mean the same.
type Policy struct {
	// All takes base images that were only pulled for builds, too, and what is remembered of files and servers; without
	// limits of space also what images share with the cache, which then goes with the images.
	All bool
	// KeepDuration spares what was used later than so long ago.
	KeepDuration time.Duration
	// Space that the cache may take always, that it may take at most, and that shall be free on its disk. Without any of
	// the three, everything goes that the rest of the policy is about. What images share with the cache does not count.
	ReservedSpace, MaxUsedSpace, MinFreeSpace Space
	// Filters choose records, one of them has to match: containerd's, of the fields id, parents, description, type, inuse,
	// mutable, immutable, shared and private.
	Filters []string

	less int64 // unless zero, how much less the cache shall take than it does, instead of the three
}

// Pruned is what went.
type Pruned struct {
	Records []CacheRecord
	Freed   int64 // bytes of the disk

	all bool // that the last policy lets go is gone
}

// Space is an amount of a disk: bytes, or percents of its size.
type Space struct{ Bytes, Percent int64 }

// UnmarshalText reads "10GB", "512MB", "1.5gib", which have the powers of 1024 that they have in Docker, or "20%".
func (s *Space) UnmarshalText(text []byte) (err error) {
	if percent, ok := strings.CutSuffix(string(text), "%"); ok {
		n, err := strconv.ParseInt(percent, 10, 64)
		if err != nil || n < 0 || n > 100 {
			return fmt.Errorf("invalid space %q: percents of the disk are 0%% to 100%%", text)
		}
		*s = Space{Percent: n}
		return nil
	}
	n, err := units.RAMInBytes(string(text))
	if err != nil || n < 0 {
		return fmt.Errorf("invalid space %q: want bytes with a unit, as in 10GB, or percents of the disk, as in 20%%", text)
	}
	*s = Space{Bytes: n}
	return nil
}

// Of is the amount in bytes of a disk of some size.
func (s Space) Of(disk int64) int64 { return s.Bytes + disk/100*s.Percent }

// keepBytes is to what a cache of total bytes is to shrink, as BuildKit has it (cache/manager.go); all says that there
// is no limit which would keep anything.
func (p Policy) keepBytes(total, disk, free int64) (keep int64, all bool) {
	used, reserved, wanted := p.MaxUsedSpace.Of(disk), p.ReservedSpace.Of(disk), p.MinFreeSpace.Of(disk)
	if used == 0 && reserved == 0 && wanted == 0 {
		return 0, true
	}
	keep = used
	if excess := wanted - free; excess > 0 {
		if keep == 0 || total-excess < keep {
			keep = total - excess
		}
	} else if wanted != 0 && keep == 0 {
		keep = total
	}
	return max(keep, reserved), false
}

// matches reports whether a filter takes a record.
func matches(f filters.Filter, r *CacheRecord) bool {
	return f.Match(filters.AdapterFunc(func(path []string) (string, bool) {
		switch strings.Join(path, ".") {
		case "id":
			return r.ID, true
		case "parents":
			return strings.Join(r.Parents, ";"), len(r.Parents) > 0
		case "description":
			return r.Description, r.Description != ""
		case "type":
			return r.Type, true
		case "inuse":
			return "", r.InUse
		case "mutable":
			return "", r.Mutable
		case "immutable":
			return "", !r.Mutable
		case "shared":
			return "", r.Shared
		case "private":
			return "", !r.Shared
		}
		return "", false
	}))
}

// FilterCache returns the records that one of the filters takes, which are those of [Policy].
func FilterCache(records []CacheRecord, by ...string) ([]CacheRecord, error) {
	f, err := parseFilters(by)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(records), func(r CacheRecord) bool { return !matches(f, &r) }), nil
}

func parseFilters(by []string) (filters.Filter, error) {
	f, err := filters.ParseAll(by...)
	if err != nil {
		return nil, fmt.Errorf("reading filters %q: %w", by, err)
	}
	return f, nil
}

// Prune makes the build cache what policies, one after the other, want. Least recently used goes first, and nothing
// that an image, a container or a process needs. It takes no longer than reading the records while others wait for
// it; the caller must not be using layers or blobs.
func (s *Store) Prune(ctx context.Context, policies ...Policy) (p Pruned, err error) {
	defer s.makeRoom()()
	return s.prune(ctx, manner{}, policies...)
}

// PruneBeside is [Store.Prune] by a process that works meanwhile: what it uses itself stays as what others use.
func (s *Store) PruneBeside(ctx context.Context, policies ...Policy) (p Pruned, err error) {
	defer s.makeRoom()()
	return s.prune(ctx, manner{working: true}, policies...)
}

// prune is [Store.Prune] in some manner.
func (s *Store) prune(ctx context.Context, how manner, policies ...Policy) (p Pruned, err error) {
	if _, err := s.current(); err != nil { // sweeps
		return p, err
	}
	known := map[string]bool{}
	var c *cacheState
	for _, policy := range policies {
		for progress := true; progress; { // others may have used what was chosen
			if c == nil {
				if c, err = s.cacheState(ctx, how); err != nil {
					return p, fmt.Errorf("pruning the build cache: %w", err)
				}
			}
			if policy.less > 0 {
				policy.MaxUsedSpace, policy.less = Space{Bytes: max(c.size()-policy.less, 1)}, 0
			}
			ch := choice{cacheState: c, policy: policy}
			disk, free, err := s.Disk()
			if err == nil {
				err = ch.choose(disk, free)
			}
			if err != nil {
				return p, err
			}
			p.all = ch.exhausted
			progress = len(ch.rows) > 0
			ch.gone = slices.DeleteFunc(ch.gone, func(r *CacheRecord) bool { return known[r.ID] })
			if len(ch.gone) == 0 && !progress {
				break
			}
			gone, freed, err := s.forgetRecords(ctx, how, ch.gone, ch.rows)
			p.Records, p.Freed, c = append(p.Records, gone...), p.Freed+freed, nil
			if err != nil {
				return p, fmt.Errorf("pruning the build cache: %w", err)
			}
			for _, r := range ch.gone {
				known[r.ID], progress = true, true
			}
		}
	}
	freed, err := s.collect(ctx, how)
	p.Freed += freed
	return p, err
}

// choice is what a policy chooses.
type choice struct {
	*cacheState
	policy Policy
	filter filters.Filter
	cutoff time.Time // spares what was used later
	all    bool      // nothing has to stay
	left   int64     // bytes of what stays

	exhausted bool // all that may go was chosen

	gone      []*CacheRecord // the choice
	rows      []rowKey       // to be forgotten for that
	forgotten map[rowKey]bool
	isGone    map[*CacheRecord]bool
	children  map[*CacheRecord]int // that are gone
	byID      map[string]*CacheRecord
}

// choose chooses the records that the policy is about and that have to go.
func (c *choice) choose(disk, free int64) (err error) {
	if c.filter, err = parseFilters(c.policy.Filters); err != nil {
		return err
	}
	c.forgotten, c.isGone, c.children, c.byID = map[rowKey]bool{}, map[*CacheRecord]bool{}, map[*CacheRecord]int{}, map[string]*CacheRecord{}
	for _, r := range c.records {
		c.byID[r.ID] = r
	}
	c.left = c.size()
	var keep int64
	keep, c.all = c.policy.keepBytes(c.left, disk, free)
	if c.cutoff = time.Now(); c.policy.KeepDuration > 0 {
		c.cutoff = c.cutoff.Add(-c.policy.KeepDuration)
	}
	candidates := slices.DeleteFunc(slices.Clone(c.records), c.spares)
	// What was used with what stands on it goes after that.
	slices.SortStableFunc(candidates, func(a, b *CacheRecord) int {
		return cmp.Or(a.LastUsed.Compare(b.LastUsed), cmp.Compare(b.depth, a.depth))
	})
	c.exhausted = true
	for _, r := range candidates {
		if !c.all && c.left <= keep {
			c.exhausted = false
			break
		}
		if !c.isGone[r] && r.children == c.children[r] { // nothing that stays stands on it
			c.take(r)
		}
	}
	if c.all {
		c.takeIdle()
	}
	return nil
}

// spares reports whether a record stays, whatever the space is.
func (c *choice) spares(r *CacheRecord) bool {
	switch {
	case r.InUse, r.LastUsed.After(c.cutoff), !matches(c.filter, r):
		return true
	case !c.policy.All:
		return r.Type == TypeInternal || r.Shared || r.Base
	}
	return r.Shared && !c.all // its space would not be free
}

// take chooses a record, and with it what nothing else keeps than the rows that are forgotten for that.
func (c *choice) take(r *CacheRecord) {
	for _, row := range r.rows {
		if !c.forgotten[row] {
			c.forgotten[row] = true
			c.rows = append(c.rows, row)
		}
	}
	c.drop(r)
	for _, row := range r.rows {
		for _, d := range c.keeps(row) {
			kept := func(row rowKey) bool { return !c.forgotten[row] }
			if !c.isGone[d] && !d.InUse && !d.Shared && !slices.ContainsFunc(d.rows, kept) {
				c.drop(d)
			}
		}
	}
}

func (c *choice) drop(r *CacheRecord) {
	c.isGone[r] = true
	c.gone = append(c.gone, r)
	for _, id := range r.Parents {
		c.children[c.byID[id]]++
	}
	if !r.Shared {
		c.left -= r.Size
	}
}

// takeIdle chooses the rows that keep nothing: results of steps that were only planned, digests of files.
func (c *choice) takeIdle() {
	for _, row := range c.idle {
		r := &CacheRecord{Type: TypeInternal, LastUsed: row.used}
		if row.table == "results" {
			r.Type = TypeRegular
		}
		if !c.spares(r) {
			c.rows = append(c.rows, row.rowKey)
		}
	}
}

// size is how much of the disk the cache takes, without what images share.
func (c *cacheState) size() (bytes int64) {
	for _, r := range c.records {
		if !r.Shared {
			bytes += r.Size
		}
	}
	return bytes
}

// keeps are the records that a row keeps.
func (c *cacheState) keeps(row rowKey) []*CacheRecord {
	if c.byRow == nil {
		c.byRow = map[rowKey][]*CacheRecord{}
		for _, r := range c.records {
			for _, row := range r.rows {
				c.byRow[row] = append(c.byRow[row], r)
			}
		}
	}
	return c.byRow[row]
}

// forgetRecords deletes what was chosen, but for what somebody has begun to use, and returns what is gone.
func (s *Store) forgetRecords(ctx context.Context, how manner, records []*CacheRecord, rows []rowKey) (gone []CacheRecord, freed int64, err error) {
	trash, err := s.tempDir(trashSuffix)
	if err != nil {
		return nil, 0, err
	}
	for _, r := range records {
		there := true
		switch {
		case r.mount:
			there, err = s.pruneMount(r.ID, r.LastUsed, trash)
		case r.Type == TypeLocal:
			there, err = s.forgetContext(r.ID)
		}
		if err != nil {
			return gone, 0, err
		}
		if there {
			gone = append(gone, *r)
		}
	}
	if err := s.forgetCache(ctx, rows); err != nil {
		return gone, 0, err
	}
	if freed, err = deleteTree(trash, how.by); err != nil {
		return gone, freed, err
	}
	s.leave(trash)
	collected, err := s.collect(ctx, how)
	return gone, freed + collected, err
}

// forgetContext deletes what is kept of a build context.
func (s *Store) forgetContext(id string) (there bool, _ error) {
	file := filepath.Join(s.root, "contexts", part(id))
	for _, name := range []string{file, ContextContents(file)} {
		switch err := os.Remove(name); {
		case err == nil:
			there = true
		case !errors.Is(err, os.ErrNotExist):
			return there, err
		}
	}
	return there, nil
}

// Disk returns the size of the store's filesystem, and how many of its bytes are free for this user.
func (s *Store) Disk() (size, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return 0, 0, fmt.Errorf("asking how much of the disk is free: %w", os.NewSyscallError("statfs", err))
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}
