package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// WithFlavor says which flavor of extended attributes the store has. Without it that is what this process can write: the user
// flavor unless it is root with all rights and in no user namespace.
func WithFlavor(f layer.Flavor) Option { return func(s *Store) { s.flavor = f } }

// WithoutIDs says that this process does not have the IDs that who made a store of the user flavor had inside of a user namespace. It looks
// into the records of the store alone, which are the same with many IDs and with one.
func WithoutIDs() Option { return func(s *Store) { s.withoutIDs = true } }

// Flavor is the flavor of all layer directories of the store, which mounts must have too.
func (s *Store) Flavor() layer.Flavor { return s.flavor }

// OpenDir is [layer.OpenDir] for a directory that belongs to the store: of a layer, a container or a cache mount.
func (s *Store) OpenDir(dir string, opt layer.DirOptions) layer.Tree {
	opt.Flavor = s.flavor
	if opt.Overlay && opt.Records == "" {
		opt.Records = s.flavor.Records(dir)
	}
	return layer.OpenDir(dir, opt)
}

// DirWriter is [layer.NewDirWriter] for the directory form of a layer, or one of a container.
func (s *Store) DirWriter(dir string) (*layer.DirWriter, error) {
	return s.dirWriter(dir, s.flavor.Records(dir))
}

// MountWriter is [layer.NewDirWriter] for a cache mount.
func (s *Store) MountWriter(dir string) (*layer.DirWriter, error) { return s.dirWriter(dir, "") }

func (s *Store) dirWriter(dir, records string) (*layer.DirWriter, error) {
	w, err := layer.NewDirWriter(dir)
	if err != nil {
		return nil, err
	}
	w.SetFlavor(s.flavor, records)
	return w, nil
}

// moveRecords moves what is recorded of a directory's files beside it with the directory.
func (s *Store) moveRecords(from, to string) error {
	if s.flavor != layer.User {
		return nil
	}
	err := os.Rename(s.flavor.Records(from), s.flavor.Records(to))
	if errors.Is(err, os.ErrNotExist) {
		err = os.Remove(s.flavor.Records(to)) // of one that was there before
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func defaultFlavor() layer.Flavor {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	err := unix.Capget(&head, &caps[0])
	if err != nil || caps[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 || userns.RunningInUserNS() {
		return layer.User
	}
	return layer.Trusted
}

// flavorShift is where the flavor stands in SQLite's number of the store's version. Programs that know no flavors take that of
// the user flavor for a version that they do not know, and leave such a store alone.
const flavorShift = 16

// kind is a flavor, and how owners are recorded in it.
type kind int

const (
	trusted kind = iota
	user         // what records say counts on files of an ID that stands for them
	oneID        // what records say counts
)

// FlavorOf reads the flavor of the store in a directory from its file, without opening it: what was not written there yet from SQLite's log
// is not known.
func FlavorOf(root string) (f layer.Flavor, known bool) {
	file, err := os.Open(filepath.Join(root, "meta.db"))
	if err != nil {
		return 0, false
	}
	defer file.Close()
	var version [4]byte // https://www.sqlite.org/fileformat.html#user_version_number
	if _, err := file.ReadAt(version[:], 60); err != nil {
		return 0, false
	}
	switch v := binary.BigEndian.Uint32(version[:]); {
	case v == 0:
		return 0, false
	case kind(v>>flavorShift) == trusted:
		return layer.Trusted, true
	}
	return layer.User, true
}

// kind is that of the store that this process needs.
func (s *Store) kind() kind {
	switch {
	case s.flavor == layer.Trusted:
		return trusted
	case layer.ManyIDs():
		return user
	}
	return oneID
}

// fits reports whether a store of a kind is one for this process.
func (s *Store) fits(is kind) bool {
	return is == s.kind() || s.withoutIDs && is != trusted && s.flavor == layer.User
}

// ErrFlavor marks a store of the other flavor.
var ErrFlavor = errors.New("it is a store of the other kind")

// otherFlavor says that the store has another flavor than this process needs.
func (s *Store) otherFlavor(is kind) error {
	made, why := "root of the machine", "its layers have attributes (trusted.overlay.*) that root in a user namespace and ordinary users cannot read"
	switch {
	case is != trusted && s.flavor == layer.Trusted:
		made, why = "an ordinary user, or in a user namespace", "its layers have attributes (user.overlay.*) that mounts of the machine's root do not follow"
	case is == oneID:
		made, why = "a user with one ID", "the owners of its files are recorded, while there are many IDs now"
	case is == user:
		made, why = "a user with many IDs (/etc/subuid, newuidmap)", "its files belong to them, while there is one ID now"
	}
	return fmt.Errorf("%w: it was made by %s, and %s: use another --root, run slipway as the store's maker, or remove the store with \"slipway --root %s system reset\"",
		ErrFlavor, made, why, s.root)
}

// hasDirs reports whether the store has directories that have a flavor.
func (s *Store) hasDirs(tx *sql.Tx) (has bool, err error) {
	err = tx.QueryRow("SELECT EXISTS(SELECT 1 FROM layers WHERE dir=1) OR EXISTS(SELECT 1 FROM containers)").Scan(&has)
	if err == nil && !has {
		var mounts []string
		mounts, err = s.mounts()
		has = len(mounts) > 0
	}
	return has, err
}

// changeFlavor gives a store that has only blobs so far the flavor of this process. Nobody else uses it.
func (s *Store) changeFlavor() error {
	return s.update(context.Background(), func(tx *sql.Tx) error {
		v, is, err := s.version(tx)
		if err != nil || s.fits(is) {
			return err
		}
		has, err := s.hasDirs(tx)
		if err == nil && has {
			err = s.otherFlavor(is)
		}
		if err == nil {
			err = s.setVersion(tx, v, s.kind())
		}
		return err
	})
}

func (s *Store) setVersion(tx *sql.Tx, v int, k kind) error {
	_, err := tx.Exec(fmt.Sprintf("PRAGMA user_version=%d", v|int(k)<<flavorShift))
	return err
}

// changeFlavorAlone is [Store.changeFlavor] if nobody else uses the store, which has another flavor.
func (s *Store) changeFlavorAlone(is kind) error {
	if s.readOnly != "" {
		return s.otherFlavor(is)
	}
	done, err := s.alone(s.changeFlavor)
	if !done && err == nil {
		err = s.otherFlavor(is)
	}
	return err
}
