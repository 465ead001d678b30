package cli

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/cache"
)

// onRule is what becomes of a flag of a build in a cluster: "" is that the build there gets it, onHere that it is for this side, anything else the
// reason for which it is refused.
type onRule string

const onHere onRule = "here"

// onRules are those of all flags of build.
func onRules() map[string]onRule {
	rules := map[string]onRule{
		"ssh":             "agents and keys of this machine do not go to a cluster: fetch with a token (--secret)",
		"call":            "ask here: it needs no cluster",
		"check":           "ask here: it needs no cluster",
		"print":           "ask here: it needs no cluster",
		"dump-keys":       "it is about builds of this machine",
		"on-failure":      "a step that fails in a pod goes with it",
		"warm":            "a pod has no caches of earlier builds (--cache-to has mounts=)",
		"verify-warm":     "a pod has no caches of earlier builds",
		"timing":          "the record of the build is the pod's",
		"trace-processes": "the record of the build is the pod's",
		"trace-files":     "the record of the build is the pod's",
		"summary":         "the record of the build is the pod's",
	}
	for _, name := range []string{
		"on", "builder", "on-alone", "on-image", "on-wait", "on-registry-secret", "pod-template", "workers", "progress", "quiet", "metadata-file", "iidfile", "load", "compress", "rm", "force-rm",
		// These are put into another form.
		"file", "build-context", "secret", "build-arg", "tag", "platform", "output", "push", "cache-to", "cache-from",
	} {
		rules[name] = onHere
	}
	for _, name := range []string{
		"add-host", "allow", "annotation", "attest", "cgroup-parent", "cpu-period", "cpu-quota", "cpu-shares", "cpuset-cpus", "cpuset-mems", "label", "memory",
		"memory-swap", "network", "no-cache", "no-cache-filter", "pids-limit", "policy", "provenance", "pull", "resource", "sbom", "security-opt", "shm-size",
		"squash", "target", "ulimit", "userns", "verify-cache",
	} {
		rules[name] = ""
	}
	return rules
}

// plan makes the command line of the build in the pod, but for what is sent, and refuses what cannot be done there.
func (r *remote) plan() error {
	r.args, r.result = []string{"build", "--builder=default", "--progress=rawjson"}, []string{"--metadata-file=/dev/termination-log"}
	if err := r.forward(); err != nil {
		return err
	}
	o := r.opts
	args := withEpoch(keyValues(o.buildArgs, os.LookupEnv))
	for _, k := range slices.Sorted(maps.Keys(args)) {
		r.args = append(r.args, "--build-arg="+k+"="+args[k])
	}
	if err := errors.Join(r.planPlatforms(), r.planCaches()); err != nil {
		return err
	}
	return r.planOutputs()
}

// ofResult are the flags that say what becomes of the result: what only stands below it is built without them.
var ofResult = []string{"annotation", "attest", "label", "provenance", "sbom", "squash", "target"}

// forward passes flags on that mean the same there, and refuses some.
func (r *remote) forward() (err error) {
	rules := onRules()
	r.flags.VisitAll(func(f *pflag.Flag) {
		rule, known := rules[f.Name]
		switch {
		case err != nil || !known || rule == onHere:
		case rule != "":
			if f.Changed {
				err = fmt.Errorf("--%s and --on=kubernetes: %s", f.Name, rule)
			}
		case f.Value.String() != f.DefValue:
			to := &r.args
			if slices.Contains(ofResult, f.Name) {
				to = &r.result
			}
			if list, ok := f.Value.(pflag.SliceValue); ok {
				for _, v := range list.GetSlice() {
					*to = append(*to, "--"+f.Name+"="+v)
				}
				return
			}
			*to = append(*to, "--"+f.Name+"="+f.Value.String())
		}
	})
	return err
}

// planPlatforms reads the platforms: a build for those of one architecture runs on a node of that.
func (r *remote) planPlatforms() error {
	all, err := platformList(r.opts.platforms)
	if err != nil {
		return err
	}
	for _, one := range all {
		p, err := platforms.Parse(one)
		if err != nil {
			return fmt.Errorf("--platform: %w", err)
		}
		if !slices.Contains(r.archs, p.Architecture) {
			r.archs = append(r.archs, p.Architecture)
		}
		r.platforms = append(r.platforms, p)
		r.result = append(r.result, "--platform="+one)
	}
	return nil
}

// planCaches finds the repository that holds results by their keys, and passes the caches on.
func (r *remote) planCaches() error {
	var keysTo, keysFrom bool
	for _, side := range []struct {
		flag   string
		values []string
		keys   *bool
	}{{"cache-to", r.opts.cacheTo, &keysTo}, {"cache-from", r.opts.cacheFrom, &keysFrom}} {
		entries, err := parseCacheEntries(side.values)
		if err != nil {
			return fmt.Errorf("--%s: %w", side.flag, err)
		}
		for _, e := range entries {
			switch e.Type {
			case cache.TypeRegistry, cache.TypeInline, cache.TypeS3:
			default:
				return fmt.Errorf("--%s type=%s: a pod does not have that: use type=registry", side.flag, e.Type)
			}
			if e.Type == cache.TypeRegistry && e.Attrs["mode"] == "keys" {
				*side.keys = true
				if err := r.keepIn(e.Attrs["ref"], e.Attrs["registry.insecure"] == "true"); err != nil {
					return fmt.Errorf("--%s: %w", side.flag, err)
				}
			}
		}
		for i, v := range side.values {
			if cache.Redact(v) != v {
				return fmt.Errorf("--%s: it has a secret, which everybody could read in the Job", side.flag)
			}
			to := &r.args
			if side.flag == "cache-to" && entries[i].Attrs["mode"] != "keys" { // it has the results of one build
				to = &r.result
			}
			*to = append(*to, "--"+side.flag+"="+v)
		}
	}
	if r.repo.Repository == "" {
		if len(r.opts.tags) == 0 {
			return errors.New("--on=kubernetes: what goes between this machine and the cluster goes through a registry: name a repository by --cache-to type=registry,ref=HOST/REPOSITORY,mode=keys")
		}
		named, err := reference.ParseNormalizedNamed(r.opts.tags[0])
		if err != nil {
			return fmt.Errorf("--tag: %w", err)
		}
		if err := r.keepIn(named.Name()+"/cache", false); err != nil {
			return err
		}
	}
	entry := keysEntry(r.repo)
	if !keysFrom {
		r.args = append(r.args, "--cache-from="+entry)
	}
	if !keysTo {
		r.args = append(r.args, "--cache-to="+entry+",ignore-error=true")
	}
	return nil
}

// keysEntry is a value of --cache-from and --cache-to: results by their keys in a repository.
func keysEntry(in cache.Packed) string {
	entry := "type=registry,mode=keys,ref=" + in.Repository
	if in.Insecure {
		entry += ",registry.insecure=true"
	}
	return entry
}

// keepIn says which repository results and contexts are kept in; the first one counts.
func (r *remote) keepIn(ref string, insecure bool) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return err
	}
	if r.repo.Repository == "" {
		r.repo.Repository, r.repo.Insecure = named.Name(), insecure
	}
	return nil
}

// planOutputs passes on where the image goes, which has to be a registry.
func (r *remote) planOutputs() error {
	o, pushes, nothing := r.opts, r.opts.push, false
	if o.load && len(o.tags) == 0 {
		return errors.New("--load and --on=kubernetes: say by --tag how the image is called here")
	}
	for _, v := range o.outputs {
		out, err := parseOutput(v, r.app.stdout)
		switch {
		case err != nil:
			return err
		case out.Type == build.OutputCacheOnly:
			nothing = true
		case out.Type != build.OutputImage:
			return fmt.Errorf("--output %s and --on=kubernetes: an image of a cluster goes to a registry: push it, and save or copy from there", v)
		case out.Attrs["push"] == "true":
			pushes = true
		}
		r.result = append(r.result, "--output="+v)
		r.pushed = append(r.pushed, strings.Split(out.Attrs["name"], ",")...)
	}
	switch {
	case pushes:
		if o.push {
			r.result = append(r.result, "--push")
		}
		for _, tag := range o.tags {
			r.result, r.pushed = append(r.result, "--tag="+tag), append(r.pushed, tag)
		}
	case o.load:
		r.home = true
	case !nothing:
		return errors.New("--on=kubernetes: say where the image goes: --push, or --load to have it here")
	}
	return nil
}

// nameImage says where an image that nobody pushes goes: through the repository of the cache, where it has no name that anybody needs. It is the same one for all
// clients of the same build by Jobs that are alike.
func (r *remote) nameImage(job string) {
	if !r.home {
		return
	}
	id := shortID()
	if r.shared() {
		id = digest.FromString(fmt.Sprintf("%s %q", job, slices.Concat(r.args, r.result, r.where))).Encoded()[:24]
	}
	r.image = r.repo.Repository + ":image-" + id
	output := "--output=type=image,push=true,store=false,name=" + r.image
	if r.repo.Insecure {
		output += ",registry.insecure=true"
	}
	r.result = append(r.result, output)
}

// shared reports whether the build is the same wherever the same is asked for: not where secrets have values that nobody else can know, which would be guessed from
// a name that has a digest of them, where a context may be another one by now, and where steps are wanted to run anew.
func (r *remote) shared() bool {
	o := r.opts
	return !o.onAlone && len(o.secrets) == 0 && !r.elsewhere && !o.pull && !o.noCache && len(o.noCacheFilter) == 0 && o.verifyCache == ""
}
