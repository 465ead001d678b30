package engine

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	httpsource "github.com/slipway-build/slipway/internal/source/http"
	"github.com/slipway-build/slipway/internal/store"
)

// httpSource writes the key of a file from a server. One with a checksum is known without asking,
// as in BuildKit; so its time is in no key.
func (r *Run) httpSource(ctx context.Context, n *node, op *pb.SourceOp) (keyLines, error) {
	req, err := httpsource.Parse(op)
	if err != nil {
		return nil, err
	}
	if req.Checksum != "" && !req.Signature.Wanted() {
		return httpLines(req, &httpsource.File{Digest: req.Checksum, Name: req.Name()}), nil
	}
	f, err := r.signedFile(ctx, n, op)
	if err != nil {
		return nil, err
	}
	return httpLines(req, f), nil
}

// signedFile is httpFile for a file whose signature must be the one that is wanted.
func (r *Run) signedFile(ctx context.Context, n *node, op *pb.SourceOp) (*httpsource.File, error) {
	req, err := httpsource.Parse(op)
	if err != nil {
		return nil, err
	}
	f, err := r.httpFile(ctx, n, op)
	if err != nil || !req.Signature.Wanted() {
		return f, err
	}
	content := layer.Content(blobContent{r.Engine.opt.Store, f.Digest})
	if f.Path != "" {
		content = fileContent(f.Path)
	}
	rc, err := content.Open()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", req, err)
	}
	defer rc.Close()
	return f, req.Signature.Verify(rc)
}

// httpLines writes the key of an http source.
func httpLines(req *httpsource.Request, f *httpsource.File) keyLines {
	var k keyLines
	k.add("operation", "http")
	k.add("content", f.Digest.String())
	k.add("name", f.Name)
	k.add("mode", strconv.FormatUint(uint64(req.Mode()), 8))
	k.add("owner", strconv.Itoa(req.UID)+":"+strconv.Itoa(req.GID))
	if !f.Modified.IsZero() {
		k.add("modified", f.Modified.UTC().Format(time.RFC3339))
	}
	return k
}

// httpValue gives the file as a layer: of an earlier build, or planned, so that who reads it reads
// the blob.
func (r *Run) httpValue(ctx context.Context, n *node, op *pb.SourceOp) (Value, error) {
	id, err := n.identity(ctx)
	if err != nil {
		return Value{}, err
	}
	res, found, _, err := r.recall(ctx, id.key)
	if err != nil {
		return Value{}, err
	}
	if found && !res.Planned {
		r.tellCached(n)
		return fromRecord(res).outputs[0], nil
	}
	out, err := r.plan(ctx, n, id, warming{}, nil, func(ctx context.Context, f *flight) (*outcome, error) {
		return r.planHTTP(ctx, f, n, id, op)
	})
	if err != nil {
		return Value{}, err
	}
	r.tellCached(n)
	return out.outputs[0], nil
}

// planHTTP makes a layer of the file.
func (r *Run) planHTTP(ctx context.Context, f *flight, n *node, id identity, op *pb.SourceOp) (*outcome, error) {
	file, err := r.httpFile(ctx, n, op)
	if err != nil {
		return nil, err
	}
	req, err := httpsource.Parse(op)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	layerID, err := r.Engine.opt.Store.Plan(&httpPlan{store: r.Engine.opt.Store, req: req, file: file}, now)
	if err != nil {
		return nil, err
	}
	f.keepPlan(layerID)
	outputs := f.made([]Value{{Snapshot: layer.Snapshot{layerID}}})
	f.await(r.pendingResult(n, id, warming{}, outputs, store.Result{Created: now}))
	return &outcome{outputs: outputs}, r.keep(ctx, f.shared)
}

// httpFile finds out what the URL names, once for all runs and request, whatever platform asks. What is
// fetched for it is a step of displays. n may be nil.
func (r *Run) httpFile(ctx context.Context, n *node, op *pb.SourceOp) (*httpsource.File, error) {
	req, err := httpsource.Parse(op)
	if err != nil {
		return nil, err
	}
	p := pool(r, r.httpFiles, r.httpQuestion(req), true)
	return answer(ctx, r, p, n, func(ctx context.Context) (*httpsource.File, error) {
		return r.askHTTP(ctx, &p.audience, req)
	})
}

func (r *Run) askHTTP(ctx context.Context, whom *audience, req *httpsource.Request) (*httpsource.File, error) {
	began := time.Now()
	a := whom.asking()
	fetched := false
	f, err := r.http.Resolve(ctx, req, httpsource.Env{
		Secret: r.opt.Secrets.Secret, Uploads: r.opt.Uploads,
		Progress: func(current, total int64) {
			fetched = true
			if step := a.start(); step != nil {
				step.Status("downloading "+req.Name(), current, total, false)
			}
		},
	})
	if fetched && err == nil {
		a.start().Status("downloading "+req.Name(), f.Size, f.Size, true)
	}
	if !a.done(ctx.Err() != nil, err) {
		return f, err
	}
	rec := StepRecord{Reason: "the server has another file", Started: began, Took: time.Since(began)}
	if err != nil {
		rec.Error = err.Error()
	}
	whom.record(rec)
	return f, err
}

// httpPlan is a file from a server as a layer.
type httpPlan struct {
	store *store.Store
	req   *httpsource.Request
	file  *httpsource.File
}

// WriteTo implements [store.Planned].
func (p *httpPlan) WriteTo(sink layer.Sink) error {
	modified := p.file.Modified
	if modified.IsZero() {
		modified = time.Unix(0, 0)
	}
	e := &layer.Entry{
		Path: p.file.Name, Mode: unix.S_IFREG | p.req.Mode(), UID: uint32(p.req.UID), GID: uint32(p.req.GID),
		Size: p.file.Size, ModTime: modified,
	}
	if e.Size > 0 {
		e.Content, e.Digest = blobContent{p.store, p.file.Digest}, p.file.Digest
		if p.file.Path != "" {
			e.Content = fileContent(p.file.Path)
		}
	}
	return sink.Add(e)
}

// blobContent is a file that is a whole blob.
type blobContent struct {
	store  *store.Store
	digest digest.Digest
}

// Open implements [layer.Content]. The reader verifies.
func (b blobContent) Open() (io.ReadCloser, error) {
	return b.store.OpenBlob(context.Background(), b.digest)
}

// fileContent is a file of the host that nobody changes during the build.
type fileContent string

// Open implements [layer.Content].
func (f fileContent) Open() (io.ReadCloser, error) { return os.Open(string(f)) }
