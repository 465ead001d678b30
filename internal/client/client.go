// Package client makes what a client offers in its session something that a build reads and writes: directories, secrets,
// SSH agents, credentials of registries, OCI layouts, uploads, places for outputs.
//
// # Structure
//
//	context.go    a directory of the client as the context of a build
//	listing.go    the names and attributes of its files, which the client sends first
//	transfer.go   the contents, which are asked for when somebody reads them
//	kept.go       where contents are, and which of them an earlier build has had
//	secrets.go, agents.go, credentials.go, layouts.go, uploads.go, outputs.go   the other services
//
// # Caveats
//
// A client is a stranger. Names, modes, sizes, numbers and the order of what it sends are claims, which are bounded and
// checked; none of its names is ever a path of this machine. It may say nothing for ever: whoever waits for it waits as
// long as its own context and the session live, whose end the session's health checks tell.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/grpcerrors"
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto" // it takes packets apart without reflection
	"google.golang.org/grpc/codes"

	"github.com/slipway-build/slipway/internal/outbound"
	httpsource "github.com/slipway-build/slipway/internal/source/http"
	"github.com/slipway-build/slipway/internal/store"
)

// usualWait is how long a session is waited for in BuildKit.
const usualWait = 5 * time.Second

// Options say whose client it is. All fields but Owner and Wait are required.
type Options struct {
	Sessions *session.Manager
	// IDs are the sessions of the build. The first one that has a service is asked.
	IDs []string
	// Owner is who the client is, as the door knows it through which it came: a user ID, a certificate. What one owner's clients
	// have sent is given to no other one's.
	Owner string
	Store *store.Store
	// Engine: all images of the store are the client's to build on, by their names there, as those of a Docker engine are.
	Engine bool
	// Kept has what clients sent to earlier builds of this process, and of others.
	Kept *Kept
	// Wait is how long a session is waited for that is not there yet, and the end of a transfer; 0 is the usual time.
	Wait time.Duration
}

// Engine reports whether all images of the store are the client's to build on.
func (c *Client) Engine() bool { return c.opt.Engine }

// Client is the client of one build. It is safe for concurrent use.
type Client struct {
	opt    Options
	number int64           // no other one of the process has it
	ctx    context.Context // ends with the build, and with the client
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	contexts map[string]*Context
	hosts    map[string]*future[*host] // of sessions that sources name, by their IDs
	uploads  map[string]*future[httpsource.Upload]
	secrets  map[string]string // origins, by IDs
	temp     string            // directory of what goes with the client; "" without one

	received atomic.Int64
}

// New returns the client with some sessions. Nothing is asked before the first call of a method; nothing is waited for after the end
// of ctx, which is that of the build.
func New(ctx context.Context, opt Options) *Client {
	if opt.Wait == 0 {
		opt.Wait = usualWait
	}
	c := &Client{opt: opt, contexts: map[string]*Context{}, hosts: map[string]*future[*host]{}, uploads: map[string]*future[httpsource.Upload]{}, secrets: map[string]string{}}
	c.number = last.Add(1)
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	return c
}

var last atomic.Int64 // number of a client

var errClosed = errors.New("the build is over")

// Close ends all that is under way, and keeps what later builds may use. A client that waits for the end of a transfer is
// told of it; it is waited for as long as ctx lives, and not for ever.
func (c *Client) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.opt.Wait)
	defer cancel()
	c.mu.Lock()
	all, hosts, uploads, temp := c.contexts, c.hosts, c.uploads, c.temp
	c.contexts, c.hosts, c.uploads, c.temp = nil, nil, nil, ""
	c.mu.Unlock()
	var errs []error
	for id, f := range hosts {
		if f.over() {
			errs = append(errs, c.leave(ctx, f))
			delete(hosts, id)
		}
	}
	for _, x := range all {
		x.end(ctx)
	}
	c.cancel(errClosed)
	for _, f := range hosts { // they were waited for
		errs = append(errs, c.leave(ctx, f))
	}
	for _, x := range all {
		errs = append(errs, x.release())
	}
	for _, f := range uploads { // nobody begins another one by now
		<-f.done
	}
	if temp != "" {
		errs = append(errs, os.RemoveAll(temp))
	}
	return errors.Join(errs...)
}

// Received is how many bytes of directories and uploads the client has sent, to this build and those that share its directories.
func (c *Client) Received() int64 {
	n := c.received.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.hosts {
		if f.over() && f.value != nil {
			n += f.value.client.Received()
		}
	}
	return n
}

// tempDir is a directory that goes with the client.
func (c *Client) tempDir() (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil || c.contexts == nil {
		return "", errClosed
	}
	if c.temp == "" {
		dir, err := c.opt.Store.TempDir()
		if err != nil {
			return "", err
		}
		c.temp = dir
	}
	return c.temp, nil
}

// tempFile is the path of a file of the client's that is not there yet.
func (c *Client) tempFile(name string) (string, error) {
	dir, err := c.tempDir()
	return filepath.Join(dir, name), err
}

// callTime is how long a client may think about credentials and agents, as in BuildKit.
const callTime = 60 * time.Second

var errSlow = errors.New("the client does not answer")

// bound is a context of a call to the client, which ends with this one as well, and after some time unless that is 0.
func (c *Client) bound(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.ctx, func() { cancel(context.Cause(c.ctx)) })
	end := func() {}
	if d > 0 {
		ctx, end = context.WithTimeoutCause(ctx, d, errSlow)
	}
	return ctx, func() {
		stop()
		end()
		cancel(errClosed)
	}
}

// ErrGone marks what fails because the client's session has ended. Its category is errdefs.ErrUnavailable.
var ErrGone = fmt.Errorf("the client's session has ended: %w", errdefs.ErrUnavailable)

// noSession is an error about a session that is not there.
type noSession struct{ id string }

func (e noSession) Error() string {
	return fmt.Sprintf("no active session for %s: the client has gone, or has not come yet", outbound.Clean(e.id))
}
func (e noSession) Is(target error) bool {
	return target == ErrGone || target == errdefs.ErrUnavailable
}

// caller finds a session.
func (c *Client) caller(ctx context.Context, id string) (session.Caller, error) {
	if len(id) > maxName {
		return nil, noSession{id[:maxName]}
	}
	ctx, cancel := context.WithTimeout(ctx, c.opt.Wait)
	defer cancel()
	caller, err := c.opt.Sessions.Get(ctx, id, false)
	if err != nil || caller == nil {
		return nil, noSession{id}
	}
	return caller, nil
}

// Key is what the client's session says which directories it has; "" where it does not, or is gone.
func (c *Client) Key(ctx context.Context) string {
	for _, id := range c.opt.IDs {
		if caller, err := c.caller(ctx, id); err == nil {
			return caller.SharedKey()
		}
	}
	return ""
}

// errNotServed marks what a session does not have.
var errNotServed = errors.New("the client does not serve it")

// each calls ask for the sessions that have a method, first those of ids, until one gives something else than that it does
// not have what is asked for. The error for none is errNotServed, or that of the last one.
func (c *Client) each(ctx context.Context, method string, ids []string, ask func(caller session.Caller) error) error {
	last := error(nil)
	ids = append(slices.Clone(ids), c.opt.IDs...)
	for i, id := range ids {
		if id == "" || slices.Contains(ids[:i], id) {
			continue
		}
		caller, err := c.caller(ctx, id)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			last = err
			continue
		case method != "" && !caller.Supports(method):
			continue
		}
		err = ask(caller)
		if err == nil || !errors.Is(err, errNotServed) && !errors.Is(err, ErrGone) {
			return err
		}
		last = err
	}
	if last == nil {
		last = errNotServed
	}
	return last
}

// explain makes an error of a call to the client one that says what was done. What the client says of itself is its own words.
func explain(ctx context.Context, err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	doing := fmt.Sprintf(format, args...)
	code := grpcerrors.Code(err)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	case code == codes.Unavailable, code == codes.Canceled, errors.Is(err, io.EOF), strings.HasSuffix(err.Error(), ": "+io.EOF.Error()):
		// The session's connection was closed, or the call by it.
		return fmt.Errorf("%s: %w", doing, ErrGone)
	case code == codes.NotFound:
		return &failure{doing + ": " + words(err), errdefs.ErrNotFound}
	case code == codes.AlreadyExists:
		return &failure{doing + ": " + words(err), errdefs.ErrAlreadyExists}
	case code == codes.Unimplemented:
		return &failure{doing + ": " + errNotServed.Error(), errNotServed}
	}
	return &failure{doing + ": " + words(err), errdefs.ErrUnknown}
}

// maxWords is how much is passed on of what a client says of an error, in bytes.
const maxWords = 4 << 10

// words is what a client says of an error.
func words(err error) string {
	text := err.Error()
	if st, ok := grpcerrors.AsGRPCStatus(err); ok {
		text = st.Message()
	}
	if prefix, rest, ok := strings.Cut(text, " desc = "); ok && strings.HasPrefix(prefix, "rpc error: code = ") {
		text = rest // a service that passes on what another one said
	}
	if len(text) > maxWords {
		text = strings.ToValidUTF8(text[:maxWords], "") + "..."
	}
	return outbound.Clean(text)
}

// failure is an error with a category whose name is not part of the text.
type failure struct {
	text string
	kind error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.kind }

// future is something that is found out once, as long as the client lives, by a goroutine of its own: who waits for it may
// give up.
type future[T any] struct {
	done  chan struct{}
	value T
	err   error
}

func begin[T any](work func() (T, error)) *future[T] {
	f := &future[T]{done: make(chan struct{})}
	go func() {
		defer close(f.done)
		f.value, f.err = work()
	}()
	return f
}

// over reports whether it was found out.
func (f *future[T]) over() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

func (f *future[T]) wait(ctx context.Context) (T, error) {
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}
