package imagediff

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

func isAny(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(t error) bool { return errors.Is(err, t) })
}

// compareConfigs tells what configurations do not have the same, in the order of the fields.
func compareConfigs(a, b *dockerspec.DockerOCIImage, opt Options) (all []Value) {
	as, bs := valuesOf(a, opt), valuesOf(b, opt)
	fields := slices.Sorted(maps.Keys(as))
	for f := range bs {
		if _, ok := as[f]; !ok {
			fields = append(fields, f)
		}
	}
	slices.Sort(fields)
	for _, f := range fields {
		av, inA := as[f]
		bv, inB := bs[f]
		if inA && inB && av == bv {
			continue
		}
		v := Value{Field: f}
		if inA {
			v.A = &av
		}
		if inB {
			v.B = &bv
		}
		all = append(all, v)
	}
	return all
}

// valuesOf are all values of a configuration, by their fields.
func valuesOf(c *dockerspec.DockerOCIImage, opt Options) map[string]string {
	out := map[string]string{}
	text := func(field, value string) {
		if value != "" {
			out[field] = value
		}
	}
	value := func(field string, v any, is bool) {
		if data, err := json.Marshal(v); err == nil && is {
			out[field] = string(data)
		}
	}
	for _, e := range c.Config.Env {
		name, v, _ := strings.Cut(e, "=")
		out["env "+name] = v
	}
	for name, v := range c.Config.Labels {
		out["label "+name] = v
	}
	for p := range c.Config.ExposedPorts {
		out["port "+p] = ""
	}
	for v := range c.Config.Volumes {
		out["volume "+v] = ""
	}
	value("entrypoint", c.Config.Entrypoint, len(c.Config.Entrypoint) > 0)
	value("cmd", c.Config.Cmd, len(c.Config.Cmd) > 0)
	value("shell", c.Config.Shell, len(c.Config.Shell) > 0)
	value("onbuild", c.Config.OnBuild, len(c.Config.OnBuild) > 0)
	value("healthcheck", c.Config.Healthcheck, c.Config.Healthcheck != nil)
	text("user", c.Config.User)
	text("workdir", c.Config.WorkingDir)
	text("stopsignal", c.Config.StopSignal)
	text("author", c.Author)
	text("architecture", c.Architecture)
	text("variant", c.Variant)
	text("os", c.OS)
	text("os version", c.OSVersion)
	if opt.Times && c.Created != nil {
		out["created"] = c.Created.UTC().Format(time.RFC3339Nano)
	}
	return out
}

// compareHistory tells which instructions one history alone has: what is between those at the beginning and at the end that
// both have.
func compareHistory(a, b *dockerspec.DockerOCIImage) (all []Step) {
	as, bs := a.History, b.History
	same := func(x, y ocispec.History) bool { return x.CreatedBy == y.CreatedBy && x.EmptyLayer == y.EmptyLayer }
	for len(as) > 0 && len(bs) > 0 && same(as[0], bs[0]) {
		as, bs = as[1:], bs[1:]
	}
	for len(as) > 0 && len(bs) > 0 && same(as[len(as)-1], bs[len(bs)-1]) {
		as, bs = as[:len(as)-1], bs[:len(bs)-1]
	}
	for _, h := range as {
		all = append(all, Step{layer.Removed, h.CreatedBy})
	}
	for _, h := range bs {
		all = append(all, Step{layer.Added, h.CreatedBy})
	}
	return all
}
