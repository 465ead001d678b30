package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// A store may have a limit of bytes of the disk. Nobody keeps an account of them that could go wrong: what the store
// holds is looked at, and between two looks it grows by no more than its disk has less free space, or by what processes
// know to have written where others give space back meanwhile. So a look is needed where the limit may be
// near. What other processes have written, or are writing, a look finds as it finds one's own.

const (
	// watchEvery is how often the disk's free space is asked for while a build works.
	watchEvery = 100 * time.Millisecond
	// lookAgain is how long one look at what the store holds is believed.
	lookAgain = 30 * time.Second
	// askEvery is how many bytes of a blob are written before anybody asks.
	askEvery = 16 << 20
)

// limit is how much the store may hold, and what is known of how much that is.
type limit struct {
	max     int64
	written atomic.Int64 // by this process, and not told yet

	mu     sync.Mutex
	looked time.Time
	took   time.Duration
	held   int64 // at the last look
	free   int64 // of the disk, then
	told   int64 // by all processes that have a limit, then
}

// WithLimit bounds how much of its disk the store may take. Zero is no limit.
func WithLimit(most Space) Option {
	return func(s *Store) { s.limited = most }
}

// setLimit makes the limit of an open store.
func (s *Store) setLimit() error {
	if s.limited == (Space{}) {
		return nil
	}
	disk, _, err := s.Disk()
	s.limit = &limit{max: s.limited.Of(disk)}
	return err
}

// LimitError says that the store would hold more than it may, whatever unused cache goes.
type LimitError struct {
	Root        string
	Limit, Held int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("the store %s would take %s, which is more than its limit of %s (--store-limit), and nothing that is unused is left in its cache",
		e.Root, units.HumanSize(float64(e.Held)), units.HumanSize(float64(e.Limit)))
}

// grown notes that this process has written something.
func (s *Store) grown(bytes int64) {
	if s.limit != nil {
		s.limit.written.Add(bytes)
	}
}

// withinLimit returns a [LimitError] when the store holds more than its limit and nothing unused is left in its cache.
// While the limit is far it asks for nothing but the free space.
func (s *Store) withinLimit(ctx context.Context) error {
	l := s.limit
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	told, err := s.tell(l.written.Swap(0))
	if err != nil {
		return fmt.Errorf("telling others what was written: %w", err)
	}
	if !l.near(s.free(), told) {
		return nil
	}
	for last, nothing, end := false, false, time.Now().Add(patience); ; {
		held, told := l.held, l.told
		if err := s.lookHeld(ctx); err != nil || l.held <= l.max {
			return err
		}
		// What is being put in its place a look may have counted twice, and what was unused others may have let go, and
		// written again, between two looks: so there has to be nothing to let go while nothing changes.
		if last || nothing && l.told == told && l.held >= held {
			return &LimitError{s.root, l.max, l.held}
		}
		gone, err := s.makeSpace(ctx, l.held-l.max+l.max/20)
		late := ctx.Err() != nil || time.Now().After(end)
		switch nothing = err == nil && gone.all && gone.Freed == 0; {
		case errors.Is(err, errGate):
			last = late
		case err != nil && !IsFull(err):
			return err
		default:
			last = err != nil || nothing && late
		}
	}
}

// near reports whether the store may hold more than the limit, as far as anybody knows. l.mu is held.
func (l *limit) near(free, told int64) bool {
	return l.looked.IsZero() || time.Since(l.looked) > lookAgain || l.held+max(l.free-free, told-l.told) > l.max
}

// tell adds to what processes that have a limit have written, and returns the sum, of which nothing but its changes
// means something. Who sees its own in the sum sees what was told before it, too: of several that come to pass the
// limit together, the last one looks.
func (s *Store) tell(bytes int64) (sum int64, err error) {
	f, err := os.OpenFile(filepath.Join(s.root, "grown"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if IsFull(err) {
		return bytes, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close() // unlocks
	if bytes > 0 {
		if err := flock(f, unix.LOCK_EX); err != nil {
			return 0, err
		}
	}
	var text [8]byte
	if _, err := f.ReadAt(text[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	sum = int64(binary.NativeEndian.Uint64(text[:])) + bytes
	if bytes > 0 {
		binary.NativeEndian.PutUint64(text[:], uint64(sum))
		_, err = f.WriteAt(text[:], 0)
	}
	if IsFull(err) { // the file has its bytes but for the first time, and there is nobody to be told then
		err = nil
	}
	return sum, err
}

// lookHeld finds out what the store holds. l.mu is held.
func (s *Store) lookHeld(ctx context.Context) (err error) {
	l, begin := s.limit, time.Now()
	told, err := s.tell(l.written.Swap(0)) // what is written from now on may be seen, and counts twice then, until the next look
	if err != nil {
		return fmt.Errorf("telling others what was written: %w", err)
	}
	free := s.free()
	if l.held, err = s.Held(ctx); err != nil {
		return fmt.Errorf("looking at what the store holds: %w", err)
	}
	l.looked, l.took, l.free, l.told = time.Now(), time.Since(begin), free, told
	return nil
}

// Held is how many bytes of the disk the store takes. Directories of layers count as they were measured, once; what is
// being made, and what containers and cache mounts hold that are in use, is walked.
func (s *Store) Held(ctx context.Context) (held int64, err error) {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return 0, err
	}
	// First what is being made: what is put in its place meanwhile may be counted twice, and is never missed.
	if held, err = diskUsageBut(filepath.Join(s.root, "tmp"), beingDeleted); err != nil {
		return 0, err
	}
	for _, e := range entries {
		var n int64
		switch {
		case e.Name() == "tmp":
			continue
		case e.Name() == "layers":
			n, err = s.heldLayers(ctx)
		case e.Name() == "caches":
			n, err = s.heldMounts()
		case e.IsDir():
			n, err = diskUsage(filepath.Join(s.root, e.Name()))
		default:
			if fi, err := e.Info(); err == nil {
				n = diskBytes(fi)
			}
		}
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		if err != nil {
			return 0, err
		}
		held += n
	}
	return held, nil
}

// beingDeleted reports whether a process deletes a directory of tmp/ now. What was left to the next one counts.
func beingDeleted(name string) bool {
	return strings.HasSuffix(name, trashSuffix) && strings.Count(name, "/") == 1
}

func (s *Store) heldLayers(ctx context.Context) (held int64, err error) {
	ids, err := column(s.db, "SELECT id FROM layers WHERE dir=1")
	if err != nil {
		return 0, fmt.Errorf("reading layers: %w", err)
	}
	for i, id := range ids {
		ids[i] = layerLine(layer.ID(id))
	}
	sizes, err := s.lineSizes(ctx, ids)
	for _, n := range sizes {
		held += n
	}
	entries, rerr := readDir(filepath.Join(s.root, "layers"))
	if err = errors.Join(err, rerr); err != nil {
		return 0, err
	}
	for _, e := range entries { // and those that are not recorded yet, or not any more
		if _, recorded := sizes[layerLine(layer.ID(e.Name()))]; recorded {
			continue
		}
		n, err := diskUsage(filepath.Join(s.root, "layers", e.Name()))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
		held += n
	}
	return held, nil
}

func (s *Store) heldMounts() (held int64, err error) {
	names, err := s.mounts()
	if err != nil {
		return 0, err
	}
	busy, err := s.busyMounts(names)
	unknown := errors.Is(err, errGate) // who uses them
	if err != nil && !unknown {
		return 0, err
	}
	for _, name := range names {
		if busy[name] || unknown {
			n, err := diskUsage(filepath.Join(s.root, "caches", name))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return 0, err
			}
			held += n
			continue
		}
		if r, err := s.mountRecord(name, false); err == nil {
			held += r.Size
		}
	}
	return held, nil
}

// limitedKey is the key of contexts that [Store.Limited] has returned.
type limitedKey struct{}

// Limited returns a context that ends with a [LimitError] when the store comes to hold more than its limit: of what a
// process writes that the store is not asked about, as one in a container. stop ends the watch, and returns the
// error in place of what came of it. One watch does for all that is done with its context.
func (s *Store) Limited(ctx context.Context) (_ context.Context, stop func(error) error) {
	if s.limit == nil || s.readOnly != "" || ctx.Value(limitedKey{}) != nil {
		return ctx, func(err error) error { return err }
	}
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, limitedKey{}, true))
	var done sync.WaitGroup
	done.Go(func() { cancel(s.watchLimit(ctx)) })
	return ctx, func(err error) error {
		var passed *LimitError
		if err != nil && errors.As(context.Cause(ctx), &passed) && !errors.As(err, new(*LimitError)) {
			err = passed
		}
		cancel(nil)
		done.Wait()
		return err
	}
}

// watchLimit returns when the limit is passed, or ctx ends. It spends no more than half of the time on looks.
func (s *Store) watchLimit(ctx context.Context) error {
	wait := watchEvery
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		s.mu.Lock()
		writes := s.lease != nil && s.lease.writes
		s.mu.Unlock()
		if !writes {
			continue
		}
		begin := time.Now()
		var passed *LimitError
		if errors.As(s.withinLimit(ctx), &passed) { // what else is wrong with the store is found by who works
			return passed
		}
		wait = max(watchEvery, time.Since(begin))
	}
}
