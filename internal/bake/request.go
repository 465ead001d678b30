package bake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/docker/buildx/bake"
	buildx "github.com/docker/buildx/build"
	"github.com/docker/buildx/util/buildflags"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/secrets"
)

// Build is a target as a build.
type Build struct {
	Name, Description string
	Request           build.Request
	// Load says that a daemon that runs here is to get the image as well.
	Load bool
	// Linked says that only other targets need it.
	Linked bool
	// Call is what is asked instead of building, as in --call; "" for a build.
	Call string
}

// Builds are the targets as builds, ordered by their names. What a target says nothing of is as in base,
// whose maps and lists are not changed. stdout takes what an output writes to "-".
func (d *Definition) Builds(ctx context.Context, base build.Request, stdout io.Writer) ([]Build, error) {
	var all []Build
	for _, name := range slices.Sorted(maps.Keys(d.options)) {
		b, err := newBuild(d.Targets[name], d.options[name], base)
		if err == nil {
			d.setSecrets(&b.Request, d.options[name])
			err = d.setInputs(ctx, &b.Request, d.options[name].Inputs)
		}
		if err == nil {
			err = b.setOutputs(d.Targets[name], d.options[name].Exports, stdout)
		}
		if err != nil {
			return nil, fmt.Errorf("target %s: %w", name, err)
		}
		b.Name, b.Description = name, d.Targets[name].Description
		all = append(all, b)
	}
	return all, nil
}

// newBuild makes a build of what buildx made of a target. The target tells what the options have no
// more: where files are written, and which caches there are none of in this environment.
func newBuild(t *bake.Target, o buildx.Options, base build.Request) (b Build, err error) {
	if err := supported(&o); err != nil {
		return b, err
	}
	b = Build{Request: base, Linked: o.Linked}
	r := &b.Request
	r.Tags, r.Target, r.NoCache = o.Tags, o.Target, o.NoCache
	r.Labels, r.BuildArgs = merged(base.Labels, o.Labels), merged(base.BuildArgs, o.BuildArgs)
	r.Allow = slices.Concat(base.Allow, o.Allow)
	r.AddHosts = slices.Concat(base.AddHosts, o.ExtraHosts)
	if t.Pull != nil {
		r.Pull = o.Pull
	}
	if o.NetworkMode != "" {
		r.Network = o.NetworkMode
	}
	if len(o.Platforms) > 0 {
		r.Platforms = nil
	}
	for _, p := range o.Platforms {
		r.Platforms = append(r.Platforms, platforms.FormatAll(p))
	}
	r.CacheFrom = slices.Concat(base.CacheFrom, caches(t.CacheFrom))
	if len(t.CacheTo) > 0 {
		r.CacheTo = caches(t.CacheTo)
	}
	if b.Call, err = callOf(&o); err != nil {
		return b, err
	}
	setAttest(r, o.Attests)
	setAttrs(r, &o)
	return b, nil
}

// supported refuses what there is no such thing of here.
func supported(o *buildx.Options) error {
	for _, p := range o.Policy {
		if !p.Disabled {
			return errors.New("policy: policies of sources are not supported: remove policy, or say --policy disabled=true")
		}
	}
	if o.SourcePolicy != nil {
		return errors.New("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY: policies of sources are not supported: unset it")
	}
	for _, e := range o.Allow {
		if name, _, _ := strings.Cut(e, "="); name == string(bake.EntitlementKeyDevice) {
			return fmt.Errorf("entitlements: %s: devices are not supported", e)
		}
	}
	return nil
}

func merged(all ...map[string]string) map[string]string {
	m := map[string]string{}
	for _, other := range all {
		maps.Copy(m, other)
	}
	return m
}

func caches(entries buildflags.CacheOptions) (all []cache.Entry) {
	for _, e := range entries {
		all = append(all, cache.Entry{Type: e.Type, Attrs: e.Attrs})
	}
	return all
}

func callOf(o *buildx.Options) (string, error) {
	if o.CallFunc == nil {
		return "", nil
	}
	f, err := buildflags.ParseCallFunc(o.CallFunc.Name)
	if err != nil || f == nil {
		return "", err
	}
	return f.Name, nil
}

// setInputs sets the contexts and the Dockerfile. Where buildx has a graph for what a repository has in a directory, the
// repository's URL says the same. Of an archive at a URL only the graph can say it: its contexts have no path.
func (d *Definition) setInputs(ctx context.Context, r *build.Request, in buildx.Inputs) error {
	r.Context, r.Dockerfile, r.DockerfileText = in.ContextPath, in.DockerfilePath, in.DockerfileInline
	r.Contexts, r.Inputs = map[string]string{}, map[string]*pb.Definition{}
	add := func(name, path string, st *llb.State) error {
		if st == nil && d.source.input != nil {
			st = d.source.input.State // all of the archive
		}
		if path != "" || st == nil {
			return nil
		}
		def, err := st.Marshal(ctx)
		if err == nil {
			r.Inputs[name] = def.ToPB()
		}
		return err
	}
	if err := add("context", in.ContextPath, in.ContextState); err != nil {
		return err
	}
	if def := r.Inputs["context"]; def != nil && in.DockerfileInline == "" && !filepath.IsAbs(in.DockerfilePath) {
		r.Inputs["dockerfile"] = def // it is in the context
	}
	for name, c := range in.NamedContexts {
		key := "named-" + name
		if err := add(key, c.Path, c.State); err != nil {
			return err
		}
		if r.Contexts[name] = c.Path; c.Path == "" {
			r.Contexts[name] = "input:" + key
		}
	}
	return nil
}

// setAttest sets the attestations; one that is nil is none.
func setAttest(r *build.Request, attests map[string]*string) {
	r.Attest = merged(r.Attest)
	for kind, v := range attests {
		delete(r.Attest, kind)
		if v != nil {
			_, r.Attest[kind], _ = strings.Cut(*v, ",") // after type=KIND
		}
	}
}

// setAttrs sets options of the frontend that a request has no field for.
func setAttrs(r *build.Request, o *buildx.Options) {
	r.Attrs = merged(r.Attrs)
	set := func(name, value string) {
		if value != "" {
			r.Attrs[name] = value
		}
	}
	number := func(name string, n int64) {
		if n != 0 {
			r.Attrs[name] = strconv.FormatInt(n, 10)
		}
	}
	set("no-cache", strings.Join(o.NoCacheFilter, ","))
	set("cgroup-parent", o.CgroupParent)
	number("shm-size", o.ShmSize.Value())
	if o.Ulimits != nil {
		var all []string
		for _, u := range o.Ulimits.GetList() {
			all = append(all, u.String())
		}
		set("ulimit", strings.Join(all, ","))
	}
	l := o.ResourceLimits
	number("memory", l.Memory.Value())
	number("memswap", l.MemorySwap.Value())
	number("cpushares", l.CPUShares)
	number("cpuperiod", l.CPUPeriod)
	number("cpuquota", l.CPUQuota)
	set("cpusetcpus", l.CPUSetCPUs)
	set("cpusetmems", l.CPUSetMems)
}

// setSecrets adds the secrets and agents. The values of variables that are not this process' come along.
func (d *Definition) setSecrets(r *build.Request, o buildx.Options) {
	r.Secrets, r.SSH = slices.Clone(r.Secrets), slices.Clone(r.SSH)
	for _, s := range o.SecretSpecs {
		src := secrets.Source{ID: s.ID, FilePath: s.FilePath, Env: s.Env}
		if v, ok := d.source.environment[s.Env]; ok && s.Env != "" {
			src.Value = &v
		}
		r.Secrets = append(r.Secrets, src)
	}
	for _, s := range o.SSHSpecs {
		r.SSH = append(r.SSH, secrets.Agent{ID: s.ID, Paths: s.Paths})
	}
}

// setOutputs sets where the result goes. An image for a daemon is one in the store as well.
func (b *Build) setOutputs(t *bake.Target, exports []client.ExportEntry, stdout io.Writer) error {
	if len(exports) != len(t.Outputs) {
		return fmt.Errorf("%d outputs of %d", len(exports), len(t.Outputs))
	}
	b.Request.Outputs = nil
	for i, e := range exports {
		out := build.Output{Type: build.OutputType(e.Type), Dest: t.Outputs[i].Destination, Attrs: e.Attrs}
		switch {
		case out.Type == build.OutputDocker && out.Dest == "":
			out.Type, b.Load = build.OutputImage, true
		case e.Output != nil && (out.Dest == "" || out.Dest == "-"):
			out.Dest, out.Writer = "", stdout
		}
		b.Request.Outputs = append(b.Request.Outputs, out)
	}
	if len(exports) == 0 {
		b.Request.Outputs = []build.Output{{Type: build.OutputImage, Attrs: map[string]string{}}}
	}
	return nil
}
