package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/metadata"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/source/local"
)

// Context is a directory of a client's as the context of a build: a [local.Context]. It stays as it was when the build first
// looked. Of its files the names and attributes are sent at once, and contents when somebody reads them.
type Context struct {
	client *Client
	source source

	received atomic.Int64

	mu    sync.Mutex
	trees map[string]*future[*tree] // by their patterns
}

var (
	_ local.Context  = (*Context)(nil)
	_ local.Sent     = (*Context)(nil)
	_ local.Contexts = (*Client)(nil)
)

// diffCopy is the method by which a client sends its directories.
var diffCopy = session.MethodURL(filesync.FileSync_ServiceDesc.ServiceName, "diffcopy")

// source is what a local source says of how it is read.
type source struct {
	Name     string
	Session  string   // that has the directory; "": any one
	Follow   []string // paths, of which links are followed; the client sends nothing else
	Hint     string   // names the directory, with the session's own key
	Fresh    bool     // what was sent before does not count
	Metadata bool     // a file with the attributes of all files, and the contents of Wanted alone
	Wanted   []string
}

func parseSource(op *pb.SourceOp) (s source, err error) {
	name, ok := strings.CutPrefix(op.Identifier, "local://")
	if !ok {
		return s, fmt.Errorf("%q is no local source", op.Identifier)
	}
	s.Name = name
	for attr, to := range map[string]*[]string{pb.AttrFollowPaths: &s.Follow, pb.AttrMetadataTransferExclude: &s.Wanted} {
		if v := op.Attrs[attr]; v != "" {
			if err := json.Unmarshal([]byte(v), to); err != nil {
				return s, fmt.Errorf("reading attribute %s of %s: %w", attr, op.Identifier, err)
			}
		}
	}
	s.Hint, s.Fresh = op.Attrs[pb.AttrSharedKeyHint], op.Attrs[pb.AttrLocalDiffer] == pb.AttrLocalDifferNone
	if v := op.Attrs[pb.AttrMetadataTransfer]; v != "" {
		if s.Metadata, err = strconv.ParseBool(v); err != nil {
			return s, fmt.Errorf("invalid value for local.metadatatransfer %q: %w", v, err)
		}
	}
	s.Session = op.Attrs[pb.AttrLocalSessionID]
	if prefix, id, ok := strings.Cut(s.Session, ":"); ok { // tells apart what has one name in several builds
		s.Name, s.Session = prefix+"-"+s.Name, id
	}
	return s, nil
}

// Context returns the directory that a local source is about. It is the same one for all sources that read it in the same
// way, also of other builds where they name a session that is there and has directories. Where a source names none, or one
// that does not come, the build's own sessions are asked. Whether the client has the directory is found out later.
func (c *Client) Context(op *pb.SourceOp) (local.Context, error) {
	s, err := parseSource(op)
	if err != nil {
		return nil, err
	}
	of := c
	if s.Session != "" {
		h, err := c.hostOf(s.Session)
		if err != nil {
			return nil, err
		}
		if h != nil {
			of = h.client
		}
	}
	return of.context(s)
}

// context is Context for a source that is read by this client itself.
func (c *Client) context(s source) (local.Context, error) {
	key, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.contexts == nil {
		return nil, errClosed
	}
	if c.contexts[string(key)] == nil {
		c.contexts[string(key)] = &Context{client: c, source: s, trees: map[string]*future[*tree]{}}
	}
	return c.contexts[string(key)], nil
}

// Tree implements [local.Context].
func (x *Context) Tree(ctx context.Context, include, exclude []string) (layer.Tree, error) {
	t, err := x.tree(include, exclude).wait(ctx)
	if err != nil {
		return nil, err
	}
	return t.shown, nil
}

func (x *Context) tree(include, exclude []string) *future[*tree] {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := fmt.Sprintf("%q %q", include, exclude)
	f := x.trees[key]
	if f == nil {
		f = begin(func() (*tree, error) { return x.read(include, exclude) })
		x.trees[key] = f
	}
	return f
}

// Hash implements [local.Context].
func (x *Context) Hash(ctx context.Context, e *layer.Entry) (digest.Digest, error) {
	f, ok := e.Content.(*file)
	switch {
	case e.Digest != "":
		return e.Digest, nil
	case !ok:
		return layer.HashContent(e)
	}
	sum, _, err := f.tree.bring(ctx, f)
	return sum, err
}

// Sent implements [local.Sent].
func (x *Context) Sent() int64 { return x.received.Load() }

// read begins a transfer.
func (x *Context) read(include, exclude []string) (t *tree, err error) {
	md := x.header(include, exclude)
	err = x.client.each(x.client.ctx, diffCopy, []string{x.source.Session}, func(caller session.Caller) error {
		t, err = x.readFrom(caller, md)
		if errdefs.IsNotFound(err) {
			err = &failure{err.Error(), errNotServed} // another session may have it
		}
		return err
	})
	if err == errNotServed {
		err = errors.New("no local sources enabled")
	}
	if err != nil {
		return nil, err
	}
	if t.shown = t; x.source.Metadata {
		return t, nil
	}
	if len(x.source.Follow) > 0 {
		include = nil // what links lead to is in no pattern
	}
	if t.shown, err = layer.Filter(t, layer.FilterOpt{Include: include, Exclude: exclude}); err != nil {
		t.transfer.cancel(err)
		return nil, errors.Join(fmt.Errorf("%s: %w", x.doing(), err), t.close())
	}
	return t, nil
}

func (x *Context) doing() string {
	name := x.source.Name
	if len(name) > maxName {
		name = name[:maxName]
	}
	return fmt.Sprintf("reading the client's directory %q", outbound.Clean(name))
}

// header is what the client is asked for.
func (x *Context) header(include, exclude []string) metadata.MD {
	md := metadata.MD{}
	for key, values := range map[string][]string{
		"include-patterns": include, "exclude-patterns": exclude, "followpaths": x.source.Follow, "dir-name": {x.source.Name},
	} {
		if len(values) == 0 {
			continue
		}
		if !slices.ContainsFunc(values, func(v string) bool { return strings.ContainsFunc(v, notPlain) || strings.TrimSpace(v) != v }) {
			md[key] = values
			continue
		}
		encoded := make([]string, len(values))
		for i, v := range values {
			encoded[i] = url.QueryEscape(v)
		}
		md[key], md[key+"-encoded"] = encoded, []string{"1"}
	}
	return md
}

// notPlain reports whether a header cannot have a character as it is.
func notPlain(r rune) bool { return r < ' ' || r > '~' }

// readFrom takes the names and attributes of all files from a session.
func (x *Context) readFrom(caller session.Caller, md metadata.MD) (_ *tree, err error) {
	kept, release, err := x.client.opt.Kept.take(x.keptAs(caller))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", x.doing(), err)
	}
	tr, err := x.open(caller, md)
	if err != nil {
		return nil, errors.Join(err, release())
	}
	t := &tree{transfer: tr, contents: kept, release: release}
	if err := x.list(t); err != nil {
		tr.cancel(err)
		return nil, errors.Join(err, release())
	}
	tr.run(kept)
	return t, nil
}

func (x *Context) list(t *tree) (err error) {
	tmp, err := x.client.tempDir()
	if err != nil {
		return err
	}
	var m *metadataList
	if x.source.Metadata {
		if m, err = newMetadataList(tmp, x.source.Wanted); err != nil {
			return fmt.Errorf("%s: %w", x.doing(), err)
		}
		defer m.file.Close()
	}
	l, err := newListing(tmp, m)
	if err != nil {
		return err
	}
	if err := t.transfer.list(l); err != nil {
		return err
	}
	index, err := l.finish()
	if err == nil && m != nil {
		t.metadata, err = t.contents.copy(m.file, m.size)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", x.doing(), err)
	}
	t.index = index.Tree(func(e *layer.IndexEntry) (io.ReadCloser, error) {
		return nil, fmt.Errorf("%q is read in another way", e.Path)
	})
	return nil
}

// keptAs names what is remembered of the directory; "" is nothing. A client that does not say which directory it is would
// be given the files of another one that have the same names, sizes and times.
func (x *Context) keptAs(caller session.Caller) string {
	s, key := x.source, caller.SharedKey()
	vague := s.Hint == "" || strings.HasPrefix(s.Hint, s.Name) || strings.HasPrefix(s.Hint, "context:")
	if s.Fresh || key == "" && vague {
		return ""
	}
	return fmt.Sprintf("client %q %q %q %q", x.client.opt.Owner, s.Name, s.Hint, key)
}

// end tells the client that nothing more is asked for.
func (x *Context) end(ctx context.Context) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, f := range x.trees {
		select {
		case <-f.done:
			if f.err == nil {
				f.value.end(ctx)
			}
		default: // it ends with the client
		}
	}
}

// release waits for the end of all transfers.
func (x *Context) release() (err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, f := range x.trees {
		<-f.done
		if f.err == nil {
			f.value.end(context.Background())
			err = errors.Join(err, f.value.close())
		}
	}
	return err
}
