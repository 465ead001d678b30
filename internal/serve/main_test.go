package serve

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/session"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/serve/control"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// TestMain is also the server that systemd starts with sockets, in a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("SLIPWAY_TEST_PASSED") != "" {
		passedSockets()
		return
	}
	os.Exit(m.Run())
}

// builder is a control.Builder of a function.
type builder func(ctx context.Context, s control.Solve, sink progress.Sink) (*control.Result, error)

// Solve implements control.Builder.
func (b builder) Solve(ctx context.Context, s control.Solve, sink progress.Sink) (*control.Result, error) {
	return b(ctx, s, sink)
}

// server is one on a socket, with a store.
type server struct {
	*client.Client
	api      controlapi.ControlClient
	addr     string
	root     string
	sessions *session.Manager
	drain    func()
	cancel   context.CancelCauseFunc
	ended    chan error // what Serve returned
	listen   ListenOptions
	how      []client.ClientOpt // of clients

	mu     sync.Mutex
	warned []string
}

// config changes how a server of a test is.
type config func(*control.Options, *Options, *server)

// start starts a server whose builds b carries out.
func start(t *testing.T, b builder, how ...config) *server {
	t.Helper()
	s := &server{root: filepath.Join(t.TempDir(), "store"), ended: make(chan error, 1), listen: ListenOptions{Mode: 0o600, UID: -1}}
	must(t, os.Mkdir(s.root, 0o700))
	s.addr = "unix://" + filepath.Join(t.TempDir(), "s")
	var err error
	s.sessions, err = session.NewManager()
	must(t, err)
	warn := func(text string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.warned = append(s.warned, text)
	}
	keeper := &Keeper{Linger: time.Minute, MaxAge: time.Hour, Warn: warn, Open: func() (*control.Backend, func() error, error) {
		st, err := store.Open(s.root)
		if err != nil {
			return nil, nil, err
		}
		return &control.Backend{Store: st, Builder: b}, st.Close, nil
	}}
	copt := control.Options{
		Acquire: keeper.Acquire, Sessions: s.sessions, Warn: warn,
		Version: client.BuildkitVersion{Package: "slipway", Version: "v0.34.2", Revision: "r", DockerfileVersion: "1.2.3"},
		Worker: func(st *store.Store) (*view.Worker, error) {
			policies, err := st.DefaultPolicies(store.Policy{})
			if err != nil {
				return nil, err
			}
			return view.NewWorker(st, view.WorkerOptions{Version: "v1", Labels: map[string]string{"a.b/c": "d"}, Platforms: []ocispec.Platform{{OS: "linux", Architecture: "amd64"}}, Policies: policies})
		},
	}
	opt := Options{Warn: warn}
	for _, f := range how {
		f(&copt, &opt, s)
	}
	c := control.New(copt)
	opt.Control = c
	ls, err := Listen([]string{s.addr}, s.listen)
	must(t, err)
	s.addr = ls[0].Addr().Network() + "://" + ls[0].Addr().String()
	ctx, cancel := context.WithCancelCause(context.Background())
	drain := make(chan struct{})
	s.drain, s.cancel = sync.OnceFunc(func() { close(drain) }), cancel
	over := make(chan struct{})
	go func() {
		s.ended <- Serve(ctx, drain, ls, opt)
		keeper.Close(time.Minute)
		close(over)
	}()
	t.Cleanup(func() {
		s.Client.Close()
		cancel(errors.New("the test is over"))
		<-over
	})
	s.Client = s.dial(t)
	s.api = s.ControlClient()
	return s
}

func (s *server) dial(t *testing.T, how ...client.ClientOpt) *client.Client {
	t.Helper()
	c, err := client.New(context.Background(), s.addr, append(how, s.how...)...)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantErr checks what an error says.
func wantErr(t testing.TB, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("error is %v, want one with %q", err, part)
	}
}

// scratch is some definition.
func scratch(t *testing.T) *llb.Definition {
	t.Helper()
	def, err := llb.Scratch().File(llb.Mkdir("/a", 0o755)).Marshal(context.Background())
	must(t, err)
	return def
}

// step tells of a step that prints something.
func step(sink progress.Sink, name string, output ...string) {
	st := progress.Start(sink, progress.Vertex{Digest: digest.FromString(name), Name: name})
	for _, text := range output {
		_, _ = st.Stdout().Write([]byte(text))
	}
	st.Done(nil)
}

// told is what events say, in short.
type told struct {
	mu     sync.Mutex
	names  map[string]bool
	done   int
	output strings.Builder
}

func (w *told) add(s *client.SolveStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.names == nil {
		w.names = map[string]bool{}
	}
	for _, v := range s.Vertexes {
		w.names[v.Name] = true
		if v.Completed != nil {
			w.done++
		}
	}
	for _, l := range s.Logs {
		w.output.Write(l.Data)
	}
}

// follow reads the events of a build to their end.
func follow(api controlapi.ControlClient, ref string) (*told, error) {
	stream, err := api.Status(context.Background(), &controlapi.StatusRequest{Ref: ref})
	if err != nil {
		return nil, err
	}
	w := &told{}
	for {
		r, err := stream.Recv()
		if err != nil {
			return w, err
		}
		w.add(client.NewSolveStatus(r))
	}
}

// solve solves with the real client, and returns what it was told.
func (s *server) solve(t *testing.T, opt client.SolveOpt) (*client.SolveResponse, *told, error) {
	t.Helper()
	w := &told{}
	events := make(chan *client.SolveStatus)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range events {
			w.add(e)
		}
	}()
	var def *llb.Definition
	if opt.Frontend == "" {
		def = scratch(t)
	}
	res, err := s.Solve(context.Background(), def, opt, events)
	<-done
	return res, w, err
}

var _ net.Listener = (*socket)(nil)
