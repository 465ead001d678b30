package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// Container is a created container: an image's snapshot with a writable layer on top.
type Container struct {
	ID       string          `json:"id"`   // 64 hex digits
	Name     string          `json:"name"` // unique, without a leading slash
	Image    string          `json:"image"`
	ImageID  digest.Digest   `json:"imageID"`
	Snapshot layer.Snapshot  `json:"snapshot"`
	Mounted  layer.Snapshot  `json:"mounted,omitempty"` // layers that its mounts show, which it needs as well
	Config   json.RawMessage `json:"config"`            // what to run; owned by package container
	Created  time.Time       `json:"created"`
}

// layers are all that a container needs, those of its mounts too.
func (c *Container) layers() layer.Snapshot { return slices.Concat(c.Snapshot, c.Mounted) }

// Adopted is a directory that a container begins with, by its name below the container's: "fs" is its writable layer. It was that of a
// draft, which nobody may write to any more.
type Adopted struct {
	Name  string
	Draft *Draft
}

// ErrNameTaken marks a container name that another container has.
var ErrNameTaken = errors.New("name is already in use")

// nameTakenError is [ErrNameTaken] in Docker's words (moby, daemon/errors.go).
type nameTakenError struct{ name, id string }

func (e *nameTakenError) Error() string {
	return fmt.Sprintf("Conflict. The container name %q is already in use by container %q. "+
		"You have to remove (or rename) that container to be able to reuse that name.", "/"+e.name, e.id)
}

func (e *nameTakenError) Is(target error) bool { return target == ErrNameTaken }

// NewContainerID returns a random container ID.
func NewContainerID() (string, error) {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("making container id: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// AddContainer makes the container's directories and records it. A name that is taken is
// ErrNameTaken, with the ID of its container in the message, and what was to be adopted stays where it is. The directories are made in the
// transaction: one without a record is what a crash left, and who collects takes it away.
func (s *Store) AddContainer(ctx context.Context, c Container, begin ...Adopted) error {
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("creating container: %w", err)
	}
	if len(begin) > 0 { // what they have is on the disk before the record is, and so are layers that no image has yet
		if err := errors.Join(s.Sync(ctx), syncfs(s.root)); err != nil { // the first does nothing if there are none
			return fmt.Errorf("creating container: %w", err)
		}
	}
	err = s.updateOnDisk(ctx, func(tx *sql.Tx) error {
		if err := nameFree(tx, c.Name); err != nil {
			return err
		}
		if _, err := tx.Exec("INSERT INTO containers(id,name,record) VALUES(?,?,?)", c.ID, c.Name, string(data)); err != nil {
			return err
		}
		if err := s.makeContainer(c.ID, begin); err != nil {
			return fmt.Errorf("creating container: %w", err)
		}
		if err := fsync(s.ContainerDir(c.ID)); err != nil { // the record is on the disk when this returns
			return fmt.Errorf("creating container: %w", err)
		}
		return nil
	})
	if err != nil {
		for _, a := range begin {
			from := filepath.Join(s.ContainerDir(c.ID), a.Name)
			if os.Rename(from, a.Draft.FS) == nil { // it was there already
				err = errors.Join(err, s.moveRecords(from, a.Draft.FS))
			}
		}
		return errors.Join(err, os.RemoveAll(s.ContainerDir(c.ID)))
	}
	for _, a := range begin {
		a.Draft.Abort() // of what is left in it
	}
	return nil
}

// makeContainer makes the directories of a container, of what it adopts as far as there is some.
func (s *Store) makeContainer(id string, begin []Adopted) error {
	dir := s.ContainerDir(id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, a := range begin {
		to := filepath.Join(dir, a.Name)
		if err := errors.Join(os.Rename(a.Draft.FS, to), s.moveRecords(a.Draft.FS, to)); err != nil {
			return err
		}
	}
	return os.MkdirAll(filepath.Join(dir, "fs"), 0o755)
}

// moveTornContainers moves directories of containers that have no record to another directory.
func (s *Store) moveTornContainers(tx *sql.Tx, trash string) error {
	ids, err := column(tx, "SELECT id FROM containers")
	if err != nil {
		return err
	}
	slices.Sort(ids)
	return moveOthers(filepath.Join(s.root, "containers"), trash, func(name string) bool {
		_, recorded := slices.BinarySearch(ids, name)
		return recorded
	})
}

// nameFree is ErrNameTaken when a container has the name.
func nameFree(tx *sql.Tx, name string) error {
	var id string
	err := tx.QueryRow("SELECT id FROM containers WHERE name=?", name).Scan(&id)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	return &nameTakenError{name, id}
}

// RenameContainer gives a container another name; one that is taken is ErrNameTaken.
func (s *Store) RenameContainer(ctx context.Context, c Container, name string) error {
	return s.ChangeContainer(ctx, c.ID, func(c *Container) error {
		c.Name = name
		return nil
	})
}

// ConfigureContainer changes the config of a container's record. One that is gone is ErrNotFound.
func (s *Store) ConfigureContainer(ctx context.Context, id string, change func(config json.RawMessage) (json.RawMessage, error)) error {
	return s.ChangeContainer(ctx, id, func(c *Container) (err error) {
		c.Config, err = change(c.Config)
		return err
	})
}

// ChangeContainer changes the name or the config of a container's record, at once. One that is gone is ErrNotFound, a name that another one has ErrNameTaken.
func (s *Store) ChangeContainer(ctx context.Context, id string, change func(*Container) error) error {
	return s.updateOnDisk(ctx, func(tx *sql.Tx) error {
		return changeContainer(tx, id, func(c *Container) error {
			before := c.Name
			if err := change(c); err != nil || c.Name == before {
				return err
			}
			return nameFree(tx, c.Name)
		})
	})
}

// changeContainer changes a container's record.
func changeContainer(tx *sql.Tx, id string, change func(*Container) error) error {
	var data string
	err := tx.QueryRow("SELECT record FROM containers WHERE id=?", id).Scan(&data)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("container %s: %w", id, ErrNotFound)
	}
	var c Container
	if err == nil {
		err = json.Unmarshal([]byte(data), &c)
	}
	if err == nil {
		err = change(&c)
	}
	if err != nil {
		return err
	}
	changed, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("changing the record of container %s: %w", id, err)
	}
	_, err = tx.Exec("UPDATE containers SET name=?, record=? WHERE id=?", c.Name, string(changed), id)
	return err
}

// Containers returns all containers, the newest first.
func (s *Store) Containers(ctx context.Context) ([]Container, error) { return s.containers(ctx, "1") }

// containers returns those of a condition, the newest first.
func (s *Store) containers(ctx context.Context, where string, args ...any) ([]Container, error) {
	all, err := records[Container](ctx, s, "SELECT record FROM containers WHERE "+where+" ORDER BY name", args...)
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	slices.SortStableFunc(all, func(a, b Container) int { return b.Created.Compare(a.Created) })
	return all, nil
}

// ContainersNamed returns the containers with a name, or one that continues it after a dot, the newest first.
func (s *Store) ContainersNamed(ctx context.Context, name string) ([]Container, error) {
	if !s.anyContainer() { // each build asks
		return nil, nil
	}
	return s.containers(ctx, "name=? OR name>? AND name<?", name, name+".", name+"/") // "/" follows "."
}

// anyContainer reports whether there may be a container: each has a directory before it is recorded.
func (s *Store) anyContainer() bool {
	dir, err := os.Open(filepath.Dir(s.ContainerDir("any")))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	defer dir.Close()
	_, err = dir.Readdirnames(1)
	return err != io.EOF
}

// Container finds a container by name, ID or unambiguous prefix of the ID. Otherwise the error is
// ErrNotFound or [ErrAmbiguous].
func (s *Store) Container(ctx context.Context, nameOrID string) (Container, error) {
	some, err := s.containers(ctx, "name=? OR id=?", strings.TrimPrefix(nameOrID, "/"), nameOrID)
	if err == nil && len(some) > 0 {
		return some[0], nil
	}
	if err == nil && isHex(nameOrID) {
		some, err = s.containers(ctx, "id BETWEEN ? AND ?", nameOrID, nameOrID+"g")
	}
	if err != nil {
		return Container{}, err
	}
	c, err := byID(some, nameOrID, func(c Container) string { return c.ID })
	if err != nil {
		return c, fmt.Errorf("container %s: %w", nameOrID, err)
	}
	return c, nil
}

// RemoveContainer forgets a container and deletes its writable layer.
func (s *Store) RemoveContainer(ctx context.Context, id string) error {
	defer s.makeRoom()()
	err := s.updateOnDisk(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("DELETE FROM containers WHERE id=?", id)
		return err
	})
	if err != nil {
		return err
	}
	for range 10 {
		err = os.RemoveAll(s.ContainerDir(id))
		if !errors.Is(err, unix.ENOTEMPTY) { // else somebody who had found the container made a file meanwhile, its lock or state
			break
		}
	}
	if err != nil {
		return fmt.Errorf("removing container: %w", err)
	}
	return nil
}
