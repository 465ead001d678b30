package control

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/load"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/reasons"
	"github.com/slipway-build/slipway/internal/store"
)

func newStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

const bundled = "20260102-030405.000000-0123abcd"

// bundledRecord is a record with each file that a build may leave.
func bundledRecord() (files map[string]string) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	asJSON := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return string(data)
	}
	piece := strings.Repeat("\x00\x01a0123456789", 5)
	return map[string]string{
		"record.json": asJSON(&build.Record{ID: bundled, Context: "/src/app", Started: began, Took: time.Second, Steps: []engine.StepRecord{{Name: "[1/1] RUN x", Digest: digest.FromString("x"), Key: "k", Started: began}}}),
		"graph.json":  asJSON(&reasons.Build{Vertices: []reasons.Vertex{{Name: "[1/1] RUN x", Key: "k", Lines: []string{"operation exec"}}}}),
		"log":         "#1 [1/1] RUN x\n#1 0.1 hello\n", "processes.json": "[]", "lists-0123456789abcdef01234567": "{}",
		"files-" + reasons.PieceName([]byte(piece)): piece,
	}
}

// leave leaves the record of a build in a store.
func leave(t *testing.T, s *store.Store, files map[string]string) {
	t.Helper()
	dir, err := s.NewBuild(bundled)
	must(t, err)
	for name, data := range files {
		must(t, os.WriteFile(filepath.Join(dir.Path, name), []byte(data), 0o600))
	}
	must(t, dir.Close())
}

// What one store exports another one imports, byte for byte, and once.
func TestBundle(t *testing.T) {
	ctx := context.Background()
	from, to := newStore(t), newStore(t)
	files := bundledRecord()
	leave(t, from, files)
	must(t, os.WriteFile(filepath.Join(from.Root(), "builds", bundled, "unknown"), []byte("secret"), 0o600))
	var out bytes.Buffer
	must(t, WriteBundle(&out, from, []string{bundled}))
	read := func(s *store.Store, there bool) {
		t.Helper()
		all, err := ReadBundle(ctx, s, bytes.NewReader(out.Bytes()))
		if err != nil || len(all) != 1 || all[0] != (Imported{bundled, there}) {
			t.Fatalf("imported are %v, %v", all, err)
		}
	}
	read(to, false)
	read(to, true)
	read(from, true)
	dir := filepath.Join(to.Root(), "builds", bundled)
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v, want %q", name, got, err, want)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "unknown")); err == nil {
		t.Error("a file that no build leaves was taken along")
	}
	for s, imported := range map[*store.Store]bool{from: false, to: true} {
		all, err := build.Records(s)
		if err != nil || len(all) != 1 || all[0].Imported != imported || all[0].Running || len(all[0].Steps) != 1 {
			t.Errorf("records are %+v, %v", all, err)
		}
		// Clients hear of what was built here alone.
		h := newHistory()
		if told, err := h.list(s); err != nil || (len(told) == 0) != imported {
			t.Errorf("clients are told of %d builds, %v", len(told), err)
		}
	}
	// What was imported is exported again as it came.
	var again bytes.Buffer
	must(t, WriteBundle(&again, to, []string{bundled}))
	third := newStore(t)
	if all, err := ReadBundle(ctx, third, &again); err != nil || len(all) != 1 {
		t.Errorf("of the second export are imported %v, %v", all, err)
	}
	files["log"] = "another"
	fourth := newStore(t)
	leave(t, fourth, files)
	if _, err := ReadBundle(ctx, fourth, bytes.NewReader(out.Bytes())); err == nil || !strings.Contains(err.Error(), "with another log") {
		t.Errorf("a record of the same ID: %v", err)
	}
	if got, _ := os.ReadFile(filepath.Join(fourth.Root(), "builds", bundled, "log")); string(got) != "another" {
		t.Error("a record was overwritten")
	}
}

// event is an event in the form of a log.
func event(r *controlapi.StatusResponse) []byte {
	data, err := r.MarshalVT()
	if err != nil {
		panic(err)
	}
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(data))), data...)
}

// foreign is a bundle as another builder writes one, changed before it is written.
type foreign struct {
	rec    *controlapi.BuildHistoryRecord
	log    []byte
	layers []ocispec.Descriptor
	files  map[string][]byte // of slipway's
	config string            // type
	twice  bool
	after  func(name string, data []byte) []byte // what becomes of a file
}

func (f *foreign) bundle(t *testing.T) io.Reader {
	t.Helper()
	var out bytes.Buffer
	b := &bundle{tar: tar.NewWriter(&out), has: map[digest.Digest]bool{}}
	write := func(name string, data []byte) {
		if f.after != nil {
			data = f.after(name, data)
		}
		must(t, b.file(name, data))
	}
	blob := func(mediaType string, data []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		write(blobName(d.Digest), data)
		return d
	}
	document := func(mediaType string, v any) ocispec.Descriptor {
		data, err := json.Marshal(v)
		must(t, err)
		return blob(mediaType, data)
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Layers: f.layers}
	if f.log != nil {
		d := blob(typeStatus, f.log)
		f.rec.Logs = &controlapi.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size}
		m.Layers = append(m.Layers, d)
	}
	for name, data := range f.files {
		d := blob(typeFile, data)
		d.Annotations = map[string]string{ocispec.AnnotationTitle: name}
		m.Layers = append(m.Layers, d)
	}
	m.Config = document(f.config, &bundleRecord{f.rec, "linux/amd64"})
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{document(ocispec.MediaTypeImageManifest, &m)}}
	if f.twice {
		m.Annotations = map[string]string{"again": "yes"}
		index.Manifests = append(index.Manifests, document(ocispec.MediaTypeImageManifest, &m))
	}
	data, err := json.Marshal(&index)
	must(t, err)
	write(ocispec.ImageIndexFile, data)
	must(t, b.tar.Close())
	return &out
}

func newForeign() *foreign {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(ms int) *timestamppb.Timestamp {
		return timestamppb.New(began.Add(time.Duration(ms) * time.Millisecond))
	}
	one, two := digest.FromString("1").String(), digest.FromString("2").String()
	var log []byte
	for _, r := range []*controlapi.StatusResponse{
		{Vertexes: []*controlapi.Vertex{{Digest: one, Name: "[internal] load build definition from Dockerfile", Started: at(0)}}},
		{Vertexes: []*controlapi.Vertex{{Digest: one, Name: "[internal] load build definition from Dockerfile", Started: at(0), Completed: at(20)}}},
		{Vertexes: []*controlapi.Vertex{{Digest: two, Name: "[build 2/2] RUN make", Inputs: []string{one}, Started: at(20)}}},
		{Logs: []*controlapi.VertexLog{{Vertex: two, Stream: 1, Timestamp: at(500), Msg: []byte("hello\n")}}},
		{Vertexes: []*controlapi.Vertex{{Digest: two, Name: "[build 2/2] RUN make", Inputs: []string{one}, Started: at(20), Completed: at(1020)}}},
	} {
		log = append(log, event(r)...)
	}
	return &foreign{config: typeRecord, log: log, rec: &controlapi.BuildHistoryRecord{
		Ref: "k3qt0wblnd2ywr9ufcn8zvyg5", Frontend: "dockerfile.v0", CreatedAt: at(0), CompletedAt: at(1500),
		FrontendAttrs:    map[string]string{"vcs:localdir:context": "/home/me/app", "filename": "Dockerfile", "target": "build", "platform": "linux/amd64,linux/arm64"},
		ExporterResponse: map[string]string{"containerimage.config.digest": "sha256:1", "image.name": "a:1,a:2"},
		Error:            &spb.Status{Code: 2, Message: "no luck", Details: []*anypb.Any{{TypeUrl: "type.googleapis.com/nobody.knows.It", Value: []byte("x")}}},
	}}
}

// Of what another builder has recorded there are a record and a log.
func TestForeignBundle(t *testing.T) {
	s := newStore(t)
	all, err := ReadBundle(context.Background(), s, newForeign().bundle(t))
	if err != nil || len(all) != 1 {
		t.Fatalf("imported are %v, %v", all, err)
	}
	again, err := ReadBundle(context.Background(), s, newForeign().bundle(t))
	if err != nil || len(again) != 1 || !again[0].There || again[0].ID != all[0].ID {
		t.Errorf("imported again are %v, %v", again, err)
	}
	records, err := build.Records(s)
	must(t, err)
	r := records[0]
	got := fmt.Sprint(r.ID[:23], r.Context, r.File, r.Target, r.Platforms, r.Names, r.ImageID, r.Error, r.Took, r.Imported, len(r.Phases), len(r.Steps), r.Steps[0].Name, r.Steps[0].Took, len(r.Steps[0].Inputs))
	want := fmt.Sprint("20260102-030405.000000-", "/home/me/app", "Dockerfile", "build", []string{"linux/amd64", "linux/arm64"}, []string{"a:1", "a:2"}, "sha256:1", "no luck", 1500*time.Millisecond, true, 1, 1, "[build 2/2] RUN make", time.Second, 1)
	if got != want {
		t.Errorf("the record is\n%s, want\n%s", got, want)
	}
	log, err := r.Log()
	must(t, err)
	defer log.Close()
	text, err := io.ReadAll(log)
	if err != nil || !strings.Contains(string(text), "#2 [build 2/2] RUN make\n#2 0.480 hello\n#2 DONE 1.0s\n") {
		t.Errorf("the log is %q, %v", text, err)
	}
}

// Whatever is in a bundle leaves nothing where it should not, and ends nobody.
func TestHostileBundle(t *testing.T) {
	own := func(f *foreign, name, data string) {
		f.files = map[string][]byte{}
		for n, d := range bundledRecord() {
			f.files[n] = []byte(d)
		}
		f.files[name] = []byte(data)
	}
	record := func(change func(*build.Record)) string {
		var r build.Record
		if err := json.Unmarshal([]byte(bundledRecord()["record.json"]), &r); err != nil {
			panic(err)
		}
		change(&r)
		data, _ := json.Marshal(&r)
		return string(data)
	}
	for name, tt := range map[string]struct {
		change func(f *foreign)
		want   string // "": it is imported
	}{
		"another digest": {func(f *foreign) {
			f.after = func(name string, data []byte) []byte {
				if strings.HasPrefix(name, "blobs/") && bytes.Contains(data, []byte("RUN make")) {
					return append(data, 'x')
				}
				return data
			}
		}, "the content of blobs/sha256/"},
		"a layer that is not there": {func(f *foreign) { f.layers = []ocispec.Descriptor{{Digest: digest.FromString("none"), Size: 4}} }, "is not in the archive"},
		"no digest":                 {func(f *foreign) { f.layers = []ocispec.Descriptor{{Digest: "sha256:../../x", Size: 4}} }, "digest"},
		"an image":                  {func(f *foreign) { f.config = ocispec.MediaTypeImageConfig }, "is no record of a build"},
		"two of one":                {func(f *foreign) { f.twice = true }, "there are two of build"},
		"no ref":                    {func(f *foreign) { f.rec.Ref = "" }, "a ref of 0 bytes"},
		"a long ref":                {func(f *foreign) { f.rec.Ref = strings.Repeat("x", 1000) }, "a ref of 1000 bytes"},
		"no time":                   {func(f *foreign) { f.rec.CreatedAt = nil }, "when it began"},
		"no such time":              {func(f *foreign) { f.rec.CompletedAt = &timestamppb.Timestamp{Seconds: 1 << 60} }, "when it ended"},
		"the future":                {func(f *foreign) { f.rec.CreatedAt = timestamppb.New(time.Now().Add(1000 * time.Hour)) }, "something in it was at"},
		"nothing of what it says": {func(f *foreign) {
			f.rec.Results = map[string]*controlapi.BuildResultInfo{"x": nil, "y": {Results: map[int64]*controlapi.Descriptor{1: nil}, Attestations: []*controlapi.Descriptor{nil}}}
			f.rec.Exporters = []*controlapi.Exporter{nil}
		}, ""},
		"no log":        {func(f *foreign) { f.log, f.rec.Logs = nil, &controlapi.Descriptor{Digest: "sha256:x"} }, ""},
		"a damaged log": {func(f *foreign) { f.log = append(binary.LittleEndian.AppendUint32(nil, 1<<31), "xxx"...) }, "it is damaged"},
		"half of a log": {func(f *foreign) { f.log = f.log[:len(f.log)-5] }, ""},
		"ends without a beginning": {func(f *foreign) {
			d := digest.FromString("3").String()
			for range 2 {
				f.log = append(f.log, event(&controlapi.StatusResponse{
					Vertexes: []*controlapi.Vertex{{Digest: d, Name: "[3/3] RUN x", Completed: f.rec.CompletedAt}, {Digest: d, Completed: f.rec.CreatedAt}},
					Logs:     []*controlapi.VertexLog{{Vertex: d, Stream: -7, Msg: []byte("x\n")}, {Vertex: "nobody", Stream: 1 << 40}},
					Statuses: []*controlapi.VertexStatus{{Vertex: d, ID: "x", Total: -1, Current: -1, Completed: f.rec.CompletedAt}},
				})...)
			}
		}, ""},
		"too many steps": {func(f *foreign) {
			for i := range maxForeignVertices + 1 {
				f.log = append(f.log, event(&controlapi.StatusResponse{Vertexes: []*controlapi.Vertex{{Digest: fmt.Sprint(i)}}})...)
			}
		}, "it tells of more than"},
		"too many states": {func(f *foreign) {
			for i := range maxForeignStatuses + 1 {
				f.log = append(f.log, event(&controlapi.StatusResponse{Statuses: []*controlapi.VertexStatus{{Vertex: "x", ID: fmt.Sprint(i)}}})...)
			}
		}, "it tells of more than"},
		"a name that leads out": {func(f *foreign) { own(f, "../../evil", "x") }, `"../../evil" is no file of a record`},
		"its own mark":          {func(f *foreign) { own(f, "pinned", "") }, `"pinned" is no file of a record`},
		"what clients are told": {func(f *foreign) { own(f, "client.json", "{}") }, `"client.json" is no file of a record`},
		"no record":             {func(f *foreign) { own(f, "record.json", "{}") }, `"" is no ID of a build`},
		"no JSON":               {func(f *foreign) { own(f, "record.json", "x") }, "record.json: invalid character"},
		"an ID that leads out": {func(f *foreign) {
			own(f, "record.json", record(func(r *build.Record) { r.ID = "../../20260102-030405" }))
		}, "is no ID of a build"},
		"an ID that goes on":  {func(f *foreign) { own(f, "record.json", record(func(r *build.Record) { r.ID += "/x" })) }, "is no ID of a build"},
		"an ID of the future": {func(f *foreign) { own(f, "record.json", record(func(r *build.Record) { r.ID = "9" + r.ID[1:] })) }, "something in it was at"},
		"less than no time":   {func(f *foreign) { own(f, "record.json", record(func(r *build.Record) { r.Steps[0].Took = -1 << 63 })) }, "something in it took"},
		"more steps than there are": {func(f *foreign) {
			own(f, "record.json", record(func(r *build.Record) { r.Steps = make([]engine.StepRecord, 10_001) }))
		}, "it has 10001 steps"},
		"more inputs than there are": {func(f *foreign) {
			own(f, "record.json", record(func(r *build.Record) { r.Phases = []progress.Span{{Inputs: make([]digest.Digest, 200_001)}} }))
		}, "it has 200001 inputs"},
		"a graph that goes round": {func(f *foreign) { own(f, "graph.json", `{"vertices":[{"name":"a","inputs":[0]}]}`) }, "does not come before it"},
		"another piece":           {func(f *foreign) { own(f, "files-"+strings.Repeat("0", 24), "x") }, "another content than its name says"},
		"lists of something":      {func(f *foreign) { own(f, "lists-"+strings.Repeat("0", 24), "[1]") }, "cannot unmarshal"},
		"processes of something":  {func(f *foreign) { own(f, "processes.json", "{}") }, "cannot unmarshal"},
		"a log of something":      {func(f *foreign) { own(f, "log.gz", "x") }, "log.gz: "},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			f := newForeign()
			tt.change(f)
			all, err := ReadBundle(context.Background(), s, f.bundle(t))
			if tt.want == "" {
				if err != nil || len(all) != 1 {
					t.Fatalf("imported are %v, %v", all, err)
				}
				var out bytes.Buffer
				must(t, WriteBundle(&out, s, []string{all[0].ID}))
				return
			}
			if !errors.Is(err, load.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("it says %v, want %q", err, tt.want)
			}
			if names, err := s.BuildNames(); err != nil || len(names) != 0 {
				t.Errorf("it left %v, %v", names, err)
			}
		})
	}
}
