package build

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/progress"
)

// warm says whose warm directories steps find; nil: they find none. Nobody who asks over a network says whose build it is, so those have none;
// and what is to be made anew is not made of what was left.
func (b *building) warm() *engine.Warm {
	if project := b.project(); b.req.Warm && project != "" && !b.req.NoCache && !b.job.cold {
		return &engine.Warm{Project: project, Paths: b.req.WarmPaths}
	}
	return nil
}

// doubts reports whether builds are to be tried once more without warm caches: a step failed that was given files which were made with them.
func (j *job) doubts(err error) bool {
	var doubted *engine.Doubted
	if !errors.As(err, &doubted) {
		return false
	}
	j.cold = true
	var at *engine.Failure
	name := "a step"
	if errors.As(err, &at) && at.Vertex != nil {
		name = at.Vertex.Name()
	}
	for _, b := range j.all {
		b.say(fmt.Sprintf("--warm: %s failed on what was made with warm caches, all is built once more without them", name))
	}
	return true
}

// project is what a build is of, whichever of its versions: the directory of the context and that of the Dockerfile, or a ref of a repository. It is
// "" where that is not known: of what comes from standard input, and of a client's.
func (b *building) project() string {
	switch dir, ok := b.in.dirs[contextName]; {
	case b.req.Client != nil || b.in.temporary(dir):
		return ""
	case ok:
		file := b.in.dirs[dockerfileName]
		if file == "" || b.in.temporary(file) {
			file = dir
		}
		if dir, file = real(dir), real(file); dir == file {
			return dir
		}
		return dir + " (/" + file + ")" // "//" is in no clean path: no directory has this name
	case isRemote(b.req.Context):
		return outbound.Redact(b.req.Context) // of its ref: a branch that nobody has looked at has caches of its own
	}
	return ""
}

// temporary reports whether a path is one of this build's own: of what came from standard input, say.
func (in *inputs) temporary(path string) bool {
	return in.temp != "" && strings.HasPrefix(path, in.temp+string(filepath.Separator))
}

// real is a path without symbolic links, as far as it is there.
func real(path string) string {
	path = absolute(path)
	if to, err := filepath.EvalSymlinks(path); err == nil {
		return to
	}
	return path
}

// verifyWarm builds the result once more without warm directories, and tells what is not the same.
func (b *building) verifyWarm(ctx context.Context, opt engine.RunOptions, out *gw.Result) (*engine.Verified, error) {
	products, err := b.products(ctx, out)
	if err != nil {
		return nil, err
	}
	opt.Warm, opt.Screen, opt.Sink, opt.Log, opt.Bring, opt.KeepFailed = nil, nil, nil, nil, nil, false
	run := b.newRun(ctx, opt)
	name := "verifying --warm: building without warm caches"
	step := progress.Start(b.sink, progress.Vertex{Digest: b.id(name), Name: name})
	v := &engine.Verified{Name: "the result"}
	for _, p := range products {
		var cold engine.Value
		if cold, err = run.Result(ctx, p.edge()); err != nil {
			break
		}
		if len(products) > 1 {
			v.Name = "the result for " + p.id
		}
		err = run.Compare(ctx, cold, p.value, func(d layer.Difference) error {
			if v.Note(d) {
				return nil
			}
			_, err := fmt.Fprintln(step.Stdout(), d)
			return err
		})
		if err != nil {
			break
		}
	}
	v.Digest = digest.FromString(name)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	step.Done(err)
	if ctx.Err() == nil && err != nil {
		v.Error, err = err.Error(), nil
	}
	return v, err
}

// What is offered: warm builds, of a project whose steps take that long, so often.
const (
	offerFrom  = 10 * time.Second
	offerEvery = 24 * time.Hour
)

// offerWarm is a step of a build that is not warm which would have been shorter if it was; nil: there is none, or it was said of the project
// in the last day. Nothing fails for it.
func (b *building) offerWarm(ctx context.Context, out *gw.Result) *engine.Chilled {
	project := b.project()
	if project == "" || b.req.Warm || b.req.NoCache || b.linked || time.Since(b.record.Started) < offerFrom {
		return nil
	}
	products, err := b.products(ctx, out)
	if err != nil {
		return nil
	}
	var edges []graph.Edge
	for _, p := range products {
		edges = append(edges, p.edge())
	}
	step, err := b.run.Chilled(ctx, offerFrom, edges...)
	if err != nil || step == nil {
		return nil
	}
	key, now := digest.FromString("warm builds were offered "+project).Encoded(), time.Now()
	if last, ok, err := b.opt.Store.Memo(ctx, key); err == nil && ok {
		if at, err := time.Parse(time.RFC3339, last); err == nil && now.Sub(at) < offerEvery {
			return nil
		}
	}
	if b.opt.Store.PutMemo(ctx, key, now.Format(time.RFC3339)) != nil {
		return nil
	}
	return step
}
