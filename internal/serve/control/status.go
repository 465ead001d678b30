package control

import (
	"context"
	"errors"
	"os"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// sendTime tells a client what time it is here, which it compares with its own.
func sendTime(stream grpc.ServerStream) error {
	return stream.SendHeader(metadata.Pairs("buildkit-current-timestamp", time.Now().Format(time.RFC3339Nano)))
}

// Status tells all events of a build, from the first one on, until it has ended. One that nobody knows is waited for.
func (s *Server) Status(req *controlapi.StatusRequest, stream controlapi.Control_StatusServer) error {
	if err := sendTime(stream); err != nil {
		return err
	}
	ctx := stream.Context()
	late := time.NewTimer(s.opt.JobWait)
	defer late.Stop()
	for {
		j, changed := s.jobs.find(req.Ref)
		if j != nil {
			if there, err := j.log.follow(ctx, stream.Send); there {
				return err
			}
			// It has ended meanwhile: its record has all.
		}
		l, err := s.listedRef(req.Ref)
		if err == nil && !l.running {
			return l.replay(ctx, stream.Send)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		select {
		case <-changed: // also when it ended while it was looked for
		case <-late.C:
			return errdefs.NewUnknownJobError(req.Ref)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// replay tells the events of a build that has ended.
func (k *kept) replay(ctx context.Context, send func(*controlapi.StatusResponse) error) error {
	if len(k.steps) > 0 {
		return k.replayText(ctx, send)
	}
	if k.rec.Logs == nil {
		return nil
	}
	f, err := k.open(digest.Digest(k.rec.Logs.Digest))
	if cerrdefs.IsNotFound(err) {
		return nil // it was pruned
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return replay(ctx, f, send)
}
