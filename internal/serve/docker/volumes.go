package docker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// volumeOf describes a volume.
func volumeOf(v container.Volume) volume.Volume {
	return volume.Volume{Name: v.Name, Driver: "local", Mountpoint: v.Dir, CreatedAt: v.Created.Format(time.RFC3339), Scope: "local", Labels: view.VolumeLabels(v)}
}

// volumeError gives errors of volumes their status.
func volumeError(err error) error {
	if err == nil || errors.Is(err, store.ErrNotFound) {
		return err
	}
	return failure{containerStatus(err), err.Error()}.or(http.StatusInternalServerError)
}

// createVolume answers POST /volumes/create.
func (s *Server) createVolume(ctx context.Context, r *request) error {
	var body volume.CreateRequest
	if err := r.document(&body); err != nil {
		return err
	}
	switch {
	case body.Driver != "" && body.Driver != "local":
		return noDriver(body.Driver)
	case len(body.DriverOpts) > 0:
		return failure{http.StatusNotImplemented, "slipway serves volumes that are directories of its store: options of the driver are not served"}
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	m := s.manager(b)
	var v container.Volume
	var made bool
	err = locked(ctx, m.LockVolumes, func() error {
		v, made, err = m.MakeVolume(ctx, body.Name, body.Labels, body.Name == "")
		return err
	})
	if err != nil {
		return volumeError(err)
	}
	if made {
		s.events.volume(events.ActionCreate, v.Name)
	}
	return r.answer(http.StatusCreated, volumeOf(v))
}

// noDriver is the error of a driver of volumes that is not there: there is "local".
func noDriver(name string) error {
	return failure{http.StatusNotFound, fmt.Sprintf("error looking up volume plugin %s: plugin %q not found", name, name)}
}

// chosenVolumes are those that filters let through.
func chosenVolumes(ctx context.Context, m *container.Manager, args view.Args) (all []container.Volume, err error) {
	list, err := m.Volumes()
	if err != nil {
		return nil, err
	}
	dangling, err := oneBool(args, "dangling")
	if err != nil {
		return nil, err
	}
	var users container.Users
	if dangling != nil {
		if users, err = m.VolumeUsers(ctx); err != nil {
			return nil, err
		}
	}
	for _, v := range list {
		if volumeWanted(v, args) && (dangling == nil || *dangling == (len(users.Of(v)) == 0)) {
			all = append(all, v)
		}
	}
	return all, nil
}

// listVolumes answers GET /volumes.
func (s *Server) listVolumes(ctx context.Context, r *request) error {
	args, err := r.args("dangling", "driver", "label", "label!", "name")
	if err != nil {
		return err
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	list, err := chosenVolumes(ctx, s.manager(b), args)
	if err != nil {
		return err
	}
	out := volume.ListResponse{Volumes: []volume.Volume{}}
	for _, v := range list {
		out.Volumes = append(out.Volumes, volumeOf(v))
	}
	return r.answer(http.StatusOK, out)
}

// inspectVolume answers GET /volumes/NAME.
func (s *Server) inspectVolume(ctx context.Context, r *request) error {
	_, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	v, err := s.manager(b).Volume(r.name)
	if err != nil {
		return volumeError(err)
	}
	return r.answer(http.StatusOK, volumeOf(v))
}

// removeVolume answers DELETE /volumes/NAME.
func (s *Server) removeVolume(ctx context.Context, r *request) error {
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	m := s.manager(b)
	_, before := m.Volume(r.name)
	failed := m.RemoveVolume(ctx, r.name, r.flag("force"))
	if _, err := m.Volume(r.name); before == nil && errors.Is(err, store.ErrNotFound) { // also one of which some files could not be deleted
		s.events.volume(events.ActionDestroy, r.name)
	}
	if failed != nil {
		return volumeError(failed)
	}
	return r.done()
}

// volume tells of something that was done with a volume.
func (b *bus) volume(action events.Action, name string) {
	b.tell(events.VolumeEventType, action, name, map[string]string{"driver": "local"})
}

// pruneVolumes answers POST /volumes/prune: anonymous ones that nobody has, and with the filter all=true the others.
func (s *Server) pruneVolumes(ctx context.Context, r *request) error {
	args, err := r.args("label", "label!", "all")
	if err != nil {
		return err
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	m := s.manager(b)
	everything := r.before("1.42") || slices.Contains(args["all"], "true") || slices.Contains(args["all"], "1")
	gone, freed, left := m.PruneVolumes(ctx, func(v container.Volume) bool { return (v.Anonymous || everything) && volumeWanted(v, args) })
	for _, name := range gone {
		s.events.volume(events.ActionDestroy, name)
	}
	if left != nil {
		if len(gone) == 0 {
			return left
		}
		s.opt.Warn(fmt.Sprintf("pruning volumes: %v", left))
	}
	s.events.tell(events.VolumeEventType, events.ActionPrune, "", map[string]string{"reclaimed": fmt.Sprint(freed)})
	return r.answer(http.StatusOK, volume.PruneReport{VolumesDeleted: append([]string{}, gone...), SpaceReclaimed: uint64(freed)})
}

// volumeWanted reports whether filters let a volume through.
func volumeWanted(v container.Volume, args view.Args) bool {
	return fit(args, view.VolumeLabels(v), func(key, value string) bool {
		switch key {
		case "driver":
			return value == "local"
		case "name":
			re, err := regexp.Compile(value)
			return strings.Contains(v.Name, value) || err == nil && re.MatchString(v.Name)
		}
		return true // dangling was looked at
	})
}
