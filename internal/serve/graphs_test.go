package serve

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	kitclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/client"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/serve/bridge"
	"github.com/slipway-build/slipway/internal/serve/control"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
)

// ranNothing is a sandbox in which every process ends at once.
type ranNothing struct{ runs atomic.Int64 }

func (r *ranNothing) Run(context.Context, *sandbox.Spec, sandbox.IO) error {
	r.runs.Add(1)
	return nil
}

func (r *ranNothing) Exec(context.Context, string, *sandbox.Process, sandbox.IO) error {
	return sandbox.ErrNotRunning
}

// builds starts a server that builds, with a store and processes that do nothing.
func builds(t *testing.T) (*server, *ranNothing) {
	t.Helper()
	runner := &ranNothing{}
	var srv *server
	srv = start(t, nil, func(c *control.Options, o *Options, s *server) {
		gateway := bridge.NewBuilds(bridge.Limits{})
		c.Bridge, o.Register = gateway.Drive, gateway.Register
		keeper := &Keeper{Linger: time.Minute, MaxAge: time.Hour, Warn: c.Warn, Open: func() (*control.Backend, func() error, error) {
			st, err := store.Open(s.root)
			if err != nil {
				return nil, nil, err
			}
			b := build.New(build.Options{Store: st, Images: imagesource.New(st, registry.New(registry.Options{})), Runner: runner})
			return &control.Backend{Store: st, Builder: &Builder{Build: b, Store: st, Sessions: s.sessions, Kept: client.NewKept(st)}}, st.Close, nil
		}}
		t.Cleanup(func() { keeper.Close(time.Minute) })
		c.Acquire, c.Renew = keeper.Acquire, keeper.Renew
	})
	return srv, runner
}

// definition is the graph that ends in an operation, which others come before.
func definition(t *testing.T, op *pb.Op, before ...*pb.Op) *pb.Definition {
	t.Helper()
	def := &pb.Definition{}
	for _, op := range append(slices.Clone(before), op) {
		data, err := op.MarshalVT()
		must(t, err)
		def.Def = append(def.Def, data)
	}
	last, err := (&pb.Op{Inputs: []*pb.Input{{Digest: digestOf(t, op)}}}).MarshalVT()
	must(t, err)
	def.Def = append(def.Def, last)
	return def
}

func digestOf(t *testing.T, op *pb.Op) string {
	t.Helper()
	data, err := op.MarshalVT()
	must(t, err)
	return digest.FromBytes(data).String()
}

// change makes the change number k of a message: a field of it, or of one in it, is missing, is something else, or is there. It
// is false when there are not as many.
func change(m protoreflect.Message, k *int) bool {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		for _, f := range changes(m, fd) {
			if *k == 0 {
				f()
				return true
			}
			*k--
		}
		switch {
		case !m.Has(fd) || fd.Message() == nil:
		case fd.IsMap():
			if fd.MapValue().Message() == nil {
				continue
			}
			var keys []protoreflect.MapKey
			m.Get(fd).Map().Range(func(key protoreflect.MapKey, _ protoreflect.Value) bool {
				keys = append(keys, key)
				return true
			})
			for _, key := range keys {
				if change(m.Mutable(fd).Map().Mutable(key).Message(), k) {
					return true
				}
			}
		case fd.IsList():
			for n := range m.Get(fd).List().Len() {
				if change(m.Mutable(fd).List().Get(n).Message(), k) {
					return true
				}
			}
		default:
			if change(m.Mutable(fd).Message(), k) {
				return true
			}
		}
	}
	return false
}

// changes are those of one field.
func changes(m protoreflect.Message, fd protoreflect.FieldDescriptor) (all []func()) {
	set := func(v protoreflect.Value) { all = append(all, func() { m.Set(fd, v) }) }
	if m.Has(fd) {
		all = append(all, func() { m.Clear(fd) })
	}
	switch {
	case fd.IsMap():
		if fd.MapValue().Message() == nil {
			v := fd.MapValue().Default()
			all = append(all, func() { m.Mutable(fd).Map().Set(protoreflect.ValueOfString("").MapKey(), v) })
		}
	case fd.IsList():
		all = append(all, func() {
			l := m.Mutable(fd).List()
			l.Append(l.NewElement())
		})
	case fd.Message() != nil:
		if !m.Has(fd) {
			all = append(all, func() { m.Mutable(fd) })
		}
	case fd.Kind() == protoreflect.StringKind:
		for _, v := range []string{"x", "\xff\x00", "../../../../x", "/"} {
			set(protoreflect.ValueOfString(v))
		}
	case fd.Kind() == protoreflect.BytesKind:
		set(protoreflect.ValueOfBytes([]byte{0xff}))
	case fd.Kind() == protoreflect.BoolKind:
		set(protoreflect.ValueOfBool(!m.Get(fd).Bool()))
	case fd.Kind() == protoreflect.EnumKind:
		for _, n := range []protoreflect.EnumNumber{-1, 1, 2, 3, 4, 99} {
			set(protoreflect.ValueOfEnum(n))
		}
	case fd.Kind() == protoreflect.Int64Kind:
		for _, n := range []int64{-2, -1, 1, 7, math.MaxInt64, math.MinInt64} {
			set(protoreflect.ValueOfInt64(n))
		}
	case fd.Kind() == protoreflect.Int32Kind:
		for _, n := range []int32{-1, 7, math.MaxInt32} {
			set(protoreflect.ValueOfInt32(n))
		}
	case fd.Kind() == protoreflect.Uint32Kind:
		set(protoreflect.ValueOfUint32(math.MaxUint32))
	case fd.Kind() == protoreflect.Uint64Kind:
		set(protoreflect.ValueOfUint64(math.MaxUint64))
	}
	return all
}

// seeds are operations of all kinds, whose changes are tried. The first inputs is a tree with some files.
func seeds(tree *pb.Input, host string) map[string]*pb.Op {
	owner := func(n int64) *pb.ChownOpt {
		return &pb.ChownOpt{User: &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: "root", Input: n}}}, Group: &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: 3}}}
	}
	file := func(action *pb.FileAction) *pb.Op {
		return &pb.Op{Inputs: []*pb.Input{tree}, Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{action}}}}
	}
	source := func(id string, attrs map[string]string) *pb.Op {
		return &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: id, Attrs: attrs}}}
	}
	return map[string]*pb.Op{
		"exec": {Inputs: []*pb.Input{tree}, Platform: &pb.Platform{OS: "linux", Architecture: "amd64"}, Op: &pb.Op_Exec{Exec: &pb.ExecOp{
			Meta: &pb.Meta{Args: []string{"true"}, Env: []string{"A=b", "c"}, Cwd: "/", ProxyEnv: &pb.ProxyEnv{HttpProxy: "x"}, ExtraHosts: []*pb.HostIP{{Host: "h", IP: "1.2.3.4"}}, Ulimit: []*pb.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}}},
			Mounts: []*pb.Mount{
				{Dest: "/", Input: 0, Output: 0}, {Dest: "/bind", Input: 0, Output: 1, Selector: "/d"}, {Dest: "/ro", Input: 0, Output: -1, Readonly: true},
				{Dest: "/cache", Input: -1, Output: -1, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "c"}},
				{Dest: "/tmpfs", Input: -1, Output: -1, MountType: pb.MountType_TMPFS, TmpfsOpt: &pb.TmpfsOpt{Size: 10}},
				{Dest: "/secret", Input: -1, Output: -1, MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "s", Optional: true}},
				{Dest: "/ssh", Input: -1, Output: -1, MountType: pb.MountType_SSH, SSHOpt: &pb.SSHOpt{ID: "s", Optional: true}},
			},
			Secretenv: []*pb.SecretEnv{{ID: "s", Name: "S", Optional: true}},
		}}},
		"copy": file(&pb.FileAction{Input: 0, SecondaryInput: 0, Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{
			Src: "/d", Dest: "/to/", Owner: owner(0), Mode: -1, CreateDestPath: true, AllowWildcard: true, IncludePatterns: []string{"*"}, ExcludePatterns: []string{"e"}, Timestamp: -1,
		}}}),
		"mkfile":  file(&pb.FileAction{SecondaryInput: -1, Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: "/new", Mode: 0o644, Data: []byte("x"), Owner: owner(0), Timestamp: -1}}}),
		"mkdir":   file(&pb.FileAction{SecondaryInput: -1, Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/new/er", Mode: 0o755, MakeParents: true, Owner: owner(0), Timestamp: -1}}}),
		"rm":      file(&pb.FileAction{SecondaryInput: -1, Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: "/d/f", AllowWildcard: true}}}),
		"symlink": file(&pb.FileAction{SecondaryInput: -1, Action: &pb.FileAction_Symlink{Symlink: &pb.FileActionSymlink{Oldpath: "/d", Newpath: "/l", Owner: owner(0), Timestamp: -1}}}),
		"merge":   {Inputs: []*pb.Input{tree, tree}, Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 0}, {Input: 1}}}}},
		"diff":    {Inputs: []*pb.Input{tree, tree}, Op: &pb.Op_Diff{Diff: &pb.DiffOp{Lower: &pb.LowerDiffInput{Input: 0}, Upper: &pb.UpperDiffInput{Input: 1}}}},
		"passes":  {Inputs: []*pb.Input{tree}, Op: &pb.Op_Passthrough{Passthrough: &pb.PassthroughOp{Outputs: []int64{0}}}},
		"image":   source("docker-image://"+host+"/x:latest", map[string]string{"image.recordtype": "internal"}),
		"blob":    source("docker-image+blob://"+host+"/x@"+digest.FromString("x").String(), nil),
		"layout":  source("oci-layout://x/y@"+digest.FromString("x").String(), map[string]string{"oci.store": "s"}),
		"local":   source("local://x", map[string]string{"local.includepattern": `["a"`, "local.followpaths": "null", "local.differ": "x"}),
		"http":    source("http://"+host+"/x", map[string]string{"http.filename": "../x", "http.perm": "9", "http.uid": "-1", "http.checksum": "x"}),
		"git":     source("git://"+host+"/x#y:../z", map[string]string{"git.fullurl": "http://" + host + "/x", "git.keepgitdir": "true"}),
	}
}

// Whatever a client changes of a graph, it gets an answer, and the server is there for the next one: nothing of it is taken for granted by
// what carries it out, in whatever goroutine.
func TestHostileGraphs(t *testing.T) {
	if testing.Short() {
		t.Skip("long: thousands of graphs")
	}
	nothing := httptest.NewServer(http.NotFoundHandler())
	defer nothing.Close()
	s, runner := builds(t)
	st := llb.Scratch().File(llb.Mkdir("/d", 0o755)).File(llb.Mkfile("/d/f", 0o600, []byte("f"))).File(llb.Mkfile("/etc", 0o600, nil))
	def, err := st.Marshal(t.Context())
	must(t, err)
	var before []*pb.Op
	for _, data := range def.Def[:len(def.Def)-1] {
		op := &pb.Op{}
		must(t, op.UnmarshalVT(data))
		before = append(before, op)
	}
	last := &pb.Op{}
	must(t, last.UnmarshalVT(def.Def[len(def.Def)-1]))
	var all errgroup.Group
	all.SetLimit(8)
	var tried, fine atomic.Int64
	try := func(what string, req *controlapi.SolveRequest) {
		req.Ref = fmt.Sprint("r", tried.Add(1))
		req.Internal = true
		all.Go(func() error {
			ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, errors.New("there is no answer"))
			defer cancel()
			_, err := s.api.Solve(ctx, req)
			switch {
			case err == nil:
				fine.Add(1)
			case strings.Contains(err.Error(), "internal error"):
				t.Errorf("%s: %v", what, err)
			case ctx.Err() != nil:
				t.Errorf("%s: %v", what, context.Cause(ctx))
			}
			return nil
		})
	}
	for name, op := range seeds(last.Inputs[0], strings.TrimPrefix(nothing.URL, "http://")) {
		for n := 0; ; n++ {
			c, k := op.CloneVT(), n
			if n > 0 { // the first one is as it is
				if k--; !change(c.ProtoReflect(), &k) {
					break
				}
			}
			try(fmt.Sprintf("%s with change %d: %v", name, n, c), &controlapi.SolveRequest{Definition: definition(t, c, before...)})
		}
	}
	// What stands beside the operations.
	copied := seeds(last.Inputs[0], "")["exec"]
	for n := 0; ; n++ {
		d := definition(t, copied, before...)
		at := digestOf(t, copied)
		d.Metadata = map[string]*pb.OpMetadata{at: {
			Description: map[string]string{"llb.customname": "n"}, Caps: map[string]bool{"c": true}, ProgressGroup: &pb.ProgressGroup{Id: "g", Name: "g"},
			LinuxResources: &pb.LinuxResources{Memory: 1 << 30, CpusetCpus: "0"}, ExportCache: &pb.ExportCache{},
		}}
		d.Source = &pb.Source{
			Infos:     []*pb.SourceInfo{{Filename: "Dockerfile", Data: []byte("FROM x\n"), Definition: &pb.Definition{}}},
			Locations: map[string]*pb.Locations{at: {Locations: []*pb.Location{{Ranges: []*pb.Range{{Start: &pb.Position{Line: 1}, End: &pb.Position{Line: 1}}}}}}},
		}
		if k := n; !change(d.ProtoReflect(), &k) {
			break
		}
		try(fmt.Sprintf("definition with change %d: %v", n, d), &controlapi.SolveRequest{Definition: d})
	}
	must(t, all.Wait())
	t.Logf("%d graphs, %d of which are built, %d processes", tried.Load(), fine.Load(), runner.runs.Load())
	if n := tried.Load(); n < 1000 || fine.Load() < n/20 || runner.runs.Load() < 50 {
		t.Errorf("%d graphs, %d of which are built, %d processes: it tests little", n, fine.Load(), runner.runs.Load())
	}
	if _, err := s.Info(t.Context()); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (rawCodec) Unmarshal(mem.BufferSlice, any) error { return nil }
func (rawCodec) Name() string                         { return "proto" }

// A message that is nested deeper than a stack can be is an error to who sent it.
func TestNestedMessage(t *testing.T) {
	s := start(t, nil)
	cc, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer cc.Close()
	data := make([]byte, 16<<20-100)
	at := len(data)
	for i := 0; at > 100 || i%3 > 0; i++ { // SourceInfo.definition, Source.infos, Definition.Source
		head := protowire.AppendTag(nil, []protowire.Number{3, 2, 3}[i%3], protowire.BytesType)
		head = protowire.AppendVarint(head, uint64(len(data)-at))
		at -= len(head)
		copy(data[at:], head)
	}
	req := protowire.AppendTag(nil, 2, protowire.BytesType) // SolveRequest.Definition
	req = append(protowire.AppendVarint(req, uint64(len(data)-at)), data[at:]...)
	err = cc.Invoke(t.Context(), "/moby.buildkit.v1.Control/Solve", req, new([]byte), grpc.ForceCodecV2(rawCodec{}))
	wantErr(t, err, "messages in one another")
	if _, err := s.Info(t.Context()); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// An error whose words are no text comes with all that it is about.
func TestErrorOfNoText(t *testing.T) {
	s := start(t, func(context.Context, control.Solve, progress.Sink) (*control.Result, error) {
		return nil, errdefs.WithSource(errors.New("no \xff"), &errdefs.Source{Info: &pb.SourceInfo{Filename: "Dockerfile"}})
	})
	_, err := s.api.Solve(t.Context(), &controlapi.SolveRequest{Ref: "r", Frontend: "dockerfile.v0"})
	wantErr(t, err, "no \uFFFD")
	if src := errdefs.Sources(err); len(src) != 1 {
		t.Errorf("its sources are %v", src)
	}
}

// What builds that are over have used is cache as any other: who prunes gets it back, however short ago that was.
func TestPruneAfterBuilds(t *testing.T) {
	s, runner := builds(t)
	def, err := llb.Scratch().Run(llb.Args([]string{"true"})).Marshal(t.Context())
	must(t, err)
	builds := 0
	solve := func() {
		t.Helper()
		builds++
		_, err := s.api.Solve(t.Context(), &controlapi.SolveRequest{Ref: fmt.Sprint("r", builds), Definition: def.ToPB()})
		must(t, err)
	}
	solve()
	solve()
	if n := runner.runs.Load(); n != 1 {
		t.Fatalf("of two builds %d ran the step", n)
	}
	pruned := make(chan kitclient.UsageInfo, 100)
	must(t, s.Prune(t.Context(), pruned, kitclient.PruneAll))
	solve()
	if n := runner.runs.Load(); n != 2 || len(pruned) == 0 {
		t.Errorf("%d records are pruned, and the step ran %d times", len(pruned), n)
	}
}

// What a frontend is told is taken for granted by nobody, either, nor are its inputs.
func TestHostileFrontends(t *testing.T) {
	if testing.Short() {
		t.Skip("long: 2000 requests")
	}
	s, _ := builds(t)
	def, err := llb.Scratch().File(llb.Mkfile("/Dockerfile", 0o600, []byte("ARG A=b\nFROM scratch AS one\nCOPY . /\nRUN [\"true\"]\n"))).Marshal(t.Context())
	must(t, err)
	var all errgroup.Group
	all.SetLimit(16) // some wait for sessions that do not come
	var tried, fine atomic.Int64
	try := func(what, frontend string, change func(attrs map[string]string, inputs map[string]*pb.Definition), exporters ...*controlapi.Exporter) {
		attrs, inputs := map[string]string{}, map[string]*pb.Definition{"context": def.ToPB(), "dockerfile": def.ToPB()}
		change(attrs, inputs)
		all.Go(func() error {
			ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, errors.New("there is no answer"))
			defer cancel()
			_, err := s.api.Solve(ctx, &controlapi.SolveRequest{Ref: fmt.Sprint("r", tried.Add(1)), Frontend: frontend, FrontendAttrs: attrs, FrontendInputs: inputs, Exporters: exporters})
			switch {
			case err == nil:
				fine.Add(1)
			case ctx.Err() != nil, strings.Contains(err.Error(), "internal error"), strings.Contains(err.Error(), "panic:"), strings.Contains(err.Error(), "build record"):
				t.Errorf("%s: %v, %v", what, err, context.Cause(ctx))
			}
			return nil
		})
	}
	for _, key := range []string{
		"context", "dockerfilekey", "contextkey", "filename", "target", "platform", "multi-platform", "no-cache", "cgroup-parent", "hostname", "shm-size", "ulimit", "add-hosts", "force-network-mode",
		"image-resolve-mode", "requestid", "frontend.caps", "cmdline", "source", "build-arg:A", "build-arg:SOURCE_DATE_EPOCH", "build-arg:BUILDKIT_SYNTAX", "build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR", "build-arg:",
		"label:", "label:a", "context:", "context:one", "context:scratch", "input-metadata:context", "attest:provenance", "attest:sbom", "attest:", "linux.memory", "source-policy", "device", "local-sessionid:",
	} {
		for _, v := range []string{"", "x", "\xff", "linux/amd64,linux/arm64", "-1", "input:", "input:nosuch", "input:context", "frontend.targets", "mode=max,version=v1", "[", "{}", "null", "a=b=c"} {
			for _, frontend := range []string{"dockerfile.v0", "gateway.v0"} {
				try(fmt.Sprintf("%s with %s=%q", frontend, key, v), frontend, func(attrs map[string]string, _ map[string]*pb.Definition) { attrs[key] = v })
			}
		}
	}
	for _, d := range []*pb.Definition{nil, {}, {Def: [][]byte{nil}}, {Def: [][]byte{{0xff}}}, {Def: def.Def[:1]}} {
		for _, name := range []string{"context", "dockerfile", ""} {
			try(fmt.Sprintf("input %q is %v", name, d), "dockerfile.v0", func(_ map[string]string, inputs map[string]*pb.Definition) { inputs[name] = d })
		}
	}
	for _, typ := range []string{"image", "oci", "docker", "local", "tar", "registry", "moby", "x"} {
		for _, key := range []string{"name", "push", "store", "compression", "compression-level", "tar", "src", "source-date-epoch", "platform-split", "attestation-prefix", "annotation.a", "annotation[", "containerimage.config", "containerimage.config/linux/amd64", "dest", "unpack"} {
			for _, v := range []string{"", "true", "x", "\xff", "../../x", "-99", "{}", `{"os":"linux","rootfs":{"diff_ids":["x"]}}`} {
				try(fmt.Sprintf("%s with %s=%q", typ, key, v), "dockerfile.v0", func(map[string]string, map[string]*pb.Definition) {}, &controlapi.Exporter{Type: typ, Attrs: map[string]string{key: v}})
			}
		}
	}
	// Targets are listed without a linter, which comments are about.
	commented, err := llb.Scratch().File(llb.Mkfile("/Dockerfile", 0o600, []byte("FROM scratch\n# check=skip=all\nLABEL a=b\n"))).Marshal(t.Context())
	must(t, err)
	try("a comment", "dockerfile.v0", func(attrs map[string]string, inputs map[string]*pb.Definition) {
		attrs["requestid"], attrs["frontend.caps"], inputs["dockerfile"] = "frontend.targets", "moby.buildkit.frontend.subrequests", commented.ToPB()
	})
	must(t, all.Wait())
	if n := tried.Load(); fine.Load() < n/10 {
		t.Errorf("%d of %d builds come to a good end: it tests little", fine.Load(), n)
	}
	t.Logf("%d of %d builds come to a good end", fine.Load(), tried.Load())
	if all, err := s.api.ListenBuildHistory(t.Context(), &controlapi.BuildHistoryRequest{EarlyExit: true, Limit: 1}); err != nil || all == nil {
		t.Errorf("after all that: %v", err)
	}
}
