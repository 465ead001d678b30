package httpsource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/outbound"
)

// Store is what is needed of the store. It is safe for concurrent use.
type Store interface {
	// HasBlob reports whether a blob is held.
	HasBlob(dgst digest.Digest) bool
	// AddBlob stores what r gives until io.EOF, unless accept, which is told what it is, refuses it.
	AddBlob(ctx context.Context, r io.Reader, accept func(ocispec.Descriptor) error) (ocispec.Descriptor, error)
	// Memo returns the value remembered under a key.
	Memo(ctx context.Context, key string) (string, bool, error)
	// PutMemo remembers a value under a key.
	PutMemo(ctx context.Context, key, value string) error
}

// Env is what one build brings along. Its zero value brings nothing.
type Env struct {
	// Secret returns the value of a secret; one that was not given is errdefs.ErrNotFound.
	Secret func(ctx context.Context, id string) ([]byte, error)
	// Uploads are files of the build's own; nil: none.
	Uploads Uploads
	// Progress is told how much of a file that is being fetched is here; total is 0 when the server
	// does not say.
	Progress func(current, total int64)
}

// Uploads are files of a build's own, by the name NAME in http://buildkit-session/NAME. (So BuildKit's clients name a context
// from standard input.)
type Uploads interface {
	// Upload returns the file with a name, as often as it is asked for. The error of one that the build does not have is of
	// the category errdefs.ErrNotFound.
	Upload(ctx context.Context, name string) (Upload, error)
}

// UploadedFiles are files of this machine as Uploads.
type UploadedFiles map[string]Upload

// Upload implements [Uploads].
func (u UploadedFiles) Upload(_ context.Context, name string) (Upload, error) {
	f, ok := u[name]
	if !ok {
		return f, &failure{fmt.Sprintf("the build has no upload %q", name), errdefs.ErrNotFound}
	}
	return f, nil
}

// Upload is a file that lives as long as the build. It is not put into the store: only a build that
// brings it along again can ask for it.
type Upload struct {
	Path   string
	Digest digest.Digest
	Size   int64
}

// UploadHost is the host of uploads.
const UploadHost = "buildkit-session"

// File is what a URL names.
type File struct {
	Digest   digest.Digest
	Size     int64
	Name     string
	Modified time.Time // as the server says; zero when it does not
	Path     string    // of an upload; the store has all others as blobs
}

// Source evaluates http sources. It is safe for concurrent use.
type Source struct {
	store Store
	tune  tuning

	mu      sync.Mutex
	clients map[string]*http.Client // by the origin of the URL
}

// tuning are numbers that only tests change.
type tuning struct {
	attempts  int
	base, max time.Duration // of the time between attempts
	pace      outbound.Pace
}

// Servers of files may have to make them first.
const headerTimeout = 5 * time.Minute

var pace = outbound.Pace{Stall: 2 * time.Minute, Rate: 1000, Window: 2 * time.Minute}

// New returns a source that keeps files in store.
func New(store Store) *Source {
	return &Source{
		store: store, clients: map[string]*http.Client{},
		tune: tuning{attempts: 4, base: 300 * time.Millisecond, max: 5 * time.Second, pace: pace},
	}
}

// answer is what a server said of a URL, and is remembered.
type answer struct {
	Digest      digest.Digest `json:"digest"`
	Size        int64         `json:"size"`
	ETag        string        `json:"etag,omitempty"`
	Modified    string        `json:"modified,omitempty"`
	Strong      bool          `json:"strong,omitempty"` // Modified tells versions apart
	Disposition string        `json:"disposition,omitempty"`
}

func (a *answer) file(r *Request) *File {
	f := &File{Digest: a.Digest, Size: a.Size, Name: r.name(a.Disposition)}
	if t, err := http.ParseTime(a.Modified); err == nil {
		f.Modified = t
	}
	return f
}

// Resolve returns the file that the URL names, which the store holds unless it is an upload. The server is asked, unless
// there is a checksum and the store holds the file that the URL had with that checksum.
//
// Errors name the URL without its credentials. A file with another checksum is
// errdefs.ErrDataLoss, one that the server does not have errdefs.ErrNotFound.
func (s *Source) Resolve(ctx context.Context, r *Request, env Env) (*File, error) {
	if name, ok := r.Upload(); ok {
		return r.upload(ctx, env, name)
	}
	known, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	for _, a := range known {
		if a.Digest == r.Checksum {
			return a.file(r), nil
		}
	}
	a, err := s.ask(ctx, r, env, known)
	if errdefs.IsDataLoss(err) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", r, withoutURL(err, r.URL))
	}
	if err := r.check(a.Digest); err != nil {
		return nil, err
	}
	return a.file(r), s.remember(ctx, r, known, a)
}

// maxKnown is how many answers about one URL are remembered.
const maxKnown = 8

// remember puts an answer before those that are known, of which one with its ETag is no longer true.
func (s *Source) remember(ctx context.Context, r *Request, known []*answer, a *answer) error {
	if len(known) > 0 && *a == *known[0] {
		return nil
	}
	all := []*answer{a}
	for _, k := range known {
		if (k.ETag != a.ETag || k.ETag == "" && k.Digest != a.Digest) && len(all) < maxKnown {
			all = append(all, k)
		}
	}
	data, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("remembering %s: %w", r, err)
	}
	return s.store.PutMemo(ctx, r.place(), string(data))
}

// withoutURL takes the address out of an error of net/http's: that of the request stands in the text
// already, and may have credentials; one that a server has sent us to may be signed.
func withoutURL(err error, asked string) error {
	u := (*url.Error)(nil)
	if !errors.As(err, &u) {
		return err
	}
	at, aerr := url.Parse(u.URL)
	first, ferr := url.Parse(asked)
	if aerr != nil || ferr != nil || outbound.Origin(at) == outbound.Origin(first) {
		return u.Err
	}
	return fmt.Errorf("at %s: %w", outbound.Origin(at), u.Err)
}

// check compares a digest with the checksum that is wanted.
func (r *Request) check(got digest.Digest) error {
	if r.Checksum == "" || got == r.Checksum {
		return nil
	}
	return &failure{fmt.Sprintf("digest mismatch for %s: %s (expected: %s)", r, got, r.Checksum), errdefs.ErrDataLoss}
}

// known returns what the server said at other times, of the files that the store still holds: what it said last comes first.
func (s *Source) known(ctx context.Context, r *Request) ([]*answer, error) {
	text, ok, err := s.store.Memo(ctx, r.place())
	if err != nil || !ok {
		return nil, err
	}
	var all []*answer
	if json.Unmarshal([]byte(text), &all) != nil {
		return nil, nil // damaged: a miss
	}
	return slices.DeleteFunc(all, func(a *answer) bool { return a == nil || !s.store.HasBlob(a.Digest) }), nil
}

// ask sends the requests. known may be empty.
func (s *Source) ask(ctx context.Context, r *Request, env Env, known []*answer) (*answer, error) {
	header, err := r.header(ctx, env)
	if err != nil {
		return nil, err
	}
	c := &conversation{Source: s, r: r, env: env, header: header, known: known}
	// BuildKit's rule: some servers that have ETags do not heed If-None-Match, so HEAD comes first.
	if a := c.head(ctx); a != nil {
		return a, nil
	}
	return c.get(ctx)
}

// The names of secrets that are sent to a host without being asked for.
const (
	authHeaderPrefix = "HTTP_AUTH_HEADER_"
	authTokenPrefix  = "HTTP_AUTH_TOKEN_"
)

// Upload is the name of the file of the build's own that the URL is of, if it is of one.
func (r *Request) Upload() (name string, ok bool) {
	u, err := url.Parse(r.URL)
	if err != nil || u.Host != UploadHost {
		return "", false
	}
	return strings.TrimPrefix(u.Path, "/"), true
}

// Secrets are the IDs of the secrets that the server may be shown.
func (r *Request) Secrets() []string {
	if r.AuthHeaderSecret != "" {
		return []string{r.AuthHeaderSecret}
	}
	u, err := url.Parse(r.URL)
	if err != nil {
		return nil
	}
	return []string{authTokenPrefix + u.Hostname(), authHeaderPrefix + u.Hostname()}
}

// UserAgent is what servers are told. It has BuildKit's name as well, by which some let builders in.
const UserAgent = "slipway (as buildkit/v0.34.2)"

// header makes the header of a request.
func (r *Request) header(ctx context.Context, env Env) (http.Header, error) {
	h := http.Header{}
	h.Set("User-Agent", UserAgent)
	for _, f := range r.Header {
		h.Set(f.Name, f.Value)
	}
	if env.Secret == nil {
		env.Secret = func(_ context.Context, id string) ([]byte, error) {
			return nil, &failure{fmt.Sprintf("secret %s: not found", id), errdefs.ErrNotFound}
		}
	}
	if r.AuthHeaderSecret != "" {
		v, err := env.Secret(ctx, r.AuthHeaderSecret)
		if err != nil {
			return nil, fmt.Errorf("failed to retrieve HTTP auth secret %s: %w", r.AuthHeaderSecret, err)
		}
		h.Set("Authorization", string(v))
		return h, nil
	}
	u, err := url.Parse(r.URL)
	if err != nil {
		return nil, err
	}
	for prefix, scheme := range map[string]string{authTokenPrefix: "Bearer ", authHeaderPrefix: ""} {
		v, err := env.Secret(ctx, prefix+u.Hostname())
		switch {
		case errdefs.IsNotFound(err):
		case err != nil:
			return nil, err
		case h.Get("Authorization") == "" || scheme != "": // the token comes last in BuildKit, and wins
			h.Set("Authorization", scheme+string(v))
		}
	}
	return h, nil
}

// upload gives a file that the build brought along.
func (r *Request) upload(ctx context.Context, env Env, name string) (*File, error) {
	if env.Uploads == nil {
		env.Uploads = UploadedFiles{}
	}
	u, err := env.Uploads.Upload(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", r, err)
	}
	if env.Progress != nil {
		env.Progress(u.Size, u.Size)
	}
	return &File{Digest: u.Digest, Size: u.Size, Name: r.name(""), Path: u.Path}, r.check(u.Digest)
}

// failure is an error with a category of errdefs whose name is not part of the text.
type failure struct {
	text string
	kind error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.kind }
