package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli/config/types"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/auth/authprovider"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/session/filesync"
	bksecrets "github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/session/upload"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// service is one that a test makes.
type service func(*grpc.Server)

func (s service) Register(srv *grpc.Server) { s(srv) }

// stuck is a session whose services answer nobody; asked tells of calls.
func stuck() (_ session.Attachable, asked chan struct{}) {
	asked = make(chan struct{}, 100)
	wait := func(ctx context.Context) error {
		asked <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	return service(func(s *grpc.Server) {
		desc := func(name string, methods ...string) {
			d := grpc.ServiceDesc{ServiceName: name, HandlerType: (*any)(nil)}
			for _, m := range methods {
				d.Streams = append(d.Streams, grpc.StreamDesc{StreamName: m, ServerStreams: true, ClientStreams: true,
					Handler: func(_ any, stream grpc.ServerStream) error { return wait(stream.Context()) }})
			}
			s.RegisterService(&d, struct{}{})
		}
		desc("moby.buildkit.secrets.v1.Secrets", "GetSecret")
		desc("moby.sshforward.v1.SSH", "CheckAgent", "ForwardAgent")
		desc("moby.filesync.v1.Auth", "Credentials", "FetchToken", "GetTokenAuthority")
		desc("moby.upload.v1.Upload", "Pull")
		desc("moby.filesync.v1.FileSend", "DiffCopy")
		desc("moby.filesync.v1.FileSync", "DiffCopy")
		desc("containerd.services.content.v1.Content", "Info", "Read", "Write", "Status")
	}), asked
}

// calls are all that a build may ask of a client.
var calls = map[string]func(ctx context.Context, c *Client) error{
	"secret": func(ctx context.Context, c *Client) error { _, err := c.Secret(ctx, "id"); return err },
	"credentials": func(ctx context.Context, c *Client) error {
		_, _, err := c.Registries().Lookup(ctx, "host")
		return err
	},
	"token": func(ctx context.Context, c *Client) error {
		_, err := c.Registries().Token(ctx, registry.TokenRequest{Host: "host"})
		return err
	},
	"agent":  func(ctx context.Context, c *Client) error { _, err := c.Agents().caller(ctx, "id"); return err },
	"upload": func(ctx context.Context, c *Client) error { _, err := c.Upload(ctx, "id"); return err },
	"directory": func(ctx context.Context, c *Client) error {
		x, err := c.Context(op())
		if err == nil {
			_, err = x.Tree(ctx, nil, nil)
		}
		return err
	},
	"blob": func(ctx context.Context, c *Client) error {
		_, err := c.Blobs("", "id").Open(ctx, digest.FromString("x"))
		return err
	},
	"blob written": func(ctx context.Context, c *Client) error {
		return c.Blobs("", "id").Write(ctx, ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1}, strings.NewReader("x"))
	},
	"archive": func(ctx context.Context, c *Client) error {
		w, err := c.Writer(ctx, 0, nil)
		if err != nil {
			return err
		}
		_, err = w.Write([]byte("x"))
		return errors.Join(err, w.Close())
	},
	"files": func(ctx context.Context, c *Client) error { return c.Files(ctx, 0, layer.Merged(nil), nil) },
}

// A client that goes, or has never come, is an error that says so, wherever it is asked; nothing is left of it.
func TestGoneAtEachService(t *testing.T) {
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			services, asked := stuck()
			v := s.connect("key", services)
			c := s.build(v)
			ctx := t.Context()
			errs := make(chan error, 1)
			go func() { errs <- call(ctx, c) }()
			<-asked
			v.leave()
			if err := <-errs; !errors.Is(err, ErrGone) || !errdefs.IsUnavailable(err) {
				t.Errorf("while it is asked: %v", err)
			}
			other := s.build(v) // whose session is not there
			if err := call(ctx, other); !errors.Is(err, ErrGone) {
				t.Errorf("before it is asked: %v", err)
			}
			noneLeft(t, s)
		})
	}
}

// Who sends when the client has gone is told of it by an end of the stream alone.
func TestGoneWhileSending(t *testing.T) {
	for _, err := range []error{io.EOF, fmt.Errorf("failed to open writer: %w", io.EOF), status.Error(codes.Unavailable, "transport is closing")} {
		if got := explain(t.Context(), err, "writing"); !errors.Is(got, ErrGone) || got.Error() != "writing: "+ErrGone.Error() {
			t.Errorf("%v is %v", err, got)
		}
	}
	if got := explain(t.Context(), io.ErrUnexpectedEOF, "writing"); errors.Is(got, ErrGone) {
		t.Errorf("what is too short is %v", got)
	}
}

// Who asks a client that says nothing is not kept: neither when it has waited enough, nor when the build ends.
func TestSilentAtEachService(t *testing.T) {
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			services, asked := stuck()
			v := s.connect("key", services)
			c := s.build(v)
			mine := errors.New("I have no time")
			ctx, cancel := context.WithCancelCause(t.Context())
			errs := make(chan error, 1)
			go func() { errs <- call(ctx, c) }()
			<-asked
			cancel(mine)
			if err := <-errs; !errors.Is(err, mine) {
				t.Errorf("it is waited for: %v", err)
			}
			go func() { errs <- call(context.Background(), c) }()
			over, end := context.WithCancel(t.Context())
			end()
			if err := c.Close(over); err != nil {
				t.Error(err)
			}
			if err := <-errs; err == nil {
				t.Error("there was an answer")
			}
			noneLeft(t, s)
		})
	}
}

func TestSecrets(t *testing.T) {
	s := newServer(t)
	given := func(values map[string]string) session.Attachable {
		m := map[string][]byte{}
		for k, v := range values {
			m[k] = []byte(v)
		}
		return secretsprovider.FromMap(m)
	}
	a := s.build(s.connect("key", given(map[string]string{"one": "1", "big": strings.Repeat("x", 500<<10+1)})))
	b := s.build(s.connect("key", given(map[string]string{"one": "1", "two": "2"})))
	other := s.build(s.connect("key", given(map[string]string{"one": "not 1"})))
	none := s.build(s.connect("key"))
	if v, err := a.Secret(t.Context(), "one"); err != nil || string(v) != "1" {
		t.Errorf("got %q, %v", v, err)
	}
	for _, c := range []*Client{a, none} {
		if _, err := c.Secret(t.Context(), "two"); !errdefs.IsNotFound(err) || err.Error() != "secret two: not found" {
			t.Errorf("one that was not given: %v", err)
		}
	}
	if _, err := a.Secret(t.Context(), "big"); err == nil || !strings.Contains(err.Error(), "invalid secret size 512001") {
		t.Errorf("a large one: %v", err)
	}
	a.opt.IDs = append(a.opt.IDs, b.opt.IDs...) // the second session has what the first one has not
	if v, err := a.Secret(t.Context(), "two"); err != nil || string(v) != "2" {
		t.Errorf("of the second session: %q, %v", v, err)
	}
	of := a.Origin("one")
	if of == "" || of != b.Origin("one") || of == other.Origin("one") || strings.Contains(of, "31") && len(of) < 64 {
		t.Errorf("origins are %q, %q, %q", of, b.Origin("one"), other.Origin("one"))
	}
	if of := none.Origin("one"); of != "" {
		t.Errorf("one that was not given comes from %q", of)
	}
	refusing := s.build(s.connect("key", service(func(srv *grpc.Server) { bksecrets.RegisterSecretsServer(srv, refuser{}) })))
	if _, err := refusing.Secret(t.Context(), "one"); err == nil || errdefs.IsNotFound(err) || err.Error() != "asking the client for secret one: the store is [31mlocked" {
		t.Errorf("of a client that refuses: %v", err)
	}
	if a, b := refusing.Origin("one"), refusing.Origin("one"); a == "" || a != b {
		t.Errorf("a secret that nobody knows comes from %q, %q", a, b)
	}
}

// fickle gives another value each time, once two have asked.
type fickle struct {
	asked sync.WaitGroup
	times atomic.Int32
}

func (f *fickle) GetSecret(context.Context, *bksecrets.GetSecretRequest) (*bksecrets.GetSecretResponse, error) {
	n := f.times.Add(1)
	if n <= 2 {
		f.asked.Done()
	}
	f.asked.Wait()
	return &bksecrets.GetSecretResponse{Data: []byte{byte(n)}}, nil
}

// Where a secret comes from is one answer for the build, whatever the client gives to those who ask at the same time.
func TestFickleSecret(t *testing.T) {
	s := newServer(t)
	f := &fickle{}
	f.asked.Add(2)
	c := s.build(s.connect("key", service(func(srv *grpc.Server) { bksecrets.RegisterSecretsServer(srv, f) })))
	origins := make(chan string, 2)
	for range 2 {
		go func() { origins <- c.Origin("one") }()
	}
	if a, b := <-origins, <-origins; a != b || a != c.Origin("one") {
		t.Errorf("it comes from %q, %q and %q", a, b, c.Origin("one"))
	}
}

type refuser struct{}

func (refuser) GetSecret(context.Context, *bksecrets.GetSecretRequest) (*bksecrets.GetSecretResponse, error) {
	return nil, status.Error(codes.PermissionDenied, "the store is \x1b[31mlocked")
}

func TestAgents(t *testing.T) {
	pub, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	provider, err := sshprovider.NewSSHAgentProvider([]sshprovider.AgentConfig{{ID: "default", Paths: []string{file}}})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t)
	none := s.build(s.connect("key")).Agents()
	if err := none.Check("default"); !errdefs.IsNotFound(err) || err.Error() != `no SSH key "default" forwarded from the client` {
		t.Errorf("of a client without agents: %v", err)
	}
	v := s.connect("key", provider)
	c := s.build(v)
	agents := c.Agents()
	if err := agents.Check("other"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "unset ssh forward key other") {
		t.Errorf("another agent: %v", err)
	}
	if of := agents.Origin("other"); of != "" {
		t.Errorf("another agent is at %q", of)
	}
	if of := agents.Origin(""); of == "" || of == none.Origin("") {
		t.Errorf("the agent is at %q", of)
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := agents.Serve(ctx, "", l); err != nil {
		t.Fatal(err)
	}
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	for range 3 {
		conn := dial()
		keys, err := agent.NewClient(conn).List()
		key, kerr := ssh.NewPublicKey(pub)
		if err != nil || kerr != nil || len(keys) != 1 || !bytes.Equal(keys[0].Marshal(), key.Marshal()) {
			t.Fatalf("keys: %v, %v, %v", keys, err, kerr)
		}
	}
	conn := dial()
	if _, err := agent.NewClient(conn).List(); err != nil {
		t.Fatal(err)
	}
	v.leave()
	if _, err := io.ReadAll(conn); err != nil { // it ends
		t.Error(err)
	}
}

// tokens is a service that gives tokens for a password, and the registry that wants them.
type tokens struct {
	*registrytest.Registry
	mu   sync.Mutex
	seen []string // who sent a password: the client of the service
}

func newTokens(t *testing.T) *tokens {
	r := &tokens{Registry: registrytest.Start(t)}
	r.PushImage("app:v1", registrytest.Image{})
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		switch {
		case req.URL.Path == "/token":
			_, pass, _ := req.BasicAuth()
			if pass == "" {
				pass = req.PostFormValue("password")
			}
			if pass != "s3cret" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.seen = append(r.seen, req.UserAgent()+" "+req.FormValue("scope"))
			fmt.Fprint(w, `{"token": "t0ken", "access_token": "t0ken"}`)
		case req.Header.Get("Authorization") != "Bearer t0ken":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test"`, r.URL))
			w.WriteHeader(http.StatusUnauthorized)
		default:
			next.ServeHTTP(w, req)
		}
	})
	return r
}

// The client's passwords stay with it where it asks token services itself; otherwise they are asked for.
func TestRegistryCredentials(t *testing.T) {
	r := newTokens(t)
	s := newServer(t)
	var hosts []string
	knows := authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: func(_ context.Context, host string, _ []string, _ authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
			hosts = append(hosts, host)
			return types.AuthConfig{Username: "user", Password: "s3cret"}, nil
		},
	})
	for _, tc := range []struct {
		name     string
		services []session.Attachable
		by       string // who sends the password; "": nobody may
	}{
		{"tokens", []session.Attachable{knows}, "containerd/"},
		{"passwords", []session.Attachable{service(func(srv *grpc.Server) { auth.RegisterAuthServer(srv, onlyPasswords{}) })}, "slipway"},
		{"nobody", nil, ""},
	} {
		r.seen = nil
		c := s.build(s.connect("key", tc.services...))
		reg := registry.New(registry.Options{Credentials: c.Registries(), DockerConfigDir: t.TempDir()})
		_, err := reg.Resolve(t.Context(), r.Host+"/app:v1")
		if (err == nil) != (tc.by != "") {
			t.Errorf("%s: %v", tc.name, err)
		}
		if tc.by == "" {
			if !errdefs.IsUnauthorized(err) {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		if len(r.seen) == 0 || slices.ContainsFunc(r.seen, func(s string) bool {
			return !strings.HasPrefix(s, tc.by) || !strings.Contains(s, "repository:app:pull")
		}) {
			t.Errorf("%s: the password was sent by %q", tc.name, r.seen)
		}
	}
	if slices.ContainsFunc(hosts, func(h string) bool { return h != r.Host }) {
		t.Errorf("credentials were asked for of %q", hosts)
	}
}

// onlyPasswords is a client that leaves tokens to the builder.
type onlyPasswords struct{ auth.AuthServer }

func (onlyPasswords) Credentials(context.Context, *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	return &auth.CredentialsResponse{Username: "user", Secret: "s3cret"}, nil
}

func (onlyPasswords) GetTokenAuthority(context.Context, *auth.GetTokenAuthorityRequest) (*auth.GetTokenAuthorityResponse, error) {
	return nil, status.Error(codes.Unavailable, "client side tokens disabled")
}

func TestUploads(t *testing.T) {
	s := newServer(t)
	p := uploadprovider.New()
	address, err := url.Parse(p.Add(io.NopCloser(strings.NewReader(strings.Repeat("content", 1<<20)))))
	if err != nil {
		t.Fatal(err)
	}
	broken, err := url.Parse(p.Add(io.NopCloser(io.MultiReader(strings.NewReader("x"), &failing{}))))
	if err != nil {
		t.Fatal(err)
	}
	c := s.build(s.connect("key", p))
	name := strings.TrimPrefix(address.Path, "/")
	want := digest.FromString(strings.Repeat("content", 1<<20))
	var g sync.WaitGroup
	for range 4 { // it is sent once
		g.Go(func() {
			up, err := c.Upload(t.Context(), name)
			if err != nil || up.Digest != want || up.Size != 7<<20 {
				t.Errorf("got %+v, %v", up, err)
				return
			}
			if data, err := os.ReadFile(up.Path); err != nil || digest.FromBytes(data) != want {
				t.Errorf("the file: %v", err)
			}
		})
	}
	g.Wait()
	if _, err := c.Upload(t.Context(), "../../x"); !errdefs.IsNotFound(err) {
		t.Errorf("what there is not: %v", err)
	}
	if _, err := c.Upload(t.Context(), strings.TrimPrefix(broken.Path, "/")); err == nil || errdefs.IsNotFound(err) {
		t.Errorf("what breaks off: %v", err)
	}
	if _, err := s.build(s.connect("key")).Upload(t.Context(), "x"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), `the build has no upload "x"`) {
		t.Errorf("of a client without uploads: %v", err)
	}
	c.endFor(t)
	noneLeft(t, s)
}

type failing struct{}

func (*failing) Read([]byte) (int, error) { return 0, errors.New("the pipe has burst") }

var _ upload.UploadServer = (*uploadprovider.Uploader)(nil)

func TestBlobs(t *testing.T) {
	s := newServer(t)
	dir := t.TempDir()
	cs, err := contentlocal.NewStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("blob"), 1<<20)
	desc := ocispec.Descriptor{MediaType: "x", Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := content.WriteBlob(t.Context(), cs, "x", bytes.NewReader(data), desc); err != nil {
		t.Fatal(err)
	}
	without := s.connect("key", sessioncontent.NewAttachable(map[string]content.Store{}))
	c := s.build(without)
	c.opt.IDs = append(c.opt.IDs, s.connect("key", sessioncontent.NewAttachable(map[string]content.Store{"oci:layout": cs})).id)
	l, err := c.Layout("", "layout") // as sources name it; the client has another word before it
	if err != nil {
		t.Fatal(err)
	}
	b := l.(*Blobs)
	r, err := b.Open(t.Context(), desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	for _, b := range []*Blobs{b, c.Blobs("", "oci:other")} {
		if _, err := b.Open(t.Context(), digest.FromString("x")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what there is not: %v", err)
		}
	}
	if _, err := b.Open(t.Context(), "sha256:../../../etc/passwd"); err == nil {
		t.Error("an odd digest was asked for")
	}
	text := ocispec.Descriptor{Digest: digest.FromString("new"), Size: 3}
	for range 2 { // the second time it is there
		if err := b.Write(t.Context(), text, strings.NewReader("new")); err != nil {
			t.Error(err)
		}
	}
	if has, err := b.Has(t.Context(), text.Digest); !has || err != nil {
		t.Errorf("what was written is there: %t, %v", has, err)
	}
	if has, err := b.Has(t.Context(), digest.FromString("x")); has || err != nil {
		t.Errorf("what was not written is there: %t, %v", has, err)
	}
	if err := b.Write(t.Context(), ocispec.Descriptor{Digest: digest.FromString("other"), Size: 5}, strings.NewReader("wrong")); err == nil {
		t.Error("a blob with another digest was written")
	}
}

// A client that does not read what it is sent, more than fits on the way, keeps nobody: neither who has waited enough, nor the
// end of the build.
func TestClientThatDoesNotRead(t *testing.T) {
	data := strings.Repeat("much", 4<<20)
	from := t.TempDir()
	write(t, from, map[string]string{"f": data})
	for name, call := range map[string]func(ctx context.Context, c *Client) error{
		"archive": func(ctx context.Context, c *Client) error {
			w, err := c.Writer(ctx, 0, nil)
			if err != nil {
				return err
			}
			_, err = w.Write([]byte(data))
			return errors.Join(err, w.Close())
		},
		"files": func(ctx context.Context, c *Client) error {
			return c.Files(ctx, 0, layer.OpenDir(from, layer.DirOptions{}), nil)
		},
		"blob": func(ctx context.Context, c *Client) error {
			return c.Blobs("", "id").Write(ctx, ocispec.Descriptor{Digest: digest.FromString(data), Size: int64(len(data))}, strings.NewReader(data))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			services, asked := stuck()
			c := s.build(s.connect("key", services))
			mine := errors.New("I have no time")
			ctx, cancel := context.WithCancelCause(t.Context())
			errs := make(chan error, 1)
			go func() { errs <- call(ctx, c) }()
			<-asked
			cancel(mine)
			if err := <-errs; !errors.Is(err, mine) {
				t.Errorf("it is waited for: %v", err)
			}
			go func() { errs <- call(context.Background(), c) }()
			<-asked
			over, end := context.WithCancel(t.Context())
			end()
			if err := c.Close(over); err != nil {
				t.Error(err)
			}
			if err := <-errs; err == nil {
				t.Error("it has read all")
			}
			noneLeft(t, s)
		})
	}
}

func TestOutputs(t *testing.T) {
	s := newServer(t)
	var archive bytes.Buffer
	var about map[string]string
	dir := t.TempDir()
	write(t, dir, map[string]string{"old": "stays"})
	v := s.connect("key", filesync.NewFSSyncTarget(
		filesync.WithFSSync(0, func(md map[string]string) (io.WriteCloser, error) { about = md; return nopCloser{&archive}, nil }),
		filesync.WithFSSyncDir(1, dir),
		filesync.WithFSSync(2, func(map[string]string) (io.WriteCloser, error) { return nil, nil }),
		filesync.WithFSSync(3, func(map[string]string) (io.WriteCloser, error) { return fullDisk{}, nil }),
	))
	c := s.build(v)
	w, err := c.Writer(t.Context(), 0, map[string]string{"image.name": "app"})
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("tar"), 3<<20)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil || !bytes.Equal(archive.Bytes(), data) || about["image.name"] != "app" {
		t.Errorf("the client has %d bytes about %v, %v", archive.Len(), about, err)
	}
	for id, want := range map[int]string{2: "target already exists", 3: "the client's disk is full", 7: "exporter 7 not found"} {
		w, err := c.Writer(t.Context(), id, nil)
		for range 100 {
			if err == nil {
				_, err = w.Write(data)
			}
		}
		if err == nil {
			err = w.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), fmt.Sprintf("writing output %d to the client", id)) {
			t.Errorf("output %d: %v, want %q", id, err, want)
		}
	}

	from := t.TempDir()
	write(t, from, map[string]string{"a/b": "1", "a/c": strings.Repeat("2", 1<<20), "z": "3"})
	if err := os.Symlink("a", filepath.Join(from, "l")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(from, "z"), filepath.Join(from, "zz")); err != nil {
		t.Fatal(err)
	}
	tree := layer.OpenDir(from, layer.DirOptions{})
	sent := 0
	if err := c.Files(t.Context(), 1, tree, func(n int) { sent = n }); err != nil {
		t.Fatal(err)
	}
	if sent < 1<<20 {
		t.Errorf("told of %d bytes", sent)
	}
	if err := os.Remove(filepath.Join(dir, "old")); err != nil { // it stayed
		t.Error(err)
	}
	if got, want := described(t, layer.OpenDir(dir, layer.DirOptions{})), described(t, tree); got != want {
		t.Errorf("the client has\n%s\nwant\n%s", got, want)
	}
	if got := reads(t, layer.OpenDir(dir, layer.DirOptions{}), "a/c"); got != strings.Repeat("2", 1<<20) {
		t.Errorf("a file has %d bytes", len(got))
	}
	if err := c.Files(t.Context(), 1, brokenTree{tree}, nil); err == nil || !strings.Contains(err.Error(), "this layer is gone") {
		t.Errorf("of a tree that cannot be read: %v", err)
	}
	if _, err := s.build(s.connect("key")).Writer(t.Context(), 0, nil); err == nil || !strings.Contains(err.Error(), "not supported by the client") {
		t.Errorf("a client that takes nothing: %v", err)
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("the client's disk is full") }
func (fullDisk) Close() error              { return nil }

// brokenTree cannot be read.
type brokenTree struct{ layer.Tree }

func (b brokenTree) ReadDir(path string) ([]*layer.Entry, error) {
	return nil, errors.New("this layer is gone")
}

var _ sshforward.SSHServer = (sshforward.SSHServer)(nil)
