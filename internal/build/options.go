package build

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/store"
)

// check finds requests that cannot be served before anything is done.
func (r *Request) check() error {
	switch r.Network {
	case "", "default", "host", "none":
	default:
		return fmt.Errorf("network mode %q is not supported: use host or none", r.Network)
	}
	if r.MaxProcesses < -1 {
		return fmt.Errorf("limit %d of processes is negative", r.MaxProcesses)
	}
	for _, p := range r.Platforms {
		if _, err := platforms.Parse(p); err != nil {
			return fmt.Errorf("invalid platform %q: %w", p, err)
		}
	}
	for _, o := range r.Outputs {
		if err := o.check(r.Client != nil); err != nil {
			return err
		}
		if err := r.checkPush(&o); err != nil {
			return err
		}
	}
	return nil
}

// told are the names of an image as those who asked for it are told of them: a client's as it wrote them,
// but for archives.
func (r *Request) told(o Output, names []string) []string {
	if r.Client == nil || o.Type != OutputImage {
		return names
	}
	return r.given(o)
}

// given returns the names that a request has for some outputs, as they were written: the tags, and
// the outputs' own.
func (r *Request) given(outputs ...Output) []string {
	names := slices.Clone(r.Tags)
	for _, o := range outputs {
		if n := o.Attrs["name"]; n != "" {
			names = append(names, strings.Split(n, ",")...)
		}
	}
	return names
}

// frontendsName is the name of an output in place of which the one counts that the frontend gives.
const frontendsName = "*"

// named is an output with its name.
func (b *building) named(o Output) (Output, error) {
	if o.Attrs["name"] != frontendsName {
		return o, nil
	}
	name := string(b.out.Metadata[exptypes.ExporterImageNameKey])
	if name == "" || name == frontendsName {
		return o, fmt.Errorf("invalid tag %q: the frontend gives no name", frontendsName)
	}
	o.Attrs = maps.Clone(o.Attrs)
	o.Attrs["name"] = name
	return o, nil
}

// names returns the full names of the image for some outputs.
func (r *Request) names(outputs ...Output) ([]string, error) {
	var names []string
	for _, t := range r.given(outputs...) {
		if t == frontendsName && !slices.Contains(r.Tags, t) {
			continue
		}
		name, err := store.NormalizeName(t)
		if err != nil {
			return nil, fmt.Errorf("invalid tag %q: %w", t, errors.Unwrap(err))
		}
		if strings.Contains(name, "@") {
			return nil, fmt.Errorf("invalid tag %q: an image cannot be named with a digest", t)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// attrs are the frontend's options of the request.
func (r *Request) attrs(in *inputs) map[string]string {
	if r.Client != nil {
		a := map[string]string{}
		maps.Copy(a, r.Attrs)
		return a
	}
	a := r.Steps()
	maps.Copy(a, in.attrs)
	for kind, v := range r.Attest {
		a["attest:"+kind] = v
	}
	for k, v := range r.BuildArgs {
		a["build-arg:"+k] = v
	}
	for k, v := range r.Labels {
		a["label:"+k] = v
	}
	for key, v := range map[string]string{"target": r.Target, "platform": strings.Join(r.Platforms, ",")} {
		if v != "" {
			a[key] = v
		}
	}
	r.callAttrs(a)
	if r.NoCache {
		a["no-cache"] = ""
	}
	if r.Pull {
		a["image-resolve-mode"] = pb.AttrImageResolveModeForcePull
	}
	return a
}

// Steps are the options of frontends in Attrs, and those that say what steps see of the network.
func (r *Request) Steps() map[string]string {
	a := map[string]string{}
	maps.Copy(a, r.Attrs)
	if hosts := r.extraHosts(); hosts != "" {
		a["add-hosts"] = hosts
	}
	if r.Network == "host" || r.Network == "none" {
		a["force-network-mode"] = r.Network
	}
	return a
}

// extraHosts writes AddHosts as the frontend reads them: "name=ip,name=ip", IPv6 without brackets.
// What is no "name:ip" stays as it is: the frontend says what is wrong.
func (r *Request) extraHosts() string {
	hosts := make([]string, 0, len(r.AddHosts))
	for _, h := range r.AddHosts {
		if i := strings.IndexAny(h, "=:"); i > 0 {
			h = h[:i] + "=" + strings.TrimSuffix(strings.TrimPrefix(h[i+1:], "["), "]")
		}
		hosts = append(hosts, h)
	}
	return strings.Join(hosts, ",")
}
