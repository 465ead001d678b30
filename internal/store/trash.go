package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// What was taken out of everybody's sight, to tmp/<lease>/*.trash, is deleted when there is time for it. What is left then
// is put to tmp/*.trash, and deleted by whoever collects, prunes or sweeps next: nobody waits longer than he wants to.

const trashSuffix = ".trash"

// leave keeps what is left of a directory for the next one who deletes. A failure leaves it to the sweep of this
// process's lease.
func (s *Store) leave(trash string) {
	if _, err := os.Lstat(trash); err == nil {
		_ = os.Rename(trash, filepath.Join(s.root, "tmp", filepath.Base(trash)+trashSuffix))
	}
}

// deleteLeft deletes what others left, until by. What cannot be deleted is left again.
func (s *Store) deleteLeft(by time.Time) (freed int64) {
	tmp := filepath.Join(s.root, "tmp")
	entries, _ := os.ReadDir(tmp)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), trashSuffix) {
			n, _ := deleteTree(filepath.Join(tmp, e.Name()), by)
			freed += n
		}
	}
	return freed
}

// deleteTree deletes a directory and returns how many bytes of the disk that freed: files that have names
// elsewhere too stay. At the time by, unless that is zero, it stops; the directory is there then.
func deleteTree(dir string, by time.Time) (freed int64, err error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err == nil {
		var done bool
		freed, done, err = empty(root, by)
		if err = errors.Join(err, root.Close()); err == nil && !done {
			return freed, nil
		}
		if err == nil {
			err = os.Remove(dir)
		}
	}
	if err != nil { // what could not be opened or listed can perhaps be removed
		err = os.RemoveAll(dir)
	}
	if err != nil {
		return freed, fmt.Errorf("deleting what is not needed: %w", err)
	}
	return freed, nil
}

// empty deletes what is in a directory. A process may change it meanwhile: nothing outside of it is deleted.
func empty(root *os.Root, by time.Time) (freed int64, done bool, err error) {
	dir, err := root.Open(".")
	if err != nil {
		return 0, false, err
	}
	defer dir.Close()
	var all []os.DirEntry
	for {
		some, err := dir.ReadDir(1024)
		all = append(all, some...)
		if errors.Is(err, io.EOF) || err == nil && len(some) == 0 {
			break
		}
		if err != nil {
			return 0, false, err
		}
	}
	for _, e := range all {
		if !by.IsZero() && time.Now().After(by) {
			return freed, false, nil
		}
		n, done, err := deleteEntry(root, e, by)
		if freed += n; err != nil || !done {
			return freed, done, err
		}
	}
	return freed, true, nil
}

func deleteEntry(root *os.Root, e os.DirEntry, by time.Time) (freed int64, done bool, err error) {
	fi, err := e.Info()
	if err == nil && !e.IsDir() && !onlyName(fi) {
		fi, err = root.Lstat(e.Name()) // other names may have gone since it was listed
	}
	if errors.Is(err, os.ErrNotExist) {
		return 0, true, nil // somebody else deletes it too
	}
	if err != nil {
		return 0, false, err
	}
	if e.IsDir() {
		sub, err := root.OpenRoot(e.Name())
		if err != nil {
			return 0, true, root.RemoveAll(e.Name())
		}
		freed, done, err = empty(sub, by)
		if err = errors.Join(err, sub.Close()); err != nil || !done {
			return freed, done, err
		}
		freed += diskBytes(fi)
	} else if onlyName(fi) {
		freed = diskBytes(fi)
	}
	if err := root.Remove(e.Name()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return freed, false, err
	}
	return freed, true, nil
}
