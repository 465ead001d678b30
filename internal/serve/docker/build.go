package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/frontend/dockerui"
	buildtypes "github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/serve/control"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// build answers POST /build: of a context that is the body, or of a repository. With version=2 it is told as one of BuildKit's, and may be of
// directories of the client's session.
func (s *Server) build(ctx context.Context, r *request) error {
	p, err := r.buildParameters()
	if err == nil && p.network == "host" {
		err = s.entitled(hostNetwork, "a build with the host's network")
	}
	if err != nil {
		return err
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	second := r.FormValue("version") == string(buildtypes.BuilderBuildKit)
	if second && (r.FormValue("remote") == clientSession || p.remote != "" && p.session != "") {
		return s.buildOfSession(ctx, r, b, p)
	}
	req := b.Base
	p.request(&req)
	req.Defaults = req.Steps()
	if req.Context = "-"; p.remote != "" {
		req.Context, req.Remote = p.remote, true
	}
	r.unread = &unread{ReadCloser: r.Body, left: r.ContentLength}
	r.unread.ended.Store(r.ContentLength == 0)
	req.Stdin, req.Registries = r.unread, r.registries()
	out := r.stream()
	write := newWords(out, r.flag("q")).write
	if second {
		write = traces{out}.write
	}
	var res *build.Result
	err = s.opt.Control.Build(ctx, r.FormValue("buildid"), func(ctx context.Context, sink progress.Sink) (err error) {
		res, err = b.Build.Build(ctx, req, sink)
		return err
	}, write)
	if err != nil {
		// Of a body that was not read to its end nothing is awaited any more. Without a deadline of its connection it is the client's affair. With
		// one there is no other request on it: it would be broken off.
		r.closeUnread()
		if !r.unread.ended.Load() {
			_ = http.NewResponseController(r.w).SetReadDeadline(time.Now())
		}
		return out.end(err)
	}
	id := res.Config.String()
	if id == "" {
		id = res.ImageID.String()
	}
	s.tellBuilt(ctx, b.Store, id, res.Names)
	if second {
		out.aux(imageID, buildtypes.Result{ID: id})
		return nil
	}
	out.aux("", buildtypes.Result{ID: id})
	if r.flag("q") {
		out.text("%s\n", id)
		return nil
	}
	out.text("Successfully built %s\n", view.ShortID(id))
	for _, name := range res.Names {
		out.text("Successfully tagged %s\n", view.Familiar(name))
	}
	return nil
}

// tellBuilt tells of an image that was built, and of its names.
func (s *Server) tellBuilt(ctx context.Context, st *store.Store, id string, names []string) {
	s.tellImage(ctx, st, events.ActionCreate, id, id)
	for _, name := range names {
		s.tellImage(ctx, st, events.ActionTag, id, view.Familiar(name))
	}
}

// clientSession is what a client names in the place of a context that its session has.
const clientSession = "client-session"

// unread is the body of a request that may be answered before it was read to its end.
type unread struct {
	io.ReadCloser
	left  int64 // bytes; less than 0 is unknown
	ended atomic.Bool
}

// Read implements io.Reader.
func (u *unread) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	u.left -= int64(n)
	if errors.Is(err, io.EOF) || u.left == 0 {
		u.ended.Store(true)
	}
	return n, err
}

// closeUnread has the connection end with the answer, which has not begun, if some of the request was not read.
func (r *request) closeUnread() {
	if r.unread != nil && !r.unread.ended.Load() && !r.began && r.ProtoMajor == 1 {
		r.w.Header().Set("Connection", "close")
	}
}

// parameters are what a build is asked for.
type parameters struct {
	tags                       []string
	remote, dockerfile, target string
	network                    string
	args, labels               map[string]string
	platforms, hosts           []string
	noCache, pull              bool
	cacheFrom                  []cache.Entry
	attrs                      map[string]string
	session                    string
}

// buildParameters reads them. Values that a client may leave empty, as "null" and "[]", are.
func (r *request) buildParameters() (p *parameters, err error) {
	p = &parameters{
		remote: r.FormValue("remote"), target: r.FormValue("target"), network: r.FormValue("networkmode"), noCache: r.flag("nocache"), pull: r.flag("pull"),
		hosts: r.Form["extrahosts"], session: r.FormValue("session"), attrs: map[string]string{},
	}
	if name := r.FormValue("dockerfile"); name != "" { // in the context, wherever it seems to be
		p.dockerfile = strings.TrimPrefix(path.Clean("/"+name), "/")
	}
	for _, t := range r.Form["t"] {
		if t != "" {
			p.tags = append(p.tags, t)
		}
	}
	if v := r.FormValue("platform"); v != "" {
		p.platforms = strings.Split(v, ",")
	}
	for _, name := range p.platforms {
		if _, err := platforms.Parse(strings.TrimSpace(name)); err != nil {
			return nil, invalidf("invalid platform: %v", err)
		}
	}
	if p.remote == clientSession {
		p.remote = ""
	}
	if err := checkRemote(p.remote); err != nil {
		return nil, err
	}
	if r.flag("squash") {
		return nil, invalidf("squash is not supported")
	}
	if p.network == "bridge" { // that of every step
		p.network = "default"
	}
	return p, p.documents(r)
}

// documents reads the parameters that are JSON.
func (p *parameters) documents(r *request) error {
	var args map[string]*string
	var from []string
	var limits []struct {
		Name       string
		Soft, Hard int64
	}
	var outputs []any
	for name, into := range map[string]any{"buildargs": &args, "labels": &p.labels, "cachefrom": &from, "ulimits": &limits, "outputs": &outputs} {
		if text := r.FormValue(name); text != "" {
			if err := json.Unmarshal([]byte(text), into); err != nil {
				return invalidf("error reading %s: %v", name, err)
			}
		}
	}
	if len(outputs) > 0 {
		return invalidf("outputs other than images need buildx")
	}
	p.args = map[string]string{}
	for name, value := range args {
		if value != nil { // else it is what the Dockerfile says
			p.args[name] = *value
		}
	}
	for _, ref := range from {
		p.cacheFrom = append(p.cacheFrom, cache.Entry{Type: cache.TypeRegistry, Attrs: map[string]string{"ref": ref}})
	}
	var ulimits []string
	for _, l := range limits {
		ulimits = append(ulimits, fmt.Sprintf("%s=%d:%d", l.Name, l.Soft, l.Hard))
	}
	if len(ulimits) > 0 {
		p.attrs["ulimit"] = strings.Join(ulimits, ",")
	}
	if size := r.FormValue("shmsize"); size != "" && size != "0" {
		if _, err := strconv.ParseInt(size, 10, 64); err != nil {
			return invalidf("invalid shmsize %q", size)
		}
		p.attrs["shm-size"] = size
	}
	return nil
}

// checkRemote refuses what is no address of a repository or a server: it would be a path of this machine.
func checkRemote(remote string) error {
	if remote == "" {
		return nil
	}
	keep := false
	_, isGit, err := dockerui.DetectGitContext(remote, &keep)
	if _, _, isHTTP := dockerui.DetectHTTPContext(remote); err != nil || !isGit && !isHTTP {
		return invalidf("invalid remote %q: want the URL of a git repository, of an archive or of a Dockerfile", remote)
	}
	return nil
}

// request fills in a build.
func (p *parameters) request(req *build.Request) {
	req.Tags, req.Dockerfile, req.Target, req.Network, req.NoCache, req.Pull = p.tags, p.dockerfile, p.target, p.network, p.noCache, p.pull
	req.BuildArgs, req.Labels, req.Platforms, req.AddHosts, req.CacheFrom = p.args, p.labels, p.platforms, p.hosts, p.cacheFrom
	attrs := maps.Clone(req.Attrs)
	if attrs == nil {
		attrs = map[string]string{}
	}
	maps.Copy(attrs, p.attrs)
	req.Attrs = attrs
	req.Outputs = []build.Output{{Type: build.OutputImage, Attrs: map[string]string{}}}
}

// words tells a build in the words of Docker's first builder.
type words struct {
	out  *stream                // nil: nothing is told
	told map[digest.Digest]bool // steps
}

func newWords(out *stream, quiet bool) *words {
	w := &words{told: map[digest.Digest]bool{}}
	if !quiet {
		w.out = out
	}
	return w
}

// write tells what a build tells.
func (w *words) write(e *client.SolveStatus) {
	if w.out == nil {
		return
	}
	for _, v := range e.Vertexes {
		words := stepWords(v.Name)
		if v.Started != nil && words != "" && !w.told[v.Digest] {
			w.told[v.Digest] = true
			w.out.text("%s\n", words)
			if v.Cached {
				w.out.text(" ---> Using cache\n")
			}
		}
	}
	for _, l := range e.Logs {
		w.out.text("%s", l.Data)
	}
}

// stepWords are "Step 2/4 : RUN make" for "[builder 2/4] RUN make"; nothing for what is no instruction.
func stepWords(name string) string {
	where, instruction, ok := strings.Cut(strings.TrimPrefix(name, "["), "] ")
	fields := strings.Fields(where)
	if !ok || !strings.HasPrefix(name, "[") || len(fields) == 0 || !strings.Contains(fields[len(fields)-1], "/") {
		return ""
	}
	return "Step " + fields[len(fields)-1] + " : " + instruction
}

// traceID marks what BuildKit's builds tell in a stream of messages, imageID what came of them.
const (
	traceID = "moby.buildkit.trace"
	imageID = "moby.image.id"
)

// buildOfSession is a build of directories of the client's session, as docker has it that has no buildx.
func (s *Server) buildOfSession(ctx context.Context, r *request, b *Backend, p *parameters) error {
	if p.session == "" {
		return invalidf("a build of version 2 needs a session")
	}
	attrs := maps.Clone(p.attrs)
	for name, value := range map[string]string{"filename": p.dockerfile, "target": p.target, "force-network-mode": p.network, "platform": strings.Join(p.platforms, ","), "context": p.remote, "add-hosts": hostsAttr(p.hosts)} {
		if value != "" && value != "default" {
			attrs[name] = value
		}
	}
	for name, value := range p.args {
		attrs["build-arg:"+name] = value
	}
	for name, value := range p.labels {
		attrs["label:"+name] = value
	}
	if p.noCache {
		attrs["no-cache"] = ""
	}
	if p.pull {
		attrs["image-resolve-mode"] = "pull"
	}
	output := control.Output{Type: "image", Attrs: map[string]string{}}
	if len(p.tags) > 0 {
		output.Attrs["name"] = strings.Join(p.tags, ",")
	}
	var given []string // a client of the engine's has none to give: what the server allows comes with what it asks for
	if p.network == "host" {
		given = append(given, hostNetwork)
	}
	solve := control.Solve{Ref: r.FormValue("buildid"), Entitlements: given, Session: p.session, Frontend: "dockerfile.v0", Attrs: attrs, Outputs: []control.Output{output}, CacheFrom: p.cacheFrom, Internal: true, Engine: true}
	out := r.stream()
	var res *control.Result
	err := s.opt.Control.Build(ctx, r.FormValue("buildid"), func(ctx context.Context, sink progress.Sink) (err error) {
		res, err = b.Solver.Solve(ctx, solve, sink)
		return err
	}, traces{out}.write)
	if err != nil {
		return out.end(err)
	}
	id := res.Response["containerimage.config.digest"]
	if id == "" {
		id = res.Response["containerimage.digest"]
	}
	s.tellBuilt(ctx, b.Store, id, p.tags)
	out.aux(imageID, buildtypes.Result{ID: id})
	return nil
}

// hostsAttr are lines of /etc/hosts in the frontend's form.
func hostsAttr(hosts []string) string {
	var all []string
	for _, h := range hosts {
		all = append(all, strings.Replace(h, ":", "=", 1))
	}
	return strings.Join(all, ",")
}

// traces tells a build in BuildKit's messages.
type traces struct{ out *stream }

// write tells what a build tells.
func (t traces) write(e *client.SolveStatus) {
	for _, m := range e.Marshal() {
		if data, err := m.MarshalVT(); err == nil {
			t.out.aux(traceID, data)
		}
	}
}

// cancelBuild answers POST /build/cancel.
func (s *Server) cancelBuild(_ context.Context, r *request) error {
	id := r.FormValue("id")
	if id == "" {
		return invalidf("build ID not provided")
	}
	s.opt.Control.CancelBuild(id)
	r.began = true
	r.w.WriteHeader(http.StatusOK)
	return nil
}

// pruneBuilds answers POST /build/prune.
func (s *Server) pruneBuilds(ctx context.Context, r *request) error {
	list, err := r.filters()
	if err != nil {
		return err
	}
	policy := store.Policy{All: r.flag("all")}
	reserved := "reserved-space"
	if r.FormValue(reserved) == "" {
		reserved = "keep-storage" // of before 1.48
	}
	for name, into := range map[string]*store.Space{reserved: &policy.ReservedSpace, "max-used-space": &policy.MaxUsedSpace, "min-free-space": &policy.MinFreeSpace} {
		if *into, err = r.space(name); err != nil {
			return err
		}
	}
	filter, err := view.ParseCacheFilter(list)
	if err != nil {
		return invalidf("%v", err)
	}
	policy.KeepDuration, policy.Filters = filter.Unused, filter.By
	if err := s.opt.Control.Renew(ctx); err != nil {
		return err
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	pruned, err := b.Store.PruneBeside(ctx, policy)
	if err != nil {
		return err
	}
	report := buildtypes.CachePruneReport{SpaceReclaimed: uint64(max(pruned.Freed, 0))}
	for _, rec := range pruned.Records {
		report.CachesDeleted = append(report.CachesDeleted, rec.ID)
	}
	s.events.tell(events.BuilderEventType, events.ActionPrune, "", map[string]string{"reclaimed": fmt.Sprint(report.SpaceReclaimed)})
	return r.answer(http.StatusOK, report)
}

// space is a parameter that is a number of bytes.
func (r *request) space(name string) (sp store.Space, err error) {
	text := r.FormValue(name)
	if text == "" {
		return sp, nil
	}
	if sp.Bytes, err = strconv.ParseInt(text, 10, 64); err != nil || sp.Bytes < 0 {
		return sp, invalidf("%s is in bytes and expects an integer, got %v", name, text)
	}
	return sp, nil
}
