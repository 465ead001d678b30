package engine

import (
	"context"
	"io"
	"os"
	"strconv"
	"sync"
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
func (r *Run) httpSource(n *node, op *pb.SourceOp) (keyLines, error) {
	req, err := httpsource.Parse(op)
	if err != nil {
		return nil, err
	}
	if req.Checksum != "" {
		return httpLines(req, &httpsource.File{Digest: req.Checksum, Name: req.Name()}), nil
	}
	f, err := r.httpFile(n, op)
	if err != nil {
		return nil, err
	}
	return httpLines(req, f), nil
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
func (r *Run) httpValue(n *node, op *pb.SourceOp) (Value, error) {
	id, err := n.identity()
	if err != nil {
		return Value{}, err
	}
	res, found, _, err := r.recall(id.key)
	if err != nil {
		return Value{}, err
	}
	if found && !res.Planned {
		r.tellCached(n)
		return fromRecord(res).outputs[0], nil
	}
	f, err := r.httpFile(n, op)
	if err != nil {
		return Value{}, err
	}
	req, err := httpsource.Parse(op)
	if err != nil {
		return Value{}, err
	}
	now := time.Now()
	layerID, err := r.Engine.opt.Store.Plan(&httpPlan{store: r.Engine.opt.Store, req: req, file: f}, now)
	if err != nil {
		return Value{}, err
	}
	r.keepPlan(layerID)
	v := Value{Snapshot: layer.Snapshot{layerID}}
	r.tellCached(n)
	return v, r.keep(r.ctx, r.pendingResult(n, id, []Value{v}, store.Result{Created: now}))
}

// httpFile finds out what the URL names, once per build and request, whatever platform asks. What is
// fetched for it is a step of the display.
func (r *Run) httpFile(n *node, op *pb.SourceOp) (*httpsource.File, error) {
	req, err := httpsource.Parse(op)
	if err != nil {
		return nil, err
	}
	key := r.httpQuestion(req)
	r.Group.mu.Lock()
	f := r.httpFiles[key]
	if f == nil {
		f = sync.OnceValues(func() (*httpsource.File, error) { return r.askHTTP(n, req) })
		r.httpFiles[key] = f
	}
	r.Group.mu.Unlock()
	return f()
}

func (r *Run) askHTTP(n *node, req *httpsource.Request) (*httpsource.File, error) {
	began := time.Now()
	a := r.asking(n)
	fetched := false
	f, err := r.http.Resolve(r.ctx, req, httpsource.Env{
		Secret: r.opt.Secrets.Secret, Uploads: r.opt.Uploads,
		Progress: func(current, total int64) {
			fetched = true
			if step := a.start(); step != nil {
				step.Status("downloading "+req.Name(), current, total, false)
			}
		},
	})
	if fetched && err == nil && n != nil {
		a.start().Status("downloading "+req.Name(), f.Size, f.Size, true)
	}
	if !a.done(err) {
		return f, err
	}
	rec := StepRecord{Name: n.v.Name(), Digest: n.v.Digest, Reason: "the server has another file", Started: began, Took: time.Since(began)}
	if err != nil {
		rec.Error = err.Error()
	}
	r.record(rec)
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
