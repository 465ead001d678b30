// Package docker is Docker's Engine API: what docker, compose and the SDKs call.
//
// # Structure
//
// [Server] is a handler of HTTP requests. A table (routes.go) says what answers a path; an answer is an error or what it has written
// (request.go). Requests are served from what [Options.Acquire] gives, as those of BuildKit's API are, and what has no state of its own in a
// store, as events, is the server's (events.go).
//
// # Caveats
//
// Everything in a request is a claim. Who may connect may do what the server may: whom a socket lets in is the listener's affair.
package docker

import (
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strings"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/serve/control"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// The versions of the API.
const (
	MaxVersion = "1.52"
	MinVersion = "1.24"
)

// Backend is what requests are served from.
type Backend struct {
	Store *store.Store
	Build *build.Builder
	// Base is what holds for all builds: what protects and limits steps.
	Base build.Request
	// Solver carries out what clients of BuildKit ask for.
	Solver control.Builder
}

// Options say how to serve. All fields are required.
type Options struct {
	// Acquire gives what a request is served from, which it holds until release is called.
	Acquire func() (b *Backend, release func(), err error)
	// Control is BuildKit's API: it knows what runs, and has the sessions.
	Control *control.Server
	// GRPC serves BuildKit's API on a connection, and returns at once.
	GRPC func(conn net.Conn)
	// Worker is what builds.
	Worker func(*store.Store) (*view.Worker, error)
	// Registry is the client of registries. Requests bring credentials of their own.
	Registry *registry.Client
	// Entitlements are what clients may have more than others: network.host, security.insecure; none may be.
	Entitlements []string
	// Monitor makes the command of the process that runs a container.
	Monitor func(id string) *exec.Cmd
	// Run is what the configuration says of containers: UserNS, Resources, ShmSize, CgroupParent and Ulimits.
	Run container.Options
	// System describes this machine.
	System System
	// Warn is told what no client is.
	Warn func(text string)
}

// Server answers requests. It is safe for concurrent use.
type Server struct {
	opt    Options
	events *bus
	ended  endedExecs
}

// New makes a server.
func New(opt Options) *Server { return &Server{opt: opt, events: newBus()} }

// Close ends what follows events.
func (s *Server) Close() { s.events.close() }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req := &request{w: w, Request: r, s: s, version: MaxVersion, path: r.URL.Path}
	defer req.end()
	r.Form, r.PostForm = r.URL.Query(), url.Values{} // a body is never parameters, whatever its type is said to be
	h := w.Header()
	h.Set("Api-Version", MaxVersion)
	h.Set("Docker-Experimental", "false")
	h.Set("Ostype", "linux")
	h.Set("Server", "slipway/"+s.opt.System.Version+" (linux)")
	if browser(r) {
		req.fail(failure{http.StatusForbidden, "requests of web pages are not served"})
		return
	}
	if err := req.readVersion(); err != nil {
		req.fail(err)
		return
	}
	found, name := find(r.Method, req.path)
	if found.handle == nil {
		req.fail(absent(req.path))
		return
	}
	req.name = name
	if err := found.handle(s, r.Context(), req); err != nil {
		req.fail(err)
	}
}

// browser reports whether a page in a browser asks, which anybody may have put there: a socket of a network that lets everybody in on this
// machine is within its reach. Programs send neither header.
func browser(r *http.Request) bool {
	return r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != ""
}

// absent is the answer for a path that nothing serves.
func absent(path string) error {
	if path == "/swarm/leave" {
		return failure{http.StatusServiceUnavailable, "This node is not part of a swarm"}
	}
	for _, part := range []string{"/swarm", "/services", "/tasks", "/nodes", "/secrets", "/configs"} {
		if strings.HasPrefix(path, part) {
			return failure{http.StatusServiceUnavailable, `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`}
		}
	}
	return failure{http.StatusNotFound, "page not found"}
}
