package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Content is a blob or a manifest that is to be pushed.
type Content struct {
	// Desc says what it is. By its media type it is a manifest, or a blob.
	Desc ocispec.Descriptor
	// Open returns the content from its beginning. It is called when the registry turns out not to
	// have it, and again each time the upload begins anew. A reader that is an io.Seeker is not
	// read from the beginning when an upload is resumed.
	Open func(context.Context) (io.ReadCloser, error)
	// Sources are repositories that have had a blob, "docker.io/library/alpine". Those of the
	// registry that is pushed to are asked to share it.
	Sources []string
	// Progress, unless nil, is told how many bytes the registry was sent. The number falls when an
	// upload begins anew.
	Progress func(sent int64)
}

// Pushed says how content came to be in the registry.
type Pushed struct {
	Existed     bool   // it was there
	MountedFrom string // "library/alpine": a repository of the registry shared it
}

// Push brings content into the repository of ref. A manifest gets the tag of ref, unless ref has a
// digest or none: then it only has its digest. What a manifest refers to must be there before.
//
// What the registry has is not sent, what another of its repositories has is mounted from there. A
// blob whose upload breaks goes on where the registry says that it stopped, or begins anew where
// the registry does not know.
//
// Errors are those of [Client.Resolve], and what Content.Open or its reader returned.
func (c *Client) Push(ctx context.Context, ref string, content Content) (Pushed, error) {
	named, err := parsePush(ref, content.Desc)
	if err != nil {
		return Pushed{}, err
	}
	p := &push{client: c, op: newOperation(named, content.Desc), named: named, Content: content}
	p.op.push = true
	pushed, err := p.run(ctx)
	if err != nil {
		return Pushed{}, c.explain(ctx, p.op, err)
	}
	return pushed, nil
}

// parsePush checks what is to be pushed. Unlike elsewhere a reference without tag has none.
func parsePush(ref string, desc ocispec.Descriptor) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, fmt.Errorf("parsing image reference %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	if err := desc.Digest.Validate(); err != nil || desc.Size < 0 {
		return nil, fmt.Errorf("pushing to %s: descriptor with digest %q and size %d: %w", named, desc.Digest, desc.Size, errdefs.ErrInvalidArgument)
	}
	return named, nil
}

// push is one call of Push.
type push struct {
	Content
	client *Client
	op     *operation
	named  reference.Named

	session   *session // a blob's upload that was begun
	resumed   bool     // the upload went on where another attempt stopped
	grew      bool     // the last attempt found that the one before got further
	completed bool     // completing an upload was asked for
}

// contentError is what is wrong with the content here: the registry is not to blame.
type contentError struct{ err error }

func (e *contentError) Error() string { return e.err.Error() }
func (e *contentError) Unwrap() error { return e.err }

func isManifest(desc ocispec.Descriptor) bool {
	return images.IsManifestType(desc.MediaType) || images.IsIndexType(desc.MediaType)
}

// run pushes until it succeeds, fails for good, or has failed too often in a row without getting
// further.
func (p *push) run(ctx context.Context) (Pushed, error) {
	step := p.pushBlob
	if isManifest(p.Desc) {
		step = p.pushManifest
	}
	ctx = log.WithLogger(withOperation(ctx, p.op), quiet)
	stale := p.client.known(p.op.host)
	for fails := 1; ; fails++ {
		p.grew = false
		pushed, err := step(ctx)
		if err == nil || ctx.Err() != nil {
			return pushed, err
		}
		p.client.forget(p.op.host) // see retry
		if p.grew {
			fails = 1
		}
		if fails >= p.client.tune.attempts || !p.again(err, fails, stale) {
			return Pushed{}, err
		}
		if err := p.client.pause(ctx, fails); err != nil {
			return Pushed{}, err
		}
	}
}

// partsError is a registry that does not take blobs in parts. It does not count as a failure.
type partsError struct{ err error }

func (e *partsError) Error() string { return e.err.Error() }
func (e *partsError) Unwrap() error { return e.err }

// again decides whether the push is tried again after its fails-th failure in a row.
func (p *push) again(err error, fails int, stale bool) bool {
	var content *contentError
	var over *exhausted
	var parts *partsError
	if errors.As(err, &parts) {
		p.session = nil
		return true
	}
	if errors.As(err, &content) || errors.As(err, &over) {
		return false
	}
	switch statusOf(err) {
	case http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable:
		if p.session != nil { // the registry has forgotten the upload, or counts otherwise
			p.session = nil
			return true
		}
	case http.StatusBadRequest:
		if p.session != nil && p.resumed {
			p.session, p.resumed = nil, false
			return true
		}
		if isManifest(p.Desc) && refusedAs(err, "DIGEST_INVALID") {
			return true
		}
	}
	return transient(err) || timedOut(err) || p.client.refusedLater(p.op, err) || unauthenticated(err) && fails == 1 && stale
}

// timedOut reports whether an answer did not come in time.
func timedOut(err error) bool {
	var dial *dialError
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout() && !errors.As(err, &dial) || errors.Is(err, net.ErrClosed)
}

// pushManifest is one attempt. Manifests are small and sent in one request.
func (p *push) pushManifest(ctx context.Context) (Pushed, error) {
	e, err := p.client.pushEndpoint(p.named)
	if err != nil {
		return Pushed{}, err
	}
	name := p.Desc.Digest.String()
	if tagged, ok := p.named.(reference.Tagged); ok && !isDigested(p.named) {
		name = tagged.Tag()
	}
	there, err := e.exists(ctx, "manifests/"+name, p.Desc)
	if err != nil || there {
		return Pushed{Existed: there}, err
	}
	raw, err := p.read(ctx)
	if err != nil {
		return Pushed{}, err
	}
	resp, err := e.do(ctx, request{
		method: http.MethodPut, url: e.url("manifests/" + name), size: int64(len(raw)),
		header: http.Header{"Content-Type": {p.Desc.MediaType}},
		body:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil },
	})
	if err != nil {
		return Pushed{}, err
	}
	defer resp.Body.Close()
	if err := wantStatus(resp, http.StatusCreated, http.StatusOK, http.StatusAccepted, http.StatusNoContent); err != nil {
		return Pushed{}, err
	}
	if got := digest.Digest(resp.Header.Get("Docker-Content-Digest")); got != "" && got != p.Desc.Digest {
		return Pushed{}, fmt.Errorf("the registry took manifest %s for %s", p.Desc.Digest, got)
	}
	return Pushed{}, nil
}

func isDigested(named reference.Named) bool {
	_, ok := named.(reference.Digested)
	return ok
}

// read returns the whole of a small content.
func (p *push) read(ctx context.Context) ([]byte, error) {
	r, err := p.Open(ctx)
	if err != nil {
		return nil, &contentError{err}
	}
	raw, err := io.ReadAll(io.LimitReader(r, p.client.tune.manifests+1))
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, &contentError{err}
	}
	if int64(len(raw)) != p.Desc.Size {
		return nil, &contentError{fmt.Errorf("manifest %s has %d bytes, want %d", p.Desc.Digest, len(raw), p.Desc.Size)}
	}
	return raw, nil
}

// pushBlob is one attempt.
func (p *push) pushBlob(ctx context.Context) (Pushed, error) {
	e, err := p.client.pushEndpoint(p.named)
	if err != nil {
		return Pushed{}, err
	}
	if p.session == nil || p.completed {
		// A registry may have taken the blob although its answer was lost.
		there, err := e.exists(ctx, "blobs/"+p.Desc.Digest.String(), p.Desc)
		if err != nil || there {
			return Pushed{Existed: there && !p.completed}, err
		}
	}
	if p.session != nil {
		before := p.session.offset
		if p.session.resume(ctx, e) {
			p.grew = p.session.offset > before
			p.resumed = p.resumed || p.session.offset > 0
		} else {
			p.session, p.resumed = nil, false
		}
	}
	if p.session == nil {
		from, err := p.begin(ctx, e)
		if err != nil || from != "" {
			return Pushed{MountedFrom: from}, err
		}
	}
	return Pushed{}, p.upload(ctx, e)
}

// maxMounts is how many repositories are asked to share a blob.
const maxMounts = 3

// begin has another repository share the blob, whose name it returns, or begins an upload.
func (p *push) begin(ctx context.Context, e *endpoint) (from string, err error) {
	for _, repo := range mountCandidates(p.named, p.Sources) {
		s, mounted, err := e.mount(ctx, p.Desc.Digest, repo)
		switch {
		case err != nil && ctx.Err() != nil, transient(err):
			return "", err
		case err != nil: // it may be private, or gone
		case mounted:
			return repo, nil
		default:
			if p.session != nil {
				p.session.cancel(ctx, e)
			}
			p.session = s
		}
	}
	if p.session == nil {
		p.session, err = e.beginUpload(ctx)
	}
	return "", err
}

// upload sends what the registry does not have of the blob, and completes it. In one request only, a broken
// upload begins anew.
func (p *push) upload(ctx context.Context, e *endpoint) error {
	s := p.session
	if s.offset < p.Desc.Size || p.Desc.Size == 0 {
		body := &uploadBody{push: p, from: s.offset}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		body.watch = time.AfterFunc(p.client.tune.pace.Stall, func() { cancel(errStalled) })
		defer body.watch.Stop()
		whole := p.client.takesWhole(e.host.Host, false)
		var err error
		if whole {
			err = s.sendWhole(ctx, e, body, p.Desc.Digest, p.Desc.Size)
		} else {
			err = s.send(ctx, e, body, p.Desc.Size)
		}
		if berr := body.failure(); berr != nil {
			return &contentError{berr}
		}
		if errors.Is(context.Cause(ctx), errStalled) && err != nil {
			return errStalled
		}
		switch status := statusOf(err); {
		case err == nil && whole:
			return nil
		case err == nil:
		case !whole && s.offset == 0 && (status == http.StatusMethodNotAllowed || status == http.StatusNotImplemented):
			p.client.takesWhole(e.host.Host, true)
			return &partsError{err}
		default:
			return err
		}
	}
	p.completed = true
	return s.complete(ctx, e, p.Desc.Digest)
}

// mountCandidates are the repositories of the registry of named that may have a blob: those with the
// most in common with the name first, as they are most likely to be readable by who may push here.
func mountCandidates(named reference.Named, sources []string) []string {
	host, target := reference.Domain(named), reference.Path(named)
	var best []string
	for common := strings.Count(target, "/") + 1; common >= 0; common-- {
		for _, source := range sources {
			ref, err := reference.ParseNormalizedNamed(source)
			if err != nil || reference.Domain(ref) != host {
				continue
			}
			if repo := reference.Path(ref); repo != target && commonParts(repo, target) == common && len(best) < maxMounts {
				best = append(best, repo)
			}
		}
	}
	return best
}

func commonParts(a, b string) int {
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	n := 0
	for n < min(len(as), len(bs)) && as[n] == bs[n] {
		n++
	}
	return n
}
