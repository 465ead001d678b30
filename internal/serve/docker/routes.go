package docker

import (
	"context"
	"net/http"
	"strings"
)

// handler answers a request. Its error is the client's; once something was written, it is told as far as the form of the answer has a place for it.
type handler func(s *Server, ctx context.Context, r *request) error

// route is a path: before a name and after it, which may have slashes; without names the whole path.
type route struct {
	method, before, after string
	handle                handler
}

// routes are all of them. The first one that fits is it.
func routes() []route {
	return []route{
		{http.MethodGet, "/_ping", "", (*Server).ping},
		{http.MethodHead, "/_ping", "", (*Server).ping},
		{http.MethodGet, "/version", "", (*Server).version},
		{http.MethodGet, "/info", "", (*Server).info},
		{http.MethodGet, "/system/df", "", (*Server).diskUsage},
		{http.MethodGet, "/events", "", (*Server).follow},
		{http.MethodPost, "/auth", "", (*Server).login},

		{http.MethodPost, "/grpc", "", (*Server).grpc},
		{http.MethodPost, "/session", "", (*Server).session},
		{http.MethodPost, "/build", "", (*Server).build},
		{http.MethodPost, "/build/prune", "", (*Server).pruneBuilds},
		{http.MethodPost, "/build/cancel", "", (*Server).cancelBuild},

		{http.MethodGet, "/images/json", "", (*Server).listImages},
		{http.MethodGet, "/images/search", "", (*Server).searchImages},
		{http.MethodGet, "/images/get", "", (*Server).saveImages},
		{http.MethodPost, "/images/load", "", (*Server).loadImages},
		{http.MethodPost, "/images/create", "", (*Server).createImage},
		{http.MethodPost, "/images/prune", "", (*Server).pruneImages},
		{http.MethodGet, "/images/", "/get", (*Server).saveImages},
		{http.MethodGet, "/images/", "/json", (*Server).inspectImage},
		{http.MethodGet, "/images/", "/history", (*Server).imageHistory},
		{http.MethodPost, "/images/", "/push", (*Server).pushImage},
		{http.MethodPost, "/images/", "/tag", (*Server).tagImage},
		{http.MethodDelete, "/images/", "/", (*Server).deleteImage}, // the slash is one that is put there
		{http.MethodGet, "/distribution/", "/json", (*Server).distribution},
	}
}

// find is what answers a path, and the name in it.
func find(method, path string) (h handler, name string) {
	if method == http.MethodDelete {
		path = strings.TrimSuffix(path, "/") + "/"
	}
	for _, r := range routes() {
		if r.method != method {
			continue
		}
		rest, ok := strings.CutPrefix(path, r.before)
		if ok && r.after == "" && rest == "" {
			return r.handle, ""
		}
		if ok && r.after != "" {
			if name, ok := strings.CutSuffix(rest, r.after); ok && name != "" {
				return r.handle, name
			}
		}
	}
	return nil, ""
}
