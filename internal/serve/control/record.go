package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/buildkit/util/stack"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/store"
)

// Beside what a build itself leaves in its directory there is, for a client's, clientFile with what the client asked for and was
// told, and the files that it names. It is written when the build begins, and again when it has ended.
const (
	clientFile = "client.json"
	statusFile = "status"
)

// The types of what a record consists of are BuildKit's.
const (
	typeStatus     = "application/vnd.buildkit.status.v0"
	typeError      = "application/vnd.googleapis.google.rpc.status+proto"
	typeProvenance = "application/vnd.in-toto+json"

	predicateAnnotation = "in-toto.io/predicate-type"
	predicateSLSA1      = "https://slsa.dev/provenance/v1"
)

// How much of what a client says is recorded, and of what it is told.
const (
	maxRecorded = 256 << 10 // of attributes, or of a response
	maxOutputs  = 100
	maxMessage  = 64 << 10 // of an error
)

// clientRecord is what clientFile has.
type clientRecord struct {
	Record json.RawMessage          `json:"record"` // a BuildHistoryRecord
	Files  map[digest.Digest]string `json:"files,omitempty"`
}

// record is that of a build under way.
type record struct {
	h     *history
	dir   *store.BuildDir
	rec   *controlapi.BuildHistoryRecord
	files map[digest.Digest]string
}

// begin makes the directory of a build, and says in it who asked for what.
func (h *history) begin(ctx context.Context, st *store.Store, solve *Solve) (*record, error) {
	id, err := build.NewID(time.Now())
	if err != nil {
		return nil, fmt.Errorf("starting build record: %w", err)
	}
	left := maxRecorded
	r := &record{h: h, files: map[digest.Digest]string{}, rec: &controlapi.BuildHistoryRecord{
		Ref: solve.Ref, Frontend: solve.Frontend, FrontendAttrs: recordedAttrs(solve.Attrs, &left), CreatedAt: timestamppb.Now(),
	}}
	for _, o := range solve.Outputs[:min(len(solve.Outputs), maxOutputs)] {
		r.rec.Exporters = append(r.rec.Exporters, &controlapi.Exporter{Type: o.Type, Attrs: recordedAttrs(o.Attrs, &left)})
	}
	err = st.Again(ctx, st.Root(), func() (err error) {
		r.dir, err = st.NewBuild(id)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("starting build record: %w", err)
	}
	if err := r.write(ctx, st); err != nil {
		return nil, errors.Join(fmt.Errorf("starting build record: %w", err), os.RemoveAll(r.dir.Path), r.dir.Close())
	}
	h.tell()
	return r, nil
}

// recordedAttrs are attributes as they are recorded: without what is secret or is nobody else's business. The ID of a session is as good
// as what the session gives; a cache's attributes may be tokens; values of arguments are kept nowhere, but those that BuildKit itself reads.
func recordedAttrs(attrs map[string]string, left *int) map[string]string {
	all := map[string]string{}
	for k, v := range attrs {
		switch arg, isArg := strings.CutPrefix(k, "build-arg:"); {
		case len(v) > *left, strings.HasPrefix(k, "local-sessionid:"), k == "cache-imports", k == "cache-from", k == "cache-to":
			continue
		case isArg && !strings.HasPrefix(arg, "BUILDKIT_") && arg != "SOURCE_DATE_EPOCH":
			v = "***"
		}
		all[k] = outbound.Redact(v)
	}
	return recordedTexts(all, left)
}

// recordedTexts are texts by their names such as messages may have, without those that take more bytes than are left.
func recordedTexts(texts map[string]string, left *int) map[string]string {
	all := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(texts)) {
		name, text := validText(k), validText(texts[k])
		if n := len(name) + len(text); n <= *left {
			*left -= n
			all[name] = text
		}
	}
	return all
}

// logFile makes the file of what the build tells.
func (r *record) logFile() (*os.File, error) {
	return os.OpenFile(filepath.Join(r.dir.Path, statusFile), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
}

// write writes clientFile anew.
func (r *record) write(ctx context.Context, st *store.Store) error {
	data, err := protojson.Marshal(r.rec)
	if err != nil {
		return err
	}
	if data, err = json.Marshal(clientRecord{Record: data, Files: r.files}); err != nil {
		return err
	}
	path := filepath.Join(r.dir.Path, clientFile)
	return st.Again(ctx, st.Root(), func() error {
		if err := os.WriteFile(path+".new", data, 0o600); err != nil {
			return err
		}
		return os.Rename(path+".new", path)
	})
}

// finish completes the record, and closes its directory.
func (r *record) finish(ctx context.Context, st *store.Store, log *eventLog, res *Result, failure error) (err error) {
	defer func() {
		if err = errors.Join(err, r.dir.Close()); err != nil {
			err = fmt.Errorf("writing build record: %w", err)
		}
	}()
	r.rec.CompletedAt = timestamppb.Now()
	log.mu.Lock()
	c := log.counts
	log.mu.Unlock()
	r.rec.NumTotalSteps, r.rec.NumCachedSteps, r.rec.NumCompletedSteps, r.rec.NumWarnings = c.total, c.cached, c.completed, c.warnings
	err = st.Again(ctx, st.Root(), func() error {
		sum, size, err := log.save()
		if err == nil {
			r.files[sum] = statusFile
			r.rec.Logs = &controlapi.Descriptor{MediaType: typeStatus, Digest: sum.String(), Size: size}
		}
		return err
	})
	if err != nil {
		return err
	}
	if failure == nil && res == nil { // it panicked
		failure = errors.New("the build ended without a result")
	}
	if failure != nil {
		err = r.fail(ctx, st, failure)
	} else {
		err = r.succeed(ctx, st, res)
	}
	if err == nil {
		err = r.trace(ctx, st, c.steps)
	}
	if err != nil {
		return err
	}
	return r.write(ctx, st)
}

// trace records when the steps began and ended.
func (r *record) trace(ctx context.Context, st *store.Store, steps map[digest.Digest]stepCount) error {
	started := map[string]*client.Vertex{}
	for sum, s := range steps {
		if s.vertex != nil {
			started[sum.String()] = s.vertex
		}
	}
	data, err := traceOf(r.rec, started)
	if err == nil {
		r.rec.Trace, err = r.add(ctx, st, "trace.json", typeTrace, data)
	}
	return err
}

// add writes a file of the record.
func (r *record) add(ctx context.Context, st *store.Store, name, mediaType string, data []byte) (*controlapi.Descriptor, error) {
	err := st.Again(ctx, st.Root(), func() error { return os.WriteFile(filepath.Join(r.dir.Path, name), data, 0o600) })
	sum := digest.FromBytes(data)
	r.files[sum] = name
	return &controlapi.Descriptor{MediaType: mediaType, Digest: sum.String(), Size: int64(len(data))}, err
}

// fail records an error, with its details in a file, as BuildKit does.
func (r *record) fail(ctx context.Context, st *store.Store, failure error) error {
	p := statusOf(ctx, failure)
	data, err := proto.Marshal(p)
	if err != nil {
		return err
	}
	if r.rec.ExternalError, err = r.add(ctx, st, "error.pb", typeError, data); err != nil {
		return err
	}
	p.Details = nil
	r.rec.Error = p
	return nil
}

// statusOf is an error as clients get it, with where it arose, without passwords in addresses.
func statusOf(ctx context.Context, err error) *spb.Status {
	st, ok := grpcerrors.AsGRPCStatus(grpcerrors.ToGRPC(ctx, stack.Enable(err)))
	if !ok {
		st = status.New(codes.Unknown, err.Error())
	}
	p := st.Proto()
	if p.Message = outbound.Redact(validText(p.Message)); len(p.Message) > maxMessage {
		p.Message = strings.ToValidUTF8(p.Message[:maxMessage], "") + " ..."
	}
	return p
}

func (r *record) succeed(ctx context.Context, st *store.Store, res *Result) error {
	left := maxRecorded
	r.rec.ExporterResponse = recordedTexts(res.Response, &left)
	for i, platform := range slices.Sorted(maps.Keys(res.Provenance)) {
		d, err := r.add(ctx, st, fmt.Sprintf("provenance-%d.json", i), typeProvenance, res.Provenance[platform])
		if err != nil {
			return err
		}
		d.Annotations = map[string]string{predicateAnnotation: predicateSLSA1}
		info := r.result(platform)
		info.Attestations = append(info.Attestations, d)
	}
	maps.Copy(r.files, res.Manifests)
	for _, i := range slices.Sorted(maps.Keys(res.Descriptors)) {
		if i >= maxOutputs {
			break
		}
		info, d := r.result(""), descriptor(res.Descriptors[i], &left)
		if info.Results == nil {
			info.Results = map[int64]*controlapi.Descriptor{}
			info.ResultDeprecated = d //nolint:staticcheck // old clients read it
		}
		info.Results[int64(i)] = d
	}
	return nil
}

// result is what the record says of the result for a platform, or of one without any.
func (r *record) result(platform string) *controlapi.BuildResultInfo {
	if platform == "" {
		if r.rec.Result == nil {
			r.rec.Result = &controlapi.BuildResultInfo{}
		}
		return r.rec.Result
	}
	if r.rec.Results == nil {
		r.rec.Results = map[string]*controlapi.BuildResultInfo{}
	}
	if r.rec.Results[platform] == nil {
		r.rec.Results[platform] = &controlapi.BuildResultInfo{}
	}
	return r.rec.Results[platform]
}

// descriptor is one as it is recorded.
func descriptor(d ocispec.Descriptor, left *int) *controlapi.Descriptor {
	return &controlapi.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: recordedTexts(d.Annotations, left)}
}

// kept is a build of which a store has a record.
type kept struct {
	name    string // of the directory
	dir     string
	running bool
	rec     *controlapi.BuildHistoryRecord

	imported bool
	files    map[digest.Digest]string
	steps    []*controlapi.Vertex // of a build of the command line
}

// Of files of records that are read into memory.
const (
	maxClientFile = 4 << 20
	maxRecordFile = 64 << 20
)

// readKept reads what a build has left, or begun with.
func readKept(dir string) (*kept, error) {
	k := &kept{name: filepath.Base(dir), dir: dir}
	var c clientRecord
	err := readJSON(filepath.Join(dir, clientFile), maxClientFile, &c)
	if err == nil {
		k.rec, k.files = &controlapi.BuildHistoryRecord{}, c.Files
		if err = (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(c.Record, k.rec); err == nil && k.rec.Ref != "" {
			return k, nil
		}
		return nil, fmt.Errorf("reading the record of build %s: it is damaged: %w", k.name, err)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var r build.Record
	if err := readJSON(filepath.Join(dir, "record.json"), maxRecordFile, &r); err != nil {
		return nil, err
	}
	k.local(&r)
	k.addText()
	return k, nil
}

func readJSON(path string, most int64, into any) error {
	f, err := openKept(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return json.NewDecoder(io.LimitReader(f, most)).Decode(into)
}

// local makes a record of that of a build which no client asked for.
func (k *kept) local(r *build.Record) {
	k.rec = &controlapi.BuildHistoryRecord{
		Ref: k.name, Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{}, ExporterResponse: map[string]string{},
		CreatedAt: timestamppb.New(r.Started), CompletedAt: timestamppb.New(r.Started.Add(r.Took)), NumTotalSteps: int32(len(r.Steps)),
	}
	for key, v := range map[string]string{"target": r.Target, "platform": strings.Join(r.Platforms, ","), "filename": r.File, "context": r.Context} {
		if v != "" {
			k.rec.FrontendAttrs[key] = v
		}
	}
	if filepath.IsAbs(r.Context) {
		k.rec.FrontendAttrs["vcs:localdir:context"] = r.Context
	}
	if len(r.Names) > 0 {
		k.rec.ExporterResponse["image.name"] = strings.Join(r.Names, ",")
	}
	if r.Error != "" {
		k.rec.Error = &spb.Status{Code: int32(codes.Unknown), Message: r.Error}
	}
	for _, s := range r.Steps {
		end := s.Started.Add(s.Took)
		k.steps = append(k.steps, &controlapi.Vertex{
			Digest: s.Digest.String(), Name: s.Name, Cached: s.Cached, Error: s.Error,
			Started: timestamppb.New(s.Started), Completed: timestamppb.New(end),
		})
		if s.Cached {
			k.rec.NumCachedSteps++
		}
		if s.Error == "" {
			k.rec.NumCompletedSteps++
		}
	}
}
