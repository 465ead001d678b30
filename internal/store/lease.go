package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// lease marks a process that uses the store: the file tmp/<id>.lock, held by a flock, in which it says what it
// uses (hold.go), and for one that writes the directory tmp/<id>. The kernel drops the lock when the process
// ends, so a lease whose lock can be taken belongs to nobody and everything below it is rubbish.
//
// Names that a lease gives out start with its id. So a layer directory that was renamed into
// place but never recorded is found by its name.
type lease struct {
	id   string
	dir  string // made when something is written
	lock *os.File
	next atomic.Int64

	writes bool                    // dir is there; guarded by Store.mu
	held   map[string]bool         // what the lock file says; guarded by Store.mu
	seen   map[layer.ID]layer.Tree // see seen.go; guarded by Store.mu
}

// current returns the process's lease for writing, taking it, and sweeping dead ones, on first use.
func (s *Store) current() (*lease, error) {
	l, first, err := s.writing()
	if err != nil {
		return nil, fmt.Errorf("taking lease: %w", err)
	}
	if first {
		s.keepReserve()
		s.sweep(l, time.Now().Add(sweepTime))
	}
	return l, nil
}

// writing returns the process's lease with its directory, and whether that is new.
func (s *Store) writing() (l *lease, first bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l, err = s.takeLease(); err != nil || l.writes {
		return l, false, err
	}
	return l, true, s.despiteFull(l.makeDir)
}

func (l *lease) makeDir() error {
	err := os.Mkdir(l.dir, 0o700)
	l.writes = err == nil
	return err
}

// takeLease returns the process's lease. s.mu is held.
func (s *Store) takeLease() (*lease, error) {
	if s.lease != nil {
		return s.lease, nil
	}
	if s.readOnly != "" {
		return nil, s.readOnlyError()
	}
	var l *lease
	err := s.despiteFull(func() error {
		return s.gate.pass(func() (err error) {
			l, err = newLease(filepath.Join(s.root, "tmp"))
			return err
		})
	})
	if errors.Is(err, unix.EROFS) {
		err = s.readOnlyError()
	}
	if err == nil {
		s.lease = l
	}
	return l, err
}

func newLease(tmp string) (*lease, error) {
	var err error
	for range 5 { // a sweep may take a lock file between its creation and its lock
		var l *lease
		if l, err = tryLease(tmp); err == nil {
			return l, nil
		}
	}
	return nil, err
}

func tryLease(tmp string) (*lease, error) {
	var b [6]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	l := &lease{id: hex.EncodeToString(b[:]), held: map[string]bool{}}
	l.dir = filepath.Join(tmp, l.id)
	// The lock comes before the directory, so that no sweep sees the directory without it.
	f, err := os.OpenFile(l.dir+".lock", os.O_CREATE|os.O_EXCL|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := os.Lstat(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l.lock = f
	return l, nil
}

// name returns a new name that nobody else in the store has.
func (l *lease) name() string { return fmt.Sprintf("%s-%d", l.id, l.next.Add(1)) }

func (l *lease) release() error {
	err := os.RemoveAll(l.dir)
	if err == nil { // otherwise who sweeps finds by the lock what is left
		err = os.Remove(l.dir + ".lock")
	}
	return errors.Join(err, l.lock.Close())
}

// endLease gives up the process's lease, if it has one.
func (s *Store) endLease() error {
	s.mu.Lock()
	l := s.lease
	s.lease = nil
	s.mu.Unlock()
	if l == nil {
		return nil
	}
	s.writeUses(l)
	return l.release()
}

// TempDir makes an empty directory below the process's lease. Whoever makes it removes it; if
// the process dies, the next one does.
func (s *Store) TempDir() (string, error) { return s.tempDir("") }

func (s *Store) tempDir(suffix string) (string, error) {
	l, err := s.current()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(l.dir, l.name()+suffix)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("making temporary directory: %w", err)
	}
	return dir, nil
}

// sweepTime is how long a process that begins deletes what others left.
const sweepTime = time.Second

// sweep deletes what dead processes left, until by. Failures are left for the next sweep.
func (s *Store) sweep(own *lease, by time.Time) (freed int64) {
	tmp := filepath.Join(s.root, "tmp")
	entries, _ := os.ReadDir(tmp)
	for _, e := range entries {
		id, isLock := strings.CutSuffix(e.Name(), ".lock")
		path, how := filepath.Join(tmp, id+".lock"), os.O_RDWR
		if !isLock && e.IsDir() && !strings.HasSuffix(id, trashSuffix) {
			// Its lock is there as long as it is, but for a crash of the machine.
			if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
				continue
			}
			isLock, how = true, os.O_RDWR|os.O_CREATE
		}
		if isLock && id != own.id {
			s.sweepLease(id, path, how)
		}
	}
	return s.deleteLeft(by)
}

// sweepLease deletes what a process left that has ended; how its lock is opened.
func (s *Store) sweepLease(id, path string, how int) {
	f, err := os.OpenFile(path, how, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	if flock(f, unix.LOCK_EX|unix.LOCK_NB) != nil {
		return // alive
	}
	// Who takes a lease waits for no large deletion.
	dir := strings.TrimSuffix(path, ".lock")
	trash := dir + trashSuffix
	if os.Rename(dir, trash) != nil && os.MkdirAll(trash, 0o700) != nil {
		return
	}
	layers, _ := readDir(filepath.Join(s.root, "layers"))
	for _, e := range layers {
		if !strings.HasPrefix(e.Name(), id+"-") {
			continue
		}
		var n int
		err := s.db.QueryRowContext(context.Background(), "SELECT count(*) FROM layers WHERE id=?", e.Name()).Scan(&n)
		if err == nil && n == 0 {
			_ = os.Rename(filepath.Join(s.root, "layers", e.Name()), filepath.Join(trash, e.Name()+"-unrecorded"))
		}
	}
	if _, err := os.Lstat(dir); err != nil {
		os.Remove(path)
	}
}
