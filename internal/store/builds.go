package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A build leaves a record and its log in a directory of builds/, whose name begins with the time. It is locked while the
// build runs. A file "pinned" in it keeps it. A file "imported" says that another machine's build has left it.

const pinned = "pinned"

// ImportedMark is the name of a file in the record of a build that another machine's build has left: all in it is a claim.
const ImportedMark = "imported"

// BuildDir is the directory of a build that runs. Close must be called.
type BuildDir struct {
	Path string
	lock *os.File
}

// Close says that the build has ended.
func (b *BuildDir) Close() error { return b.lock.Close() }

// NewBuild makes the directory of a build. Names sort by time.
func (s *Store) NewBuild(name string) (*BuildDir, error) {
	s.wrote.Store(true)
	b := &BuildDir{Path: filepath.Join(s.root, "builds", name)}
	for {
		err := os.Mkdir(b.Path, 0o700)
		if err == nil {
			b.lock, err = os.Open(b.Path)
		}
		if errors.Is(err, os.ErrNotExist) && isDir(filepath.Dir(b.Path)) {
			continue // who prunes everything was faster
		}
		if err != nil {
			return nil, err
		}
		if err := flock(b.lock, unix.LOCK_EX); err != nil {
			return nil, errors.Join(err, b.lock.Close())
		}
		if isAt(b.lock) {
			return b, nil
		}
		b.lock.Close()
	}
}

func isDir(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.IsDir()
}

// BuildRecord is the record of a build with its log.
type BuildRecord struct {
	Name    string
	Ended   time.Time // or written to last
	Size    int64     // bytes of the disk
	Running bool
	Pinned  bool

	Imported bool // it came from elsewhere: all in it is a claim
}

// History says which records of builds are kept, in BuildKit's words and as BuildKit does: one goes when there are
// MaxEntries newer ones and it is older than MaxAge. When all take more than MaxSize, unless that is zero, the newest stays,
// and of the others, from the newest on, what fits. Those of builds that run stay, and those that are pinned, which count for nothing.
type History struct {
	MaxAge     time.Duration
	MaxEntries int
	MaxSize    Space
}

// DefaultHistory is BuildKit's, with a limit of space.
func DefaultHistory() History {
	return History{MaxAge: 48 * time.Hour, MaxEntries: 50, MaxSize: Space{Bytes: 1 << 30}}
}

// BuildNames lists the names of the records of builds, the newest first.
func (s *Store) BuildNames() ([]string, error) {
	entries, err := readDir(filepath.Join(s.root, "builds"))
	if err != nil {
		return nil, fmt.Errorf("listing records of builds: %w", err)
	}
	var all []string
	for _, e := range slices.Backward(entries) {
		if e.IsDir() {
			all = append(all, e.Name())
		}
	}
	return all, nil
}

// Builds lists the records of builds, the newest first.
func (s *Store) Builds() ([]BuildRecord, error) {
	names, err := s.BuildNames()
	if err != nil {
		return nil, err
	}
	var all []BuildRecord
	for _, name := range names {
		r, err := s.BuildState(name)
		if err == nil {
			r.Size, err = recordSize(filepath.Join(s.root, "builds", name))
		}
		if errors.Is(err, os.ErrNotExist) {
			continue // it was pruned
		}
		if err != nil {
			return nil, fmt.Errorf("listing records of builds: %w", err)
		}
		all = append(all, r)
	}
	return all, nil
}

// recordSize is how many bytes of the disk a record takes, with its share of the files that it has in common with others.
func recordSize(dir string) (int64, error) {
	bytes, err := diskUsage(dir)
	if err != nil {
		return 0, err
	}
	entries, err := readDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && !fi.IsDir() && !onlyName(fi) { // what is gone meanwhile takes nothing
			bytes += diskBytes(fi) / int64(fi.Sys().(*syscall.Stat_t).Nlink)
		}
	}
	return bytes, nil
}

// BuildState is the record of a build without its size.
func (s *Store) BuildState(name string) (r BuildRecord, err error) {
	r.Name = name
	dir, err := os.Open(filepath.Join(s.root, "builds", name))
	if err != nil {
		return r, err
	}
	defer dir.Close()
	fi, err := dir.Stat()
	if err != nil {
		return r, err
	}
	r.Ended = fi.ModTime()
	if now := time.Now(); r.Ended.After(now) { // of a clock that went wrong: it gets older from now on
		r.Ended = now
		_ = os.Chtimes(dir.Name(), now, now)
	}
	r.Running = flock(dir, unix.LOCK_SH|unix.LOCK_NB) != nil
	r.Pinned = !r.Running && s.IsPinned(name)
	_, err = os.Lstat(filepath.Join(dir.Name(), ImportedMark))
	r.Imported = err == nil
	return r, nil
}

// ImportBuild gives the record of a build of another machine a place. Its files are in a directory of [Store.TempDir], which is moved.
// One that has the name already stays as it is; the error is [os.ErrExist] then.
func (s *Store) ImportBuild(name, dir string) error {
	s.wrote.Store(true)
	if !isBuildName(name) {
		return fmt.Errorf("importing the record of build %q: it is no name", name)
	}
	err := os.WriteFile(filepath.Join(dir, ImportedMark), nil, 0o600)
	if err == nil {
		now := time.Now() // it gets older from now on
		err = os.Chtimes(dir, now, now)
	}
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, filepath.Join(s.root, "builds", name), unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return fmt.Errorf("importing the record of build %s: %w", name, err)
	}
	return nil
}

// IsPinned reports whether somebody keeps the record of a build from going.
func (s *Store) IsPinned(name string) bool {
	_, err := os.Lstat(filepath.Join(s.root, "builds", name, pinned))
	return err == nil
}

// PruneBuilds removes records of builds that are not to be kept.
func (s *Store) PruneBuilds(keep History) (gone []BuildRecord, freed int64, err error) {
	defer s.makeRoom()()
	return s.pruneBuilds(keep, manner{})
}

// pruneBuilds is [Store.PruneBuilds] in some manner.
func (s *Store) pruneBuilds(keep History, how manner) (gone []BuildRecord, freed int64, err error) {
	disk, _, err := s.Disk()
	if err != nil {
		return nil, 0, err
	}
	all, err := s.Builds()
	if err != nil {
		return nil, 0, err
	}
	chosen := keep.choose(all, keep.MaxSize.Of(disk))
	if len(chosen) == 0 {
		return nil, 0, nil
	}
	trash, err := s.tempDir(trashSuffix)
	if err != nil {
		return nil, 0, err
	}
	for _, r := range chosen {
		there, err := s.pruneBuild(r.Name, trash)
		if err != nil {
			return gone, 0, fmt.Errorf("removing the record of build %s: %w", r.Name, err)
		}
		if there {
			gone = append(gone, r)
		}
	}
	freed, err = deleteTree(trash, how.by)
	s.leave(trash)
	return gone, freed, errors.Join(err, s.forgetLast())
}

// isBuildName reports whether a name is one part of a path, as those of builds are.
func isBuildName(name string) bool {
	return name != "." && filepath.Base(name) == name && filepath.IsLocal(name) && !strings.ContainsRune(name, 0)
}

// RemoveBuild removes the record of a build that has ended and that nobody has pinned.
func (s *Store) RemoveBuild(name string) error {
	defer s.makeRoom()()
	if !isBuildName(name) {
		return fmt.Errorf("removing the record of build %s: %w", name, ErrNotFound)
	}
	trash, err := s.tempDir(trashSuffix)
	if err != nil {
		return err
	}
	there, err := s.pruneBuild(name, trash)
	if err == nil && !there {
		err = errors.New("it runs, or is pinned, or is gone")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("removing the record of build %s: %w", name, err), os.Remove(trash))
	}
	_, err = deleteTree(trash, time.Time{})
	s.leave(trash)
	return err
}

// PinBuild keeps the record of a build from going, or lets it go again.
func (s *Store) PinBuild(name string, pin bool) error {
	if !isBuildName(name) {
		return fmt.Errorf("pinning the record of build %s: %w", name, ErrNotFound)
	}
	dir := filepath.Join(s.root, "builds", name)
	if !isDir(dir) {
		return fmt.Errorf("pinning the record of build %s: %w", name, ErrNotFound)
	}
	var err error
	if pin {
		err = os.WriteFile(filepath.Join(dir, pinned), nil, 0o600)
	} else if err = os.Remove(filepath.Join(dir, pinned)); errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("pinning the record of build %s: %w", name, err)
	}
	return nil
}

// choose chooses which of all records, the newest first, are not to be kept.
func (h History) choose(all []BuildRecord, size int64) (chosen []BuildRecord) {
	var kept int
	var bytes int64
	for _, r := range all {
		if r.Running || r.Pinned {
			continue
		}
		old := kept >= h.MaxEntries && time.Since(r.Ended) >= h.MaxAge
		if old || size > 0 && kept > 0 && bytes+r.Size > size {
			chosen = append(chosen, r)
			continue
		}
		kept++
		bytes += r.Size
	}
	return chosen
}

// pruneBuild moves the record of a build to a directory, unless the build runs or somebody has pinned it.
func (s *Store) pruneBuild(name, trash string) (gone bool, err error) {
	dir, err := os.Open(filepath.Join(s.root, "builds", name))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer dir.Close()
	if flock(dir, unix.LOCK_EX|unix.LOCK_NB) != nil || !isAt(dir) {
		return false, nil
	}
	if _, err := os.Lstat(filepath.Join(dir.Name(), pinned)); err == nil {
		return false, nil
	}
	return true, os.Rename(dir.Name(), filepath.Join(trash, name))
}
