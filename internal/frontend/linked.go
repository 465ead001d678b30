package frontend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/distribution/reference"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/mod/semver"

	imagesource "github.com/slipway-build/slipway/internal/source/image"
)

// forward has another frontend read what there is to build: one that a "# syntax=" line names, or that a client of the gateway
// asks for by the names that BuildKit's daemon has for its own.
func (c *Client) forward(ctx context.Context, req gw.SolveRequest) (*gw.Result, error) {
	inner := &Client{opt: c.opt, attrs: c.opt.with(req.FrontendOpt), last: c.last, resolved: map[string]*imagesource.Image{}, failed: map[string]error{}, nested: c.nested + 1, failures: c.failures}
	inner.opt.Inputs = req.FrontendInputs
	inner.opt.Asked = &Asked{Frontend: req.Frontend, Attrs: maps.Clone(req.FrontendOpt), Inputs: req.FrontendInputs}
	if inner.nested > maxNestedFrontends {
		return nil, errors.New("frontends name each other, and none reads what there is to build")
	}
	switch req.Frontend {
	case "dockerfile.v0":
		return inner.read(ctx)
	case "gateway.v0":
	default:
		return nil, fmt.Errorf("invalid frontend: %s", req.Frontend)
	}
	if _, ok := inner.attrs["gateway-devel"]; ok {
		return nil, errors.New("development gateway is no longer supported")
	}
	source, ok := inner.attrs["source"]
	if !ok {
		return nil, errors.New("no source specified for gateway")
	}
	if isLinked(source) && !inner.hasContexts() {
		return inner.read(ctx)
	}
	if isLinked(source) { // a named context may take its place
		img := &image{}
		if state, err := inner.namedFrontend(ctx, source, img); err != nil {
			return nil, err
		} else if state == nil {
			return inner.read(ctx)
		}
	}
	return inner.remote(ctx, source)
}

// Asked is which frontend somebody asked to read what there is to build, and what it was told.
type Asked struct {
	Frontend string
	Attrs    map[string]string
	Inputs   map[string]*pb.Definition
}

// maxNestedFrontends is how often a frontend may ask another one, which asks another one.
const maxNestedFrontends = 10

// read has the frontend that is linked in read the Dockerfile.
func (c *Client) read(ctx context.Context) (*gw.Result, error) {
	if isGuarded(ctx) {
		return c.build(ctx)
	}
	ctx = withGuard(ctx)
	return guarded(ctx, maxMemory, func() (*gw.Result, error) { return c.build(ctx) })
}

// isLinked reports whether an image is the frontend that is linked in, or an older version of it: what it does that does too. A
// newer one, one that is named by its digest and one with more than the documented features (labs) are what they are.
func isLinked(source string) bool {
	named, err := reference.ParseNormalizedNamed(source)
	if err != nil {
		return false
	}
	tag := "latest"
	if t, ok := named.(reference.Tagged); ok {
		tag = t.Tag()
	}
	if _, ok := named.(reference.Digested); ok {
		return false
	}
	switch named.Name() {
	case "docker.io/library/dockerfile.v0": // BuildKit's name for the frontend that it has built in
		return true
	case "docker.io/docker/dockerfile", "docker.io/docker/dockerfile-upstream":
	default:
		return false
	}
	if tag == "latest" || tag == "experimental" && named.Name() == "docker.io/docker/dockerfile" {
		return true // what was experimental is documented by now
	}
	version, flavour, _ := strings.Cut(tag, "-")
	version = "v" + version // "1" is 1.0.0 for the comparison
	return flavour != "labs" && semver.IsValid(version) && semver.Compare(version, "v"+Version()) <= 0
}
