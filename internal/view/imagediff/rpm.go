package imagediff

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/view/rpmdb"
)

// rpmDatabases are the files that rpm may have, in the directories in which distributions have them.
var rpmDatabases = [...]string{
	"var/lib/rpm/Packages", "var/lib/rpm/Packages.db", "var/lib/rpm/rpmdb.sqlite",
	"usr/lib/sysimage/rpm/Packages", "usr/lib/sysimage/rpm/Packages.db", "usr/lib/sysimage/rpm/rpmdb.sqlite",
}

// maxDatabase is how many bytes a database may have that is read.
const maxDatabase = 1 << 30

// rpmPackages adds the packages of rpm's databases, and names those of which all cannot be read: what they say is not known then.
func rpmPackages(t layer.Tree, all map[packageKey]installed) (unread []string, err error) {
	read := map[string]bool{}
	for _, name := range rpmDatabases {
		at, err := layer.Resolve(t, name, true) // one directory is often a link to the other
		if isMissing(err) || err == nil && read[at] {
			continue
		}
		if err != nil {
			return nil, err
		}
		read[at] = true
		found, err := rpmDatabase(t, at)
		switch {
		case isMissing(err):
		case errors.Is(err, rpmdb.ErrDamaged):
			unread = append(unread, "/"+name)
		case err != nil:
			return nil, err
		}
		for k, v := range found {
			if len(all) < maxPackages {
				all[k] = v
			}
		}
	}
	return unread, nil
}

// rpmDatabase reads one. Of some packages, such as kernels and public keys, several versions are there at once: they are told as one.
func rpmDatabase(t layer.Tree, name string) (map[packageKey]installed, error) {
	main, err := spool(t, name)
	if err != nil {
		return nil, err
	}
	defer main.Close()
	wal, err := spool(t, name+"-wal")
	if err != nil && !isMissing(err) {
		return nil, err
	}
	defer wal.Close()
	found := map[packageKey]installed{}
	versions := map[packageKey][]string{}
	err = rpmdb.Read(main.File, wal.File, func(p rpmdb.Package) {
		k := packageKey{"rpm", p.Name, p.Arch}
		if !slices.Contains(versions[k], p.Version) && len(versions[k]) < maxVersions {
			versions[k] = append(versions[k], p.Version)
			found[k] = installed{size: found[k].size + p.Size}
		}
	})
	for k, v := range found {
		slices.Sort(versions[k])
		v.version = strings.Join(versions[k], ", ")
		found[k] = v
	}
	return found, err
}

// maxVersions is how many versions of a package are told.
const maxVersions = 100

// spooled is a file of a tree as one that is read anywhere.
type spooled struct {
	rpmdb.File

	file *os.File
}

// Close implements io.Closer; of nothing, too.
func (s *spooled) Close() error {
	if s == nil || s.file == nil {
		return nil
	}
	return s.file.Close()
}

// spool copies a file of a tree to one that is gone with its last user. What is none is missing.
func spool(t layer.Tree, name string) (*spooled, error) {
	none := &spooled{File: rpmdb.File{ReaderAt: strings.NewReader("")}}
	e, err := t.Lstat(name)
	if err != nil {
		return none, err
	}
	if !e.IsRegular() || e.Size > maxDatabase {
		return none, rpmdb.ErrDamaged
	}
	r, err := layer.OpenContent(e)
	if err != nil {
		return none, err
	}
	defer r.Close()
	f, err := layer.TempFile("")
	if err != nil {
		return none, err
	}
	s := &spooled{file: f}
	if s.Size, err = io.Copy(f, io.LimitReader(r, maxDatabase)); err != nil {
		return none, errors.Join(err, f.Close())
	}
	s.ReaderAt = f
	return s, nil
}
