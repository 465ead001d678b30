package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// A process says in the file of its lease which layers and blobs it uses, before it looks whether they are
// there. Whoever collects reads what all say, and then takes away what neither they nor a record need. Between
// the two stands the gate: a flock on tmp/ that is held for as long as it takes to say something, and alone by
// the one who collects, until what he forgets is out of everybody's sight. So what is seen after it was said
// stays for as long as the lease lives. What a process makes needs no word: the names of its layers start with
// the lease's.
//
// Whoever is in the gate waits for nothing else. A transaction, and Store.mu, may be held when it is taken, never
// the other way round.

// gate is the lock between those who begin to use something and the one who collects.
type gate struct {
	mu  sync.Mutex // of this process, which has the lock as a whole
	dir *os.File   // tmp/
}

// pass calls fn while nobody collects.
func (g *gate) pass(fn func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.lock(unix.LOCK_SH); err != nil {
		return err
	}
	return errors.Join(fn(), g.lock(unix.LOCK_UN))
}

// errGate says that others did not leave the gate for long.
var errGate = errors.New("other processes keep the store busy")

// shut waits until nobody is in the gate, and keeps everybody out until it is opened. It gives up after a while,
// as processes that come one after the other would keep it out for ever.
func (g *gate) shut() (open func() error, err error) {
	g.mu.Lock()
	for end := time.Now().Add(patience / 20); ; time.Sleep(time.Millisecond) {
		err := g.lock(unix.LOCK_EX | unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			g.mu.Unlock()
			if errors.Is(err, unix.EWOULDBLOCK) {
				err = errGate
			}
			return nil, err
		}
	}
	return func() error {
		defer g.mu.Unlock()
		return g.lock(unix.LOCK_UN)
	}, nil
}

func (g *gate) lock(how int) error {
	if err := flock(g.dir, how); err != nil {
		return fmt.Errorf("locking %s: %w", g.dir.Name(), err)
	}
	return nil
}

// What a lease says, a line each.
func layerLine(id layer.ID) string    { return "layer " + string(id) }
func blobLine(d digest.Digest) string { return "blob " + d.String() }

// hold keeps layers and blobs from being collected as long as this process has the store open, if they are
// there. What was seen of them before has to be looked up again when said is true: it may be gone.
func (s *Store) hold(lines ...string) (said bool, err error) {
	if s.readOnly != "" {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l, err := s.takeLease()
	if err != nil {
		return false, fmt.Errorf("taking lease: %w", err)
	}
	own := "layer " + l.id + "-"
	var text strings.Builder
	for _, line := range lines {
		if !l.held[line] && !strings.HasPrefix(line, own) {
			text.WriteString("\n" + line) // after a part of another one, perhaps, that could not be written
		}
	}
	if text.Len() == 0 {
		return false, nil
	}
	text.WriteString("\n")
	err = s.despiteFull(func() error {
		return s.gate.pass(func() error {
			_, err := l.lock.WriteString(text.String())
			return err
		})
	})
	if err != nil {
		return false, fmt.Errorf("saying what is used: %w", err)
	}
	for _, line := range lines {
		l.held[line] = true
	}
	return true, nil
}

// holdLayers is [Store.hold] for layers.
func (s *Store) holdLayers(ids ...layer.ID) (said bool, err error) {
	lines := make([]string, len(ids))
	for i, id := range ids {
		lines[i] = layerLine(id)
	}
	return s.hold(lines...)
}

// Hold keeps all that images consist of as long as this process has the store open. One that was removed, or that
// lost its name to another one, since it was looked up is ErrNotFound.
func (s *Store) Hold(ctx context.Context, images ...Image) error {
	for {
		need := s.newReach()
		for _, img := range images {
			if err := need.addImage(ctx, img); err != nil {
				return err
			}
		}
		var lines []string
		for id := range need.layers {
			lines = append(lines, layerLine(id))
		}
		for d := range need.blobs {
			lines = append(lines, blobLine(d))
		}
		said, err := s.hold(lines...)
		if err != nil {
			return err
		}
		for _, img := range images {
			now, err := s.imageByName(ctx, img.Name)
			if err != nil {
				return err
			}
			if now.ID != img.ID || now.Target().Digest != img.Target().Digest || !slices.Equal(now.Layers, img.Layers) {
				return fmt.Errorf("image %s is another one now: %w", img.Name, ErrNotFound)
			}
		}
		if !said {
			return nil // what its manifests name was held when they were read
		}
	}
}

// UseImage is [Store.Image], and [Store.Hold].
func (s *Store) UseImage(ctx context.Context, nameOrID string) (Image, error) {
	for {
		img, err := s.Image(ctx, nameOrID)
		if err != nil {
			return img, err
		}
		if err := s.Hold(ctx, img); !errors.Is(err, ErrNotFound) {
			return img, err
		}
	}
}

// letAllGo ends the use of everything but of what this process made.
func (s *Store) letAllGo() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == nil {
		return nil
	}
	clear(s.lease.held)
	clear(s.lease.seen)
	s.digests.Clear()
	return s.lease.lock.Truncate(0)
}

// others are what the other processes that live use.
type others struct {
	said   map[string]bool
	leases map[string]bool
}

// readLeases reads what other processes use than the one with the lease own.
func (s *Store) readLeases(own string) (o others, err error) {
	o = others{said: map[string]bool{}, leases: map[string]bool{}}
	tmp := filepath.Join(s.root, "tmp")
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return o, fmt.Errorf("reading what processes use: %w", err)
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".lock")
		if !ok || id == own {
			continue
		}
		text, alive, err := readLease(filepath.Join(tmp, e.Name()))
		if err != nil {
			return o, fmt.Errorf("reading what processes use: %w", err)
		}
		if !alive {
			continue
		}
		o.leases[id] = true
		for line := range strings.Lines(text) {
			o.said[strings.TrimSuffix(line, "\n")] = true
		}
	}
	return o, nil
}

// readOthers reads what processes use whose use matters in some manner.
func (s *Store) readOthers(how manner) (others, error) {
	var own string
	s.mu.Lock()
	if s.lease != nil {
		own = s.lease.id
	}
	s.mu.Unlock()
	return s.readLeases(how.sparesBut(own))
}

// readLease reads what a process says that it uses.
func readLease(path string) (text string, alive bool, err error) {
	f, err := OpenRegular(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", false, nil // it has ended
	}
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	err = flock(f, unix.LOCK_SH|unix.LOCK_NB)
	if err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
		return "", false, err
	}
	data, err := io.ReadAll(f)
	return string(data), true, err
}

// use reports whether somebody uses what a line is about, or has made it.
func (o others) use(line string) bool {
	id, isLayer := strings.CutPrefix(line, layerLine(""))
	return o.said[line] || isLayer && o.useLayer(layer.ID(id))
}

// useLayer reports whether somebody uses a layer, or has made it.
func (o others) useLayer(id layer.ID) bool {
	maker, _, _ := strings.Cut(string(id), "-")
	return o.said[layerLine(id)] || o.leases[maker]
}

// useBlob reports whether somebody uses a blob.
func (o others) useBlob(d digest.Digest) bool { return o.said[blobLine(d)] }
