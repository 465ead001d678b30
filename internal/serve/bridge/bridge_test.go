package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/moby/buildkit/client/buildid"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/gateway/grpcclient"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/solver/result"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/apicaps"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	fstypes "github.com/tonistiigi/fsutil/types"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
)

// fake is a build's client that does what a test says.
type fake struct {
	gw.Client // what is not below must not be called
	opts      gw.BuildOpts
	solve     func(context.Context, gw.SolveRequest) (*gw.Result, error)
	container func(context.Context, gw.NewContainerRequest) (gw.Container, error)
	meta      func(*pb.SourceOp, sourceresolver.Opt) (*sourceresolver.MetaResponse, error)
	inputs    map[string]llb.State

	mu    sync.Mutex
	warns []string
}

func newFake() *fake {
	return &fake{opts: gw.BuildOpts{
		LLBCaps: pb.Caps.CapSet(pb.Caps.All()), Caps: gwpb.Caps.CapSet(gwpb.Caps.All()),
		Workers: []gw.WorkerInfo{{ID: "w", Labels: map[string]string{"a": "b"}, Platforms: []ocispec.Platform{{OS: "linux", Architecture: "amd64"}}}},
	}}
}

func (f *fake) BuildOpts() gw.BuildOpts { return f.opts }

func (f *fake) Solve(ctx context.Context, req gw.SolveRequest) (*gw.Result, error) {
	return f.solve(ctx, req)
}

func (f *fake) NewContainer(ctx context.Context, req gw.NewContainerRequest) (gw.Container, error) {
	return f.container(ctx, req)
}

func (f *fake) ResolveSourceMetadata(_ context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	return f.meta(op, opt)
}

func (f *fake) ResolveImageConfig(_ context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	return ref, digest.FromString(fmt.Sprint(opt.ImageOpt != nil, opt.OCILayoutOpt != nil)), []byte("{}"), nil
}

func (f *fake) Inputs(context.Context) (map[string]llb.State, error) { return f.inputs, nil }

func (f *fake) Warn(_ context.Context, _ digest.Digest, msg string, _ gw.WarnOpts) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.warns = append(f.warns, msg)
	return nil
}

// fakeRef is a filesystem with files.
type fakeRef struct {
	def   *pb.Definition
	files map[string]string
	err   error
}

func (r *fakeRef) ToState() (llb.State, error) {
	op, err := llb.NewDefinitionOp(r.def)
	if err != nil {
		return llb.State{}, err
	}
	return llb.NewState(op), nil
}

func (r *fakeRef) Evaluate(context.Context) error { return r.err }

func (r *fakeRef) ReadFile(_ context.Context, req gw.ReadRequest) ([]byte, error) {
	data, ok := r.files[req.Filename]
	if !ok {
		return nil, fmt.Errorf("open %s: no such file or directory", req.Filename)
	}
	if p := req.Range; p != nil {
		data = data[min(p.Offset, len(data)):]
		data = data[:min(p.Length, len(data))]
	}
	return []byte(data), nil
}

func (r *fakeRef) StatFile(_ context.Context, req gw.StatRequest) (*fstypes.Stat, error) {
	return &fstypes.Stat{Path: req.Path, Size: int64(len(r.files[req.Path]))}, nil
}

func (r *fakeRef) ReadDir(_ context.Context, req gw.ReadDirRequest) (all []*fstypes.Stat, _ error) {
	for name := range r.files {
		all = append(all, &fstypes.Stat{Path: name})
	}
	return all, nil
}

// dial connects BuildKit's own end with a bridge over two pipes.
func dial(t *testing.T, c gw.Client) (*Bridge, gwpb.LLBBridgeClient, func()) {
	t.Helper()
	toServer, fromClient := io.Pipe()
	toClient, fromServer := io.Pipe()
	b := Serve(t.Context(), c, &twoPipes{toServer, fromServer}).(*Bridge)
	t.Cleanup(b.Close)
	conn := connect(t, &pipe{&twoPipes{toClient, fromClient}, &listener{over: make(chan struct{})}})
	return b, gwpb.NewLLBBridgeClient(conn), func() { conn.Close() }
}

type twoPipes struct {
	*io.PipeReader
	w *io.PipeWriter
}

func (p *twoPipes) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p *twoPipes) Close() error                { return errors.Join(p.w.Close(), p.PipeReader.Close()) }

func connect(t *testing.T, conn net.Conn) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///localhost",
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return conn, nil }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(grpcerrors.UnaryClientInterceptor), grpc.WithStreamInterceptor(grpcerrors.StreamClientInterceptor),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxFile), grpc.MaxCallSendMsgSize(maxFile)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// gateway is BuildKit's client of a bridge.
func gateway(t *testing.T, c gw.Client) (*Bridge, grpcclient.GrpcClient) {
	t.Helper()
	b, api, _ := dial(t, c)
	g, err := grpcclient.New(t.Context(), map[string]string{}, "session", "product", api, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b, g
}

func definitionOf(t *testing.T, s llb.State) *pb.Definition {
	t.Helper()
	def, err := s.Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return def.ToPB()
}

// TestBuild: what BuildKit's client asks for arrives, what is answered arrives there, and what it returns are the references that
// the build gave.
func TestBuild(t *testing.T) {
	f := newFake()
	def := definitionOf(t, llb.Image("docker.io/library/x"))
	one, two, att := &fakeRef{def: def, files: map[string]string{"/a": "text"}}, &fakeRef{def: def}, &fakeRef{def: def}
	var asked gw.SolveRequest
	f.solve = func(_ context.Context, req gw.SolveRequest) (*gw.Result, error) {
		asked = req
		if req.Frontend == "" {
			res := &gw.Result{Metadata: map[string][]byte{"k": []byte("v")}}
			res.SetRef(one)
			return res, nil
		}
		res := &gw.Result{Refs: map[string]gw.Reference{"linux/amd64": one, "linux/arm64": two, "empty": nil}}
		res.AddAttestation("linux/amd64", gw.Attestation{Kind: gwpb.AttestationKind_Bundle, Ref: att, Path: "/p", InToto: result.InTotoAttestation{
			PredicateType: "type", Subjects: []result.InTotoSubject{{Kind: gwpb.InTotoSubjectKind_Raw, Name: "n", Digest: []digest.Digest{digest.FromString("d")}}},
		}})
		res.AddAttestation("linux/arm64", gw.Attestation{Kind: gwpb.AttestationKind_InToto})
		return res, nil
	}
	f.inputs = map[string]llb.State{"in": llb.Image("docker.io/library/y")}
	f.meta = func(op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
		return &sourceresolver.MetaResponse{Op: op, Image: &sourceresolver.ResolveImageResponse{
			Digest: digest.FromString(fmt.Sprint(opt.ImageOpt, opt.OCILayoutOpt)), Config: []byte("config"),
		}}, nil
	}
	b, g := gateway(t, f)
	err := g.Run(t.Context(), func(ctx context.Context, c gw.Client) (*gw.Result, error) {
		res, err := c.Solve(ctx, gw.SolveRequest{
			Definition: def, Evaluate: true, CacheImports: []gw.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": "r"}}},
			SourcePolicies: []*spb.Policy{{Version: 1}},
		})
		if err != nil {
			return nil, err
		}
		if !asked.Evaluate || asked.Definition == nil || len(asked.CacheImports) != 1 || asked.CacheImports[0].Attrs["ref"] != "r" || len(asked.SourcePolicies) != 1 {
			t.Errorf("the build was asked %+v", asked)
		}
		if string(res.Metadata["k"]) != "v" {
			t.Errorf("the metadata are %v", res.Metadata)
		}
		if data, err := res.Ref.ReadFile(ctx, gw.ReadRequest{Filename: "/a", Range: &gw.FileRange{Offset: 1, Length: 2}}); err != nil || string(data) != "ex" {
			t.Errorf("the file has %q, %v", data, err)
		}
		if data, err := res.Ref.ReadFile(ctx, gw.ReadRequest{Filename: "/a"}); err != nil || string(data) != "text" {
			t.Errorf("the file has %q, %v", data, err)
		}
		if st, err := res.Ref.StatFile(ctx, gw.StatRequest{Path: "/a"}); err != nil || st.Size != 4 {
			t.Errorf("the file is %v, %v", st, err)
		}
		if all, err := res.Ref.ReadDir(ctx, gw.ReadDirRequest{Path: "/"}); err != nil || len(all) != 1 {
			t.Errorf("the directory has %v, %v", all, err)
		}
		if err := res.Ref.Evaluate(ctx); err != nil {
			t.Error(err)
		}
		if state, err := res.Ref.ToState(); err != nil || !definitionOf(t, state).EqualVT(def) {
			t.Errorf("the definition came back as %v, %v", state, err)
		}
		inputs, err := c.Inputs(ctx)
		if err == nil && (len(inputs) != 1 || !definitionOf(t, inputs["in"]).EqualVT(definitionOf(t, f.inputs["in"]))) {
			t.Errorf("the inputs are %v", inputs)
		}
		if err != nil {
			t.Error(err)
		}
		if err := c.Warn(ctx, "", "careful", gw.WarnOpts{Range: []*pb.Range{{Start: &pb.Position{Line: 1}, End: &pb.Position{Line: 1}}}}); err != nil || !slices.Equal(f.warns, []string{"careful"}) {
			t.Errorf("the warnings are %v, %v", f.warns, err)
		}
		for _, opt := range []sourceresolver.Opt{
			{ImageOpt: &sourceresolver.ResolveImageOpt{ResolveMode: "pull", Platform: &ocispec.Platform{OS: "linux", Architecture: "arm64"}}},
			{OCILayoutOpt: &sourceresolver.ResolveOCILayoutOpt{Store: sourceresolver.ResolveImageConfigOptStore{StoreID: "id", SessionID: "s"}}},
		} {
			ref, dgst, config, err := c.ResolveImageConfig(ctx, "docker.io/library/x:latest", opt)
			if err != nil || ref != "docker.io/library/x:latest" || string(config) != "config" {
				t.Errorf("the image is %s %s %s, %v", ref, dgst, config, err)
			}
		}
		return c.Solve(ctx, gw.SolveRequest{Frontend: "dockerfile.v0", FrontendOpt: map[string]string{"o": "v"}, FrontendInputs: map[string]*pb.Definition{"in": def}})
	})
	if err != nil {
		t.Fatal(err)
	}
	if asked.FrontendOpt["o"] != "v" || !asked.FrontendInputs["in"].EqualVT(def) {
		t.Errorf("the build was asked %+v", asked)
	}
	res, err := b.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Refs) != 3 || res.Refs["linux/amd64"] != one || res.Refs["linux/arm64"] != two || res.Refs["empty"] != nil {
		t.Errorf("the result has %v", res.Refs)
	}
	a := res.Attestations["linux/amd64"]
	if len(a) != 1 || a[0].Ref != att || a[0].Path != "/p" || a[0].InToto.PredicateType != "type" || len(a[0].InToto.Subjects) != 1 || a[0].InToto.Subjects[0].Name != "n" {
		t.Errorf("the attestations are %+v", a)
	}
}

// TestErrors: errors keep their types both ways.
func TestErrors(t *testing.T) {
	f := newFake()
	src := &errdefs.Source{Info: &pb.SourceInfo{Filename: "Dockerfile", Data: []byte("FROM")}, Ranges: []*pb.Range{{Start: &pb.Position{Line: 7}, End: &pb.Position{Line: 7}}}}
	failed := errdefs.WithSource(errdefs.WrapVertex(errdefs.WithSolveError(&gwpb.ExitError{ExitCode: 9, Err: errors.New("it went wrong")}, nil, []string{"in"}, []string{"mount"}), digest.FromString("v")), src)
	f.solve = func(_ context.Context, req gw.SolveRequest) (*gw.Result, error) {
		switch req.Frontend {
		case "cap":
			return nil, errdefs.NewUnsupportedFrontendCapError("a.cap")
		case "subrequest":
			return nil, errdefs.NewUnsupportedSubrequestError("a.request")
		case "panic":
			panic("oh")
		}
		return nil, failed
	}
	b, g := gateway(t, f)
	check := func(err error) {
		t.Helper()
		var vertex *errdefs.VertexError
		var solve *errdefs.SolveError
		var exit *gwpb.ExitError
		if !errors.As(err, &vertex) || vertex.Digest != digest.FromString("v").String() {
			t.Errorf("no vertex in %v", err)
		}
		if !errors.As(err, &solve) || !slices.Equal(solve.InputIDs, []string{"in"}) || !slices.Equal(solve.MountIDs, []string{"mount"}) {
			t.Errorf("no ids in %v", err)
		}
		if !errors.As(err, &exit) || exit.ExitCode != 9 {
			t.Errorf("no exit code in %v", err)
		}
		if s := errdefs.Sources(err); len(s) != 1 || s[0].Ranges[0].Start.Line != 7 {
			t.Errorf("no place in %v", err)
		}
		if !strings.Contains(err.Error(), "it went wrong") {
			t.Errorf("the error is %v", err)
		}
	}
	err := g.Run(t.Context(), func(ctx context.Context, c gw.Client) (*gw.Result, error) {
		_, err := c.Solve(ctx, gw.SolveRequest{Frontend: "cap"})
		var unsupported *errdefs.UnsupportedFrontendCapError
		if !errors.As(err, &unsupported) || unsupported.Name != "a.cap" || grpcerrors.Code(err) != codes.Unimplemented {
			t.Errorf("an unsupported capability is %v", err)
		}
		_, err = c.Solve(ctx, gw.SolveRequest{Frontend: "subrequest"})
		var sub *errdefs.UnsupportedSubrequestError
		if !errors.As(err, &sub) || sub.Name != "a.request" {
			t.Errorf("an unsupported request is %v", err)
		}
		if _, err := c.Solve(ctx, gw.SolveRequest{Frontend: "panic"}); grpcerrors.Code(err) != codes.Internal {
			t.Errorf("a panic is %v", err)
		}
		_, err = c.Solve(ctx, gw.SolveRequest{})
		check(err)
		return nil, err
	})
	check(err)
	_, err = b.Wait(t.Context())
	check(err)
}

// TestErrorsCanBePrinted: an error with a place that is none is one without.
func TestErrorsCanBePrinted(t *testing.T) {
	for _, r := range []*pb.Range{{}, {Start: &pb.Position{Line: 1}}, {End: &pb.Position{Line: 1}}} {
		b, g := gateway(t, newFake())
		err := g.Run(t.Context(), func(context.Context, gw.Client) (*gw.Result, error) {
			return nil, errdefs.WithSource(errors.New("it went wrong"), &errdefs.Source{Info: &pb.SourceInfo{Filename: "f", Data: []byte("x")}, Ranges: []*pb.Range{r}})
		})
		if err == nil {
			t.Error("there is no error")
		}
		_, err = b.Wait(t.Context())
		if err == nil || !strings.Contains(err.Error(), "it went wrong") {
			t.Errorf("the error is %v", err)
		}
		for _, s := range errdefs.Sources(err) {
			if err := s.Print(io.Discard); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestCaps: a client is told of what the build's client can do, and of nothing else.
func TestCaps(t *testing.T) {
	f := newFake()
	f.opts.LLBCaps = pb.Caps.CapSet([]*apicaps.PBCap{{ID: string(pb.CapMergeOp), Enabled: true}})
	b, g := gateway(t, f)
	opts := g.BuildOpts()
	if opts.LLBCaps.Supports(pb.CapMergeOp) != nil || opts.LLBCaps.Supports(pb.CapDiffOp) == nil || opts.Caps.Supports(gwpb.CapGatewayExec) != nil {
		t.Error("the capabilities are others than the build's")
	}
	pong, err := b.Ping(t.Context(), &gwpb.PingRequest{})
	if err != nil || len(pong.Workers) != 1 || pong.Workers[0].ID != "w" || len(pong.Workers[0].Platforms) != 1 {
		t.Errorf("the workers are %v, %v", pong, err)
	}
}

// TestOldClients: clients that know neither arrays nor Return.
func TestOldClients(t *testing.T) {
	f := newFake()
	ref := &fakeRef{def: definitionOf(t, llb.Image("x")), files: map[string]string{"/a": "b"}}
	many := false
	f.solve = func(context.Context, gw.SolveRequest) (*gw.Result, error) {
		res := &gw.Result{Metadata: map[string][]byte{"m": []byte("n")}}
		if many {
			res.AddRef("p", ref)
			return res, nil
		}
		res.SetRef(ref)
		return res, nil
	}
	b, api, _ := dial(t, f)
	resp, err := api.Solve(t.Context(), &gwpb.SolveRequest{Final: true, ExporterAttr: []byte(`{"a":"Yg=="}`)})
	if err != nil || resp.Ref == "" || resp.Ref != resp.Result.GetRefDeprecated() {
		t.Fatalf("an old client gets %v, %v", resp, err)
	}
	if file, err := api.ReadFile(t.Context(), &gwpb.ReadFileRequest{Ref: resp.Ref, FilePath: "/a"}); err != nil || string(file.Data) != "b" {
		t.Errorf("the file is %v, %v", file, err)
	}
	res, err := b.Result()
	if err != nil || res.Ref != ref || string(res.Metadata["a"]) != "b" || string(res.Metadata["m"]) != "n" {
		t.Errorf("the result is %+v, %v", res, err)
	}
	for _, attrs := range []string{"", "null", "[]", "{"} {
		if _, err := api.Solve(t.Context(), &gwpb.SolveRequest{Final: true, ExporterAttr: []byte(attrs)}); err == nil && attrs != "null" {
			t.Errorf("attributes %q are accepted", attrs)
		}
	}
	many = true
	if _, err := api.Solve(t.Context(), &gwpb.SolveRequest{}); err == nil || !strings.Contains(err.Error(), "did not return default result") {
		t.Errorf("a client that takes no map: %v", err)
	}
	resp, err = api.Solve(t.Context(), &gwpb.SolveRequest{AllowResultReturn: true})
	if err != nil || resp.Result.GetRefsDeprecated().GetRefs()["p"] == "" {
		t.Fatalf("a client that takes a map of ids gets %v, %v", resp, err)
	}
	if _, err := api.Return(t.Context(), &gwpb.ReturnRequest{Result: &gwpb.Result{Result: &gwpb.Result_RefsDeprecated{RefsDeprecated: resp.Result.GetRefsDeprecated()}}}); err != nil {
		t.Error(err)
	}
	many = false
	if _, err := api.Solve(t.Context(), &gwpb.SolveRequest{Final: true, ExporterAttr: []byte("{}")}); grpcerrors.Code(err) != codes.FailedPrecondition {
		t.Errorf("a result is changed that was returned: %v", err)
	}
	if res, err := b.Wait(t.Context()); err != nil || res.Refs["p"] != ref {
		t.Errorf("the result is %+v, %v", res, err)
	}
}

// TestHostileRequests: whatever a client leaves out or makes up is an error of that call.
func TestHostileRequests(t *testing.T) {
	f := newFake()
	ref := &fakeRef{def: definitionOf(t, llb.Image("x"))}
	f.solve = func(context.Context, gw.SolveRequest) (*gw.Result, error) {
		res := &gw.Result{}
		res.SetRef(ref)
		return res, nil
	}
	f.container = func(context.Context, gw.NewContainerRequest) (gw.Container, error) {
		t.Error("a container is made")
		return nil, errors.New("no")
	}
	b := New(t.Context(), f, Limits{})
	defer b.Close()
	ctx := t.Context()
	solved, err := b.Solve(ctx, &gwpb.SolveRequest{AllowResultReturn: true, AllowResultArrayRef: true})
	if err != nil {
		t.Fatal(err)
	}
	id := solved.Result.GetRef().Id
	root := &pb.Mount{Dest: "/"}
	for name, call := range map[string]func() (any, error){
		"nil cache import": func() (any, error) {
			return b.Solve(ctx, &gwpb.SolveRequest{CacheImports: []*gwpb.CacheOptionsEntry{nil}})
		},
		"nil policy": func() (any, error) { return b.Solve(ctx, &gwpb.SolveRequest{SourcePolicies: []*spb.Policy{nil}}) },
		"nil rule": func() (any, error) {
			return b.Solve(ctx, &gwpb.SolveRequest{SourcePolicies: []*spb.Policy{{Rules: []*spb.Rule{nil}}}})
		},
		"nil input": func() (any, error) {
			return b.Solve(ctx, &gwpb.SolveRequest{FrontendInputs: map[string]*pb.Definition{"a": nil}})
		},
		"no source": func() (any, error) { return b.ResolveSourceMeta(ctx, &gwpb.ResolveSourceMetaRequest{}) },
		"resolver": func() (any, error) {
			return b.ResolveImageConfig(ctx, &gwpb.ResolveImageConfigRequest{ResolverType: 77})
		},
		"no ref to read": func() (any, error) { return b.ReadFile(ctx, &gwpb.ReadFileRequest{}) },
		"unknown ref":    func() (any, error) { return b.ReadDir(ctx, &gwpb.ReadDirRequest{Ref: strings.Repeat("x", 1<<20)}) },
		"no ref to stat": func() (any, error) { return b.StatFile(ctx, &gwpb.StatFileRequest{}) },
		"no ref to have": func() (any, error) { return b.Evaluate(ctx, &gwpb.EvaluateRequest{}) },
		"negative offset": func() (any, error) {
			return b.ReadFile(ctx, &gwpb.ReadFileRequest{Ref: id, Range: &gwpb.FileRange{Offset: -1}})
		},
		"negative length": func() (any, error) {
			return b.ReadFile(ctx, &gwpb.ReadFileRequest{Ref: id, Range: &gwpb.FileRange{Length: -1}})
		},
		"endless range": func() (any, error) {
			return b.ReadFile(ctx, &gwpb.ReadFileRequest{Ref: id, Range: &gwpb.FileRange{Offset: 1<<63 - 1, Length: 1<<63 - 1}})
		},
		"nothing returned":  func() (any, error) { return b.Return(ctx, &gwpb.ReturnRequest{}) },
		"no error returned": func() (any, error) { return b.Return(ctx, &gwpb.ReturnRequest{Error: &rpcstatus.Status{}}) },
		"unknown result": func() (any, error) {
			return b.Return(ctx, &gwpb.ReturnRequest{Result: &gwpb.Result{Result: &gwpb.Result_Ref{Ref: &gwpb.Ref{Id: "x"}}}})
		},
		"unknown results": func() (any, error) {
			return b.Return(ctx, &gwpb.ReturnRequest{Result: &gwpb.Result{Result: &gwpb.Result_Refs{Refs: &gwpb.RefMap{Refs: map[string]*gwpb.Ref{"a": nil, "b": {Id: "x"}}}}}})
		},
		"nil attestation": func() (any, error) {
			return b.Return(ctx, &gwpb.ReturnRequest{Result: &gwpb.Result{Attestations: map[string]*gwpb.Attestations{"a": nil, "b": {Attestation: []*gwpb.Attestation{nil}}}}})
		},
		"nil subject": func() (any, error) {
			return b.Return(ctx, &gwpb.ReturnRequest{Result: &gwpb.Result{Attestations: map[string]*gwpb.Attestations{"b": {Attestation: []*gwpb.Attestation{{InTotoSubjects: []*gwpb.InTotoSubject{nil}}}}}}})
		},
		"unknown attestation": func() (any, error) {
			return b.Return(ctx, &gwpb.ReturnRequest{Result: &gwpb.Result{Attestations: map[string]*gwpb.Attestations{"b": {Attestation: []*gwpb.Attestation{{Ref: &gwpb.Ref{Id: "x"}}}}}}})
		},
		"nil range":       func() (any, error) { return b.Warn(ctx, &gwpb.WarnRequest{Ranges: []*pb.Range{nil}}) },
		"no container id": func() (any, error) { return b.NewContainer(ctx, &gwpb.NewContainerRequest{Mounts: []*pb.Mount{root}}) },
		"no root":         func() (any, error) { return b.NewContainer(ctx, &gwpb.NewContainerRequest{ContainerID: "a"}) },
		"nil mount": func() (any, error) {
			return b.NewContainer(ctx, &gwpb.NewContainerRequest{ContainerID: "a", Mounts: []*pb.Mount{root, nil}})
		},
		"nil host": func() (any, error) {
			return b.NewContainer(ctx, &gwpb.NewContainerRequest{ContainerID: "a", Mounts: []*pb.Mount{root}, ExtraHosts: []*pb.HostIP{nil}})
		},
		"ssh": func() (any, error) {
			return b.NewContainer(ctx, &gwpb.NewContainerRequest{ContainerID: "a", Mounts: []*pb.Mount{root, {Dest: "/x", MountType: pb.MountType_SSH}}})
		},
		"secret": func() (any, error) {
			return b.NewContainer(ctx, &gwpb.NewContainerRequest{ContainerID: "a", Mounts: []*pb.Mount{root, {Dest: "/x", MountType: pb.MountType_SECRET}}})
		},
		"cache": func() (any, error) {
			return b.NewContainer(ctx, &gwpb.NewContainerRequest{ContainerID: "a", Mounts: []*pb.Mount{root, {Dest: "/x", MountType: pb.MountType_CACHE}}})
		},
		"unknown release":  func() (any, error) { return b.ReleaseContainer(ctx, &gwpb.ReleaseContainerRequest{}) },
		"file of nothing":  func() (any, error) { return b.ReadFileContainer(ctx, &gwpb.ReadFileRequest{}) },
		"stat of nothing":  func() (any, error) { return b.StatFileContainer(ctx, &gwpb.StatFileRequest{}) },
		"files of nothing": func() (any, error) { return b.ReadDirContainer(ctx, &gwpb.ReadDirRequest{}) },
	} {
		_, err := call()
		if c := grpcerrors.Code(err); c != codes.InvalidArgument && c != codes.NotFound {
			t.Errorf("%s: got %v (%s)", name, err, c)
		}
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
	}
	if b.Returned() {
		t.Error("there is a result")
	}
	for range 2 {
		_, err = b.Return(ctx, &gwpb.ReturnRequest{Result: &gwpb.Result{Result: &gwpb.Result_Ref{}}})
		if want := codes.OK; grpcerrors.Code(err) != want && grpcerrors.Code(err) != codes.FailedPrecondition {
			t.Errorf("returning nothing at all: %v", err)
		}
	}
	if grpcerrors.Code(err) != codes.FailedPrecondition {
		t.Errorf("returning twice: %v", err)
	}
}

// TestLargeFile: a file that does not fit is an error, and one that does is not.
func TestLargeFile(t *testing.T) {
	f := newFake()
	ref := &fakeRef{def: definitionOf(t, llb.Image("x")), files: map[string]string{"fits": strings.Repeat("x", maxFile), "large": strings.Repeat("x", maxFile+1)}}
	f.solve = func(context.Context, gw.SolveRequest) (*gw.Result, error) {
		res := &gw.Result{}
		res.SetRef(ref)
		return res, nil
	}
	b := New(t.Context(), f, Limits{})
	defer b.Close()
	res, err := b.Solve(t.Context(), &gwpb.SolveRequest{AllowResultReturn: true, AllowResultArrayRef: true})
	if err != nil {
		t.Fatal(err)
	}
	id := res.Result.GetRef().Id
	for _, tt := range []struct {
		name string
		part *gwpb.FileRange
		want int // -1: an error
	}{
		{"fits", nil, maxFile}, {"large", nil, -1}, {"large", &gwpb.FileRange{Length: maxFile + 1}, maxFile + 1},
		{"large", &gwpb.FileRange{Length: 1 << 40}, -1}, {"large", &gwpb.FileRange{Offset: 1, Length: 1 << 40}, maxFile},
	} {
		got, err := b.ReadFile(t.Context(), &gwpb.ReadFileRequest{Ref: id, FilePath: tt.name, Range: tt.part})
		if tt.want < 0 && (err == nil || !strings.Contains(err.Error(), "large exceeds maximum allowed size of 16777216 bytes")) || tt.want >= 0 && len(got.GetData()) != tt.want {
			t.Errorf("%s, %v: got %d bytes, %v", tt.name, tt.part, len(got.GetData()), err)
		}
	}
}

// TestRefsAreBounded: a client can hold so many results and no more.
func TestRefsAreBounded(t *testing.T) {
	f := newFake()
	def := definitionOf(t, llb.Image("x"))
	f.solve = func(context.Context, gw.SolveRequest) (*gw.Result, error) {
		res := &gw.Result{}
		res.SetRef(&fakeRef{def: def})
		return res, nil
	}
	for _, limits := range []Limits{{Refs: 3}, {Graphs: 3*def.SizeVT() + 1}} {
		b := New(t.Context(), f, limits)
		defer b.Close()
		for i := range 5 {
			_, err := b.Solve(t.Context(), &gwpb.SolveRequest{})
			if (err == nil) != (i < 3) || err != nil && grpcerrors.Code(err) != codes.ResourceExhausted {
				t.Errorf("%+v, result %d: %v", limits, i+1, err)
			}
		}
	}
}

// TestBuilds: calls find their build by its id, also when it comes later.
func TestBuilds(t *testing.T) {
	builds := NewBuilds(Limits{})
	server := grpc.NewServer(ServerOptions()...)
	builds.Register(server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(l) //nolint:errcheck // ends with the test
	defer server.Stop()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	api := gwpb.NewLLBBridgeClient(connect(t, conn))
	if _, err := api.Ping(t.Context(), &gwpb.PingRequest{}); err == nil || !strings.Contains(err.Error(), "no buildid found in context") {
		t.Errorf("without an id: %v", err)
	}
	unknown := make(chan error)
	go func() {
		_, err := api.Ping(buildid.AppendToOutgoingContext(t.Context(), "nobody's"), &gwpb.PingRequest{})
		unknown <- err
	}()
	late := make(chan error)
	ctx := buildid.AppendToOutgoingContext(t.Context(), "one")
	go func() {
		_, err := api.Ping(ctx, &gwpb.PingRequest{})
		late <- err
	}()
	drive, end, err := builds.Drive("one")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := builds.Drive("one"); err == nil {
		t.Error("two builds have the same id")
	}
	if _, _, err := builds.Drive(""); err == nil {
		t.Error("a build has no id")
	}
	returned := make(chan error)
	go func() {
		res, err := drive(t.Context(), newFake())
		if err == nil && string(res.Metadata["a"]) != "b" {
			err = fmt.Errorf("the result has %v", res.Metadata)
		}
		returned <- err
	}()
	if err := <-late; err != nil {
		t.Errorf("a call that comes early: %v", err)
	}
	if _, err := api.Return(ctx, &gwpb.ReturnRequest{Result: &gwpb.Result{Metadata: map[string][]byte{"a": []byte("b")}}}); err != nil {
		t.Error(err)
	}
	if err := <-returned; err != nil {
		t.Error(err)
	}
	if _, err := api.Ping(ctx, &gwpb.PingRequest{}); err != nil { // what is returned is delivered now
		t.Error(err)
	}
	if _, err := drive(t.Context(), newFake()); err == nil {
		t.Error("a build begins again")
	}
	end()
	for id, err := range map[string]error{"nobody's": <-unknown, "one": func() error { _, err := api.Ping(ctx, &gwpb.PingRequest{}); return err }()} {
		if grpcerrors.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "no such job "+id) {
			t.Errorf("build %s: %v", id, err)
		}
	}
	if _, end, err := builds.Drive("one"); err != nil {
		t.Errorf("the id of a build that is over: %v", err)
	} else {
		end()
	}
}

// TestConnectionEnds: when the client is gone there is no result, and nothing is left.
func TestConnectionEnds(t *testing.T) {
	f := newFake()
	asked := make(chan struct{})
	f.solve = func(ctx context.Context, _ gw.SolveRequest) (*gw.Result, error) {
		close(asked)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	b, api, gone := dial(t, f)
	answered := make(chan error)
	go func() {
		_, err := api.Solve(t.Context(), &gwpb.SolveRequest{})
		answered <- err
	}()
	<-asked
	gone()
	<-b.Done()
	if err := <-answered; err == nil {
		t.Error("the call has an answer")
	}
	b.Close()
	if _, err := b.Result(); !errors.Is(err, errNoResult) {
		t.Errorf("the result is %v", err)
	}
	if _, err := b.Ping(t.Context(), &gwpb.PingRequest{}); grpcerrors.Code(err) != codes.Unavailable {
		t.Errorf("a call after the end: %v", err)
	}
}

// fakeContainer runs functions as processes.
type fakeContainer struct {
	run      func(*fakeProcess) error
	start    error
	hold     chan struct{} // not nil: starts after the first one wait for its end
	files    map[string]string
	mu       sync.Mutex
	released bool
	starts   []gw.StartRequest
	all      sync.WaitGroup
	over     chan struct{}
}

func newContainer(run func(*fakeProcess) error) *fakeContainer {
	return &fakeContainer{run: run, over: make(chan struct{}), files: map[string]string{"/f": "in the container"}}
}

type fakeProcess struct {
	gw.StartRequest
	signals chan syscall.Signal
	sizes   chan gw.WinSize
	over    chan struct{}
	done    chan struct{}
	err     error
}

func (c *fakeContainer) Start(_ context.Context, req gw.StartRequest) (gw.ContainerProcess, error) {
	c.mu.Lock()
	c.starts = append(c.starts, req)
	further := len(c.starts) > 1
	c.mu.Unlock()
	if further && c.hold != nil {
		<-c.hold
	}
	if c.start != nil {
		return nil, c.start
	}
	p := &fakeProcess{StartRequest: req, signals: make(chan syscall.Signal, 8), sizes: make(chan gw.WinSize, 8), over: c.over, done: make(chan struct{})}
	c.all.Add(1)
	go func() {
		defer c.all.Done()
		defer close(p.done)
		p.err = c.run(p)
	}()
	return p, nil
}

func (c *fakeContainer) Release(context.Context) error {
	c.mu.Lock()
	if !c.released {
		close(c.over)
	}
	c.released = true
	c.mu.Unlock()
	c.all.Wait()
	return nil
}

func (c *fakeContainer) ReadFile(_ context.Context, req gw.ReadContainerRequest) ([]byte, error) {
	return (&fakeRef{files: c.files}).ReadFile(context.Background(), req.ReadRequest)
}

func (c *fakeContainer) StatFile(_ context.Context, req gw.StatContainerRequest) (*fstypes.Stat, error) {
	return &fstypes.Stat{Path: req.Path, Size: int64(req.MountIndex)}, nil
}

func (c *fakeContainer) ReadDir(_ context.Context, req gw.ReadDirContainerRequest) ([]*fstypes.Stat, error) {
	return []*fstypes.Stat{{Path: req.Path + req.IncludePattern}}, nil
}

func (p *fakeProcess) Wait() error {
	<-p.done
	return p.err
}

func (p *fakeProcess) Resize(_ context.Context, size gw.WinSize) error {
	p.sizes <- size
	return nil
}

func (p *fakeProcess) Signal(_ context.Context, sig syscall.Signal) error {
	select {
	case p.signals <- sig:
	default:
	}
	return nil
}

// script is a process that does what its first argument says.
func script(p *fakeProcess) error {
	switch p.Args[0] {
	case "cat":
		_, err := io.Copy(p.Stdout, p.Stdin)
		return err
	case "both":
		_, err := p.Stdout.Write([]byte("out"))
		_, err2 := p.Stderr.Write([]byte("err"))
		return errors.Join(err, err2)
	case "fail":
		return &gwpb.ExitError{ExitCode: 42, Err: errors.New("exit code: 42")}
	case "broken":
		return errors.New("it could not be run")
	case "large":
		_, err := p.Stdout.Write(bytes.Repeat([]byte("x"), 3*maxOutput+1))
		return err
	case "told":
		fmt.Fprintf(p.Stdout, "%v %v", <-p.signals, <-p.sizes)
		return nil
	}
	select { // sleep
	case <-p.over:
	case <-p.signals:
	}
	return &gwpb.ExitError{ExitCode: 137, Err: errors.New("killed")}
}

type nopCloser struct{ *bytes.Buffer }

func (nopCloser) Close() error { return nil }

func buffer() nopCloser { return nopCloser{&bytes.Buffer{}} }

// TestContainer: processes of a container, with BuildKit's client at the other end.
func TestContainer(t *testing.T) {
	f := newFake()
	ctr := newContainer(script)
	ref := &fakeRef{def: definitionOf(t, llb.Image("x"))}
	f.solve = func(context.Context, gw.SolveRequest) (*gw.Result, error) {
		res := &gw.Result{}
		res.SetRef(ref)
		return res, nil
	}
	f.container = func(_ context.Context, req gw.NewContainerRequest) (gw.Container, error) {
		if len(req.Mounts) != 2 || req.Mounts[0].Ref != ref || req.Mounts[1].ResultID != "of an error" || req.Hostname != "h" || req.NetMode != pb.NetMode_NONE {
			t.Errorf("a container is asked for with %+v", req)
		}
		return ctr, nil
	}
	_, c := gateway(t, f)
	ctx := t.Context()
	res, err := c.Solve(ctx, gw.SolveRequest{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.NewContainer(ctx, gw.NewContainerRequest{
		Mounts: []gw.Mount{{Dest: "/", Ref: res.Ref}, {Dest: "/e", ResultID: "of an error"}}, Hostname: "h", NetMode: pb.NetMode_NONE,
	})
	if err != nil {
		t.Fatal(err)
	}
	start := func(req gw.StartRequest) gw.ContainerProcess {
		t.Helper()
		p, err := got.Start(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	out, errs := buffer(), buffer()
	p := start(gw.StartRequest{Args: []string{"cat", "x"}, Env: []string{"A=b"}, User: "u", Cwd: "/c", Stdin: io.NopCloser(strings.NewReader("hello")), Stdout: out, SecretEnv: []*pb.SecretEnv{{ID: "s"}}, SecurityMode: pb.SecurityMode_INSECURE})
	if err := p.Wait(); err != nil || out.String() != "hello" {
		t.Errorf("cat gave %q, %v", out.String(), err)
	}
	if s := ctr.starts[0]; s.User != "u" || s.Cwd != "/c" || len(s.Env) != 1 || len(s.SecretEnv) != 1 || s.SecurityMode != pb.SecurityMode_INSECURE || s.Tty || s.Stderr != nil {
		t.Errorf("the process was started with %+v", s)
	}
	out.Reset()
	if err := start(gw.StartRequest{Args: []string{"both"}, Stdout: out, Stderr: errs}).Wait(); err != nil || out.String() != "out" || errs.String() != "err" {
		t.Errorf("both gave %q and %q, %v", out.String(), errs.String(), err)
	}
	out.Reset()
	if err := start(gw.StartRequest{Args: []string{"large"}, Stdout: out}).Wait(); err != nil || out.Len() != 3*maxOutput+1 {
		t.Errorf("large gave %d bytes, %v", out.Len(), err)
	}
	var exit *gwpb.ExitError
	if err := start(gw.StartRequest{Args: []string{"fail"}}).Wait(); !errors.As(err, &exit) || exit.ExitCode != 42 || !strings.Contains(err.Error(), "exit code: 42") {
		t.Errorf("fail gave %v", err)
	}
	if err := start(gw.StartRequest{Args: []string{"broken"}}).Wait(); err == nil || errors.As(err, &exit) && exit.ExitCode != gwpb.UnknownExitStatus || !strings.Contains(err.Error(), "it could not be run") {
		t.Errorf("broken gave %v", err)
	}
	out.Reset()
	p = start(gw.StartRequest{Args: []string{"told"}, Stdout: out, Tty: true})
	if err := errors.Join(p.Resize(ctx, gw.WinSize{Rows: 3, Cols: 4}), p.Signal(ctx, syscall.SIGHUP), p.Wait()); err != nil || out.String() != "hangup {3 4}" {
		t.Errorf("the process was told %q, %v", out.String(), err)
	}
	ctr.start = errors.New("no such secret")
	if err := start(gw.StartRequest{Args: []string{"cat"}}).Wait(); err == nil || !strings.Contains(err.Error(), "no such secret") {
		t.Errorf("a process that cannot be started: %v", err)
	}
	ctr.start = nil
	if data, err := got.ReadFile(ctx, gw.ReadContainerRequest{ReadRequest: gw.ReadRequest{Filename: "/f"}}); err != nil || string(data) != "in the container" {
		t.Errorf("the file has %q, %v", data, err)
	}
	if st, err := got.StatFile(ctx, gw.StatContainerRequest{StatRequest: gw.StatRequest{Path: "p"}, MountIndex: 5}); err != nil || st.Path != "p" || st.Size != 5 {
		t.Errorf("the file is %v, %v", st, err)
	}
	if all, err := got.ReadDir(ctx, gw.ReadDirContainerRequest{ReadDirRequest: gw.ReadDirRequest{Path: "d", IncludePattern: "i"}}); err != nil || len(all) != 1 || all[0].Path != "di" {
		t.Errorf("the directory has %v, %v", all, err)
	}
	p = start(gw.StartRequest{Args: []string{"sleep"}})
	if err := got.Release(ctx); err != nil || !ctr.released {
		t.Errorf("released: %t, %v", ctr.released, err)
	}
	if err := p.Wait(); !errors.As(err, &exit) || exit.ExitCode != 137 {
		t.Errorf("a process of a container that was released: %v", err)
	}
	if err := got.Release(ctx); grpcerrors.Code(err) != codes.NotFound {
		t.Errorf("released twice: %v", err)
	}
}

// TestHostileStreams: each message that is no good ends the stream, and the processes with it.
func TestHostileStreams(t *testing.T) {
	init := func(id string) *gwpb.ExecMessage {
		return &gwpb.ExecMessage{ProcessID: "p", Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{ContainerID: id, Meta: &pb.Meta{Args: []string{"sleep"}}}}}
	}
	for name, messages := range map[string][]*gwpb.ExecMessage{
		"no process":     {{}},
		"nothing":        {init("c"), {ProcessID: "p"}},
		"no meta":        {{ProcessID: "p", Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{ContainerID: "c"}}}},
		"twice":          {init("c"), init("c")},
		"fd":             {{ProcessID: "p", Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{ContainerID: "c", Meta: &pb.Meta{}, Fds: []uint32{7}}}}},
		"no stdin":       {init("c"), {ProcessID: "p", Input: &gwpb.ExecMessage_File{File: &gwpb.FdMessage{}}}},
		"stdout":         {init("c"), {ProcessID: "p", Input: &gwpb.ExecMessage_File{File: &gwpb.FdMessage{Fd: 1}}}},
		"unknown file":   {{ProcessID: "x", Input: &gwpb.ExecMessage_File{File: &gwpb.FdMessage{}}}},
		"unknown resize": {{ProcessID: "x", Input: &gwpb.ExecMessage_Resize{Resize: &gwpb.ResizeMessage{}}}},
		"unknown signal": {init("c"), {ProcessID: "p", Input: &gwpb.ExecMessage_Signal{Signal: &gwpb.SignalMessage{Name: "NOSUCH"}}}},
		"server's":       {init("c"), {ProcessID: "p", Input: &gwpb.ExecMessage_Exit{Exit: &gwpb.ExitMessage{}}}},
	} {
		f := newFake()
		ctr := newContainer(script)
		f.container = func(context.Context, gw.NewContainerRequest) (gw.Container, error) { return ctr, nil }
		_, api, _ := dial(t, f)
		if _, err := api.NewContainer(t.Context(), &gwpb.NewContainerRequest{ContainerID: "c", Mounts: []*pb.Mount{{Dest: "/"}}}); err != nil {
			t.Fatal(err)
		}
		stream, err := api.ExecProcess(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for err = nil; err == nil; {
			_, err = stream.Recv()
		}
		if errors.Is(err, io.EOF) {
			t.Errorf("%s: the stream ends without an error", name)
		}
		ctr.all.Wait() // a sleep ends by being killed
	}
}

// TestProcessesAreBounded: a client can have so many containers and processes at a time, and no more.
func TestProcessesAreBounded(t *testing.T) {
	f := newFake()
	f.container = func(context.Context, gw.NewContainerRequest) (gw.Container, error) { return newContainer(script), nil }
	b, api, _ := dial(t, f)
	b.limits.Containers, b.limits.Processes = 2, 3
	for i := range 4 {
		_, err := api.NewContainer(t.Context(), &gwpb.NewContainerRequest{ContainerID: fmt.Sprint(i), Mounts: []*pb.Mount{{Dest: "/"}}})
		if (err == nil) != (i < 2) || err != nil && grpcerrors.Code(err) != codes.ResourceExhausted {
			t.Errorf("container %d: %v", i+1, err)
		}
	}
	if _, err := api.NewContainer(t.Context(), &gwpb.NewContainerRequest{ContainerID: "0", Mounts: []*pb.Mount{{Dest: "/"}}}); grpcerrors.Code(err) != codes.AlreadyExists {
		t.Errorf("a container that is there: %v", err)
	}
	stream, err := api.ExecProcess(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ended := func(id, container string) *gwpb.ExitMessage {
		t.Helper()
		if err := stream.Send(&gwpb.ExecMessage{ProcessID: id, Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{ContainerID: container, Meta: &pb.Meta{Args: []string{"sleep"}}}}}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			m, err := stream.Recv()
			if err != nil || m.ProcessID != id {
				t.Fatalf("got %v, %v", m, err)
			}
			if exit := m.GetExit(); exit != nil {
				return exit
			}
			if container == "0" && id < "3" {
				break // it runs
			}
		}
		return nil
	}
	for i := range 3 {
		if exit := ended(fmt.Sprint(i), "0"); exit != nil {
			t.Errorf("process %d ended: %v", i+1, exit)
		}
	}
	if exit := ended("3", "0"); exit.GetError().GetCode() != int32(codes.ResourceExhausted) {
		t.Errorf("one process more ended with %v", exit)
	}
	if m, err := stream.Recv(); err != nil || m.GetDone() == nil {
		t.Errorf("got %v, %v", m, err)
	}
	if exit := ended("4", "nobody's"); exit.GetError().GetCode() != int32(codes.NotFound) {
		t.Errorf("a process of no container ended with %v", exit)
	}
}

// TestFurtherProcess: a client need not wait for the start of a process that is not the first, and what it says before that is told later.
func TestFurtherProcess(t *testing.T) {
	f := newFake()
	ctr := newContainer(script)
	ctr.hold = make(chan struct{})
	f.container = func(context.Context, gw.NewContainerRequest) (gw.Container, error) { return ctr, nil }
	_, api, _ := dial(t, f)
	if _, err := api.NewContainer(t.Context(), &gwpb.NewContainerRequest{ContainerID: "c", Mounts: []*pb.Mount{{Dest: "/"}}}); err != nil {
		t.Fatal(err)
	}
	stream, err := api.ExecProcess(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(id string, m *gwpb.ExecMessage) {
		t.Helper()
		m.ProcessID = id
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"sleep", "told"} {
		send(id, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{ContainerID: "c", Meta: &pb.Meta{Args: []string{id}}, Fds: []uint32{1}}}})
		if m, err := stream.Recv(); err != nil || m.ProcessID != id || m.GetStarted() == nil {
			t.Fatalf("got %v, %v", m, err)
		}
	}
	send("told", &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Signal{Signal: &gwpb.SignalMessage{Name: "SIGHUP"}}})
	send("told", &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Resize{Resize: &gwpb.ResizeMessage{Rows: 24, Cols: 80}}})
	close(ctr.hold)
	if m, err := stream.Recv(); err != nil || string(m.GetFile().GetData()) != "hangup {24 80}" {
		t.Errorf("got %v, %v", m, err)
	}
}

// TestSilentClient: a client that reads nothing of what a process prints, and sends more than the process reads, holds nobody up.
func TestSilentClient(t *testing.T) {
	f := newFake()
	ctr := newContainer(func(p *fakeProcess) error {
		for {
			if _, err := p.Stdout.Write(make([]byte, 1<<16)); err != nil {
				return err
			}
		}
	})
	f.container = func(context.Context, gw.NewContainerRequest) (gw.Container, error) { return ctr, nil }
	b, api, _ := dial(t, f)
	if _, err := api.NewContainer(t.Context(), &gwpb.NewContainerRequest{ContainerID: "c", Mounts: []*pb.Mount{{Dest: "/"}}}); err != nil {
		t.Fatal(err)
	}
	stream, err := api.ExecProcess(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&gwpb.ExecMessage{ProcessID: "p", Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{ContainerID: "c", Meta: &pb.Meta{Args: []string{"x"}}, Fds: []uint32{0, 1}}}}); err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for stream.Send(&gwpb.ExecMessage{ProcessID: "p", Input: &gwpb.ExecMessage_File{File: &gwpb.FdMessage{Data: make([]byte, 1<<20)}}}) == nil {
		}
	}()
	if m, err := stream.Recv(); err != nil || m.GetStarted() == nil {
		t.Fatalf("got %v, %v", m, err)
	}
	if _, err := api.Ping(t.Context(), &gwpb.PingRequest{}); err != nil {
		t.Error(err)
	}
	b.Close()
	if !ctr.released {
		t.Error("the container is not released")
	}
	<-sent
}

// TestInput: what is sent arrives in its order, up to its end, and the end of the reader ends the wait of the sender.
func TestInput(t *testing.T) {
	in := newInput()
	go func() {
		for range 20 {
			in.add(bytes.Repeat([]byte("x"), 1<<20), false)
		}
		in.add([]byte("end"), true)
		in.add([]byte("more"), true)
	}()
	data, err := io.ReadAll(in)
	if err != nil || len(data) != 20<<20+3 || !strings.HasSuffix(string(data[len(data)-4:]), "xend") {
		t.Errorf("read %d bytes, %v", len(data), err)
	}
	in = newInput()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20 {
			in.add(make([]byte, 1<<20), false)
		}
	}()
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	<-done
	if n, err := in.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes, %v", n, err)
	}
}
