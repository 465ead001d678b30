// Package view says what is in a store, to whoever shows it: images, containers, and what takes the disk. It says as well
// what of that goes when somebody removes or prunes it.
//
// # Structure
//
// A filter is a value: [ParseArgs] reads the words of Docker's users, which are the same at every front door, and the
// functions beside [ImageFilter], [ContainerFilter] and [CacheFilter] give them their meaning. A row is what the records of
// the store say of one thing. What is more work to find out, such as a size, is a method with a context, so that nobody pays
// for what is not shown. What was removed is returned as it is told: names first, then what went with them.
//
// Nothing is printed here, and no protocol is known: how a time, a size or an ID is written is the affair of front doors.
//
// # Caveats
//
// Nothing is locked: others build, run and remove things meanwhile. A row says what was so when it was read.
package view

import (
	"context"
	"errors"
	"strings"

	"github.com/slipway-build/slipway/internal/store"
)

// NotFoundError says in Docker's words what the store does not have. It wraps [store.ErrNotFound].
type NotFoundError struct {
	Message string
	Err     error
}

func (e *NotFoundError) Error() string { return e.Message }
func (e *NotFoundError) Unwrap() error { return e.Err }

// FindImage is [store.Store.Image] with a message for people.
func FindImage(ctx context.Context, s *store.Store, name string) (store.Image, error) {
	img, err := s.Image(ctx, name)
	return img, notFound("image", name, err)
}

// UseImage is [store.Store.UseImage] with a message for people.
func UseImage(ctx context.Context, s *store.Store, name string) (store.Image, error) {
	img, err := s.UseImage(ctx, name)
	return img, notFound("image", name, err)
}

// FindContainer is [store.Store.Container] with a message for people.
func FindContainer(ctx context.Context, s *store.Store, name string) (store.Container, error) {
	c, err := s.Container(ctx, name)
	return c, notFound("container", name, err)
}

func notFound(what, name string, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return &NotFoundError{"No such " + what + ": " + name, err}
	}
	return err
}

// ShortID is the first 12 digits of an ID or digest, as Docker shows and tells of it.
func ShortID(id string) string {
	id = id[strings.IndexByte(id, ':')+1:]
	return id[:min(12, len(id))]
}
