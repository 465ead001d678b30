// Command registry serves a registry of a cluster on a Unix socket: Debian's docker-registry, the base images of hack/bases as library/NAME,
// slipway's own image, and the one that holds the namespaces of pods. Each request is a line of standard output. What is below /v2/private/ wants the
// user anna with the password s3cret. Besides, GET /gate/NAME is answered once somebody has asked for PUT /gate/NAME.
package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
	"github.com/slipway-build/slipway/hack/bases/library"
)

// settings are the flags.
type settings struct {
	socket, dir, bases, images, mirror string
}

func main() {
	var s settings
	flag.StringVar(&s.socket, "socket", "", "Unix socket to serve on")
	flag.StringVar(&s.dir, "dir", "", "where pushed images are kept")
	flag.StringVar(&s.bases, "bases", "build/bases", "base images that hack/bases has made")
	flag.StringVar(&s.images, "images", "build/image", "images that hack/image.sh has made")
	flag.StringVar(&s.mirror, "mirror", "", "address at which pods find this registry: slipway's image asks it for docker.io")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := s.serve(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

// serve serves until the context ends.
func (s *settings) serve(ctx context.Context) error {
	bases, err := library.Open(s.bases)
	if err != nil {
		return err
	}
	behind, stop, err := s.distribution(ctx)
	if err != nil {
		return err
	}
	defer stop()
	at := &routes{bases: bases.Handler(), pushed: behind, gates: map[string]chan struct{}{}}
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: at}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	defer server.Close()
	if err := s.push(ctx); err != nil {
		return err
	}
	at.log.Lock()
	at.to = os.Stdout
	at.log.Unlock()
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		return err
	}
}

// distribution starts docker-registry, on a socket of its own.
func (s *settings) distribution(ctx context.Context) (h http.Handler, stop func(), err error) {
	socket := s.socket + ".pushed"
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {net: unix, addr: %s}\n", s.dir, socket)
	file := filepath.Join(s.dir, "config.yml")
	if err := errors.Join(os.MkdirAll(s.dir, 0o755), os.WriteFile(file, []byte(config), 0o600)); err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, "docker-registry", "serve", file)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	stop = func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		_ = os.Remove(socket)
	}
	for range 500 {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return &httputil.ReverseProxy{
				Rewrite: func(r *httputil.ProxyRequest) {
					r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", "registry", r.In.Host // of which addresses are made
				},
				Transport: dialing(socket),
			}, stop, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	stop()
	return nil, nil, errors.New("docker-registry does not listen")
}

// dialing is a transport whose connections all go to a socket.
func dialing(socket string) http.RoundTripper {
	return &http.Transport{MaxIdleConnsPerHost: 100, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
}

// routes sends requests to who answers them, and writes them down.
type routes struct {
	bases, pushed http.Handler

	log sync.Mutex
	to  io.Writer // nil: not yet

	mu    sync.Mutex
	gates map[string]chan struct{} // closed: open
}

// gate is the one of a name.
func (s *routes) gate(name string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gates[name] == nil {
		s.gates[name] = make(chan struct{})
	}
	return s.gates[name]
}

// pass opens a gate, or waits until it is open.
func (s *routes) pass(r *http.Request) {
	if r.Method != http.MethodPut {
		select {
		case <-s.gate(r.URL.Path):
		case <-r.Context().Done():
		}
		return
	}
	g := s.gate(r.URL.Path)
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-g:
	default:
		close(g)
	}
}

// answer sends a request to who answers it.
func (s *routes) answer(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	switch {
	case strings.HasPrefix(r.URL.Path, "/gate/"):
		s.note(r, &counter{}, &reader{}) // who waits is seen
		s.pass(r)
	case strings.HasPrefix(r.URL.Path, "/v2/private/") && (user != "anna" || password != "s3cret"):
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
	case strings.HasPrefix(r.URL.Path, "/v2/library/") && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		s.bases.ServeHTTP(w, r)
	default:
		r.Header.Del("Authorization")
		s.pushed.ServeHTTP(w, r)
	}
}

// ServeHTTP implements http.Handler.
func (s *routes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	counted := &counter{ResponseWriter: w, code: http.StatusOK}
	body := &reader{ReadCloser: r.Body}
	r.Body = body
	s.answer(counted, r)
	s.note(r, counted, body)
}

// note writes a request down; code 0: it waits.
func (s *routes) note(r *http.Request, answered *counter, body *reader) {
	s.log.Lock()
	defer s.log.Unlock()
	if s.to != nil {
		fmt.Fprintf(s.to, "%s %s %s %d in=%d out=%d %s\n", time.Now().UTC().Format(time.RFC3339Nano), r.Method, r.URL.RequestURI(), answered.code, body.n, answered.n, r.UserAgent())
	}
}

// counter notes what is answered.
type counter struct {
	http.ResponseWriter
	code int
	n    int64
}

func (c *counter) WriteHeader(code int) {
	c.code = code
	c.ResponseWriter.WriteHeader(code)
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// reader notes how much is sent.
type reader struct {
	io.ReadCloser
	n int64
}

func (r *reader) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	r.n += int64(n)
	return n, err
}

// push gives the registry the images that nodes start.
func (s *settings) push(ctx context.Context) error {
	pause, err := baseimage.Busybox()
	if err != nil {
		return err
	}
	if pause, err = mutate.Config(pause, v1.Config{Entrypoint: []string{"/bin/sleep", "1000000"}, Env: []string{"PATH=/bin"}}); err != nil {
		return err
	}
	images := map[string]v1.Image{"kube/pause:3.10": pause}
	for tag, target := range map[string]string{"slipway:latest": "slipway", "slipway:daemon": "daemon"} {
		img, err := s.own(target)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading image %s: %w", target, err)
		}
		images[tag] = img
	}
	for at, img := range images {
		ref, err := name.ParseReference("127.0.0.1:5000/"+at, name.Insecure)
		if err == nil {
			err = remote.Write(ref, img, remote.WithTransport(dialing(s.socket)), remote.WithContext(ctx))
		}
		if err != nil {
			return fmt.Errorf("pushing %s: %w", at, err)
		}
	}
	return nil
}

// own is an image of slipway, which asks the mirror for images of docker.io.
func (s *settings) own(target string) (v1.Image, error) {
	path, err := layout.FromPath(filepath.Join(s.images, target))
	if err != nil {
		return nil, err
	}
	index, err := path.ImageIndex()
	if err != nil {
		return nil, err
	}
	all, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	img, err := index.Image(all.Manifests[0].Digest)
	if err != nil || s.mirror == "" {
		return img, err
	}
	text := fmt.Appendf(nil, "server = \"http://%s\"\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", s.mirror, s.mirror)
	add, err := files(map[string]int64{".slipway": 0o1777, ".slipway/certs.d": 0o755, ".slipway/certs.d/docker.io": 0o755}, ".slipway/certs.d/docker.io/hosts.toml", text)
	if err != nil {
		return nil, err
	}
	if img, err = mutate.AppendLayers(img, add); err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config.Config.Env = append(config.Config.Env, "SLIPWAY_CERTS_DIR=/.slipway/certs.d")
	return mutate.ConfigFile(img, config)
}

// files is a layer of directories with their modes, and a file in them.
func files(dirs map[string]int64, file string, text []byte) (v1.Layer, error) {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	var err error
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		err = errors.Join(err, t.WriteHeader(&tar.Header{Name: dir + "/", Mode: dirs[dir], Typeflag: tar.TypeDir}))
	}
	err = errors.Join(err, t.WriteHeader(&tar.Header{Name: file, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}))
	if err == nil {
		_, err = t.Write(text)
	}
	if err := errors.Join(err, t.Close()); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
}
