package docker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"

	containertypes "github.com/moby/moby/api/types/container"

	"github.com/slipway-build/slipway/internal/container"
)

// archived is the file that a request is about, which is described in the head of the answer. An event of the action is told, unless that is "".
func (r *request) archived(ctx context.Context, action string) (context.Context, *container.Archive, error) {
	path := r.FormValue("path")
	if path == "" {
		return ctx, nil, invalidf("bad parameter: path cannot be empty")
	}
	ctx, m, c, err := r.usable(ctx)
	if err != nil {
		return ctx, nil, err
	}
	a, err := m.OpenArchive(ctx, c, path)
	if err != nil {
		if errors.Is(err, container.ErrNoFile) {
			err = failure{http.StatusNotFound, "Could not find the file " + path + " in container " + r.name}
		}
		return ctx, nil, err
	}
	data, err := json.Marshal(containertypes.PathStat{Name: a.Name, Size: a.Size, Mode: a.Mode, Mtime: a.ModTime, LinkTarget: a.LinkTarget})
	if err != nil {
		return ctx, nil, err
	}
	if action != "" {
		r.s.events.looked(c, action, nil)
	}
	r.w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(data))
	return ctx, a, nil
}

// statArchive answers HEAD /containers/NAME/archive.
func (s *Server) statArchive(ctx context.Context, r *request) error {
	if _, _, err := r.archived(ctx, ""); err != nil {
		return err
	}
	return r.ok()
}

// getArchive answers GET /containers/NAME/archive.
func (s *Server) getArchive(ctx context.Context, r *request) error {
	ctx, a, err := r.archived(ctx, "archive-path")
	if err != nil {
		return err
	}
	r.w.Header().Set("Content-Type", "application/x-tar")
	return a.Write(ctx, answerWriter{r})
}

// putArchive answers PUT /containers/NAME/archive.
func (s *Server) putArchive(ctx context.Context, r *request) error {
	path := r.FormValue("path")
	if path == "" {
		return invalidf("bad parameter: path cannot be empty")
	}
	ctx, m, c, err := r.usable(ctx)
	if err != nil {
		return err
	}
	if err := m.Import(ctx, c, r.Body, path, container.CopyOptions{Archive: true, ToUser: r.flag("copyUIDGID")}); err != nil {
		switch {
		case errors.Is(err, container.ErrNoFile):
			return failure{http.StatusNotFound, "Could not find the file " + path + " in container " + r.name}
		case errors.Is(err, container.ErrNoDirectory):
			return invalidf("extraction point is not a directory")
		}
		return err
	}
	m.Tell(c, "extract-to-dir", nil)
	return r.ok()
}
