package store

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A directory of caches/ is a cache mount or a git repository. Beside it are its lock, which holds its id and was
// changed when the directory was used last, and perhaps how much of the disk it takes, as it was measured since then, and the digests of its files.

// gitPrefix begins the ids of git repositories. A Dockerfile's ids have no zero byte.
const gitPrefix = "git repository\x00"

// GitCache is the id of the bare repository of a remote, for [Store.Cache].
func GitCache(remote string) string { return gitPrefix + remote }

// warmPrefix begins the ids of directories that steps find warm. Neither can a Dockerfile's be one.
const warmPrefix = "warm\x00"

// WarmCache is the id of the directory of a tool at a path, of a project and of a user of steps, for [Store.Cache].
func WarmCache(project, tool, dir, user string) string {
	return warmPrefix + strings.Join([]string{tool, dir, user, project}, "\x00")
}

// IsWarmCache reports whether an id is that of a directory that steps find warm.
func IsWarmCache(id string) bool { return strings.HasPrefix(id, warmPrefix) }

// WarmAnywhere is the id of a directory that steps find warm without its project.
func WarmAnywhere(id string) string {
	parts := strings.SplitN(id, "\x00", 5)
	if len(parts) == 5 && IsWarmCache(id) {
		parts[4] = ""
	}
	return strings.Join(parts, "\x00")
}

// noteMount keeps with the lock of a mount, which is held, what it is of, and that it is used now. Nothing fails
// when that is not known.
func noteMount(lock *os.File, id string) {
	if fi, err := lock.Stat(); err == nil && fi.Size() != int64(len(id)) {
		_, _ = lock.WriteAt([]byte(id), 0)
	}
	_ = unix.Futimes(int(lock.Fd()), []unix.Timeval{now(), now()})
}

func now() unix.Timeval { return unix.NsecToTimeval(time.Now().UnixNano()) }

// ofMount are the ends of the names of files that tell of a mount what can be found out again.
func ofMount() []string { return []string{".size", digestsOfMount} }

// forgetMount removes what is known of a mount that is gone, or another one.
func forgetMount(dir string) error {
	for _, end := range ofMount() {
		if err := os.Remove(dir + end); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// mountName is the name of the mount that a file of caches/ is of.
func mountName(file string) string {
	for _, end := range append(ofMount(), ".lock") {
		file = strings.TrimSuffix(file, end)
	}
	return file
}

// mounts returns what is in caches/: the names of directories, and of what is left beside of such as are gone.
func (s *Store) mounts() ([]string, error) {
	entries, err := readDir(filepath.Join(s.root, "caches"))
	if err != nil {
		return nil, err
	}
	var names []string
	known := map[string]bool{}
	for _, e := range entries {
		name := mountName(e.Name())
		if !known[name] {
			known[name] = true
			names = append(names, name)
		}
	}
	return names, nil
}

// mountRecords describes cache mounts and git repositories.
func (s *Store) mountRecords() ([]CacheRecord, error) {
	names, err := s.mounts()
	if err != nil {
		return nil, fmt.Errorf("listing cache mounts: %w", err)
	}
	busy, err := s.busyMounts(names)
	if err != nil {
		return nil, fmt.Errorf("listing cache mounts: %w", err)
	}
	var all []CacheRecord
	for _, name := range names {
		r, err := s.mountRecord(name, busy[name])
		if errors.Is(err, os.ErrNotExist) {
			continue // it was pruned, or is being made
		}
		if err != nil {
			return nil, fmt.Errorf("reading cache mount %s: %w", name, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// busyMounts are the mounts that somebody uses. The gate is shut for the time that it takes to try their locks, so
// that nobody who takes one finds it taken.
func (s *Store) busyMounts(names []string) (busy map[string]bool, err error) {
	busy = map[string]bool{}
	if s.readOnly != "" || len(names) == 0 {
		return busy, nil
	}
	open, err := s.gate.shut()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, open()) }()
	for _, name := range names {
		lock, err := os.Open(filepath.Join(s.root, "caches", name+".lock"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		busy[name] = flock(lock, unix.LOCK_EX|unix.LOCK_NB) != nil
		lock.Close()
	}
	return busy, nil
}

func (s *Store) mountRecord(name string, busy bool) (CacheRecord, error) {
	dir := filepath.Join(s.root, "caches", name)
	r := CacheRecord{ID: name, Type: TypeMount, Mutable: true, InUse: busy, Uses: 1, mount: true}
	lock, err := os.Open(dir + ".lock")
	if err == nil {
		defer lock.Close()
		err = r.readLock(lock)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return r, err
	}
	fi, derr := os.Lstat(dir)
	if errors.Is(derr, os.ErrNotExist) && !busy {
		return r, r.ofRest(dir)
	}
	if derr != nil {
		return r, errors.Join(err, derr)
	}
	r.Created = fi.ModTime() // as far as anybody knows
	if r.LastUsed.IsZero() {
		r.LastUsed = r.Created
	}
	if r.Created.After(r.LastUsed) {
		r.Created = r.LastUsed
	}
	r.Size = s.mountSize(dir, r.LastUsed, busy)
	return r, nil
}

// ofRest makes a record of what a killed process left of a mount that it made or pruned: its lock or what was known of it. Without
// any there is none.
func (r *CacheRecord) ofRest(dir string) error {
	fi, err := os.Lstat(dir + ".lock")
	for _, end := range ofMount() {
		if errors.Is(err, os.ErrNotExist) {
			fi, err = os.Lstat(dir + end)
		}
	}
	if err != nil {
		return err
	}
	r.Created = fi.ModTime()
	if r.LastUsed.IsZero() {
		r.LastUsed = r.Created
	}
	return nil
}

// readLock reads what the lock of a mount tells.
func (r *CacheRecord) readLock(lock *os.File) error {
	fi, err := lock.Stat()
	if err != nil {
		return err
	}
	r.LastUsed = fi.ModTime()
	if !fi.Mode().IsRegular() {
		return nil // damage, which tells nothing
	}
	id, err := io.ReadAll(io.LimitReader(lock, maxManifest))
	r.describe(string(id))
	return err
}

// describe tells of what a mount is.
func (r *CacheRecord) describe(id string) {
	remote, isGit := strings.CutPrefix(id, gitPrefix)
	switch {
	case isGit:
		r.Type = TypeGit
		if u, err := url.Parse(remote); err == nil && u.User != nil { // git@host:path is none
			remote = u.Redacted()
		}
		r.Description = "git repository " + remote
	case IsWarmCache(id):
		parts := strings.SplitN(strings.TrimPrefix(id, warmPrefix), "\x00", 4)
		if parts = append(parts, "", "", ""); parts[1] != "" {
			r.Description = fmt.Sprintf("warm %s of %s in %s", parts[1], parts[0], parts[3])
		}
	case id != "":
		id, _, _ = strings.Cut(id, " from ")
		r.Description = "cached mount " + id
	}
}

// mountSize is how much of the disk a mount takes: as it was measured when nobody has used it since, otherwise as it
// is measured now. What changes while it is measured, or because somebody uses it, is measured another time again.
func (s *Store) mountSize(dir string, used time.Time, busy bool) int64 {
	var size, at int64
	said, err := os.ReadFile(dir + ".size")
	if err == nil {
		_, err = fmt.Sscan(string(said), &size, &at)
	}
	if err == nil && (at == used.UnixNano() || busy) {
		return size
	}
	if size, err = diskUsage(dir); err == nil && !busy && s.readOnly == "" {
		_ = os.WriteFile(dir+".size", fmt.Appendln(nil, size, used.UnixNano()), 0o600)
	}
	return size
}

// pruneMount moves one cache mount to a directory, and removes its lock, which is taken for that: with the gate shut,
// so that nobody who is about to take it finds it taken. Whoever has opened the lock before and gets it after looks
// again. A mount that was used after the time used stays; of a time that is yet to come, nothing was used then.
func (s *Store) pruneMount(name string, used time.Time, trash string) (gone bool, err error) {
	mount := filepath.Join(s.root, "caches", name)
	open, err := s.gate.shut()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, open()) }()
	lock, err := s.openLock(mount + ".lock")
	if err != nil {
		return false, err
	}
	defer lock.Close()
	if flock(lock, unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false, nil
	}
	fi, err := lock.Stat()
	if err != nil {
		return false, err
	}
	if t := fi.ModTime(); fi.Size() > 0 && t.After(used) && !t.After(time.Now()) { // a lock that is new is empty
		return false, nil
	}
	if err := os.Rename(mount, filepath.Join(trash, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if err := forgetMount(mount); err != nil {
		return false, err
	}
	return true, os.Remove(lock.Name())
}
