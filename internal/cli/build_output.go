package cli

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/spf13/pflag"
	csvvalue "github.com/tonistiigi/go-csvvalue"

	"github.com/slipway-build/slipway/internal/build"
)

// outputFlags are the flags of a build that say what becomes of the result.
type outputFlags struct {
	outputs, platforms, annotations, attests []string
	push, load                               bool
	provenance, sbom                         string
}

func (o *outputFlags) add(f *pflag.FlagSet) {
	f.StringArrayVarP(&o.outputs, "output", "o", nil, `Output destination (format: "type=local,dest=path"); types: "image", "registry", "oci", "docker", "tar", "local", "cacheonly"; "path" and "-" are "type=local,dest=path" and "type=tar,dest=-"`)
	var usual []string
	if p := os.Getenv("DOCKER_DEFAULT_PLATFORM"); p != "" {
		usual = []string{p}
	}
	f.StringArrayVar(&o.platforms, "platform", usual, `Set target platform for build, such as "linux/amd64,linux/arm64"`)
	f.StringArrayVar(&o.annotations, "annotation", nil, `Add annotation to the image (format: "[TYPE[PLATFORM],...:]KEY=VALUE"; types: "manifest", "index", "manifest-descriptor", "index-descriptor")`)
	f.StringArrayVar(&o.attests, "attest", nil, `Attestation parameters (format: "type=sbom,generator=image", "type=provenance,mode=max")`)
	f.StringVar(&o.provenance, "provenance", "", `Shorthand for "--attest=type=provenance"`)
	f.StringVar(&o.sbom, "sbom", "", `Shorthand for "--attest=type=sbom"`)
	f.BoolVar(&o.push, "push", false, `Shorthand for "--output=type=registry"`)
	f.BoolVar(&o.load, "load", false, "Load the image into a running Docker or containerd as well")
}

// set completes a request. The returned loader is nil unless a daemon is to get the image.
func (o *outputFlags) set(ctx context.Context, a *app, req *build.Request) (*imageLoader, error) {
	var err error
	if req.Platforms, err = platformList(o.platforms); err != nil {
		return nil, err
	}
	if req.Attest, err = o.attestations(); err != nil {
		return nil, err
	}
	load := o.load
	for _, v := range o.outputs {
		out, err := parseOutput(v, a.stdout)
		if err != nil {
			return nil, err
		}
		if out.Type == build.OutputDocker && out.Dest == "" && out.Writer == nil { // the engine of buildx is the store here
			out.Type, load = build.OutputImage, true
		}
		req.Outputs = append(req.Outputs, out)
	}
	if o.push {
		pushAll(req)
	}
	if len(req.Outputs) == 0 {
		req.Outputs = []build.Output{{Type: build.OutputImage, Attrs: map[string]string{}}}
	}
	var loader *imageLoader
	if load {
		if loader, err = a.addLoader(ctx, req); err != nil {
			return nil, err
		}
	}
	return loader, o.annotate(req)
}

// addLoader adds an output to a daemon that runs here; nil without one.
func (a *app) addLoader(ctx context.Context, req *build.Request) (*imageLoader, error) {
	loader, err := a.newLoader(ctx)
	if loader != nil {
		req.Outputs = append(req.Outputs, build.Output{Type: build.OutputDocker, Writer: loader, Attrs: map[string]string{"compression": "uncompressed"}})
	}
	return loader, err
}

// pushAll makes the image outputs push, or adds one that does.
func pushAll(req *build.Request) {
	pushed := false
	for i, out := range req.Outputs {
		if out.Type == build.OutputImage {
			req.Outputs[i].Attrs["push"], pushed = "true", true
		}
	}
	if !pushed {
		req.Outputs = append(req.Outputs, build.Output{Type: build.OutputImage, Attrs: map[string]string{"push": "true"}})
	}
}

var annotationType = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([a-z-]+)(?:\[([A-Za-z0-9_/-]+)\])?$`) })

// annotate adds the annotations to every output that is an image.
func (o *outputFlags) annotate(req *build.Request) error {
	for _, v := range o.annotations {
		keys, value, err := parseAnnotation(v)
		if err != nil {
			return err
		}
		for _, out := range req.Outputs {
			for _, k := range keys {
				if out.IsImage() {
					out.Attrs[k.String()] = value // "annotation-manifest[linux/arm64].KEY"
				}
			}
		}
	}
	return nil
}

// parseAnnotation reads an annotation, "[TYPE[PLATFORM],...:]KEY=VALUE".
func parseAnnotation(v string) (keys []exptypes.AnnotationKey, value string, err error) {
	name, value, ok := strings.Cut(v, "=")
	if !ok {
		return nil, "", fmt.Errorf("invalid annotation %q, expected key=value", v)
	}
	types, key, ok := strings.Cut(name, ":")
	if !ok {
		return []exptypes.AnnotationKey{{Key: name}}, value, nil
	}
	for _, t := range strings.Split(types, ",") {
		k, err := annotationKey(t, key)
		if err != nil {
			return nil, "", fmt.Errorf("invalid annotation %q: %w", v, err)
		}
		keys = append(keys, k)
	}
	return keys, value, nil
}

// annotationKey is an annotation for one type of place.
func annotationKey(place, key string) (k exptypes.AnnotationKey, err error) {
	groups := annotationType().FindStringSubmatch(place)
	if groups == nil {
		return k, fmt.Errorf("%q is no type with a platform, TYPE[OS/ARCH]", place)
	}
	switch groups[1] {
	case exptypes.AnnotationIndex, exptypes.AnnotationIndexDescriptor, exptypes.AnnotationManifest, exptypes.AnnotationManifestDescriptor:
	default:
		return k, fmt.Errorf("unknown annotation type %q", groups[1])
	}
	k = exptypes.AnnotationKey{Type: groups[1], Key: key}
	if groups[2] != "" {
		p, err := platforms.Parse(groups[2])
		if err != nil {
			return k, err
		}
		k.Platform = &p
	}
	return k, nil
}

// attestations reads --attest, --provenance and --sbom as buildx does: one of each type, with
// "disabled=true" for none.
func (o *outputFlags) attestations() (map[string]string, error) {
	in := append([]string(nil), o.attests...)
	for _, short := range []struct{ kind, value string }{{"provenance", o.provenance}, {"sbom", o.sbom}} {
		if short.value == "" {
			continue
		}
		rest := short.value
		if on, err := strconv.ParseBool(rest); err == nil {
			rest = fmt.Sprintf("disabled=%t", !on)
		}
		in = append(in, "type="+short.kind+","+rest)
	}
	all := map[string]string{}
	for _, v := range in {
		fields, err := csvvalue.Fields(v, nil)
		if err != nil {
			return nil, fmt.Errorf("parsing --attest %q: %w", v, err)
		}
		kind, disabled := "", false
		var rest []string
		for _, field := range fields {
			key, value, ok := strings.Cut(field, "=")
			switch {
			case !ok:
				return nil, fmt.Errorf("parsing --attest %q: %q is not key=value", v, field)
			case key == "type":
				kind = value
			case key == "disabled":
				if disabled, err = strconv.ParseBool(value); err != nil {
					return nil, fmt.Errorf("parsing --attest %q: %w", v, err)
				}
			default:
				rest = append(rest, field)
			}
		}
		if kind == "" {
			return nil, fmt.Errorf("parsing --attest %q: attestation type not specified", v)
		}
		if _, twice := all[kind]; twice {
			return nil, fmt.Errorf("duplicate attestation field %s", kind)
		}
		if !disabled {
			all[kind] = strings.Join(rest, ",")
		}
	}
	return all, nil
}

// platformList takes the values of --platform, each a comma-separated list.
func platformList(values []string) ([]string, error) {
	var all []string
	for _, v := range values {
		fields, err := csvvalue.Fields(v, nil)
		if err != nil {
			return nil, fmt.Errorf("--platform %s: %w", v, err)
		}
		for _, p := range fields {
			if p == "local" {
				p = platforms.DefaultString()
			}
			if _, err := platforms.Parse(p); err != nil {
				return nil, fmt.Errorf("--platform %s: %w", v, err)
			}
			all = append(all, p)
		}
	}
	return all, nil
}

// withEpoch takes SOURCE_DATE_EPOCH from the environment along, as buildx does.
func withEpoch(args map[string]string) map[string]string {
	if v := os.Getenv("SOURCE_DATE_EPOCH"); v != "" {
		if _, ok := args["SOURCE_DATE_EPOCH"]; !ok {
			args["SOURCE_DATE_EPOCH"] = v
		}
	}
	return args
}
