package control

import (
	"context"
	"net"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/identity"
	"google.golang.org/grpc/peer"

	"github.com/slipway-build/slipway/internal/progress"
)

// EngineAddr is the address of who calls on a connection that came by Docker's API.
type EngineAddr struct{ net.Addr }

// engineKey marks the context of a call.
type engineKey struct{}

// Engine is the context of a call that came by Docker's API: the store's images are those of an engine for it, on which its builds stand by their names.
func Engine(ctx context.Context) context.Context { return context.WithValue(ctx, engineKey{}, true) }

// byEngine reports whether a call came so.
func byEngine(ctx context.Context) bool {
	if ctx.Value(engineKey{}) != nil {
		return true
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	_, is := p.Addr.(EngineAddr)
	return is
}

// Use has the server do something for a client of another API: it is waited for as a build is when the server ends, and refused then. The context ends
// with [Server.Cancel]; end is called once.
func (s *Server) Use(ctx context.Context) (_ context.Context, end func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	j := &job{ref: identity.NewID(), cancel: cancel, log: newEventLog(unnamedFile)}
	if err := s.jobs.add(j); err != nil {
		cancel(err)
		return nil, nil, err
	}
	return ctx, func() { s.endJob(j) }, nil
}

func (s *Server) endJob(j *job) {
	j.cancel(nil)
	j.log.end()
	s.jobs.remove(j, true)
	j.log.forget()
}

// Build carries out a build for a client of another API, who may call it ref, and hands what it tells to send. A client that does not read holds up nothing
// but its own answer. The error is that of do, or of who is gone.
func (s *Server) Build(ctx context.Context, ref string, do func(ctx context.Context, sink progress.Sink) error, send func(*client.SolveStatus)) error {
	if ref == "" {
		ref = identity.NewID()
	}
	if !isName(ref) {
		return invalidf("invalid ref of %d bytes: want 1 to %d, of a text", len(ref), maxRef)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	j := &job{ref: ref, cancel: cancel, log: newEventLog(unnamedFile)}
	if err := s.jobs.add(j); err != nil {
		cancel(err)
		return err
	}
	done := make(chan error, 1)
	go func() {
		err := do(ctx, progress.Clipped(j.log, s.opt.Limits))
		j.log.end()
		done <- err
	}()
	_, ferr := j.log.follow(ctx, func(r *controlapi.StatusResponse) error {
		send(client.NewSolveStatus(r))
		return nil
	})
	if ferr != nil {
		cancel(ferr)
	}
	err := <-done
	s.endJob(j)
	if b, release, aerr := s.acquire(); aerr == nil {
		go func() {
			defer release()
			s.tidy(context.WithoutCancel(ctx), b.Store)
		}()
	}
	return err
}

// CancelBuild ends a build that somebody calls so, if it runs.
func (s *Server) CancelBuild(ref string) {
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	if j := s.jobs.running[ref]; j != nil {
		j.cancel(context.Canceled)
	}
}
