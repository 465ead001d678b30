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
	all := []route{
		{http.MethodGet, "/_ping", "", (*Server).ping},
		{http.MethodHead, "/_ping", "", (*Server).ping},
		{http.MethodGet, "/version", "", (*Server).version},
		{http.MethodGet, "/info", "", (*Server).info},
		{http.MethodGet, "/system/df", "", (*Server).diskUsage},
		{http.MethodGet, "/events", "", (*Server).follow},
		{http.MethodPost, "/auth", "", (*Server).login},
		{http.MethodGet, "/plugins", "", (*Server).listPlugins},

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
	return append(all, containerRoutes()...)
}

// containerRoutes are those of containers, volumes and networks.
func containerRoutes() []route {
	return []route{
		{http.MethodGet, "/containers/json", "", (*Server).listContainers},
		{http.MethodPost, "/containers/create", "", (*Server).createContainer},
		{http.MethodPost, "/containers/prune", "", (*Server).pruneContainers},
		{http.MethodGet, "/containers/", "/json", (*Server).inspectContainer},
		{http.MethodGet, "/containers/", "/logs", (*Server).containerLogs},
		{http.MethodGet, "/containers/", "/top", (*Server).topContainer},
		{http.MethodGet, "/containers/", "/stats", (*Server).containerStats},
		{http.MethodGet, "/containers/", "/changes", (*Server).containerChanges},
		{http.MethodGet, "/containers/", "/export", (*Server).exportContainer},
		{http.MethodHead, "/containers/", "/archive", (*Server).statArchive},
		{http.MethodGet, "/containers/", "/archive", (*Server).getArchive},
		{http.MethodPut, "/containers/", "/archive", (*Server).putArchive},
		{http.MethodGet, "/containers/", "/attach/ws", (*Server).refuseContainer},
		{http.MethodPost, "/containers/", "/start", (*Server).startContainer},
		{http.MethodPost, "/containers/", "/stop", (*Server).stopContainer},
		{http.MethodPost, "/containers/", "/restart", (*Server).restartContainer},
		{http.MethodPost, "/containers/", "/kill", (*Server).killContainer},
		{http.MethodPost, "/containers/", "/rename", (*Server).renameContainer},
		{http.MethodPost, "/containers/", "/wait", (*Server).waitContainer},
		{http.MethodPost, "/containers/", "/attach", (*Server).attachContainer},
		{http.MethodPost, "/containers/", "/resize", (*Server).resizeContainer},
		{http.MethodPost, "/containers/", "/exec", (*Server).createExec},
		{http.MethodPost, "/containers/", "/update", (*Server).refuseContainer},
		{http.MethodPost, "/containers/", "/pause", (*Server).refuseContainer},
		{http.MethodPost, "/containers/", "/unpause", (*Server).refuseContainer},
		{http.MethodDelete, "/containers/", "/", (*Server).removeContainer},
		{http.MethodPost, "/exec/", "/start", (*Server).startExec},
		{http.MethodPost, "/exec/", "/resize", (*Server).resizeExec},
		{http.MethodGet, "/exec/", "/json", (*Server).inspectExec},
		{http.MethodPost, "/commit", "", (*Server).commitContainer},

		{http.MethodGet, "/volumes", "", (*Server).listVolumes},
		{http.MethodPost, "/volumes/create", "", (*Server).createVolume},
		{http.MethodPost, "/volumes/prune", "", (*Server).pruneVolumes},
		{http.MethodGet, "/volumes/", anyName, (*Server).inspectVolume},
		{http.MethodDelete, "/volumes/", "/", (*Server).removeVolume},
		{http.MethodGet, "/networks", "", (*Server).listNetworks},
		{http.MethodGet, "/networks/", "", (*Server).listNetworks},
		{http.MethodPost, "/networks/create", "", (*Server).createNetwork},
		{http.MethodPost, "/networks/prune", "", (*Server).pruneNetworks},
		{http.MethodPost, "/networks/", "/connect", (*Server).connectNetwork},
		{http.MethodPost, "/networks/", "/disconnect", (*Server).disconnectNetwork},
		{http.MethodGet, "/networks/", anyName, (*Server).inspectNetwork},
		{http.MethodDelete, "/networks/", "/", (*Server).removeNetwork},
	}
}

// anyName is what follows a name that is the end of a path.
const anyName = "*"

// find is the route of a path, whose handle is nil if nothing answers it, and the name in it.
func find(method, path string) (found route, name string) {
	if method == http.MethodDelete {
		path = strings.TrimSuffix(path, "/") + "/"
	}
	for _, r := range routes() {
		if r.method != method {
			continue
		}
		rest, ok := strings.CutPrefix(path, r.before)
		if ok && r.after == "" && rest == "" {
			return r, ""
		}
		if ok && r.after == anyName && rest != "" {
			return r, strings.TrimSuffix(rest, "/")
		}
		if ok && r.after != "" {
			if name, ok := strings.CutSuffix(rest, r.after); ok && name != "" {
				return r, name
			}
		}
	}
	return route{}, ""
}
