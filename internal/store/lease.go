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

	"golang.org/x/sys/unix"
)

// lease marks a process that writes to the store: the directory tmp/<id>, held by a flock on
// tmp/<id>.lock. The kernel drops the lock when the process ends, so a lease whose lock can be
// taken belongs to nobody and everything below it is rubbish.
//
// Names that a lease gives out start with its id. So a layer directory that was renamed into
// place but never recorded is found by its name.
type lease struct {
	id   string
	dir  string
	lock *os.File
	next atomic.Int64
}

// current returns the process's lease, taking it, and sweeping dead ones, on first use.
func (s *Store) current() (*lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease != nil {
		return s.lease, nil
	}
	l, err := newLease(filepath.Join(s.root, "tmp"))
	if errors.Is(err, unix.EROFS) {
		err = s.readOnlyError()
	}
	if err != nil {
		return nil, fmt.Errorf("taking lease: %w", err)
	}
	s.lease = l
	s.keepReserve()
	s.sweep()
	return l, nil
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
	l := &lease{id: hex.EncodeToString(b[:])}
	l.dir = filepath.Join(tmp, l.id)
	// The lock comes before the directory, so that no sweep sees the directory without it.
	f, err := os.OpenFile(l.dir+".lock", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(os.NewSyscallError("flock", err), f.Close())
	}
	if _, err := os.Lstat(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l.lock = f
	if err := os.Mkdir(l.dir, 0o700); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

// name returns a new name that nobody else in the store has.
func (l *lease) name() string { return fmt.Sprintf("%s-%d", l.id, l.next.Add(1)) }

func (l *lease) release() error {
	err := os.RemoveAll(l.dir)
	return errors.Join(err, os.Remove(l.dir+".lock"), l.lock.Close())
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
	return l.release()
}

// TempDir makes an empty directory below the process's lease. Whoever makes it removes it; if
// the process dies, the next one does.
func (s *Store) TempDir() (string, error) {
	l, err := s.current()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(l.dir, l.name())
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("making temporary directory: %w", err)
	}
	return dir, nil
}

// sweep deletes what dead processes left. Failures are left for the next sweep.
func (s *Store) sweep() {
	tmp := filepath.Join(s.root, "tmp")
	locks, _ := filepath.Glob(filepath.Join(tmp, "*.lock"))
	for _, path := range locks {
		id := strings.TrimSuffix(filepath.Base(path), ".lock")
		if id == s.lease.id {
			continue
		}
		s.sweepLease(id, path)
	}
}

func (s *Store) sweepLease(id, path string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return // alive
	}
	orphans, _ := filepath.Glob(filepath.Join(s.root, "layers", id+"-*"))
	for _, dir := range orphans {
		var n int
		err := s.db.QueryRowContext(context.Background(), "SELECT count(*) FROM layers WHERE id=?", filepath.Base(dir)).Scan(&n)
		if err == nil && n == 0 {
			os.RemoveAll(dir)
		}
	}
	if os.RemoveAll(strings.TrimSuffix(path, ".lock")) == nil {
		os.Remove(path)
	}
}
