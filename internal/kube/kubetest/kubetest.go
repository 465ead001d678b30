// Package kubetest is an API server of Kubernetes for tests, as far as a Job with one pod needs it. A pod's container is a process of this machine.
package kubetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Options say what the cluster is like.
type Options struct {
	// Level is what PodSecurity admits in all namespaces: privileged (also ""), baseline or restricted.
	Level string
	// NoUserNamespaces: the server drops a pod's hostUsers.
	NoUserNamespaces bool
	// Program is the path of what a container's command is; Env is its environment besides.
	Program string
	Env     []string
	// LogsStay: a log that is followed does not end with its container.
	LogsStay bool
	// Dir is for files of pods.
	Dir string
	// Lingering: what is deleted stays, as one that is being deleted.
	Lingering bool
	// LostAnswers is how many of those to who makes Jobs are lost; -1: all.
	LostAnswers int
	// Pod, unless nil, is told of a pod that is to run, and may say why it does not: a state of its container, or a condition.
	Pod func(s *Server, p *Pod) (runs bool)
}

// dict is a JSON object.
type dict = map[string]any

// Server is the API server. What it has is guarded by mu; changed tells that something of it is another one.
type Server struct {
	*httptest.Server
	opt Options

	mu       sync.Mutex
	changed  *sync.Cond
	version  int
	jobs     map[string]dict
	pods     map[string]*Pod
	log      []change // of pods
	secrets  map[string]dict
	events   []dict
	asked    []string
	down     bool
	serial   int
	made     int               // Jobs
	refusals map[string]string // messages by "VERB kind"
}

// change is one of a pod.
type change struct {
	version int
	kind    string
	job     string
	object  json.RawMessage
}

// New starts a server.
func New(opt Options) *Server {
	s := &Server{opt: opt, jobs: map[string]dict{}, pods: map[string]*Pod{}, secrets: map[string]dict{}, refusals: map[string]string{}}
	s.changed = sync.NewCond(&s.mu)
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	return s
}

// Kubeconfig writes a file by which clients find the server: context test, namespace ci.
func (s *Server) Kubeconfig(path string) error {
	return os.WriteFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: test
clusters: [{name: fake, cluster: {server: %q}}]
users: [{name: anna, user: {token: t0ken}}]
contexts: [{name: test, context: {cluster: fake, user: anna, namespace: ci}}]
`, s.URL), 0o600)
}

// Refuse answers requests (POST pods, ...) with 403 and a message; "" no longer.
func (s *Server) Refuse(what, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals[what] = message
}

// Cut breaks all connections, and with down has no new ones.
func (s *Server) Cut(down bool) {
	s.mu.Lock()
	s.down = down
	s.mu.Unlock()
	s.CloseClientConnections()
}

// Asked are the requests so far, as "POST jobs", without those of watching.
func (s *Server) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}

// Left is what there is in the cluster: names of Jobs, pods and Secrets.
func (s *Server) Left() (left []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.jobs {
		left = append(left, "job "+name)
	}
	for name := range s.pods {
		left = append(left, "pod "+name)
	}
	for name := range s.secrets {
		left = append(left, "secret "+name)
	}
	return left
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client is gone
}

func refuse(w http.ResponseWriter, code int, reason, message string) {
	answer(w, code, dict{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	down := s.down
	s.mu.Unlock()
	if down {
		if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
			conn.Close()
		}
		return
	}
	if r.Header.Get("Authorization") != "Bearer t0ken" {
		refuse(w, http.StatusUnauthorized, "Unauthorized", "Unauthorized")
		return
	}
	_, below, ok := strings.Cut(r.URL.Path, "/namespaces/ci/")
	if !ok {
		refuse(w, http.StatusForbidden, "Forbidden", `User "anna" cannot do that resource "x" in another namespace`)
		return
	}
	parts := strings.Split(below, "/")
	what := r.Method + " " + parts[0]
	s.mu.Lock()
	s.asked = append(s.asked, r.Method+" "+below)
	refusal := s.refusals[what]
	s.mu.Unlock()
	if refusal != "" {
		refuse(w, http.StatusForbidden, "Forbidden", refusal)
		return
	}
	s.route(w, r, what, parts[1:])
}

func (s *Server) route(w http.ResponseWriter, r *http.Request, what string, rest []string) {
	switch {
	case what == "POST pods":
		s.dryRun(w, r)
	case what == "POST jobs" && r.URL.Query().Get("dryRun") == "All":
		s.dryRunJob(w, r)
	case what == "POST jobs":
		s.makeJob(w, r)
	case what == "GET jobs" && len(rest) == 1:
		s.get(w, s.jobs, rest[0])
	case what == "DELETE jobs" && len(rest) == 1:
		s.deleteJob(w, r, rest[0])
	case what == "POST secrets":
		s.makeSecret(w, r)
	case what == "GET events":
		s.mu.Lock()
		defer s.mu.Unlock()
		answer(w, http.StatusOK, dict{"items": s.events})
	case what == "GET pods" && len(rest) == 2 && rest[1] == "log":
		s.readLog(w, r, rest[0])
	case what == "GET pods" && len(rest) == 0 && r.URL.Query().Get("watch") == "true":
		s.watch(w, r)
	case what == "GET pods" && len(rest) == 0:
		s.list(w, r)
	case what == "DELETE pods" && len(rest) == 1:
		s.mu.Lock()
		p := s.pods[rest[0]]
		s.mu.Unlock()
		if p != nil && !p.lost {
			p.Delete()
		}
		answer(w, http.StatusOK, dict{})
	default:
		refuse(w, http.StatusNotFound, "NotFound", "there is no "+r.URL.Path)
	}
}

func (s *Server) get(w http.ResponseWriter, all map[string]dict, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all[name] == nil {
		refuse(w, http.StatusNotFound, "NotFound", name+" not found")
		return
	}
	answer(w, http.StatusOK, all[name])
}

func read(w http.ResponseWriter, r *http.Request) (dict, bool) {
	var v dict
	if err := json.NewDecoder(r.Body).Decode(&v); err != nil {
		refuse(w, http.StatusBadRequest, "BadRequest", err.Error())
		return nil, false
	}
	return v, true
}

// At is a value in an object, by keys and places in lists with points between; nil where there is none.
func At(v any, path string) any {
	for key := range strings.SplitSeq(path, ".") {
		switch of := v.(type) {
		case map[string]any:
			v = of[key]
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(of) {
				return nil
			}
			v = of[i]
		default:
			return nil
		}
	}
	return v
}

func (s *Server) makeSecret(w http.ResponseWriter, r *http.Request) {
	v, ok := read(w, r)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name, _ := At(v, "metadata.name").(string)
	s.secrets[name] = v
	s.changed.Broadcast()
	answer(w, http.StatusCreated, v)
}

// Warn adds an event about an object, of now.
func (s *Server) Warn(uid, reason, message string) { s.WarnedAt(time.Now(), uid, reason, message) }

// WarnedAt adds an event about an object.
func (s *Server) WarnedAt(at time.Time, uid, reason, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, dict{
		"type": "Warning", "reason": reason, "message": message, "involvedObject": dict{"uid": uid}, "lastTimestamp": at.UTC().Format(time.RFC3339),
	})
}

// selected reports whether a pod of a Job is one that a request is about: by a label that is wanted.
func selected(r *http.Request, job string) bool {
	selector := r.URL.Query().Get("labelSelector")
	return selector == "" || selector == "slipway.build/job="+job
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []any{}
	for _, p := range s.pods {
		if selected(r, p.job) {
			items = append(items, json.RawMessage(p.encoded()))
		}
	}
	answer(w, http.StatusOK, dict{"metadata": dict{"resourceVersion": strconv.Itoa(s.version)}, "items": items})
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	flush := w.(http.Flusher).Flush
	w.Header().Set("Content-Type", "application/json")
	flush()
	gone := false
	stop := s.wakeAtEnd(r, &gone)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; ; {
		for ; i < len(s.log); i++ {
			if c := s.log[i]; c.version > from && selected(r, c.job) {
				_ = json.NewEncoder(w).Encode(dict{"type": c.kind, "object": c.object})
				flush()
			}
		}
		if gone {
			return
		}
		s.changed.Wait()
	}
}

// wakeAtEnd wakes who waits for changes when a request's client is gone, and sets gone.
func (s *Server) wakeAtEnd(r *http.Request, gone *bool) (stop func()) {
	over := make(chan struct{})
	go func() {
		select {
		case <-r.Context().Done():
		case <-over:
		}
		s.mu.Lock()
		*gone = true
		s.changed.Broadcast()
		s.mu.Unlock()
	}()
	return func() { close(over) }
}

// files writes what a pod has of its Job's Secret into a directory.
func (s *Server) files(p *Pod, dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := ""
	volumes, _ := At(p.Object, "spec.volumes").([]any)
	for _, v := range volumes {
		if At(v, "name") == "slipway-job" {
			name, _ = At(v, "secret.secretName").(string)
		}
	}
	for s.secrets[name] == nil {
		if s.pods[p.Name] != p {
			return os.ErrNotExist
		}
		s.changed.Wait()
	}
	var data map[string][]byte
	raw, err := json.Marshal(s.secrets[name]["data"])
	if err == nil {
		err = json.Unmarshal(raw, &data)
	}
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	for name, content := range data {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), content, 0o600)
		}
	}
	return err
}
