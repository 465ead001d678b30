package cli_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/slipway-build/slipway/internal/outbound/outboundtest"
)

// serve is the command `serve`, an http server that belongs to one script. Its address is in $HTTP,
// without "http://" in $HTTPHOST.
//
//	serve start DIR    the files of DIR, with Last-Modified; DIR/*.git are git repositories
//	serve stop
//	serve asked RE     it was asked for "METHOD /path STATUS" since the last time; `!`: it was not
//
// What begins the path changes how it answers for the rest of it: /etag/ gives an ETag and no
// Last-Modified, /bare/ gives neither, /named/ has Content-Disposition "named.txt", /redirect/ sends to
// the rest, /loop/ to itself, /flaky/ fails the first two times, /token/ wants the bearer or the git
// token "s3cret", /password/ the name "me" with the password "hunter2".
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 2 && args[0] == "start" && !neg {
		s := &scriptServer{dir: ts.MkAbs(args[1]), failures: map[string]int{}}
		s.Server = httptest.NewServer(s)
		ts.Defer(s.Close)
		ts.Setenv("HTTP", s.URL)
		ts.Setenv("HTTPHOST", s.Listener.Addr().String())
		scriptServers.Store(s.URL, s)
		return
	}
	v, ok := scriptServers.Load(ts.Getenv("HTTP"))
	switch {
	case !ok:
		ts.Fatalf("no server was started")
	case len(args) == 1 && args[0] == "stop" && !neg:
		v.(*scriptServer).Close()
	case len(args) == 2 && args[0] == "asked":
		all := v.(*scriptServer).Asked()
		if slices.ContainsFunc(all, regexp.MustCompile(args[1]).MatchString) == neg {
			ts.Fatalf("requests of %s: want %v, the server had %q", args[1], !neg, all)
		}
	default:
		ts.Fatalf("usage: serve start DIR | stop | asked RE")
	}
}

// scriptServers are the servers of all scripts by their URL.
var scriptServers sync.Map

type scriptServer struct {
	*httptest.Server
	dir string

	outboundtest.Notes

	mu       sync.Mutex
	failures map[string]int // of /flaky/, by path
}

// statusWriter notes the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// ServeHTTP implements http.Handler.
func (s *scriptServer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	sw := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	asked := req.URL.RequestURI()
	s.answer(sw, req)
	s.Ask(fmt.Sprintf("%s %s %d", req.Method, asked, sw.status))
}

func (s *scriptServer) answer(w http.ResponseWriter, req *http.Request) {
	kind, rest, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/")
	switch kind {
	case "redirect":
		http.Redirect(w, req, "/"+rest, http.StatusFound)
		return
	case "loop":
		http.Redirect(w, req, req.URL.Path, http.StatusFound)
		return
	case "flaky":
		s.mu.Lock()
		s.failures[rest]++
		n := s.failures[rest]
		s.mu.Unlock()
		if n <= 2 {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
	case "token":
		_, password, _ := req.BasicAuth()
		if req.Header.Get("Authorization") != "Bearer s3cret" && password != "s3cret" {
			w.Header().Set("WWW-Authenticate", "Basic")
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
	case "password":
		if name, password, _ := req.BasicAuth(); name != "me" || password != "hunter2" {
			w.Header().Set("WWW-Authenticate", "Basic")
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
	case "named":
		w.Header().Set("Content-Disposition", `attachment; filename="named.txt"`)
	case "etag", "bare":
	default:
		kind, rest = "", path.Join(kind, rest)
	}
	if strings.Contains(rest, ".git/") {
		s.git(w, req, rest)
		return
	}
	s.file(w, req, kind, filepath.Join(s.dir, filepath.FromSlash(path.Clean("/"+rest))))
}

// file gives a file, with what tells its versions apart.
func (s *scriptServer) file(w http.ResponseWriter, req *http.Request, kind, name string) {
	data, err := os.ReadFile(name)
	if err != nil {
		http.NotFound(w, req)
		return
	}
	switch kind {
	case "etag":
		sum := sha256.Sum256(data)
		tag := `"` + hex.EncodeToString(sum[:8]) + `"`
		w.Header().Set("ETag", tag)
		if req.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Write(data)
	case "bare":
		w.Write(data)
	default:
		http.ServeFile(w, req, name)
	}
}

// git is git's own server.
func (s *scriptServer) git(w http.ResponseWriter, req *http.Request, rest string) {
	git, err := exec.LookPath("git")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	root := strings.TrimSuffix(req.URL.Path, "/"+rest)
	(&cgi.Handler{
		Path: git, Args: []string{"http-backend"}, Root: root, Stderr: io.Discard,
		Env: []string{"GIT_PROJECT_ROOT=" + s.dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "HOME=/dev/null"},
	}).ServeHTTP(w, req)
}
