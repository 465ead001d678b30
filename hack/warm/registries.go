package warm

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
)

// Registries are servers on loopback that projects download from. Modules of Go and packages of npm come from where this machine gets them, once;
// packages of other kinds are made of the project's own files. They write down what they are asked for.
type Registries struct {
	Addrs map[string]string // by kind, as in [kinds], "go" and "npm"; host:port

	mu      sync.Mutex
	asked   []string
	kept    map[string]answer
	servers []*http.Server
}

const npmRegistry = "https://registry.npmjs.org"

// answer is what a registry answers.
type answer struct {
	status int
	kind   string // Content-Type
	body   []byte
}

// Serve starts the registries; files are a project's.
func Serve(files map[string]string) (*Registries, error) {
	r := &Registries{Addrs: map[string]string{}, kept: map[string]answer{}}
	goProxy, err := exec.Command("go", "env", "GOPROXY").Output()
	if err != nil {
		return nil, fmt.Errorf("finding the proxy of modules: %w", err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(goProxy)), ",")
	all := map[string]func(addr string) (func(name string) answer, error){
		"go":  func(string) (func(string) answer, error) { return r.passedOn(strings.TrimSuffix(first, "/")), nil },
		"npm": func(string) (func(string) answer, error) { return r.passedOn(npmRegistry), nil },
	}
	for kind, make := range kinds() {
		all[kind] = func(addr string) (func(string) answer, error) {
			all, err := make(files, addr)
			return among(all), err
		}
	}
	for kind, get := range all {
		if err := r.serve(kind, get); err != nil {
			r.Close()
			return nil, err
		}
	}
	return r, nil
}

// serve starts the registry of a kind. What it answers may depend on its address.
func (r *Registries) serve(kind string, get func(addr string) (func(name string) answer, error)) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	answers, err := get(l.Addr().String())
	if err != nil {
		l.Close()
		return err
	}
	s := &http.Server{Handler: r.handler(kind, answers)}
	r.Addrs[kind], r.servers = l.Addr().String(), append(r.servers, s)
	go s.Serve(l) //nolint:errcheck // Close ends it
	return nil
}

// Close ends the servers.
func (r *Registries) Close() {
	for _, s := range r.servers {
		s.Close()
	}
}

// Asked gives what was asked for since the last call, sorted, as "KIND PATH".
func (r *Registries) Asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.asked
	r.asked = nil
	slices.Sort(all)
	return slices.Compact(all)
}

func (r *Registries) handler(kind string, get func(string) answer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.asked = append(r.asked, kind+" "+req.URL.Path)
		r.mu.Unlock()
		a := get(req.URL.EscapedPath())
		if strings.Contains(a.kind, "json") { // what leads to npm's registry leads here
			a.body = bytes.ReplaceAll(a.body, []byte(npmRegistry), []byte("http://"+req.Host))
		}
		if a.kind != "" {
			w.Header().Set("Content-Type", a.kind)
		}
		if strings.HasPrefix(req.URL.Path, "/files/") { // as PyPI has it: pip keeps nothing else
			w.Header().Set("Cache-Control", "max-age=365000000, immutable, public")
		}
		w.WriteHeader(a.status)
		w.Write(a.body) //nolint:errcheck // the client tells
	})
}

// passedOn asks another server, once for each name.
func (r *Registries) passedOn(base string) func(string) answer {
	return func(name string) answer {
		r.mu.Lock()
		a, ok := r.kept[base+name]
		r.mu.Unlock()
		if ok {
			return a
		}
		resp, err := http.Get(base + name)
		if err != nil {
			return answer{status: http.StatusBadGateway, body: []byte(err.Error())}
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return answer{status: http.StatusBadGateway, body: []byte(err.Error())}
		}
		a = answer{resp.StatusCode, resp.Header.Get("Content-Type"), body}
		if a.status == http.StatusOK {
			r.mu.Lock()
			r.kept[base+name] = a
			r.mu.Unlock()
		}
		return a
	}
}

// among answers with what is there.
func among(all map[string]answer) func(string) answer {
	return func(name string) answer {
		if a, ok := all[name]; ok {
			return a
		}
		return answer{status: http.StatusNotFound}
	}
}
