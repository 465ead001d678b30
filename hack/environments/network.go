package environments

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Ports of a container's own loopback. On the machine others are taken, which are free.
const (
	registryPort = 5000
	proxyPort    = 3128
)

// proxyHost is a host that the proxy stands for itself, so that it can be reached where nothing else is; below /go it has
// modules of Go.
const proxyHost = "place.test"

// services is what places reach: a registry of base images and a proxy for packages, on their own loopback.
type services struct {
	registry http.Handler
	proxy    *proxy

	mu        sync.Mutex
	listeners []net.Listener
}

// listen serves on the loopback of the calling thread's network, and returns the addresses.
func (s *services) listen(registryPort, proxyPort int) (registry, proxy string, err error) {
	addrs := make([]string, 2)
	for i, at := range []struct {
		port    int
		handler http.Handler
	}{{registryPort, s.registry}, {proxyPort, s.proxy}} {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", at.port))
		if err != nil {
			return "", "", err
		}
		s.mu.Lock()
		s.listeners = append(s.listeners, l)
		s.mu.Unlock()
		go http.Serve(l, at.handler)
		addrs[i] = l.Addr().String()
	}
	return addrs[0], addrs[1], nil
}

// listenIn serves on the loopback of a process's network.
func (s *services) listenIn(pid int) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err == nil {
		defer own.Close()
		err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	_, _, err = s.listen(registryPort, proxyPort)
	// A thread that cannot come back would end, and take with it what it has started (Pdeathsig).
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}

func (s *services) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		l.Close()
	}
}

// writeHosts lets slipway find the registry in the place of docker.io, and nothing else behind it.
func writeHosts(certs, addr string) error {
	dir := filepath.Join(certs, "docker.io")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, "server = \"http://%s\"\n", addr), 0o644)
}

// proxy is an HTTP proxy that keeps what it fetched for as long as it lives: what is built in one place is compared with
// what is built in another, so a mirror must not change in between.
type proxy struct {
	dir string // where bodies are kept

	mu   sync.Mutex
	kept map[string]*answer
}

// answer is what a URL had.
type answer struct {
	once   sync.Once
	status int
	header http.Header
	file   string
	err    error
}

// ServeHTTP implements http.Handler.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || !r.URL.IsAbs() {
		http.Error(w, "this proxy answers GET alone", http.StatusMethodNotAllowed)
		return
	}
	url := r.URL.String()
	if r.URL.Host == proxyHost {
		module, ok := strings.CutPrefix(r.URL.Path, "/go/")
		if !ok {
			return
		}
		url = goProxy() + "/" + module
	}
	p.mu.Lock()
	a := p.kept[url]
	if a == nil {
		a = &answer{file: filepath.Join(p.dir, fmt.Sprintf("%d", len(p.kept)))}
		p.kept[url] = a
	}
	p.mu.Unlock()
	a.once.Do(func() { a.err = a.fetch(url) })
	if a.err != nil {
		http.Error(w, a.err.Error(), http.StatusBadGateway)
		return
	}
	body, err := os.ReadFile(a.file)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	for _, name := range []string{"Content-Type", "Last-Modified"} {
		if v := a.header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(a.status)
	io.Copy(w, bytes.NewReader(body))
}

// goProxy is the proxy for modules that this machine uses.
var goProxy = sync.OnceValue(func() string {
	out, _ := exec.Command("go", "env", "GOPROXY").Output()
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), ",")
	return strings.TrimSuffix(first, "/")
})

func (a *answer) fetch(url string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	a.status, a.header = resp.StatusCode, resp.Header
	return writeFile(a.file, resp.Body, 0o644)
}
