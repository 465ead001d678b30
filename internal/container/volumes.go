package container

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/atomicfile"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// Volume is a directory of the store that containers share, by a name.
type Volume struct {
	Name      string            `json:"name"`
	Created   time.Time         `json:"created"`
	Labels    map[string]string `json:"labels,omitempty"`
	Anonymous bool              `json:"anonymous,omitempty"` // it was made for a container, and goes with it where that is asked for
	Dir       string            `json:"-"`
}

// ErrVolumeInUse marks a volume that a container has.
var ErrVolumeInUse = errors.New("volume is in use")

// ErrInvalid marks what a user has said that cannot be.
var ErrInvalid = errors.New("invalid")

const (
	volumeRecord = "volume.json"
	volumeData   = "_data"
)

func (m *Manager) volumePath(name string) string {
	return filepath.Join(m.Store.Root(), "volumes", name)
}

// LockVolumes keeps other processes from making and removing volumes until release is called: none goes between being found and being a container's. Who needs
// [Manager.LockNetworks] as well takes that after it.
func (m *Manager) LockVolumes(ctx context.Context) (release func() error, err error) {
	release, err = lockFile(ctx, m.volumePath(".lock")) // no volume's name
	if err != nil {
		return nil, fmt.Errorf("locking the volumes: %w", err)
	}
	return release, nil
}

// lockFile locks a file, which it makes with its directory, until release is called.
func lockFile(ctx context.Context, path string) (release func() error, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		if err = sleep(ctx, poll); err != nil {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
}

// MakeVolume makes a volume, unless there is one of the name; "" is a name that is made up. The caller has [Manager.LockVolumes].
func (m *Manager) MakeVolume(ctx context.Context, name string, labels map[string]string, anonymous bool) (v Volume, made bool, err error) {
	if name == "" {
		var b [32]byte
		if _, err := rand.Read(b[:]); err != nil {
			return v, false, err
		}
		name = hex.EncodeToString(b[:])
	}
	if !ValidName(name) || len(name) < 2 || len(name) > 255 {
		return v, false, fmt.Errorf("%w volume name: %q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", ErrInvalid, name)
	}
	if v, err = m.Volume(name); err == nil || !errors.Is(err, store.ErrNotFound) {
		return v, false, err
	}
	v = Volume{Name: name, Created: time.Now().UTC(), Labels: labels, Anonymous: anonymous, Dir: filepath.Join(m.volumePath(name), volumeData)}
	data, err := json.Marshal(v)
	if err == nil {
		err = os.MkdirAll(m.volumePath(name), 0o700)
	}
	if err == nil {
		err = os.MkdirAll(v.Dir, 0o755)
	}
	if err == nil {
		record := filepath.Join(m.volumePath(name), volumeRecord)
		err = atomicfile.Write(record, atomicfile.Options{Temporary: record + ".tmp", Mode: 0o600}, func(f *os.File) error {
			_, err := f.Write(data)
			return err
		})
	}
	if err == nil {
		err = os.Chmod(v.Dir, 0o755)
	}
	if err != nil {
		return v, false, fmt.Errorf("making a volume: %w", err)
	}
	return v, true, ctx.Err()
}

// Volume finds a volume by its name.
func (m *Manager) Volume(name string) (v Volume, err error) {
	if !ValidName(name) {
		return v, fmt.Errorf("get %s: no such volume: %w", name, store.ErrNotFound)
	}
	data, err := os.ReadFile(filepath.Join(m.volumePath(name), volumeRecord))
	if errors.Is(err, os.ErrNotExist) {
		return v, fmt.Errorf("get %s: no such volume: %w", name, store.ErrNotFound)
	}
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil {
		return v, fmt.Errorf("reading the record of volume %s: %w", name, err)
	}
	v.Name, v.Dir = name, filepath.Join(m.volumePath(name), volumeData)
	return v, nil
}

// Volumes are all, by their names. What has no record is left out.
func (m *Manager) Volumes() (all []Volume, err error) {
	entries, err := os.ReadDir(filepath.Dir(m.volumePath("any")))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listing volumes: %w", err)
	}
	for _, e := range entries {
		if v, err := m.Volume(e.Name()); err == nil {
			all = append(all, v)
		}
	}
	return all, nil
}

// Users are the containers that have volumes.
type Users map[string][]volumeUser // by the volumes' names

type volumeUser struct{ id, dir string }

// VolumeUsers finds out which containers have volumes. A container whose record cannot be read may have any: that is an error.
func (m *Manager) VolumeUsers(ctx context.Context) (Users, error) {
	all, err := m.Store.Containers(ctx)
	if err != nil {
		return nil, err
	}
	users := Users{}
	for _, c := range all {
		config, err := ReadConfig(c)
		if err != nil {
			return nil, fmt.Errorf("finding out who has volumes: %w", err)
		}
		for _, s := range config.Mounts {
			if filepath.Base(s.Bind) == volumeData {
				name := filepath.Base(filepath.Dir(s.Bind))
				users[name] = append(users[name], volumeUser{c.ID, s.Bind})
			}
		}
	}
	return users, nil
}

// Of are the IDs of those that have a volume, also where the store had another path when they were made.
func (u Users) Of(v Volume) (ids []string) {
	for _, c := range u[v.Name] {
		if !slices.Contains(ids, c.id) && !isOther(c.dir, v.Dir) {
			ids = append(ids, c.id)
		}
	}
	return ids
}

// isOther reports whether a path leads to something that is not the directory. What is not there, or cannot be looked at, may have been it.
func isOther(path, dir string) bool {
	if path == dir {
		return false
	}
	a, err := os.Stat(path)
	b, berr := os.Stat(dir)
	return err == nil && berr == nil && !os.SameFile(a, b)
}

// VolumeOf is the name of the volume whose directory this is, by the path that the store has now; "" for none: no link is followed, since who may mount what is
// decided by it. What is below one is no volume's directory, and what has no record is no volume.
func (m *Manager) VolumeOf(dir string) string {
	name := filepath.Base(filepath.Dir(dir))
	if v, err := m.Volume(name); err == nil && dir == v.Dir {
		return name
	}
	return ""
}

// RemoveVolume deletes a volume with its files. One that a container has is [ErrVolumeInUse]. With force one that is not there is no error.
func (m *Manager) RemoveVolume(ctx context.Context, name string, force bool) error {
	v, err := m.takeVolume(ctx, name, func(Volume) bool { return true })
	if force && errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return deleteTaken(v)
}

// ForgetVolume is [Manager.RemoveVolume] of one that was made for nothing, for who has [Manager.LockVolumes].
func (m *Manager) ForgetVolume(ctx context.Context, name string) error {
	v, err := m.take(ctx, name, func(Volume) bool { return true })
	if err != nil {
		return err
	}
	return deleteTaken(v)
}

// takenVolume begins the names of directories that were volumes, which are no names of volumes. They are deleted by whoever took them, without others having to
// wait for that; what a crash leaves goes with the next [Manager.PruneVolumes].
const takenVolume = ".removed-"

// takeVolume is take for who has not locked the volumes.
func (m *Manager) takeVolume(ctx context.Context, name string, want func(Volume) bool) (v Volume, err error) {
	release, err := m.LockVolumes(ctx)
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, release()) }()
	return m.take(ctx, name, want)
}

// take takes a volume out of everybody's sight, if it is wanted and no container has it. The caller deletes it.
func (m *Manager) take(ctx context.Context, name string, want func(Volume) bool) (v Volume, err error) {
	if v, err = m.Volume(name); err != nil {
		return v, err
	}
	if !want(v) {
		return v, errUnwanted
	}
	users, err := m.VolumeUsers(ctx)
	if err != nil {
		return v, fmt.Errorf("remove %s: %w", name, err)
	}
	if ids := users.Of(v); len(ids) > 0 {
		return v, fmt.Errorf("remove %s: %w - [%s]", name, ErrVolumeInUse, strings.Join(ids, ", "))
	}
	taken := m.volumePath(takenVolume + rand.Text())
	if err := os.Rename(m.volumePath(name), taken); err != nil {
		return v, fmt.Errorf("removing volume %s: %w", name, err)
	}
	v.Dir = filepath.Join(taken, volumeData)
	return v, nil
}

// errUnwanted marks a volume that is another one than was looked at.
var errUnwanted = errors.New("volume has changed")

// deleteTaken deletes a volume that was taken.
func deleteTaken(v Volume) error {
	if err := layer.RemoveAll(filepath.Dir(v.Dir)); err != nil {
		return fmt.Errorf("removing volume %s: %w", v.Name, err)
	}
	return nil
}

// deleteLeft deletes what others took and did not delete.
func (m *Manager) deleteLeft(ctx context.Context) (all error) {
	entries, err := os.ReadDir(filepath.Dir(m.volumePath("any")))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listing volumes: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), takenVolume) && ctx.Err() == nil {
			all = errors.Join(all, layer.RemoveAll(m.volumePath(e.Name())))
		}
	}
	return all
}

// PruneVolumes removes the volumes that are wanted and no container has, and tells their names and how many bytes their files had. What cannot be removed stays,
// with an error beside what is gone. Each is looked at again when it is locked: one that was removed meanwhile, and perhaps made again, is another one.
func (m *Manager) PruneVolumes(ctx context.Context, want func(Volume) bool) (gone []string, freed int64, left error) {
	list, err := m.Volumes()
	if err != nil {
		return nil, 0, err
	}
	users, err := m.VolumeUsers(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, v := range list {
		if ctx.Err() != nil {
			return gone, freed, errors.Join(left, context.Cause(ctx))
		}
		if !want(v) || len(users.Of(v)) > 0 {
			continue
		}
		switch v, err := m.takeVolume(ctx, v.Name, want); {
		case errors.Is(err, ErrVolumeInUse), errors.Is(err, store.ErrNotFound), errors.Is(err, errUnwanted):
		case err != nil:
			left = errors.Join(left, err)
		default:
			size, _ := m.VolumeSize(v) // what it cannot be told of goes as well
			if err := deleteTaken(v); err != nil {
				left, size = errors.Join(left, err), 0
			}
			gone, freed = append(gone, v.Name), freed+size
		}
	}
	return gone, freed, errors.Join(left, m.deleteLeft(ctx))
}

// RemoveAnonymous removes the volumes that a container which is gone has had without saying their names, and no other one has. One that it named stays, also
// where another container had it made without a name.
func (m *Manager) RemoveAnonymous(ctx context.Context, c store.Container) (all error) {
	names, err := AnonymousVolumes(c)
	if err != nil {
		return err
	}
	for _, name := range names {
		if v, err := m.Volume(name); err == nil && v.Anonymous {
			switch err := m.RemoveVolume(ctx, name, false); {
			case errors.Is(err, ErrVolumeInUse), errors.Is(err, store.ErrNotFound):
			case err != nil:
				all = errors.Join(all, err)
			case m.VolumeGone != nil:
				m.VolumeGone(name)
			}
		}
	}
	return all
}

// AnonymousVolumes are the names of the volumes that a container has without having said them, each once.
func AnonymousVolumes(c store.Container) (names []string, err error) {
	config, err := ReadConfig(c)
	if err != nil {
		return nil, err
	}
	for _, s := range config.Mounts {
		if s.Anonymous != "" && !slices.Contains(names, s.Anonymous) {
			names = append(names, s.Anonymous)
		}
	}
	return names, nil
}

// FillVolume gives a volume what a container has at the path where it is to be, which may be nothing. One that has something is left as it is.
func (m *Manager) FillVolume(ctx context.Context, c store.Container, v Volume, dest string) error {
	if entries, err := os.ReadDir(v.Dir); err != nil || len(entries) > 0 {
		return err
	}
	tree, err := m.tree(ctx, c)
	if err != nil {
		return err
	}
	p, err := layer.Resolve(tree, dest, true)
	if err != nil {
		return err
	}
	e, err := tree.Lstat(p)
	if errors.Is(err, os.ErrNotExist) || err == nil && !e.IsDir() {
		return nil
	}
	var s *source
	if err == nil {
		s, err = openSource(tree, dest+"/.", c.Name, false) // not CopyFrom: the volume lies over it there
	}
	if err == nil {
		_, err = copyToHost(ctx, s, v.Dir, CopyOptions{Archive: true})
	}
	if err == nil {
		err = errors.Join(os.Lchown(v.Dir, int(e.UID), int(e.GID)), os.Chmod(v.Dir, os.FileMode(e.Mode&0o777)))
	}
	if err != nil {
		return fmt.Errorf("filling volume %s: %w", v.Name, err)
	}
	return nil
}

// VolumeSize is how many bytes the files of a volume have.
func (m *Manager) VolumeSize(v Volume) (sum int64, err error) {
	err = layer.WalkLive(m.Store.OpenDir(v.Dir, layer.DirOptions{Live: true}), ".", false, func(e *layer.Entry) error {
		if e.IsRegular() {
			sum += e.Size
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measuring volume %s: %w", v.Name, err)
	}
	return sum, nil
}
