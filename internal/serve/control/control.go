// Package control is BuildKit's control API: builds, their progress, their history, the cache and the worker.
//
// # Structure
//
// [Server] has BuildKit's Control service, the content of records, and the service of traces. A Solve (solve.go) checks what a client
// sent, registers a job (job.go), and hands the build to a [Builder]. What the build tells is appended to the job's log (eventlog.go), which
// Status follows. What is left of a build is a file beside its record (record.go), which history (history.go) and content (content.go) read:
// any server of the store tells of the builds of all of them, and of those of the command line.
//
// # Caveats
//
// Every field of a message is a claim, and may be missing: what a client sent is checked before anything is done. What a client
// does not read holds up nobody else, and takes no memory but that of the message on its way.
package control

import (
	"context"
	"sync"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	tracev1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// Options say how a server serves.
type Options struct {
	// Acquire gives what a request is served from, which it holds until release is called.
	Acquire func() (b *Backend, release func(), err error)
	// Renew has those who come now be served from another one. The channel is closed when nothing is open any more that is now; it
	// may be nil.
	Renew func() <-chan struct{}
	// Sessions are the clients' sessions, which the Builder knows as well.
	Sessions *session.Manager
	// Bridge is nil where no client evaluates itself.
	Bridge Bridge
	// Worker is what the server says of itself: it is the one worker.
	Worker  func(*store.Store) (*view.Worker, error)
	Version client.BuildkitVersion
	// Entitlements are those that a client may give its builds.
	Entitlements []string
	// Unrecorded has no build leave a record.
	Unrecorded bool
	// Limits are how much of the output of steps clients are told.
	Limits progress.Limits
	// MaxJobs and MaxSessions are how many there may be at the same time; 0 is a default.
	MaxJobs, MaxSessions int
	// JobWait is how long Status waits for a build that nobody has asked for yet; 0 is as long as BuildKit's.
	JobWait time.Duration
	// Tidy is called after a build that may have written to the store; it may be nil.
	Tidy func(ctx context.Context, s *store.Store)
	// Warn is told what no client is; it may be nil.
	Warn func(text string)
}

// Server is BuildKit's control API. Drain or Cancel, and then Wait, end it.
type Server struct {
	controlapi.UnimplementedControlServer
	tracev1.UnimplementedTraceServiceServer

	opt      Options
	jobs     *jobs
	history  *history
	sessions sessions

	tidying sync.Mutex
}

// The usual limits.
const (
	maxJobs     = 1000
	maxSessions = 2000
)

// New makes a server.
func New(opt Options) *Server {
	if opt.MaxJobs == 0 {
		opt.MaxJobs = maxJobs
	}
	if opt.MaxSessions == 0 {
		opt.MaxSessions = maxSessions
	}
	if opt.Limits == (progress.Limits{}) {
		opt.Limits = progress.DefaultLimits
	}
	if opt.JobWait == 0 {
		opt.JobWait = jobWait
	}
	if opt.Warn == nil {
		opt.Warn = func(string) {}
	}
	return &Server{opt: opt, jobs: newJobs(opt.MaxJobs), history: newHistory(), sessions: sessions{most: opt.MaxSessions}}
}

// Register adds the services to a server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	controlapi.RegisterControlServer(r, s)
	tracev1.RegisterTraceServiceServer(r, s)
	contentapi.RegisterContentServer(r, readOnly{contentserver.New(&records{s: s})})
}

// Drain refuses further builds; those that run go on.
func (s *Server) Drain() { s.jobs.drain() }

// Cancel ends the builds that run, for a reason.
func (s *Server) Cancel(cause error) { s.jobs.cancel(cause) }

// Wait waits until no build runs, or the context ends.
func (s *Server) Wait(ctx context.Context) error { return s.jobs.waitIdle(ctx) }

// Export takes spans of clients, and keeps none.
func (s *Server) Export(context.Context, *tracev1.ExportTraceServiceRequest) (*tracev1.ExportTraceServiceResponse, error) {
	return &tracev1.ExportTraceServiceResponse{}, nil
}

// acquire is Acquire with a release that does nothing when there is an error.
func (s *Server) acquire() (*Backend, func(), error) {
	b, release, err := s.opt.Acquire()
	if err != nil {
		return nil, func() {}, err
	}
	return b, release, nil
}

// Renew has what comes be served from something that has used nothing yet. What was used before is used no longer when it returns, unless
// builds run.
func (s *Server) Renew(ctx context.Context) error {
	if s.opt.Renew == nil {
		return nil
	}
	closed := s.opt.Renew()
	for {
		n, changed := s.jobs.run()
		if n > 0 {
			return nil
		}
		select {
		case <-closed:
			return nil
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tidy lets go what nobody wants to keep, while other builds may run.
func (s *Server) tidy(ctx context.Context, st *store.Store) {
	if s.opt.Tidy == nil || !s.tidying.TryLock() {
		return // somebody does
	}
	defer s.tidying.Unlock()
	s.opt.Tidy(ctx, st)
}
