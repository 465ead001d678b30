package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/serve/control"
)

// A definition is solved, and its client is told what happens.
func TestSolve(t *testing.T) {
	s := start(t, func(_ context.Context, s control.Solve, sink progress.Sink) (*control.Result, error) {
		step(sink, "one", "hello\n")
		step(sink, "two")
		if len(s.Definition.GetDef()) == 0 || s.Frontend != "" || s.Evaluate != nil || s.Session == "" {
			return nil, errors.New("it was asked for something else")
		}
		epoch, ok := s.Outputs[0].Attrs["source-date-epoch"]
		if asked := s.Attrs["build-arg:SOURCE_DATE_EPOCH"]; ok != (asked != "context") || ok && epoch != asked {
			return nil, fmt.Errorf("the output has the epoch %q of %q", epoch, asked)
		}
		if len(s.Outputs) != 1 || s.Outputs[0].Type != "image" || s.Outputs[0].Attrs["name"] != "x" {
			return nil, fmt.Errorf("outputs are %+v", s.Outputs)
		}
		return &control.Result{Response: map[string]string{"image.name": "x"}}, nil
	})
	res, w, err := s.solve(t, client.SolveOpt{
		Exports:       []client.ExportEntry{{Type: "image", Attrs: map[string]string{"name": "x"}}},
		FrontendAttrs: map[string]string{"build-arg:SOURCE_DATE_EPOCH": "7"},
	})
	must(t, err)
	if res.ExporterResponse["image.name"] != "x" || !w.names["one"] || !w.names["two"] || w.done != 2 || w.output.String() != "hello\n" {
		t.Errorf("response is %v, told was %+v", res, w)
	}
	for _, epoch := range []string{"context", ""} { // the frontend knows when; no time at all
		_, _, err := s.solve(t, client.SolveOpt{
			Exports:       []client.ExportEntry{{Type: "image", Attrs: map[string]string{"name": "x"}}},
			FrontendAttrs: map[string]string{"build-arg:SOURCE_DATE_EPOCH": epoch},
		})
		must(t, err)
	}
	info, err := s.Info(context.Background())
	must(t, err)
	if info.BuildkitVersion.Version != "v0.34.2" || info.BuildkitVersion.DockerfileVersion != "1.2.3" {
		t.Errorf("the version is %+v", info.BuildkitVersion)
	}
	workers, err := s.ListWorkers(context.Background())
	must(t, err)
	if len(workers) != 1 || len(workers[0].ID) != 25 || workers[0].Labels["a.b/c"] != "d" || len(workers[0].Platforms) != 1 || len(workers[0].GCPolicy) != 4 || workers[0].GCPolicy[3].MaxUsedSpace == 0 {
		t.Errorf("workers are %+v", workers)
	}
	if none, err := s.ListWorkers(context.Background(), client.WithFilter([]string{"id==other"})); err != nil || len(none) != 0 {
		t.Errorf("by a filter there are %v, %v", none, err)
	}
}

// An error comes with what it is about.
func TestTypedErrors(t *testing.T) {
	s := start(t, func(_ context.Context, s control.Solve, _ progress.Sink) (*control.Result, error) {
		err := errdefs.WithSource(errors.New("it does not work"), &errdefs.Source{Info: &pb.SourceInfo{Filename: "Dockerfile"}, Ranges: []*pb.Range{{Start: &pb.Position{Line: 3}}}})
		return nil, errdefs.WrapVertex(err, digest.FromString("v"))
	})
	_, _, err := s.solve(t, client.SolveOpt{Ref: "typed"})
	wantErr(t, err, "it does not work")
	var vertex *errdefs.VertexError
	if src := errdefs.Sources(err); len(src) != 1 || src[0].Ranges[0].Start.Line != 3 || !errors.As(err, &vertex) {
		t.Errorf("sources are %v, vertex %v", src, vertex)
	}
}

// A text that is none, as names of files may be, is told as far as it is one.
func TestInvalidText(t *testing.T) {
	s := start(t, func(_ context.Context, _ control.Solve, sink progress.Sink) (*control.Result, error) {
		st := progress.Start(sink, progress.Vertex{Digest: digest.FromString("v"), Name: "COPY \xff"})
		st.Status("\xfe", 1, 2, true)
		st.Done(errors.New("no file \xff"))
		return nil, errors.New("no file \xff")
	})
	_, w, err := s.solve(t, client.SolveOpt{Ref: "invalid"})
	wantErr(t, err, "no file")
	if !w.names["COPY \uFFFD"] || w.done != 1 {
		t.Errorf("told is %+v", w)
	}
	if all := s.history(t, &controlapi.BuildHistoryRequest{EarlyExit: true}); len(all) != 1 || all[0].Record.Error.Message != "no file \uFFFD" {
		t.Errorf("history is %v", all)
	}
}

// What a client says that is no text, and nobody has looked for that, is no failure of its build, and recorded as far as it is one.
func TestInvalidTextOfClient(t *testing.T) {
	s := start(t, func(_ context.Context, s control.Solve, _ progress.Sink) (*control.Result, error) {
		return &control.Result{
			Response:    map[string]string{"image.name": s.Outputs[0].Attrs["name"]},
			Descriptors: map[int]ocispec.Descriptor{0: {Digest: digest.FromString("x"), Annotations: map[string]string{"a": s.Outputs[0].Attrs["annotation.a"], "b": strings.Repeat("b", 1<<20)}}},
		}, nil
	})
	_, err := s.api.Solve(context.Background(), &controlapi.SolveRequest{
		Ref: "r", Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{"label:\xff": "\xfe", "target": "t"},
		Exporters: []*controlapi.Exporter{{Type: "image", Attrs: map[string]string{"name": "n\xff", "annotation.a": "\xff"}}},
	})
	must(t, err)
	all := s.history(t, &controlapi.BuildHistoryRequest{EarlyExit: true})
	if len(all) != 1 || all[0].Record.Error != nil || all[0].Record.FrontendAttrs["label:\uFFFD"] != "\uFFFD" || all[0].Record.FrontendAttrs["target"] != "t" ||
		all[0].Record.Exporters[0].Attrs["name"] != "n\uFFFD" || all[0].Record.Result.Results[0].Annotations["a"] != "\uFFFD" || len(all[0].Record.Result.Results[0].Annotations) != 1 {
		t.Errorf("history is %v", all)
	}
	for _, req := range []*controlapi.SolveRequest{
		{Ref: "\xff", Frontend: "dockerfile.v0"},
		{Ref: "a", Frontend: "dockerfile.v0", Exporters: []*controlapi.Exporter{{Type: "\xff"}}},
		{Ref: "a", Frontend: "dockerfile.v0", Exporters: []*controlapi.Exporter{{Type: strings.Repeat("x", 8<<20)}}},
	} {
		if _, err := s.api.Solve(context.Background(), req); grpcerrors.Code(err) != codes.InvalidArgument {
			t.Errorf("a name that is none is %v", err)
		}
	}
	if all, err := os.ReadDir(s.root + "/builds"); err != nil || len(all) != 1 {
		t.Errorf("there are records %v, %v", all, err)
	}
}

// What evaluates for a client is found by the build's ref, and frontends by their names.
func TestKindsOfBuilds(t *testing.T) {
	var kinds []string
	ended := ""
	bridge := func(ref string) (func(context.Context, gw.Client) (*gw.Result, error), func(), error) {
		if ref == "taken" {
			return nil, nil, errors.New("it is taken")
		}
		drive := func(context.Context, gw.Client) (*gw.Result, error) { return nil, errors.New("bridge of " + ref) }
		return drive, func() { ended += ref }, nil
	}
	s := start(t, func(ctx context.Context, s control.Solve, _ progress.Sink) (*control.Result, error) {
		if s.Evaluate != nil {
			_, err := s.Evaluate(ctx, nil)
			return nil, err
		}
		kinds = append(kinds, s.Frontend+" "+s.Attrs["source"])
		return nil, nil
	}, func(c *control.Options, _ *Options, _ *server) { c.Bridge = bridge })
	solve := func(req *controlapi.SolveRequest) error {
		_, err := s.api.Solve(context.Background(), req)
		return err
	}
	wantErr(t, solve(&controlapi.SolveRequest{Ref: "a"}), "bridge of a")
	wantErr(t, solve(&controlapi.SolveRequest{Ref: "taken"}), "it is taken")
	if ended != "a" {
		t.Errorf("bridges of %q have ended", ended)
	}
	must(t, solve(&controlapi.SolveRequest{Ref: "b", Frontend: "dockerfile.v0"}))
	must(t, solve(&controlapi.SolveRequest{Ref: "c", Frontend: "gateway.v0", FrontendAttrs: map[string]string{"source": "dockerfile.v0"}}))
	must(t, solve(&controlapi.SolveRequest{Ref: "d", Frontend: "gateway.v0", FrontendAttrs: map[string]string{"source": "other"}}))
	must(t, solve(&controlapi.SolveRequest{Ref: "e", Definition: &pb.Definition{}}))
	if got, want := fmt.Sprintf("%q", kinds), `["dockerfile.v0 " "dockerfile.v0 " "gateway.v0 other" " "]`; got != want {
		t.Errorf("builds were %s, want %s", got, want)
	}
}

// Old clients have other fields.
func TestLegacyFields(t *testing.T) {
	var got control.Solve
	s := start(t, func(_ context.Context, s control.Solve, _ progress.Sink) (*control.Result, error) {
		got = s
		return nil, nil
	})
	_, err := s.api.Solve(context.Background(), &controlapi.SolveRequest{
		Ref: "old", Frontend: "dockerfile.v0", ExporterDeprecated: "moby", ExporterAttrsDeprecated: map[string]string{"name": "n"},
		Cache: &controlapi.CacheOptions{
			ExportRefDeprecated: "r", ExportAttrsDeprecated: map[string]string{"mode": "max"}, ImportRefsDeprecated: []string{"i"},
			Exports: []*controlapi.CacheOptionsEntry{{Type: "inline"}, {Type: "inline"}}, Imports: []*controlapi.CacheOptionsEntry{{Type: "local"}},
		},
	})
	must(t, err)
	if want := "[{image map[name:n]}] [{inline map[] <nil> false} {registry map[mode:max ref:r] <nil> false}] [{local map[] <nil> false} {registry map[ref:i] <nil> false}]"; fmt.Sprint(got.Outputs, got.CacheTo, got.CacheFrom) != want {
		t.Errorf("it is %v, want %s", fmt.Sprint(got.Outputs, got.CacheTo, got.CacheFrom), want)
	}
}

// What makes no sense is an error to its client, and to nobody else.
func TestHostileRequests(t *testing.T) {
	s := start(t, func(_ context.Context, s control.Solve, _ progress.Sink) (*control.Result, error) {
		if s.Ref == "panic" {
			panic("at the disco")
		}
		return nil, nil
	}, func(c *control.Options, _ *Options, _ *server) { c.Entitlements = []string{"network.host"} })
	constraint := []*spb.Rule{{Selector: &spb.Selector{Constraints: []*spb.AttrConstraint{{}}}}, {}}
	for what, req := range map[string]*controlapi.SolveRequest{
		"invalid ref of 0 bytes":   {},
		"invalid ref of 300 bytes": {Ref: strings.Repeat("x", 300), Frontend: "dockerfile.v0"},
		"invalid frontend: shell":  {Ref: "a", Frontend: "shell"},
		"with Definition and":      {Ref: "a", Frontend: "dockerfile.v0", Definition: &pb.Definition{Def: [][]byte{nil}}},
		"evaluates nothing":        {Ref: "a"},
		"invalid exporter 0":       {Ref: "a", Frontend: "dockerfile.v0", Exporters: []*controlapi.Exporter{{}}},
		"invalid cache export 0":   {Ref: "a", Frontend: "dockerfile.v0", Cache: &controlapi.CacheOptions{Exports: []*controlapi.CacheOptionsEntry{{}}}},
		"duplicate cache exports":  {Ref: "a", Frontend: "dockerfile.v0", Cache: &controlapi.CacheOptions{Exports: []*controlapi.CacheOptionsEntry{{Type: "local"}, {Type: "local"}}}},
		"nil selector":             {Ref: "a", Frontend: "dockerfile.v0", SourcePolicy: &spb.Policy{Rules: constraint}},
		"upgrade buildkit":         {Ref: "a", Frontend: "dockerfile.v0", CompatibilityVersion: 40},
		"compatibility-version 11": {Ref: "a", Frontend: "dockerfile.v0", CompatibilityVersion: 11},
		"is not allowed by":        {Ref: "a", Frontend: "dockerfile.v0", Entitlements: []string{"security.insecure"}},
		"internal error":           {Ref: "panic", Frontend: "dockerfile.v0"},
	} {
		_, err := s.api.Solve(context.Background(), req)
		wantErr(t, err, what)
	}
	_, err := s.api.Solve(context.Background(), &controlapi.SolveRequest{Ref: "big", Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{"a": strings.Repeat("x", 17<<20)}}, grpc.MaxCallSendMsgSize(32<<20))
	if grpcerrors.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message that is too long is %v", err)
	}
	for _, req := range []*controlapi.PruneRequest{{KeepDuration: -1}, {Filter: []string{"=="}}} {
		stream, err := s.api.Prune(context.Background(), req)
		must(t, err)
		if _, err := stream.Recv(); grpcerrors.Code(err) != codes.InvalidArgument {
			t.Errorf("pruning %v is %v", req, err)
		}
	}
	if _, err := s.DiskUsage(context.Background(), client.WithFilter([]string{"=="})); err == nil {
		t.Error("a filter that is none is one")
	}
	if _, err := s.api.UpdateBuildHistory(context.Background(), &controlapi.UpdateBuildHistoryRequest{Ref: "none", Pinned: true}); grpcerrors.Code(err) != codes.NotFound {
		t.Errorf("pinning nothing is %v", err)
	}
	if _, err := s.api.Solve(context.Background(), &controlapi.SolveRequest{Ref: "a", Frontend: "dockerfile.v0", Entitlements: []string{"network.host"}}); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// A build may be followed before it is asked for, while it runs, by several, and when it is over.
func TestStatus(t *testing.T) {
	begin, end := make(chan struct{}), make(chan struct{})
	s := start(t, func(_ context.Context, _ control.Solve, sink progress.Sink) (*control.Result, error) {
		step(sink, "first", "1\n")
		close(begin)
		<-end
		step(sink, "last", strings.Repeat("2\n", 200_000)) // more than is in memory
		return nil, nil
	}, func(c *control.Options, _ *Options, _ *server) { c.Limits = progress.Limits{Size: -1, Speed: -1} })
	type got struct {
		w   *told
		err error
	}
	all := make(chan got, 3)
	listen := func() { w, err := follow(s.api, "r"); all <- got{w, err} }
	stream, err := s.api.Status(context.Background(), &controlapi.StatusRequest{Ref: "r"})
	must(t, err)
	md, err := stream.Header() // it is there, and waits for the build
	must(t, err)
	if len(md.Get("buildkit-current-timestamp")) != 1 {
		t.Errorf("the header is %v", md)
	}
	go func() {
		w := &told{}
		for {
			r, err := stream.Recv()
			if err != nil {
				all <- got{w, err}
				return
			}
			w.add(client.NewSolveStatus(r))
		}
	}()
	solved := make(chan error, 1)
	go func() {
		_, err := s.api.Solve(context.Background(), &controlapi.SolveRequest{Ref: "r", Frontend: "dockerfile.v0"})
		solved <- err
	}()
	<-begin
	go listen()
	if _, err := s.api.Solve(context.Background(), &controlapi.SolveRequest{Ref: "r", Frontend: "dockerfile.v0"}); err == nil || !strings.Contains(err.Error(), "job ID r exists") {
		t.Errorf("a second one of the same ref is %v", err)
	}
	close(end)
	must(t, <-solved)
	go listen()
	for range 3 {
		g := <-all
		if !errors.Is(g.err, io.EOF) || g.w.done != 2 || g.w.output.Len() != 400_002 || !g.w.names["first"] {
			t.Errorf("a follower was told %d steps, %d bytes, %v", g.w.done, g.w.output.Len(), g.err)
		}
	}
}

// A build that nobody asks for is none.
func TestUnknownBuild(t *testing.T) {
	s := start(t, nil, func(c *control.Options, _ *Options, _ *server) { c.JobWait = time.Nanosecond })
	if _, err := follow(s.api, "none"); grpcerrors.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "no such job none") {
		t.Errorf("its progress is %v", err)
	}
}

// Builds that end at once are told of as well as others, whenever somebody asks.
func TestShortBuilds(t *testing.T) {
	s := start(t, func(_ context.Context, _ control.Solve, sink progress.Sink) (*control.Result, error) {
		step(sink, "one")
		return nil, nil
	}, func(c *control.Options, _ *Options, _ *server) { c.JobWait = time.Hour })
	for i := range 50 {
		ref := fmt.Sprint(i)
		solved := make(chan error, 1)
		go func() {
			_, err := s.api.Solve(context.Background(), &controlapi.SolveRequest{Ref: ref, Frontend: "dockerfile.v0", Internal: i%2 == 0})
			solved <- err
		}()
		if w, err := follow(s.api, ref); !errors.Is(err, io.EOF) || w.done != 1 {
			t.Errorf("told is %+v, %v", w, err)
		}
		must(t, <-solved)
	}
}

// Who asks for the progress of a build and never reads it holds up nobody, and takes no memory.
func TestClientThatDoesNotRead(t *testing.T) {
	const size = 64 << 20
	s := start(t, func(ctx context.Context, _ control.Solve, sink progress.Sink) (*control.Result, error) {
		st := progress.Start(sink, progress.Vertex{Digest: digest.FromString("v"), Name: "v"})
		piece := []byte(strings.Repeat("x", 1<<15))
		for range size / len(piece) {
			_, _ = st.Stdout().Write(piece)
		}
		st.Done(nil)
		return nil, nil
	}, func(c *control.Options, _ *Options, _ *server) { c.Limits = progress.Limits{Size: -1, Speed: -1} })
	// A window that does not grow with what was not read: what the client holds is in the same memory here.
	idle := s.dial(t, client.WithGRPCDialOption(grpc.WithInitialWindowSize(64<<10))).ControlClient()
	for range 20 {
		_, err := idle.Status(context.Background(), &controlapi.StatusRequest{Ref: "r"})
		must(t, err)
	}
	before := heap()
	_, err := s.api.Solve(context.Background(), &controlapi.SolveRequest{Ref: "r", Frontend: "dockerfile.v0"})
	must(t, err)
	if grown := heap() - before; grown > 16<<20 {
		t.Errorf("there are %d MB more in use", grown>>20)
	}
	if w, err := follow(s.api, "r"); !errors.Is(err, io.EOF) || w.output.Len() != size {
		t.Errorf("who reads is told %d bytes, %v", w.output.Len(), err)
	}
}

func heap() int64 {
	for range 3 { // pools keep what they have for two
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// An internal build leaves no record, and its progress is told all the same, also soon after.
func TestInternalBuild(t *testing.T) {
	s := start(t, func(_ context.Context, s control.Solve, sink progress.Sink) (*control.Result, error) {
		if s.Record != nil {
			return nil, errors.New("it has a record")
		}
		step(sink, "one", strings.Repeat("y", 300_000))
		return nil, nil
	})
	_, err := s.api.Solve(context.Background(), &controlapi.SolveRequest{Ref: "i", Frontend: "dockerfile.v0", Internal: true})
	must(t, err)
	if w, err := follow(s.api, "i"); !errors.Is(err, io.EOF) || w.done != 1 || w.output.Len() < 200_000 {
		t.Errorf("told is %+v, %v", w, err)
	}
	if all, err := os.ReadDir(s.root + "/builds"); err != nil || len(all) != 0 {
		t.Errorf("there are records %v, %v", all, err)
	}
	if all := s.history(t, &controlapi.BuildHistoryRequest{EarlyExit: true}); len(all) != 0 {
		t.Errorf("history has %v", all)
	}
}

// A session's services are its builds'; one that is open is nobody else's to replace.
func TestSessions(t *testing.T) {
	met, gone := make(chan string, 1), make(chan struct{})
	var srv *server
	srv = start(t, func(ctx context.Context, s control.Solve, _ progress.Sink) (*control.Result, error) {
		caller, err := srv.sessions.Get(ctx, s.Session, false)
		if err != nil {
			return nil, err
		}
		met <- s.Session
		<-caller.Context(ctx).Done()
		close(gone)
		return nil, errors.New("the session vanished")
	})
	sess, err := session.NewSession(context.Background(), "")
	must(t, err)
	ran := make(chan error, 1)
	go func() { ran <- sess.Run(context.Background(), srv.Dialer()) }()
	solved := make(chan error, 1)
	go func() {
		_, err := srv.api.Solve(context.Background(), &controlapi.SolveRequest{Ref: "s", Session: sess.ID(), Frontend: "dockerfile.v0"})
		solved <- err
	}()
	if id := <-met; id != sess.ID() {
		t.Errorf("the session is %s", id)
	}
	for what, md := range map[codes.Code]metadata.MD{
		codes.AlreadyExists:   metadata.Pairs("x-docker-expose-session-uuid", sess.ID()),
		codes.InvalidArgument: metadata.Pairs("x-docker-expose-session-uuid", strings.Repeat("x", 1000)),
	} {
		stream, err := srv.api.Session(metadata.NewOutgoingContext(context.Background(), md))
		must(t, err)
		if _, err := stream.Recv(); grpcerrors.Code(err) != what {
			t.Errorf("a session of %v is %v, want %v", md, err, what)
		}
	}
	stream, err := srv.api.Session(context.Background())
	must(t, err)
	if _, err := stream.Recv(); grpcerrors.Code(err) != codes.InvalidArgument {
		t.Errorf("a session without an ID is %v", err)
	}
	must(t, sess.Close())
	wantErr(t, <-solved, "the session vanished")
	<-gone
	<-ran
}
