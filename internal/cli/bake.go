package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"github.com/moby/buildkit/client/llb"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/bake"
	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/progress"
)

// bakeFlags are the flags of bake as they were given.
type bakeFlags struct {
	bake.Options
	noCache, pull          bool
	print                  bool
	list                   string
	progress, metadataFile string
}

func newBakeCmd(a *app) *cobra.Command {
	var opts bakeFlags
	cmd := &cobra.Command{
		Use:     "bake [OPTIONS] [TARGET...]",
		Aliases: []string{"f"},
		Short:   "Build the targets of a bake file or a compose file",
		RunE: func(cmd *cobra.Command, args []string) error {
			for name, flag := range map[string]struct {
				value *bool
				set   **bool
			}{"no-cache": {&opts.noCache, &opts.NoCache}, "pull": {&opts.pull, &opts.Pull}} {
				if cmd.Flags().Changed(name) { // not given is not false: the definition may say
					*flag.set = flag.value
				}
			}
			return a.runBake(cmd.Context(), &opts, args)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringArrayVarP(&opts.Files, "file", "f", nil, `Build definition file, "-" for standard input (default: compose.yaml, docker-bake.json, docker-bake.hcl and others)`)
	f.BoolVar(&opts.Load, "load", false, `Shorthand for "--set=*.output=type=docker". Conditional.`)
	f.BoolVar(&opts.Push, "push", false, `Shorthand for "--set=*.output=type=registry". Conditional.`)
	f.StringVar(&opts.SBOM, "sbom", "", `Shorthand for "--set=*.attest=type=sbom"`)
	f.StringVar(&opts.Provenance, "provenance", "", `Shorthand for "--set=*.attest=type=provenance"`)
	f.StringArrayVar(&opts.Policy, "policy", nil, `Policy evaluation options: "disabled=true", as there are no policies`)
	f.StringArrayVar(&opts.Overrides, "set", nil, `Override target value (e.g., "targetpattern.key=value")`)
	f.StringArrayVar(&opts.Variables, "var", nil, `Set a variable value (e.g., "name=value")`)
	f.StringVar(&opts.Call, "call", "build", `Set method for evaluating build ("check", "outline", "targets")`)
	f.StringArrayVar(&opts.Allow, "allow", nil, "Allow build to access specified resources")
	f.BoolFunc("check", `Shorthand for "--call=check"`, func(v string) error {
		on, err := strconv.ParseBool(v)
		if err == nil && on {
			opts.Call = "check"
		}
		return err
	})
	f.BoolVar(&opts.print, "print", false, "Print the options without building")
	f.StringVar(&opts.list, "list", "", `List "targets" or "variables" ("type=targets,format=json" for a program)`)
	f.BoolFunc("list-targets", "List available targets", listAlias(&opts.list, "targets"))
	f.BoolFunc("list-variables", "List defined variables", listAlias(&opts.list, "variables"))
	f.String("builder", "", "Accepted for Docker's sake: there is one builder")
	for _, name := range []string{"list-targets", "list-variables", "builder"} {
		f.Lookup(name).Hidden = true
	}
	f.BoolVar(&opts.noCache, "no-cache", false, "Do not use cache when building the image")
	f.BoolVar(&opts.pull, "pull", false, "Always attempt to pull all referenced images")
	f.StringVar(&opts.metadataFile, "metadata-file", "", "Write build result metadata to a file")
	f.StringVar(&opts.progress, "progress", os.Getenv("BUILDKIT_PROGRESS"), `Set type of progress output ("auto", "none", "plain", "quiet", "rawjson", "tty"). Use plain to show container output`)
	return cmd
}

// listAlias is a flag that is there for the sake of old command lines.
func listAlias(list *string, value string) func(string) error {
	return func(v string) error {
		on, err := strconv.ParseBool(v)
		if err == nil && on && *list == "" {
			*list = value
		}
		return err
	}
}

func (a *app) runBake(ctx context.Context, opts *bakeFlags, args []string) error {
	if opts.print && opts.list != "" {
		return errors.New("--print and --list are mutually exclusive")
	}
	list, err := parseList(opts.list)
	if err != nil {
		return err
	}
	var targets []string
	opts.URL, opts.CommandContext, targets = bake.Split(args)
	if len(opts.Files) == 0 {
		if opts.Files, err = bake.EnvFiles(); err != nil {
			return fmt.Errorf("BUILDX_BAKE_FILE: %w", err)
		}
		opts.FilesFromEnv = len(opts.Files) > 0
	}
	def, err := a.readBake(ctx, opts, targets, list)
	if err != nil || def == nil {
		return err
	}
	endInTime(ctx)
	return a.buildTargets(ctx, opts, def)
}

// readBake reads the definition. When that is to be shown, and not built, it is shown, and none returned.
func (a *app) readBake(ctx context.Context, opts *bakeFlags, targets []string, list bakeList) (*bake.Definition, error) {
	display, err := a.display(ctx, opts.progress)
	if err != nil {
		return nil, err
	}
	wait := sync.OnceFunc(func() { display.Wait() })
	defer wait()
	src, err := opts.Read(ctx, a.bakeRemote(display), a.stdin, display)
	if err != nil {
		return nil, err
	}
	if opts.list != "" {
		wait()
		cfg, vars, err := opts.Parse(src)
		if err != nil {
			return nil, err
		}
		return nil, list.print(a.stdout, cfg, vars)
	}
	def, err := opts.Resolve(ctx, src, targets)
	wait()
	if err != nil {
		return nil, err
	}
	if !opts.print {
		return def, def.Authorize(ctx, a.stderr)
	}
	text, err := def.JSON()
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintln(a.stdout, string(text))
	return nil, err
}

// bakeRemote reads definitions that are not on this machine.
func (a *app) bakeRemote(to progress.Sink) bake.Remote {
	return func(ctx context.Context, st llb.State, use build.Request, read func(layer.Tree) error) error {
		b, err := a.Builder(nil)
		if err != nil {
			return err
		}
		return b.Read(ctx, st, use, to, read)
	}
}
