package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/progress"
)

// invalidf is an error about what a client sent.
func invalidf(format string, args ...any) error {
	return grpcerrors.WrapCode(fmt.Errorf(format, args...), codes.InvalidArgument)
}

// maxRef is how long a client's name of a build may be. BuildKit's have 25 letters.
const maxRef = 256

// isName reports whether a client may name something so. Nothing has looked whether what a message has is a text.
func isName(s string) bool { return s != "" && len(s) <= maxRef && utf8.ValidString(s) }

// Solve carries out a build.
func (s *Server) Solve(ctx context.Context, req *controlapi.SolveRequest) (*controlapi.SolveResponse, error) {
	if ref := req.GetRef(); !isName(ref) {
		return nil, invalidf("invalid ref of %d bytes: want 1 to %d, of a text", len(ref), maxRef)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &work{s: s, file: unnamedFile, end: func() {}, release: func() {}}
	w.job = &job{ref: req.Ref, cancel: cancel, log: newEventLog(func() (*os.File, error) { return w.file() })}
	if err := s.jobs.add(w.job); err != nil {
		return nil, err
	}
	defer func() {
		w.end()
		w.job.log.end()
		if s.jobs.remove(w.job, w.recorded); w.recorded {
			w.job.log.forget()
		}
		s.history.tell()
		go func() {
			defer w.release()
			if w.b != nil {
				s.tidy(context.WithoutCancel(ctx), w.b.Store)
			}
		}()
	}()
	res, err := w.solve(ctx, req)
	if err != nil {
		return nil, err
	}
	return &controlapi.SolveResponse{ExporterResponse: res.Response}, nil
}

// unnamedFile makes a file that is gone with its last user.
func unnamedFile() (*os.File, error) {
	f, err := os.CreateTemp("", "slipway-status-")
	if err == nil {
		err = os.Remove(f.Name())
	}
	return f, err
}

// work is a build under way.
type work struct {
	s        *Server
	b        *Backend // nil before it is needed
	release  func()   // ends its use
	end      func()   // ends what the client evaluates by
	job      *job
	file     func() (*os.File, error) // makes the one of the job's log
	recorded bool
}

func (w *work) solve(ctx context.Context, req *controlapi.SolveRequest) (res *Result, err error) {
	solve, err := w.s.check(req)
	if err == nil {
		solve.Engine = byEngine(ctx)
		err = w.evaluation(solve, req)
	}
	if err == nil {
		w.b, w.release, err = w.s.acquire()
	}
	if err != nil {
		return nil, err
	}
	if !req.Internal && !w.s.opt.Unrecorded {
		r, berr := w.s.history.begin(ctx, w.b.Store, solve)
		if berr != nil {
			return nil, grpcerrors.WrapCode(berr, codes.Internal)
		}
		solve.Record, w.file = r.dir, r.logFile
		defer func() {
			w.job.log.end()
			rerr := r.finish(context.WithoutCancel(ctx), w.b.Store, w.job.log, res, err)
			if w.recorded = rerr == nil; rerr != nil && err == nil {
				res, err = nil, grpcerrors.WrapCode(rerr, codes.Internal)
			}
		}()
	}
	res, err = w.b.Builder.Solve(ctx, *solve, progress.Clipped(w.job.log, w.s.opt.Limits))
	if err == nil && res == nil {
		res = &Result{}
	}
	return res, err
}

// check makes of what a client sent what it asks for, or an error that says what is wrong with it.
func (s *Server) check(req *controlapi.SolveRequest) (*Solve, error) {
	outputs, err := outputsOf(req)
	if err != nil {
		return nil, err
	}
	from, to, err := cachesOf(req.Cache)
	if err != nil {
		return nil, err
	}
	if err := checkPolicy(req.SourcePolicy); err != nil {
		return nil, err
	}
	if v := req.CompatibilityVersion; v != 0 && !slices.Contains(compatibilityVersions, v) {
		if latest := compatibilityVersions[len(compatibilityVersions)-1]; v > latest {
			return nil, fmt.Errorf("unsupported compatibility-version %d: upgrade buildkit (max supported: %d)", v, latest)
		}
		return nil, fmt.Errorf("unsupported compatibility-version %d (supported: %v)", v, compatibilityVersions)
	}
	if err := s.entitled(req.Entitlements); err != nil {
		return nil, err
	}
	solve := &Solve{
		Ref: req.Ref, Session: req.Session, Frontend: req.Frontend, Attrs: req.FrontendAttrs, Inputs: req.FrontendInputs,
		Outputs: outputs, CacheFrom: from, CacheTo: to, SessionExporter: req.EnableSessionExporter,
		Entitlements: req.Entitlements, SourcePolicySession: req.SourcePolicySession, ProxyNetwork: req.ProxyNetwork,
		Compatibility: int(req.CompatibilityVersion), Internal: req.Internal,
	}
	if req.SourcePolicy != nil {
		solve.SourcePolicies = []*spb.Policy{req.SourcePolicy}
	}
	return solve, nil
}

// compatibilityVersions are those that BuildKit supports.
var compatibilityVersions = []int64{10, 20, 30}

// evaluation finds what is to be evaluated.
func (w *work) evaluation(solve *Solve, req *controlapi.SolveRequest) error {
	const source = "source" // the image of a frontend
	if solve.Frontend == "gateway.v0" && solve.Attrs[source] == "dockerfile.v0" && !namesDockerfile(solve.Attrs) {
		solve.Frontend, solve.Attrs = "dockerfile.v0", maps.Clone(solve.Attrs)
		delete(solve.Attrs, source)
	}
	switch solve.Frontend {
	case "", "dockerfile.v0", "gateway.v0":
	default:
		return invalidf("invalid frontend: %s", solve.Frontend)
	}
	switch {
	case solve.Frontend != "" && len(req.Definition.GetDef()) > 0:
		return invalidf("cannot solve with Definition and Frontend specified")
	case solve.Frontend != "":
	case req.Definition != nil:
		solve.Definition = req.Definition
	case w.s.opt.Bridge == nil:
		return grpcerrors.WrapCode(errors.New("this server evaluates nothing for clients: name a frontend, or send a definition"), codes.Unimplemented)
	default:
		drive, end, err := w.s.opt.Bridge(req.Ref)
		if err != nil {
			return err
		}
		solve.Evaluate, w.end = drive, end
	}
	return nil
}

// namesDockerfile reports whether a named context takes the place of the frontend.
func namesDockerfile(attrs map[string]string) bool {
	for k := range attrs {
		if k == "context:dockerfile.v0" || strings.HasPrefix(k, "context:dockerfile.v0::") {
			return true
		}
	}
	return false
}

// outputsOf reads the exporters, of old clients too, which have just one.
func outputsOf(req *controlapi.SolveRequest) (all []Output, err error) {
	exporters := req.Exporters
	if len(exporters) == 0 && req.ExporterDeprecated != "" {
		exporters = []*controlapi.Exporter{{Type: req.ExporterDeprecated, Attrs: req.ExporterAttrsDeprecated}}
	}
	epoch, hasEpoch := req.FrontendAttrs["build-arg:SOURCE_DATE_EPOCH"]
	if _, err := strconv.ParseInt(epoch, 10, 64); err != nil && epoch != "" {
		hasEpoch = false // "context", or a stage: the frontend finds out the time, and its result has it
	}
	for i, e := range exporters {
		if e == nil || !isName(e.Type) {
			return nil, invalidf("invalid exporter %d: it has no type", i)
		}
		o := Output{Type: e.Type, Attrs: maps.Clone(e.Attrs)}
		if o.Type == "moby" { // a Docker engine's images
			o.Type = "image"
		}
		if o.Attrs == nil {
			o.Attrs = map[string]string{}
		}
		if key := string(exptypes.OptKeySourceDateEpoch); hasEpoch {
			if _, set := o.Attrs[key]; !set {
				o.Attrs[key] = epoch
			}
		}
		all = append(all, o)
	}
	return all, nil
}

// cachesOf reads the caches, in old clients' words as well.
func cachesOf(c *controlapi.CacheOptions) (from, to []cache.Entry, err error) {
	if c == nil {
		return nil, nil, nil
	}
	exports := c.Exports
	if ref := c.ExportRefDeprecated; ref != "" {
		attrs := maps.Clone(c.ExportAttrsDeprecated)
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs["ref"] = ref
		exports = append(slices.Clone(exports), &controlapi.CacheOptionsEntry{Type: "registry", Attrs: attrs})
	}
	seen := map[string]bool{}
	var twice []string
	for i, e := range exports {
		if e == nil || e.Type == "" {
			return nil, nil, invalidf("invalid cache export %d: it has no type", i)
		}
		name := cacheName(e)
		switch {
		case e.Type == "inline" && seen["inline"]:
			continue
		case seen[name]:
			twice = append(twice, e.Type)
		}
		seen[name], seen[e.Type] = true, true
		to = append(to, cache.Entry{Type: e.Type, Attrs: e.Attrs})
	}
	if len(twice) > 0 {
		return nil, nil, invalidf("duplicate cache exports %s", twice)
	}
	for _, e := range c.Imports {
		if e != nil {
			from = append(from, cache.Entry{Type: e.Type, Attrs: e.Attrs})
		}
	}
	for _, ref := range c.ImportRefsDeprecated {
		from = append(from, cache.Entry{Type: "registry", Attrs: map[string]string{"ref": ref}})
	}
	return from, to, nil
}

// cacheName tells caches apart.
func cacheName(e *controlapi.CacheOptionsEntry) string {
	if ref := e.Attrs["ref"]; e.Type == "registry" && ref != "" {
		return "ref " + ref
	}
	name := "of " + e.Type
	for _, k := range slices.Sorted(maps.Keys(e.Attrs)) {
		name += fmt.Sprintf(" %q=%q", k, e.Attrs[k])
	}
	return name
}

// entitled refuses entitlements that clients may not give.
func (s *Server) entitled(asked []string) error {
	convert := func(in []string) []entitlements.Entitlement {
		out := []entitlements.Entitlement{} // nil would be no limit
		for _, e := range in {
			out = append(out, entitlements.Entitlement(e))
		}
		return out
	}
	_, err := entitlements.WhiteList(convert(asked), convert(s.opt.Entitlements))
	return err
}

// checkPolicy finds what is missing in rules about sources.
func checkPolicy(p *spb.Policy) error {
	for _, r := range p.GetRules() {
		switch {
		case r == nil:
			return invalidf("invalid nil rule in policy")
		case r.Selector == nil:
			return invalidf("invalid nil selector in policy")
		case slices.Contains(r.Selector.Constraints, nil):
			return invalidf("invalid nil constraint in policy")
		}
	}
	return nil
}
