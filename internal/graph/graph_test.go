package graph

import (
	"context"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// marshal serialises an operation and gives its digest.
func marshal(t testing.TB, op *pb.Op) ([]byte, digest.Digest) {
	t.Helper()
	data, err := op.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data, digest.FromBytes(data)
}

func source(id string) *pb.Op {
	return &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: id}}}
}

func run(args ...string) *pb.Op {
	return &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{Args: args, Cwd: "/"}, Mounts: []*pb.Mount{{Dest: "/"}}}}}
}

func on(op *pb.Op, inputs ...*pb.Input) *pb.Op {
	op.Inputs = inputs
	return op
}

// define makes a definition of operations; the last one is what the result points at.
func define(t testing.TB, ops ...*pb.Op) *pb.Definition {
	t.Helper()
	def := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}
	var last digest.Digest
	for _, op := range ops {
		var data []byte
		data, last = marshal(t, op)
		def.Def = append(def.Def, data)
	}
	root, _ := marshal(t, on(&pb.Op{}, &pb.Input{Digest: last.String()}))
	def.Def = append(def.Def, root)
	return def
}

func TestLoad(t *testing.T) {
	base := llb.Image("docker.io/library/busybox:latest")
	left := base.Run(llb.Shlex("left")).Root()
	right := base.Run(llb.Shlex("right")).Root()
	state := left.File(llb.Copy(right, "/a", "/b"))
	def, err := state.Marshal(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	e, err := Load(def.ToPB())
	if err != nil {
		t.Fatal(err)
	}
	if e.Vertex.Op.GetFile() == nil || e.Index != 0 || len(e.Vertex.Inputs) != 2 {
		t.Fatalf("the result is output %d of %q with %d inputs", e.Index, e.Vertex.Name(), len(e.Vertex.Inputs))
	}
	l, r := e.Vertex.Inputs[0].Vertex, e.Vertex.Inputs[1].Vertex
	if l.Name() != `["left"]` || r.Name() != `["right"]` {
		t.Errorf("the inputs are %s and %s", l.Name(), r.Name())
	}
	if l.Inputs[0].Vertex != r.Inputs[0].Vertex {
		t.Error("an operation that is used twice is two vertices")
	}
	for _, v := range []*Vertex{e.Vertex, l, r, l.Inputs[0].Vertex} {
		if _, d := marshal(t, v.Op); v.Digest != d {
			t.Errorf("%s has the digest %s, want %s", v.Name(), v.Digest, d)
		}
		if v.Meta == nil {
			t.Errorf("%s has no metadata", v.Name())
		}
	}
}

func TestLoadNothing(t *testing.T) {
	for _, def := range []*pb.Definition{nil, {}} {
		e, err := Load(def)
		if err != nil || e.Vertex != nil || e.Index != 0 {
			t.Errorf("no definition is %v, %v, want the empty filesystem", e, err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	base := source("docker-image://x")
	data, d := marshal(t, base)
	at := func(index int64) *pb.Input { return &pb.Input{Digest: d.String(), Index: index} }
	pointer := func(inputs ...*pb.Input) []byte {
		p, _ := marshal(t, on(&pb.Op{}, inputs...))
		return p
	}
	missing := &pb.Input{Digest: digest.FromString("nothing").String()}
	user, userDigest := marshal(t, on(run("x"), at(0), missing))
	single, _ := marshal(t, on(run("x"), at(0)))
	negative, negativeDigest := marshal(t, on(run("x"), at(-1)))
	headless, headlessDigest := marshal(t, &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{}}})
	tests := []struct {
		name string
		def  [][]byte
		want string
	}{
		{"no protobuf", [][]byte{[]byte("\xff\xff\xff")}, "reading LLB"},
		{"cut short", [][]byte{data[:len(data)-1], pointer(at(0))}, "reading LLB"},
		{"no pointer", [][]byte{data}, "no pointer to the result"},
		{"pointer at nothing", [][]byte{data, pointer()}, "0 inputs and is no pointer"},
		{"pointer at two", [][]byte{data, pointer(at(0), at(0))}, "2 inputs and is no pointer"},
		{"operation last", [][]byte{data, single}, "no pointer to the result"},
		{"pointer not last", [][]byte{pointer(at(0)), data}, "no pointer to the result"},
		{"missing result", [][]byte{data, pointer(missing)}, "operation " + missing.Digest + " is missing"},
		{"missing input", [][]byte{data, user, pointer(&pb.Input{Digest: userDigest.String()})}, "operation " + missing.Digest + " is missing"},
		{"no digest", [][]byte{data, pointer(&pb.Input{Digest: "../x"})}, "operation ../x is missing"},
		{"negative result", [][]byte{data, pointer(at(-1))}, "negative output index -1"},
		{"negative input", [][]byte{data, negative, pointer(&pb.Input{Digest: negativeDigest.String()})}, "negative output index -1"},
		{"process without a command", [][]byte{headless, pointer(&pb.Input{Digest: headlessDigest.String()})}, "invalid exec op with no meta"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, err := Load(&pb.Definition{Def: tt.def})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("loading gave %v, %v, want %q in the error", e.Vertex, err, tt.want)
			}
		})
	}
}

// What those who carry an operation out take for granted is there, whoever made the graph.
func TestValidate(t *testing.T) {
	mounts := func(m ...*pb.Mount) *pb.Op {
		op := run("x")
		op.GetExec().Mounts = m
		return op
	}
	merge := &pb.Op{Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{}}}}}
	diff := func(d *pb.DiffOp) *pb.Op { return &pb.Op{Op: &pb.Op_Diff{Diff: d}} }
	for _, tt := range []struct {
		op   *pb.Op
		want string
	}{
		{mounts(), "no rootfs"}, {mounts(&pb.Mount{Dest: "/x"}), "no rootfs"}, {run(), "no args"},
		{mounts(&pb.Mount{Dest: "/", Output: 1 << 40}), "output 1099511627776 of at most 1"}, {mounts(&pb.Mount{Dest: "/", Output: -2}), "output -2"},
		{&pb.Op{Op: &pb.Op_File{File: &pb.FileOp{}}}, "no actions"}, {merge, "1 inner inputs and 0 outer inputs"},
		{diff(&pb.DiffOp{}), "nil lower or upper input"}, {diff(&pb.DiffOp{Lower: &pb.LowerDiffInput{Input: -1}, Upper: &pb.UpperDiffInput{}}), "1 inner inputs and 0 outer inputs"},
		{&pb.Op{Op: &pb.Op_Passthrough{Passthrough: &pb.PassthroughOp{}}}, "no outputs"}, {&pb.Op{Op: &pb.Op_Build{Build: &pb.BuildOp{}}}, "llbbuild"}, {&pb.Op{}, "does nothing"},
	} {
		if _, err := Load(define(t, tt.op)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("loading %v gave %v, want %q", tt.op, err, tt.want)
		}
	}
}

// Digests make a cycle impossible; the loader does not rely on it.
func TestLoadCycle(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	l := loader{def: &pb.Definition{}, done: map[digest.Digest]*Vertex{}, ops: map[digest.Digest]*pb.Op{
		a: on(run("a"), &pb.Input{Digest: b.String()}),
		b: on(run("b"), &pb.Input{Digest: a.String()}),
	}}
	if _, err := l.vertex(a); err == nil || !strings.Contains(err.Error(), "depends on itself") {
		t.Errorf("a cycle gave %v", err)
	}
}

// A long chain is no problem, nor is a graph whose paths are many more than its vertices.
func TestLoadBigGraph(t *testing.T) {
	ops := []*pb.Op{source("docker-image://x")}
	_, last := marshal(t, ops[0])
	for range 20_000 {
		in := &pb.Input{Digest: last.String()}
		op := on(run("x"), in, in)
		_, last = marshal(t, op)
		ops = append(ops, op)
	}
	e, err := Load(define(t, ops...))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for v := e.Vertex; len(v.Inputs) > 0; v = v.Inputs[0].Vertex {
		n++
	}
	if n != 20_000 {
		t.Errorf("the chain has %d links", n)
	}
}

func TestSources(t *testing.T) {
	op := run("x")
	_, d := marshal(t, op)
	def := define(t, op)
	def.Source = &pb.Source{
		Infos: []*pb.SourceInfo{{Filename: "Dockerfile"}},
		Locations: map[string]*pb.Locations{d.String(): {Locations: []*pb.Location{
			{SourceIndex: 0, Ranges: []*pb.Range{{}, {Start: &pb.Position{Line: 3}, End: &pb.Position{Line: 3}}, {Start: &pb.Position{Line: 1}}, nil}},
			{SourceIndex: 1}, {SourceIndex: -1}, // there is no such file
			{SourceIndex: 0, Ranges: []*pb.Range{{End: &pb.Position{Line: 1}}}},
		}}},
	}
	e, err := Load(def)
	if err != nil {
		t.Fatal(err)
	}
	s := e.Vertex.Sources
	if len(s) != 1 || len(s[0].Ranges) != 2 || s[0].Ranges[1].End.GetLine() != 1 || s[0].Info.Filename != "Dockerfile" || s[0].Ranges[0].Start.Line != 3 {
		t.Errorf("the sources are %v", s)
	}
}

func TestName(t *testing.T) {
	tests := []struct {
		op   *pb.Op
		meta *pb.OpMetadata
		want string
	}{
		{source("docker-image://x"), nil, "docker-image://x"},
		{run("sh", "-c", "echo a b"), nil, `["sh" "-c" "echo a b"]`},
		{run("sh"), &pb.OpMetadata{Description: map[string]string{"llb.customname": "[1/2] RUN sh"}}, "[1/2] RUN sh"},
		{&pb.Op{Op: &pb.Op_File{File: &pb.FileOp{}}}, nil, "file operation"},
		{&pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{
			{Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/d"}}},
			{Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{Src: "/a", Dest: "/d/"}}},
		}}}}, nil, "mkdir /d, copy /a /d/"},
		{&pb.Op{Op: &pb.Op_Merge{Merge: &pb.MergeOp{}}}, nil, "merge"},
		{&pb.Op{Op: &pb.Op_Diff{Diff: &pb.DiffOp{}}}, nil, "diff"},
		{&pb.Op{Op: &pb.Op_Build{Build: &pb.BuildOp{}}}, nil, digest.FromString("d").String()},
	}
	for _, tt := range tests {
		v := &Vertex{Digest: digest.FromString("d"), Op: tt.op, Meta: tt.meta}
		if got := v.Name(); got != tt.want {
			t.Errorf("the name is %s, want %s", got, tt.want)
		}
	}
}

func canonical(t *testing.T, op *pb.Op) string {
	t.Helper()
	v := &Vertex{Op: op}
	data, err := v.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestCanonical(t *testing.T) {
	base := func() *pb.Op {
		op := on(run("sh", "-c", "x"), &pb.Input{Digest: digest.FromString("1").String()})
		op.GetExec().Meta.ExtraHosts = []*pb.HostIP{{Host: "a", IP: "1.2.3.4"}}
		op.GetExec().Mounts = []*pb.Mount{{Dest: "/c", CacheOpt: &pb.CacheOpt{ID: "one"}}}
		return op
	}
	tests := []struct {
		name   string
		change func(op *pb.Op)
		same   bool
	}{
		{"nothing", func(*pb.Op) {}, true},
		{"input", func(op *pb.Op) { op.Inputs[0].Digest = digest.FromString("2").String() }, true},
		{"input index", func(op *pb.Op) { op.Inputs[0].Index = 7 }, true},
		{"constraints", func(op *pb.Op) { op.Constraints = &pb.WorkerConstraints{Filter: []string{"x"}} }, true},
		{"proxy", func(op *pb.Op) { op.GetExec().Meta.ProxyEnv = &pb.ProxyEnv{HttpProxy: "http://proxy"} }, true},
		{"cache", func(op *pb.Op) {
			op.GetExec().Mounts[0].CacheOpt = &pb.CacheOpt{ID: "other", Sharing: pb.CacheSharingOpt_LOCKED}
		}, true},
		{"address", func(op *pb.Op) { op.GetExec().Meta.ExtraHosts[0].IP = "5.6.7.8" }, true},
		{"host", func(op *pb.Op) { op.GetExec().Meta.ExtraHosts[0].Host = "b" }, false},
		{"arguments", func(op *pb.Op) { op.GetExec().Meta.Args[2] = "y" }, false},
		{"split of arguments", func(op *pb.Op) { op.GetExec().Meta.Args = []string{"sh", "-c x"} }, false},
		{"environment", func(op *pb.Op) { op.GetExec().Meta.Env = []string{"HTTP_PROXY=x"} }, false},
		{"platform", func(op *pb.Op) { op.Platform = &pb.Platform{OS: "linux", Architecture: "arm64"} }, false},
		{"mount", func(op *pb.Op) { op.GetExec().Mounts = []*pb.Mount{{Dest: "/x"}} }, false},
	}
	for _, tt := range tests {
		op := base()
		tt.change(op)
		before := op.CloneVT()
		if same := canonical(t, op) == canonical(t, base()); same != tt.same {
			t.Errorf("with another %s the operation is the same: %t, want %t", tt.name, same, tt.same)
		}
		if !op.EqualVT(before) {
			t.Errorf("with another %s the operation itself was changed", tt.name)
		}
	}
}

// What BuildKit leaves out of the key of a RUN: where hosts are, and which cache is shown.
func TestCanonicalLeavesOut(t *testing.T) {
	op := func(ip string, cache *pb.CacheOpt) string {
		op := run("x")
		op.GetExec().Meta.ExtraHosts = []*pb.HostIP{{Host: "db", IP: ip}}
		op.GetExec().Mounts = []*pb.Mount{{Dest: "/c", MountType: pb.MountType_CACHE, CacheOpt: cache}}
		return canonical(t, op)
	}
	id := func(id string, sharing pb.CacheSharingOpt) *pb.CacheOpt {
		return &pb.CacheOpt{ID: id, Sharing: sharing}
	}
	if op("10.0.0.1", id("/c", 0)) != op("10.0.0.2", id("/c", 0)) {
		t.Error("the address of a host counts")
	}
	if op("", id("one", 0)) != op("", id("two", 0)) || op("", id("one", 0)) != op("", id("two", pb.CacheSharingOpt_LOCKED)) {
		t.Error("the id or the sharing of a named cache counts")
	}
	if op("", id("/c", 0)) == op("", id("one", 0)) || op("", id("/c", 0)) == op("", id("ns//c", 0)) {
		t.Error("the mount point as the id and a namespace do not count")
	}
}

// Whatever a map's order is, the bytes are the same.
func TestCanonicalIsStable(t *testing.T) {
	op := source("docker-image://x")
	op.GetSource().Attrs = map[string]string{}
	for _, k := range strings.Split("abcdefghijklmnopqrstuvwxyz", "") {
		op.GetSource().Attrs[k] = k
	}
	first := canonical(t, op)
	for range 50 {
		if canonical(t, op) != first {
			t.Fatal("the same operation has other bytes")
		}
	}
}

func TestIgnoreCache(t *testing.T) {
	if (&Vertex{Meta: &pb.OpMetadata{}}).IgnoreCache() || (&Vertex{}).IgnoreCache() {
		t.Error("the cache is ignored without being asked to")
	}
	if !(&Vertex{Meta: &pb.OpMetadata{IgnoreCache: true}}).IgnoreCache() {
		t.Error("the cache is not ignored")
	}
}

func FuzzLoad(f *testing.F) {
	a, d := marshal(f, run("x"))
	root, _ := marshal(f, on(&pb.Op{}, &pb.Input{Digest: d.String()}))
	f.Add(a, root)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		e, err := Load(&pb.Definition{Def: [][]byte{a, b}})
		if err == nil && e.Vertex != nil {
			_ = e.Vertex.Name()
			if _, err := e.Vertex.Canonical(); err != nil {
				t.Error(err)
			}
		}
	})
}
