package kubernetes

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// meter passes what a client asks the API server on, and notes it.
type meter struct {
	kubeconfig string // of a client whose requests are noted

	mu          sync.Mutex
	connections int
	requests    map[string]int // by method and kind
	in, out     int64          // bytes of bodies, as the server sees them
	jobs        map[string]*lifetime
}

// lifetime is what the client was told of a Job.
type lifetime struct {
	made, runs, ended time.Time // the Job is there, its container runs, and has ended
}

// meter starts one, on a port of the network of the control plane.
func (c *cluster) meter(t *testing.T, port int) *meter {
	t.Helper()
	m := &meter{requests: map[string]int{}, jobs: map[string]*lifetime{}, kubeconfig: filepath.Join(c.work, fmt.Sprintf("kubeconfig-%d", port))}
	pki := filepath.Join(c.dir, "run", "pki")
	pool, server, client := x509.NewCertPool(), pair(t, pki, "apiserver"), pair(t, pki, "anna")
	ca, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	if err != nil || !pool.AppendCertsFromPEM(ca) {
		t.Fatalf("reading the CA: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(pki, "anna.kubeconfig"))
	if err == nil {
		err = os.WriteFile(m.kubeconfig, bytes.ReplaceAll(text, []byte(":6443"), fmt.Appendf(nil, ":%d", port)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	behind, before := filepath.Join(c.work, fmt.Sprintf("api-%d", port)), filepath.Join(c.work, fmt.Sprintf("meter-%d", port))
	l, err := net.Listen("unix", before)
	if err != nil {
		t.Fatal(err)
	}
	api, _, _ := strings.Cut(host, ":")
	c.forward(t, "UNIX-LISTEN:"+behind+",fork,backlog=128", "TCP:"+api+":6443")
	c.forward(t, fmt.Sprintf("TCP-LISTEN:%d,bind=%s,reuseaddr,fork,backlog=128", port, api), "UNIX-CONNECT:"+before)
	proxy := &httputil.ReverseProxy{
		FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0), // of streams that the client ends
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "https", api },
		Transport: &http.Transport{
			ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{client}},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", behind)
			},
		},
		ModifyResponse: m.answered,
	}
	s := &http.Server{TLSConfig: &tls.Config{Certificates: []tls.Certificate{server}}, ConnState: m.connected, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.ask(r)
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = s.ServeTLS(l, "", "") }() // until it is closed
	t.Cleanup(func() { _ = s.Close() })
	eventually(t, "the meter answers", func() bool {
		return exec.Command("./cluster.sh", "client", "env", "KUBECONFIG="+m.kubeconfig, "kubectl", "version").Run() == nil
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.connections, m.requests, m.in, m.out = 0, map[string]int{}, 0, 0
	return m
}

// forward runs socat in the network of the control plane.
func (c *cluster) forward(t *testing.T, from, to string) {
	t.Helper()
	cmd := exec.Command("./cluster.sh", "client", "socat", from, to)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // killed
	})
}

func pair(t *testing.T, dir, name string) tls.Certificate {
	t.Helper()
	p, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (m *meter) connected(_ net.Conn, s http.ConnState) {
	if s == http.StateNew {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.connections++
	}
}

// ask notes a request.
func (m *meter) ask(r *http.Request) {
	q, kind := r.URL.Query(), r.Method+" "+kindOf(r.URL.Path)
	switch {
	case q.Get("watch") != "":
		kind = "WATCH " + kindOf(r.URL.Path)
	case q.Get("dryRun") != "":
		kind += " (trial)"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests[kind]++
	m.in += max(r.ContentLength, 0)
}

// kindOf is what a path is about.
func kindOf(path string) string {
	_, after, _ := strings.Cut(path, "/namespaces/")
	parts := strings.Split(after, "/") // namespace, kind, name, and what is below that
	switch {
	case len(parts) < 2:
		return path
	case len(parts) > 3:
		return parts[1] + "/" + parts[3]
	}
	return parts[1]
}

// answered looks at an answer, and has the stream of one looked at.
func (m *meter) answered(r *http.Response) error {
	of := r.Request
	switch kind := kindOf(of.URL.Path); {
	case r.StatusCode >= 300:
	case of.Method == http.MethodPost && kind == "jobs":
		text, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		r.Body = io.NopCloser(bytes.NewReader(text))
		var made struct{ Metadata struct{ Name string } }
		if err := json.Unmarshal(text, &made); err != nil {
			return err
		}
		m.mu.Lock()
		m.jobs[made.Metadata.Name] = &lifetime{made: time.Now()}
		m.mu.Unlock()
	case of.Method == http.MethodGet && kind == "pods":
		_, job, _ := strings.Cut(of.URL.Query().Get("labelSelector"), "=")
		r.Body = &looked{ReadCloser: r.Body, line: func(text []byte) { m.line(job, text) }}
	}
	r.Body = &sized{r.Body, m}
	return nil
}

// line takes a change of a pod.
func (m *meter) line(job string, text []byte) {
	var change struct {
		Object struct {
			Status struct {
				ContainerStatuses []struct {
					State struct{ Running, Terminated *struct{} }
				}
			}
		}
	}
	if json.Unmarshal(text, &change) != nil { // a list
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	j := m.jobs[job]
	if j == nil {
		return
	}
	for _, c := range change.Object.Status.ContainerStatuses {
		if j.runs.IsZero() && (c.State.Running != nil || c.State.Terminated != nil) {
			j.runs = time.Now()
		}
		if j.ended.IsZero() && c.State.Terminated != nil {
			j.ended = time.Now()
		}
	}
}

// all are the Jobs, in the order in which they were made.
func (m *meter) all() (all []lifetime) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, j := range m.jobs {
		all = append(all, *j)
	}
	slices.SortFunc(all, func(a, b lifetime) int { return a.made.Compare(b.made) })
	return all
}

// looked gives the lines of a body to somebody.
type looked struct {
	io.ReadCloser
	line func([]byte)
	rest []byte
}

func (l *looked) Read(b []byte) (int, error) {
	n, err := l.ReadCloser.Read(b)
	l.rest = append(l.rest, b[:n]...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			return n, err
		}
		l.line(line)
		l.rest = rest
	}
}

// sized counts the bytes of a body.
type sized struct {
	io.ReadCloser
	meter *meter
}

func (s *sized) Read(b []byte) (int, error) {
	n, err := s.ReadCloser.Read(b)
	s.meter.mu.Lock()
	s.meter.out += int64(n)
	s.meter.mu.Unlock()
	return n, err
}
