// Package bake makes builds of what bake files and compose files define.
//
// What a definition means is read by buildx' own package, linked in as a library; this package
// finds the files, tells what is asked for outside of the working directory, and turns targets into
// [build.Request]s. The rules, and the words of the errors, are those of docker buildx
// (commands/bake.go there).
package bake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/docker/buildx/bake"
	"github.com/docker/buildx/bake/hclparser"
	buildx "github.com/docker/buildx/build"
	"github.com/docker/buildx/util/buildflags"
	"github.com/docker/buildx/util/urlutil"

	"github.com/slipway-build/slipway/internal/frontend"
)

// Options are what a command line says besides the names of targets.
type Options struct {
	// URL is where the definition is: a git repository, an archive, or the definition itself; "" for
	// local files.
	URL string
	// CommandContext is the variable BAKE_CMD_CONTEXT.
	CommandContext string
	// Files are the definition's files, with cwd:// before local ones of a remote definition; none are
	// buildx' default ones.
	Files []string
	// FilesFromEnv says that BUILDX_BAKE_FILE named the files.
	FilesFromEnv bool

	Overrides, Variables, Allow []string // --set, --var, --allow
	Push, Load                  bool
	NoCache, Pull               *bool
	SBOM, Provenance, Call      string
	Policy                      []string
}

// Split finds the URLs among the arguments: that of the definition, and what is the context of the
// command for it.
func Split(args []string) (url, commandContext string, targets []string) {
	commandContext, targets = "cwd://", args
	if len(targets) == 0 || !urlutil.IsRemoteURL(targets[0]) {
		return url, commandContext, targets
	}
	url, targets = targets[0], targets[1:]
	if len(targets) == 0 || !urlutil.IsRemoteURL(targets[0]) {
		return url, commandContext, targets
	}
	return url, targets[0], targets[1:]
}

// overrides are --set with what other flags are short for.
func (o *Options) overrides() (all []string, noPolicy bool, err error) {
	all = slices.Clone(o.Overrides)
	call, err := buildflags.ParseCallFunc(o.Call)
	if err != nil {
		return nil, false, err
	}
	if o.Push {
		all = append(all, "*.push=true")
	}
	if o.Load {
		all = append(all, "*.load=true")
	}
	if call != nil {
		all = append(all, "*.call="+call.Name)
	}
	if o.NoCache != nil {
		all = append(all, fmt.Sprintf("*.no-cache=%t", *o.NoCache))
	}
	if o.Pull != nil {
		all = append(all, fmt.Sprintf("*.pull=%t", *o.Pull))
	}
	if o.SBOM != "" {
		all = append(all, "*.attest="+buildflags.CanonicalizeAttest("sbom", o.SBOM))
	}
	if o.Provenance != "" {
		all = append(all, "*.attest="+buildflags.CanonicalizeAttest("provenance", o.Provenance))
	}
	policies, noPolicy, err := policyOverrides(o.Policy)
	return append(all, policies...), noPolicy, err
}

// policyOverrides are the values of --policy as overrides, or that there is no policy at all.
func policyOverrides(values []string) (all []string, disabled bool, err error) {
	configs, err := buildflags.ParsePolicyConfigs(values)
	if err != nil {
		return nil, false, err
	}
	for i, cfg := range configs {
		switch {
		case len(cfg.Files) > 0:
			return nil, false, errors.New(`--policy does not accept filename; define policy files in the bake definition`)
		case cfg.Reset:
			return nil, false, errors.New(`--policy does not accept reset; define policy composition in the bake definition`)
		case cfg.Disabled && (cfg.Strict != nil || cfg.LogLevel != nil || len(configs) > 1):
			return nil, false, errors.New("disabled policy cannot be combined with other policy flags")
		case cfg.Disabled:
			return nil, true, nil
		}
		all = append(all, "*.policy+="+values[i])
	}
	return all, false, nil
}

// parse is what buildx' parser is given besides the files.
func (o *Options) parse() (defaults, vars map[string]string, opt bake.ParseOpt, err error) {
	defaults = map[string]string{
		"BAKE_CMD_CONTEXT":    o.CommandContext,
		"BAKE_LOCAL_PLATFORM": platforms.Format(platforms.DefaultSpec()),
	}
	for _, v := range o.Variables {
		if v == "" {
			continue
		}
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			return nil, nil, opt, fmt.Errorf("invalid variable %q, expected key=value", v)
		}
		if name == "" {
			return nil, nil, opt, fmt.Errorf("invalid variable %q, key is empty", v)
		}
		if vars == nil {
			vars = map[string]string{}
		}
		vars[name] = value
	}
	if v := strings.TrimSpace(os.Getenv("BUILDX_BAKE_FILE_RELATIVE_PATHS")); v != "" {
		if opt.FileRelativePaths, err = strconv.ParseBool(v); err != nil {
			return nil, nil, opt, fmt.Errorf("failed to parse BUILDX_BAKE_FILE_RELATIVE_PATHS value %q: %w", v, err)
		}
	}
	return defaults, vars, opt, nil
}

// Config is a definition as it stands, Group and Variable are what it has besides targets.
type (
	Config   = bake.Config
	Group    = bake.Group
	Variable = hclparser.Variable
)

// Parse reads a definition with all of its targets.
func (o *Options) Parse(ctx context.Context, src *Source) (cfg *Config, variables []*Variable, err error) {
	defaults, vars, opt, err := o.parse()
	if err != nil {
		return nil, nil, err
	}
	meta, err := guarded(ctx, func() (meta *hclparser.ParseMeta, err error) {
		cfg, meta, err = bake.ParseFiles(src.Files, defaults, vars, opt)
		return meta, err
	})
	if err != nil {
		return nil, nil, err
	}
	return cfg, meta.AllVariables, nil
}

// guarded bounds what a definition takes to read: variables and functions may make anything of a few lines.
func guarded[T any](ctx context.Context, read func() (T, error)) (T, error) {
	return frontend.Guarded(ctx, "bake definition", read)
}

// Definition is what is to be built: the targets that were asked for, and those that they need.
type Definition struct {
	Groups  map[string]*bake.Group
	Targets map[string]*bake.Target

	options     map[string]buildx.Options
	entitlement bake.EntitlementConf
	source      *Source
}

// Resolve finds the targets, "default" for none, and applies what overrides them.
func (o *Options) Resolve(ctx context.Context, src *Source, targets []string) (*Definition, error) {
	overrides, noPolicy, err := o.overrides()
	if err != nil {
		return nil, err
	}
	defaults, vars, opt, err := o.parse()
	if err != nil {
		return nil, err
	}
	d := &Definition{source: src}
	if d.entitlement, err = o.allowed(); err != nil {
		return nil, err
	}
	if targets = slices.Clone(targets); len(targets) == 0 {
		targets = []string{"default"}
	}
	return guarded(ctx, func() (*Definition, error) {
		d.Targets, d.Groups, err = bake.ReadTargets(ctx, src.Files, targets, overrides, defaults, vars, &d.entitlement, opt)
		if err != nil {
			return nil, err
		}
		for _, t := range d.Targets {
			if noPolicy {
				t.Policy = buildflags.PolicyConfigs{{Disabled: true}}
			}
			takeEpoch(t)
		}
		// This also changes contexts of targets to what they are for this command: it comes before printing.
		d.options, err = bake.TargetsToBuildOpt(d.Targets, src.input)
		return d, err
	})
}

// takeEpoch takes SOURCE_DATE_EPOCH from the environment along.
func takeEpoch(t *bake.Target) {
	const name = "SOURCE_DATE_EPOCH"
	v := os.Getenv(name)
	if _, ok := t.Args[name]; ok || v == "" {
		return
	}
	if t.Args == nil {
		t.Args = map[string]*string{}
	}
	t.Args[name] = &v
}

// JSON is the definition as --print shows it.
func (d *Definition) JSON() ([]byte, error) {
	return json.MarshalIndent(struct {
		Group  map[string]*bake.Group  `json:"group,omitempty"`
		Target map[string]*bake.Target `json:"target"`
	}{d.Groups, d.Targets}, "", "  ")
}
