package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/kube"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/stages"
)

// podBuild is a build in one Job: of the result, or of a stage that others find by its key then.
type podBuild struct {
	task
	args []string
	arch string // of its node; "" is any
	main bool   // it makes the result

	tell   func(string)
	replay *progress.Replay
	said   lastLines
	out    kube.Outcome
}

// split gives the builds in the order in which they may begin; the last one makes the result.
func (r *remote) split() []*podBuild {
	main := &podBuild{args: slices.Concat(r.args, r.result, r.where), main: true}
	if len(r.archs) == 1 {
		main.arch = r.archs[0]
	}
	if r.opts.workers < 2 {
		return []*podBuild{main}
	}
	all, err := r.parts()
	if err != nil {
		r.tell("one Job builds all: " + err.Error())
	}
	if len(all) == 0 {
		return []*podBuild{main}
	}
	return all
}

// parts are the builds of which no one needs another one's files before that is done; none where one Job has to do it all.
func (r *remote) parts() (all []*podBuild, err error) {
	switch o := r.opts; {
	case o.noCache || len(o.noCacheFilter) > 0:
		return nil, errors.New("with --no-cache Jobs would find nothing of each other's")
	case o.verifyCache != "":
		return nil, errors.New("with --verify-cache each Job would run again what the others have")
	case r.dockerfile == nil:
		return nil, errors.New("the Dockerfile is not of this machine")
	}
	if err := r.sameEverywhere(); err != nil {
		return nil, err
	}
	targets := r.platforms
	if len(targets) == 0 {
		targets = []ocispec.Platform{{}}
	}
	main := &podBuild{main: true, task: task{label: "result"}, args: slices.Concat(r.args, r.result, r.same, r.where)}
	if len(r.archs) > 0 {
		main.arch = r.archs[0]
	}
	once := map[string]*podBuild{} // what is the same for all platforms
	for _, p := range targets {
		parts, err := stages.Split(r.dockerfile, r.stageOptions(p))
		if err != nil {
			return nil, err
		}
		builds := map[*stages.Part]*podBuild{}
		for i, part := range parts {
			last := i == len(parts)-1
			switch {
			case part.Fixed && !part.Targeted && once[part.Target] != nil:
				builds[part] = once[part.Target]
				if last {
					main.needs = append(main.needs, &builds[part].task)
				}
				continue
			case last && (len(targets) == 1 || !part.Runs): // the result's Job does that
				main.needs = append(main.needs, needed(part, builds)...)
				continue
			}
			b := r.part(part, p)
			b.needs = needed(part, builds)
			if builds[part] = b; part.Fixed && !part.Targeted {
				once[part.Target] = b
			}
			if all = append(all, b); last {
				main.needs = append(main.needs, &b.task)
			}
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	return append(all, main), nil
}

func needed(part *stages.Part, builds map[*stages.Part]*podBuild) (all []*task) {
	for _, n := range part.Needs {
		all = append(all, &builds[n].task)
	}
	return all
}

// stageOptions say what the stages of a platform are.
func (r *remote) stageOptions(p ocispec.Platform) stages.Options {
	o := stages.Options{Target: r.opts.target, Args: keyValues(r.opts.buildArgs, os.LookupEnv), Platform: map[string]string{}}
	if p.OS != "" {
		o.Platform = map[string]string{"TARGETPLATFORM": platforms.Format(p), "TARGETOS": p.OS, "TARGETARCH": p.Architecture, "TARGETVARIANT": p.Variant}
		maps.Copy(o.Platform, buildPlatform(r.archs[0]))
	}
	for _, v := range r.opts.contexts {
		name, _, _ := strings.Cut(v, "=")
		o.Contexts = append(o.Contexts, name)
	}
	return o
}

// buildPlatform is the platform that steps of a build run on, as a Dockerfile knows it.
func buildPlatform(arch string) map[string]string {
	return map[string]string{"BUILDPLATFORM": "linux/" + arch, "BUILDOS": "linux", "BUILDARCH": arch, "BUILDVARIANT": ""}
}

// part is the build of a part, whose result others find.
func (r *remote) part(part *stages.Part, p ocispec.Platform) *podBuild {
	b := &podBuild{task: task{label: part.Target}, arch: p.Architecture}
	b.args = slices.Concat(r.args, []string{"--target=" + part.Target, "--output=type=cacheonly"}, r.same)
	if p.OS != "" {
		b.args = append(b.args, "--platform="+platforms.Format(p))
	}
	if b.args = append(b.args, r.where...); len(r.platforms) > 1 {
		b.label += " " + platforms.Format(p)
	}
	if part.Fixed && len(r.archs) > 0 {
		b.arch = r.archs[0]
	}
	return b
}

// sameEverywhere has Jobs on nodes of different architectures find each other's results: the Dockerfile is told of the same builder by all of them.
func (r *remote) sameEverywhere() error {
	if strings.Contains(string(r.dockerfile), "TARGETSTAGE") {
		return errors.New("the Dockerfile speaks of TARGETSTAGE, which is another one in each Job")
	}
	given := keyValues(r.opts.buildArgs, os.LookupEnv)
	for _, k := range []string{"BUILDPLATFORM", "TARGETPLATFORM"} {
		if _, ok := given[k]; ok {
			return fmt.Errorf("--build-arg %s gives stages another platform", k)
		}
	}
	if len(r.archs) < 2 {
		return nil
	}
	same := buildPlatform(r.archs[0])
	for _, k := range slices.Sorted(maps.Keys(same)) {
		if strings.Contains(string(r.dockerfile), k+"=") {
			return fmt.Errorf("the Dockerfile gives %s a value", k)
		}
		if _, ok := given[k]; !ok && strings.Contains(string(r.dockerfile), k) {
			r.same = append(r.same, "--build-arg="+k+"="+same[k])
		}
	}
	return nil
}

// carryOut carries builds out, each when those that it needs are done and there is a place for its Job.
func (r *remote) carryOut(ctx context.Context, sink progress.Sink, spec *kube.Spec, all []*podBuild) error {
	merge := progress.NewMerge(sink)
	var tasks []*task
	for _, b := range all {
		b.tell = r.tell
		if len(all) > 1 {
			b.replay, b.tell = progress.NewReplay(merge.Part(b.main)), func(text string) { r.tell("[" + b.label + "] " + text) }
		} else {
			b.replay = progress.NewReplay(sink)
		}
		one := *spec
		b.do = func(ctx context.Context) error {
			return r.bounds.jobs.in(ctx, func() error { return b.carryOut(ctx, r.cluster, one) })
		}
		tasks = append(tasks, &b.task)
	}
	err := carryOut(ctx, tasks)
	last := all[len(all)-1]
	r.out, r.said = last.out, last.said
	return err
}

// carryOut carries the build out in a Job.
func (b *podBuild) carryOut(ctx context.Context, cluster *kube.Cluster, spec kube.Spec) error {
	spec.Args, spec.Arch = b.args, b.arch
	err := b.run(ctx, cluster, &spec)
	switch {
	case err != nil:
		b.replay.Again() // what ran in the pod has come to no end
		if b.label != "" && ctx.Err() == nil {
			err = fmt.Errorf("[%s] %w", b.label, err)
		}
		return &failedBuild{b.said, b.out, err}
	case b.out.ExitCode != 0:
		return &failedBuild{b.said, b.out, nil}
	}
	b.replay.End()
	return nil
}

func (b *podBuild) run(ctx context.Context, cluster *kube.Cluster, spec *kube.Spec) error {
	view := kube.View{Line: b.line, Tell: b.tell, Again: func() { b.replay.Again(); b.said.clear() }}
	for {
		admitted, err := cluster.Admit(ctx, spec)
		if err != nil {
			return err
		}
		b.tell(admitted.Tells)
		b.out, err = cluster.Run(ctx, admitted, spec, view)
		if !errors.Is(err, kube.ErrNoUserNamespace) || spec.NoUserNamespace {
			return err
		}
		spec.NoUserNamespace = true
		b.tell(err.Error())
	}
}

// line takes a line of what the pod prints: an event, or the words of its slipway.
func (b *podBuild) line(line []byte) {
	if !b.replay.Line(line) {
		b.said.add(line)
	}
}
