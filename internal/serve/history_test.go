package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/buildx/util/otelutil"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/buildkit/util/stack"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/serve/control"
	"github.com/slipway-build/slipway/internal/store"
)

// history lists what there is.
func (s *server) history(t *testing.T, req *controlapi.BuildHistoryRequest) (all []*controlapi.BuildHistoryEvent) {
	t.Helper()
	stream, err := s.api.ListenBuildHistory(context.Background(), req)
	must(t, err)
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		all = append(all, e)
	}
}

// blob reads something of a record.
func (s *server) blob(t *testing.T, d *controlapi.Descriptor) []byte {
	t.Helper()
	if d == nil {
		t.Fatal("there is no descriptor")
	}
	st := proxy.NewContentStore(s.ContentClient())
	data, err := content.ReadBlob(context.Background(), st, ocispec.Descriptor{Digest: digest.Digest(d.Digest), Size: d.Size})
	must(t, err)
	if digest.FromBytes(data) != digest.Digest(d.Digest) || int64(len(data)) != d.Size {
		t.Errorf("%s has %d bytes of another digest", d.MediaType, len(data))
	}
	return data
}

// A build leaves what it was asked for and what came of it, without what is nobody's business.
func TestHistory(t *testing.T) {
	ctx := context.Background()
	image := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("image"), Size: 5}
	manifests := func(s control.Solve) map[digest.Digest]string {
		must(t, os.WriteFile(filepath.Join(s.Record.Path, "manifest"), []byte("image"), 0o600))
		return map[digest.Digest]string{image.Digest: "manifest"}
	}
	s := start(t, func(_ context.Context, s control.Solve, sink progress.Sink) (*control.Result, error) {
		step(sink, "one", "hello\n")
		if s.Ref == "bad" {
			err := errdefs.WithSource(errors.New("no luck at https://me:secret@example.com/"), &errdefs.Source{Info: &pb.SourceInfo{Filename: "Dockerfile"}})
			return nil, err
		}
		return &control.Result{
			Response: map[string]string{"containerimage.digest": image.Digest.String()}, Descriptors: map[int]ocispec.Descriptor{0: image}, Manifests: manifests(s),
			Provenance: map[string][]byte{"": []byte(`{"a":1}`), "linux/amd64": []byte(`{"b":2}`)},
		}, nil
	})
	attrs := map[string]string{
		"context": "https://me:secret@example.com/x.git", "build-arg:TOKEN": "secret", "build-arg:BUILDKIT_SYNTAX": "s", "local-sessionid:context": "secret", "cache-imports": "secret",
		"huge": strings.Repeat("h", 1<<20),
	}
	exporters := []*controlapi.Exporter{{Type: "image", Attrs: map[string]string{"name": "n"}}}
	for range 1000 { // a record is not as long as what was asked for
		exporters = append(exporters, &controlapi.Exporter{Type: "local", Attrs: map[string]string{"x": strings.Repeat("x", 10_000)}})
	}
	_, err := s.api.Solve(ctx, &controlapi.SolveRequest{Ref: "good", Frontend: "dockerfile.v0", FrontendAttrs: attrs, Exporters: exporters})
	must(t, err)
	_, err = s.api.Solve(ctx, &controlapi.SolveRequest{Ref: "bad", Frontend: "dockerfile.v0"})
	wantErr(t, err, "no luck")

	all := s.history(t, &controlapi.BuildHistoryRequest{EarlyExit: true})
	if len(all) != 2 || all[0].Record.Ref != "bad" || all[1].Record.Ref != "good" || all[0].Type != controlapi.BuildHistoryEventType_COMPLETE {
		t.Fatalf("history is %v", all)
	}
	bad, good := all[0].Record, all[1].Record
	if text := fmt.Sprint(all); strings.Contains(text, "secret") || strings.Contains(text, "hhh") {
		t.Errorf("secrets are recorded: %s", text)
	}
	if good.FrontendAttrs["build-arg:TOKEN"] != "***" || good.FrontendAttrs["build-arg:BUILDKIT_SYNTAX"] != "s" || good.NumTotalSteps != 1 || good.NumCompletedSteps != 1 ||
		good.Exporters[0].Attrs["name"] != "n" || good.ExporterResponse["containerimage.digest"] != image.Digest.String() || good.Error != nil || good.CompletedAt == nil ||
		good.Result.Results[0].Digest != image.Digest.String() || good.Frontend != "dockerfile.v0" {
		t.Errorf("the record is %v", good)
	}
	if m := s.blob(t, good.Result.Results[0]); string(m) != "image" {
		t.Errorf("the manifest is %q", m)
	}
	if a := good.Result.Attestations; len(a) != 1 || string(s.blob(t, a[0])) != `{"a":1}` || a[0].Annotations["in-toto.io/predicate-type"] != "https://slsa.dev/provenance/v1" {
		t.Errorf("attestations are %v", a)
	}
	if a := good.Results["linux/amd64"].Attestations; len(a) != 1 || string(s.blob(t, a[0])) != `{"b":2}` {
		t.Errorf("attestations of the platform are %v", a)
	}
	if log := s.blob(t, good.Logs); !strings.Contains(string(log), "hello\n") || good.Logs.MediaType != "application/vnd.buildkit.status.v0" {
		t.Errorf("the log is %q", log)
	}
	spans, err := otelutil.ParseSpanStubs(bytes.NewReader(s.blob(t, good.Trace)))
	must(t, err)
	if len(spans) != 2 || spans[0].Name != "build" || spans[1].Name != "one" || spans[1].Parent.SpanID() != spans[0].SpanContext.SpanID() || spans[1].EndTime.Before(spans[1].StartTime) ||
		len(spans.JaegerData().Data) != 1 {
		t.Errorf("the trace is %+v", spans)
	}
	if spans, err := otelutil.ParseSpanStubs(bytes.NewReader(s.blob(t, bad.Trace))); err != nil || spans[0].Status.Code.String() != "Error" {
		t.Errorf("the trace of an error is %+v, %v", spans, err)
	}
	var p spb.Status
	must(t, proto.Unmarshal(s.blob(t, bad.ExternalError), &p))
	failure := grpcerrors.FromGRPC(status.ErrorProto(&p))
	if src := errdefs.Sources(failure); len(src) != 1 || bad.Error == nil || len(bad.Error.Details) != 0 || !strings.Contains(bad.Error.Message, "no luck") {
		t.Errorf("the error is %v, %v", bad.Error, src)
	}
	if n := len(stack.Traces(failure)); n < 2 { // one is that of who reads it
		t.Errorf("the error has %d stacks", n)
	}
	if w, err := follow(s.api, "bad"); !errors.Is(err, io.EOF) || w.output.String() != "hello\n" {
		t.Errorf("the progress of it is %v, %v", w, err)
	}

	for filter, want := range map[string]string{"status==error": "bad", "status==completed": "good", "ref==good": "good", "duration<1h,ref==bad": "bad", "startedAt<1h,ref!=none": "", "repository!=x,startedAt>=1h": "bad good"} {
		var refs []string
		for _, e := range s.history(t, &controlapi.BuildHistoryRequest{EarlyExit: true, Filter: []string{filter}}) {
			refs = append(refs, e.Record.Ref)
		}
		if got := strings.Join(refs, " "); got != want {
			t.Errorf("by %s there are %q, want %q", filter, got, want)
		}
	}
	if l := s.history(t, &controlapi.BuildHistoryRequest{EarlyExit: true, Limit: 1}); len(l) != 1 || l[0].Record.Ref != "bad" {
		t.Errorf("the first one is %v", l)
	}
	if l := s.history(t, &controlapi.BuildHistoryRequest{EarlyExit: true, ActiveOnly: true, Ref: "buildx-test-history-api-feature"}); len(l) != 0 {
		t.Errorf("of no build there are %v", l)
	}

	_, err = s.api.UpdateBuildHistory(ctx, &controlapi.UpdateBuildHistoryRequest{Ref: "good", Pinned: true})
	must(t, err)
	if l := s.history(t, &controlapi.BuildHistoryRequest{EarlyExit: true, Ref: "good"}); !l[0].Record.Pinned || l[0].Record.Generation != 1 {
		t.Errorf("it is not pinned: %v", l)
	}
	cs := proxy.NewContentStore(s.ContentClient())
	if err := cs.Delete(ctx, digest.Digest(good.Logs.Digest)); err == nil {
		t.Error("content of records can be deleted")
	}
	for _, ref := range []string{"good", "bad"} {
		_, err = s.api.UpdateBuildHistory(ctx, &controlapi.UpdateBuildHistoryRequest{Ref: ref, Delete: true})
		must(t, err)
	}
	if l := s.history(t, &controlapi.BuildHistoryRequest{EarlyExit: true}); len(l) != 0 {
		t.Errorf("there are still %v", l)
	}
	if _, err := cs.Info(ctx, digest.Digest(good.Logs.Digest)); !cerrdefs.IsNotFound(err) {
		t.Errorf("its log is still there: %v", err)
	}
	must(t, cs.Walk(ctx, func(i content.Info) error { return fmt.Errorf("%s is still there", i.Digest) }))
}

// Who listens is told of what happens, in its order.
func TestListen(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	s := start(t, func(context.Context, control.Solve, progress.Sink) (*control.Result, error) {
		close(begun)
		<-end
		return nil, nil
	})
	stream, err := s.api.ListenBuildHistory(context.Background(), &controlapi.BuildHistoryRequest{ActiveOnly: true})
	must(t, err)
	_, err = stream.Header()
	must(t, err)
	solved := make(chan error, 1)
	go func() {
		_, err := s.api.Solve(context.Background(), &controlapi.SolveRequest{Ref: "r", Frontend: "dockerfile.v0"})
		solved <- err
	}()
	<-begun
	next := func(want controlapi.BuildHistoryEventType) *controlapi.BuildHistoryRecord {
		t.Helper()
		e, err := stream.Recv()
		must(t, err)
		if e.Type != want || e.Record.Ref != "r" {
			t.Errorf("the event is %v, want %v", e, want)
		}
		return e.Record
	}
	if r := next(controlapi.BuildHistoryEventType_STARTED); r.CompletedAt != nil {
		t.Errorf("it has ended: %v", r)
	}
	if l := s.history(t, &controlapi.BuildHistoryRequest{EarlyExit: true}); len(l) != 1 || l[0].Type != controlapi.BuildHistoryEventType_STARTED {
		t.Errorf("while it runs history is %v", l)
	}
	if _, err := s.api.UpdateBuildHistory(context.Background(), &controlapi.UpdateBuildHistoryRequest{Ref: "r", Delete: true}); err == nil {
		t.Error("the record of a build that runs can be deleted")
	}
	close(end)
	must(t, <-solved)
	if r := next(controlapi.BuildHistoryEventType_COMPLETE); r.CompletedAt == nil {
		t.Errorf("it has not ended: %v", r)
	}
	_, err = s.api.UpdateBuildHistory(context.Background(), &controlapi.UpdateBuildHistoryRequest{Ref: "r", Delete: true})
	must(t, err)
	next(controlapi.BuildHistoryEventType_DELETED)
}

// A build that has ended does not run again while somebody looks whether its record can go.
func TestEndedStaysEnded(t *testing.T) {
	s := start(t, func(context.Context, control.Solve, progress.Sink) (*control.Result, error) { return nil, nil })
	_, err := s.api.Solve(context.Background(), &controlapi.SolveRequest{Ref: "r", Frontend: "dockerfile.v0"})
	must(t, err)
	if l := s.history(t, &controlapi.BuildHistoryRequest{EarlyExit: true}); len(l) != 1 || l[0].Type != controlapi.BuildHistoryEventType_COMPLETE {
		t.Fatalf("history is %v", l)
	}
	dirs, err := filepath.Glob(filepath.Join(s.root, "builds", "*"))
	must(t, err)
	dir, err := os.Open(dirs[0])
	must(t, err)
	defer dir.Close()
	must(t, unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	if l := s.history(t, &controlapi.BuildHistoryRequest{EarlyExit: true}); len(l) != 1 || l[0].Type != controlapi.BuildHistoryEventType_COMPLETE {
		t.Errorf("history is %v", l)
	}
	_, err = s.api.UpdateBuildHistory(context.Background(), &controlapi.UpdateBuildHistoryRequest{Ref: "r", Pinned: true})
	must(t, err)
	if l := s.history(t, &controlapi.BuildHistoryRequest{EarlyExit: true}); len(l) != 1 || !l[0].Record.Pinned {
		t.Errorf("pinned is %v", l)
	}
}

// A server knows what the store knows: builds of other servers, of the command line, and of servers that were killed.
func TestHistoryOfOthers(t *testing.T) {
	s := start(t, nil)
	st, err := store.Open(s.root)
	must(t, err)
	defer st.Close()
	local, err := st.NewBuild("20260102-030405.000000-00000000")
	must(t, err)
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	data, err := json.Marshal(build.Record{
		ID: filepath.Base(local.Path), Context: "/src/app", File: "/src/app/Dockerfile", Target: "t", Started: began, Took: time.Minute, Names: []string{"docker.io/library/x:latest"},
		Steps: []engine.StepRecord{{Name: "one", Digest: digest.FromString("one"), Cached: true}, {Name: "two &&\tof\nthem", Digest: digest.FromString("two"), Started: began, Error: "no"}}, Error: "no",
	})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(local.Path, "record.json"), data, 0o600))
	must(t, os.WriteFile(filepath.Join(local.Path, "log"), []byte("#1 one\n#1 CACHED\n\n#2 two && of them\n#2 sha256:a 1.0MB / 2.0MB\n#2 0.123 first  line\n#2 0.5 \n#3 nobody\n#3 0.1 lost\nodd\n#2 12.3 last\n#2 DONE 12.3s\n"), 0o600))
	must(t, local.Close())
	running, err := st.NewBuild("20260102-030406.000000-00000000")
	must(t, err)
	killed, err := st.NewBuild("20260102-030407.000000-00000000")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(killed.Path, "client.json"), []byte(`{"record":{"Ref":"k","CreatedAt":"2026-01-02T03:04:07Z","unknown":1},"files":{"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855":"../`+filepath.Base(local.Path)+`/record.json"}}`), 0o600))
	must(t, killed.Close())
	damaged, err := st.NewBuild("20260102-030408.000000-00000000")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(damaged.Path, "client.json"), []byte(`{"record":`), 0o600))
	must(t, damaged.Close())
	pipe, err := st.NewBuild("20260102-030409.000000-00000000")
	must(t, err)
	must(t, os.Symlink("/dev/zero", filepath.Join(pipe.Path, "client.json")))
	must(t, pipe.Close())

	byRef := map[string]*controlapi.BuildHistoryEvent{}
	for _, e := range s.history(t, &controlapi.BuildHistoryRequest{EarlyExit: true}) {
		byRef[e.Record.Ref] = e
	}
	if len(byRef) != 5 {
		t.Fatalf("history is %v", byRef)
	}
	r := byRef[filepath.Base(local.Path)].Record
	if r.NumTotalSteps != 2 || r.NumCachedSteps != 1 || r.Error.Message != "no" || !r.CreatedAt.AsTime().Equal(began) || r.FrontendAttrs["target"] != "t" ||
		r.FrontendAttrs["vcs:localdir:context"] != "/src/app" || r.ExporterResponse["image.name"] != "docker.io/library/x:latest" || r.CompletedAt.AsTime().Sub(began) != time.Minute {
		t.Errorf("the record of the command line is %v", r)
	}
	if e := byRef[filepath.Base(running.Path)]; e.Type != controlapi.BuildHistoryEventType_STARTED || !e.Record.CreatedAt.AsTime().Equal(began.Add(time.Second)) {
		t.Errorf("one that runs is %v", e)
	}
	if e := byRef["k"]; e.Record.Error == nil || !strings.Contains(e.Record.Error.Message, "killed") || e.Record.CompletedAt == nil {
		t.Errorf("one that was killed is %v", e)
	}
	for _, d := range []*store.BuildDir{damaged, pipe} {
		if e := byRef[filepath.Base(d.Path)]; e.Record.Error == nil {
			t.Errorf("one that cannot be read is %v", e)
		}
	}
	if w, err := follow(s.api, filepath.Base(local.Path)); !errors.Is(err, io.EOF) || w.done != 2 || w.output.String() != "first  line\n\nlast\n" {
		t.Errorf("its progress is %+v, %v", w, err)
	}
	cs := proxy.NewContentStore(s.ContentClient())
	if _, err := cs.Info(context.Background(), digest.FromString("")); !cerrdefs.IsNotFound(err) {
		t.Errorf("a file elsewhere is %v", err)
	}
	must(t, running.Close())
}

// A server that keeps no records tells of no build, and has the builder leave none.
func TestUnrecorded(t *testing.T) {
	s := start(t, func(_ context.Context, solve control.Solve, _ progress.Sink) (*control.Result, error) {
		if solve.Record != nil {
			t.Error("the build has a record")
		}
		if solve.Frontend == "gateway.v0" {
			return nil, errors.New("no luck")
		}
		return &control.Result{}, nil
	}, func(o *control.Options, _ *Options, _ *server) { o.Unrecorded = true })
	_, err := s.api.Solve(t.Context(), &controlapi.SolveRequest{Ref: "good", Frontend: "dockerfile.v0"})
	must(t, err)
	_, err = s.api.Solve(t.Context(), &controlapi.SolveRequest{Ref: "bad", Frontend: "gateway.v0"})
	wantErr(t, err, "no luck")
	if all := s.history(t, &controlapi.BuildHistoryRequest{EarlyExit: true}); len(all) != 0 {
		t.Errorf("history is %v", all)
	}
}
