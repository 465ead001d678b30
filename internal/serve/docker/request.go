package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/load"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// maxDocument bounds a document that a client sends, in bytes.
const maxDocument = 4 << 20

// request is one with its answer.
type request struct {
	w http.ResponseWriter
	*http.Request
	s       *Server
	version string // of the API, that the client speaks
	path    string // without it
	name    string // in the path

	began   bool    // something was written
	unread  *unread // the body, where that matters
	release func()  // of the store
	over    func()  // has the server not wait for the request any more
}

// versioned is how a path begins that says the version.
var versioned = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^/v([0-9]{1,4}\.[0-9]{1,4})(/.*)$`) })

// readVersion takes the version out of the path.
func (r *request) readVersion() error {
	parts := versioned().FindStringSubmatch(r.path)
	if parts == nil {
		return nil
	}
	switch version := parts[1]; {
	case older(version, MinVersion):
		return invalidf("client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", version, MinVersion)
	case older(MaxVersion, version):
		return invalidf("client version %s is too new. Maximum supported API version is %s", version, MaxVersion)
	default:
		r.version, r.path = version, parts[2]
	}
	return nil
}

// before reports whether the client speaks an older version.
func (r *request) before(version string) bool { return older(r.version, version) }

// older reports whether a version, MAJOR.MINOR, is before another one.
func older(a, b string) bool {
	number := func(v string) (n [2]int) {
		major, minor, _ := strings.Cut(v, ".")
		n[0], _ = strconv.Atoi(major)
		n[1], _ = strconv.Atoi(minor)
		return n
	}
	x, y := number(a), number(b)
	return x[0] < y[0] || x[0] == y[0] && x[1] < y[1]
}

// backend is what the request is served from until it ends. The context ends with the server, too, which waits for the request otherwise.
func (r *request) backend(ctx context.Context) (context.Context, *Backend, error) {
	ctx, end, err := r.s.opt.Control.Use(ctx)
	if err != nil {
		return nil, nil, failure{http.StatusServiceUnavailable, err.Error()}
	}
	b, release, err := r.s.opt.Acquire()
	if err != nil {
		end()
		return nil, nil, err
	}
	r.release, r.over = release, end
	return ctx, b, nil
}

// letGo gives the store back, for what may take as long as a client or a process lives: nobody waits for it, and it ends when the server begins to end, as its context
// does. Files of the store by their paths can be used still.
func (r *request) letGo() context.Context { return r.part(r.Context()) }

// goOn gives the store back, too, for what is carried out to its end, also when the client has gone: a server that is to end waits for it.
func (r *request) goOn() (context.Context, error) {
	ctx, over, err := r.s.opt.Control.Use(context.WithoutCancel(r.Context()))
	if err != nil {
		return nil, failure{http.StatusServiceUnavailable, err.Error()}
	}
	r.end()
	r.over = over
	return ctx, nil
}

func (r *request) part(ctx context.Context) context.Context {
	r.end()
	ctx, cancel := context.WithCancelCause(ctx)
	r.over = func() { cancel(context.Canceled) }
	go func() {
		select {
		case <-ctx.Done():
		case <-r.s.events.closed:
			cancel(errors.New("the server ends"))
		}
	}()
	return ctx
}

// end gives back what the request holds.
func (r *request) end() {
	for _, f := range []func(){r.release, r.over} {
		if f != nil {
			f()
		}
	}
	r.release, r.over = nil, nil
}

// flag is a parameter that is true or false, by dockerd's rule.
func (r *request) flag(name string) bool {
	switch strings.ToLower(strings.TrimSpace(r.FormValue(name))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// filters are those of the parameter of this name, as KEY=VALUE: {"KEY":{"VALUE":true}}, or {"KEY":["VALUE"]} of clients before 1.22.
func (r *request) filters() (all []string, err error) {
	text := r.FormValue("filters")
	if text == "" {
		return nil, nil
	}
	invalid := func(err error) error { return invalidf("invalid filter: %v", err) }
	var keys map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &keys); err != nil {
		return nil, invalid(err)
	}
	for key, raw := range keys {
		var set map[string]bool
		var list []string
		if err := json.Unmarshal(raw, &set); err != nil {
			if json.Unmarshal(raw, &list) != nil {
				return nil, invalid(err)
			}
		}
		for value, is := range set {
			if is {
				list = append(list, value)
			}
		}
		for _, value := range list {
			all = append(all, key+"="+value)
		}
	}
	return all, nil
}

// args are the filters, of which some are known.
func (r *request) args(known ...string) (view.Args, error) {
	list, err := r.filters()
	if err != nil {
		return nil, err
	}
	args, err := view.ParseArgs(list, known...)
	if err != nil {
		return nil, failure{http.StatusBadRequest, err.Error()}
	}
	return args, nil
}

// platforms are those that a parameter names, each as JSON.
func (r *request) platforms(name string) (all []ocispec.Platform, err error) {
	for _, text := range r.Form[name] {
		var p ocispec.Platform
		if text == "" {
			continue
		}
		if err := json.Unmarshal([]byte(text), &p); err != nil || p.OS == "" || p.Architecture == "" {
			return nil, invalidf("failed to parse platform %q: want JSON with os and architecture", text)
		}
		all = append(all, p)
	}
	return all, nil
}

// platform is the only one that a parameter may name; nil for none.
func (r *request) platform() (*ocispec.Platform, error) {
	all, err := r.platforms("platform")
	switch {
	case err != nil || len(all) == 0:
		return nil, err
	case len(all) > 1:
		return nil, invalidf("multiple platform parameters not supported")
	}
	return &all[0], nil
}

// document reads what the client sends as JSON, if it sends something.
func (r *request) document(into any) error {
	kind := r.Header.Get("Content-Type")
	if kind == "" && r.ContentLength == 0 {
		return nil
	}
	if media, _, err := mime.ParseMediaType(kind); err != nil || media != "application/json" {
		return invalidf("unsupported Content-Type header (%s): must be 'application/json'", kind)
	}
	if r.ContentLength == 0 { // nothing is no document that is wrong
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, maxDocument+1))
	if err != nil {
		return err
	}
	if len(data) > maxDocument {
		return failure{http.StatusRequestEntityTooLarge, fmt.Sprintf("the document has more than %d bytes", maxDocument)}
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(into); err != nil {
		return invalidf("invalid JSON: %v", err)
	}
	if decoder.More() {
		return invalidf("unexpected content after JSON")
	}
	return nil
}

// answer writes a document. The status does not count where the answer has begun.
func (r *request) answer(status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if !r.began {
		r.began = true
		r.w.Header().Set("Content-Type", "application/json")
		r.w.WriteHeader(status)
	}
	_, err = r.w.Write(append(data, '\n'))
	return err
}

// failure is an error with the status of its answer.
type failure struct {
	status  int
	message string
}

func (f failure) Error() string { return f.message }

func invalidf(format string, args ...any) error {
	return failure{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// status is that of an error.
func status(err error) int {
	var f failure
	switch {
	case errors.As(err, &f):
		return f.status
	case containerStatus(err) != 0:
		return containerStatus(err)
	case errors.Is(err, store.ErrNotFound), errors.Is(err, errdefs.ErrNotFound), errors.Is(err, errdefs.ErrUnauthenticated), errors.Is(err, errdefs.ErrPermissionDenied):
		return http.StatusNotFound // clients take it for "pull it", or "log in"
	case errors.Is(err, store.ErrAmbiguous), errors.Is(err, errdefs.ErrInvalidArgument), errors.Is(err, load.ErrInvalid):
		return http.StatusBadRequest
	case strings.HasPrefix(err.Error(), "conflict: "):
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}

// fail tells the client of an error, if there is a place for it still.
func (r *request) fail(err error) {
	if r.began {
		gone := errors.Is(err, context.Canceled) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) // the client has
		if !gone {
			r.s.opt.Warn(fmt.Sprintf("%s %s: %v", r.Method, r.path, err))
		}
		panic(http.ErrAbortHandler) // the client sees that the answer is not whole
	}
	if err := r.answer(status(err), struct {
		Message string `json:"message"`
	}{err.Error()}); err != nil {
		panic(http.ErrAbortHandler)
	}
}
