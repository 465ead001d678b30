package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// formRound damages the directory of a layer. `system check` has to find that; with --repair, or where the whole is gone
// and it need not be looked for, builds and images are right afterwards.
func formRound(ctx context.Context, r *round) error {
	s := r.store(filepath.Join(r.dir, "store"))
	if err := s.stock(); err != nil {
		return err
	}
	id, err := s.damageForm()
	if err != nil {
		return err
	}
	r.count.Add(1)
	_, err = os.Lstat(s.formOf(id))
	if gone := errors.Is(err, fs.ErrNotExist); !gone || r.rng.IntN(2) == 0 {
		if err := s.findForm(ctx, id); err != nil {
			return err
		}
		r.note("system check --repair")
		if _, err := s.findings(ctx, "--repair"); err != nil {
			return err
		}
	}
	if err := s.checkBuilds(ctx); err != nil {
		return err
	}
	for _, name := range []string{"app", "chain"} {
		if err := s.checkTree(ctx, name, s.truths[name].tree); err != nil {
			return err
		}
	}
	// What names kept has another layer in its place now.
	if _, err := s.findings(ctx, "--repair"); err != nil {
		return err
	}
	return s.check(ctx)
}

func (s *store) formOf(id string) string { return filepath.Join(s.root, "layers", id, "fs") }

// findForm has system check find a damaged directory.
func (s *store) findForm(ctx context.Context, id string) error {
	found, err := s.findings(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(found, func(f finding) bool { return f.Kind == "layer" && f.Subject == id }) {
		return fmt.Errorf("system check does not find that the directory of layer %s is damaged: %v", id, found)
	}
	return nil
}

// told are the layers of whose directory something tells what is in it: a blob that is here, or that was made of it.
const told = `SELECT id, iif(blob='', diff_id, '') FROM layers l WHERE dir=1 AND (blob='' AND EXISTS(SELECT 1 FROM layer_blobs b WHERE b.diff_id=l.diff_id AND b.digest=l.diff_id)
  OR blob IN (SELECT digest FROM blobs)) ORDER BY created, id`

// damageForm damages the directory of some layer, and returns which. The tar of one that was made here may be gone, too:
// then it has to be made again.
func (s *store) damageForm() (id string, err error) {
	var ids []string
	tars := map[string]string{}
	err = s.records(func(db *sql.DB) error {
		rows, err := db.Query(told)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id, tar string
			if err := rows.Scan(&id, &tar); err != nil {
				return err
			}
			ids = append(ids, id)
			tars[id] = strings.Replace(tar, ":", "/", 1)
		}
		return rows.Err()
	})
	if err == nil && len(ids) == 0 {
		err = errors.New("no layer has a directory and a blob")
	}
	if err != nil {
		return "", err
	}
	for {
		id, way := oneOf(s.round, ids...), oneOf(s.round, slices.Sorted(maps.Keys(formWays))...)
		done, err := formWays[way](s.round, s.formOf(id))
		if err == nil && !done {
			continue
		}
		s.note("layer %s: %s", id, way)
		if tars[id] != "" && s.rng.IntN(3) == 0 {
			s.note("its tar is removed")
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.root, "blobs", tars[id])))
		}
		return id, err
	}
}

// formWays are what is done to the directory of a layer; they report whether there was something to do it to.
var formWays = map[string]func(r *round, form string) (bool, error){
	"a file is removed":             someOf(isFile, func(_ *round, path string) error { return os.Remove(path) }),
	"a file is cut":                 someOf(hasBytes, func(_ *round, path string) error { return os.Truncate(path, 0) }),
	"a byte is changed":             someOf(hasBytes, ways["a byte"]),
	"a file is longer":              someOf(isFile, ways["longer"]),
	"a file is a directory":         someOf(isFile, ways["directory"]),
	"a directory is a file":         someOf(isDir, ways["file"]),
	"a directory is removed":        someOf(isDir, ways["removed"]),
	"a file is a link":              someOf(isFile, func(_ *round, path string) error { return errors.Join(os.Remove(path), os.Symlink("elsewhere", path)) }),
	"a link leads elsewhere":        someOf(isLink, func(_ *round, path string) error { return errors.Join(os.Remove(path), os.Symlink("elsewhere", path)) }),
	"another mode":                  someOf(isFile, func(_ *round, path string) error { return chmod(path, 0o7123) }),
	"another mode of a directory":   someOf(isDir, func(_ *round, path string) error { return chmod(path, 0o7123) }),
	"another owner":                 someOf(isFile, func(_ *round, path string) error { return os.Lchown(path, 1234, 1234) }),
	"another time":                  someOf(isFile, func(_ *round, path string) error { return setTime(path, 1) }),
	"a file is added":               someOf(isDir, func(_ *round, path string) error { return os.WriteFile(filepath.Join(path, "added"), nil, 0o644) }),
	"a directory hides those below": someOf(isDir, hide),
	"the whole is empty":            clearOut,
	"the whole is a file":           whole(ways["file"]),
	"the whole is gone":             whole(ways["removed"]),
	"all of the layer is gone":      whole(func(_ *round, form string) error { return os.RemoveAll(filepath.Dir(form)) }),
	"the whole is torn":             tear,
}

func chmod(path string, flip uint32) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	return unix.Chmod(path, st.Mode&0o7777^flip)
}

func setTime(path string, seconds int64) error {
	to := unix.Timespec{Sec: seconds}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{to, to}, unix.AT_SYMLINK_NOFOLLOW)
}

// hide has a directory hide the one of the same name in the layers below, or, if it does, not hide it.
func hide(_ *round, path string) error {
	const opaque = "trusted.overlay.opaque"
	if err := unix.Lremovexattr(path, opaque); !errors.Is(err, unix.ENODATA) {
		return err
	}
	return unix.Lsetxattr(path, opaque, []byte("y"), 0)
}

func clearOut(_ *round, form string) (bool, error) {
	all, err := os.ReadDir(form)
	for _, e := range all {
		err = errors.Join(err, os.RemoveAll(filepath.Join(form, e.Name())))
	}
	return len(all) > 0, err
}

func whole(how func(*round, string) error) func(*round, string) (bool, error) {
	return func(r *round, form string) (bool, error) { return true, how(r, form) }
}

// someOf does something to one of the entries of a directory.
func someOf(which func(fs.FileInfo) bool, how func(*round, string) error) func(*round, string) (bool, error) {
	return func(r *round, form string) (bool, error) {
		all, err := entries(form, which)
		if err != nil || len(all) == 0 {
			return false, err
		}
		path := oneOf(r, all...)
		r.note("%s", strings.TrimPrefix(path, r.dir+"/"))
		return true, how(r, path)
	}
}

func isFile(fi fs.FileInfo) bool   { return fi.Mode().IsRegular() }
func isDir(fi fs.FileInfo) bool    { return fi.IsDir() }
func isLink(fi fs.FileInfo) bool   { return fi.Mode()&fs.ModeSymlink != 0 }
func hasBytes(fi fs.FileInfo) bool { return isFile(fi) && fi.Size() > 0 }

// entries are those of a kind that are below a directory.
func entries(dir string, which func(fs.FileInfo) bool) (all []string, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := e.Info()
		if err == nil && which(info) {
			all = append(all, path)
		}
		return err
	})
	return all, err
}

// tear leaves of a directory what a process would that wrote it and was killed, or a machine.
func tear(r *round, form string) (bool, error) {
	all, err := entries(form, isFile)
	if err != nil || len(all) == 0 {
		return false, err
	}
	from := r.rng.IntN(len(all))
	err = os.Truncate(all[from], 0)
	for _, path := range all[from+1:] {
		err = errors.Join(err, os.Remove(path))
	}
	return true, err
}
