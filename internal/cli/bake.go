package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/bake"
	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/terminal"
)

// bakeFlags are the flags of bake as they were given.
type bakeFlags struct {
	bake.Options
	noCache, pull, warm    bool
	print                  bool
	list                   string
	progress, metadataFile string
	tellFlags
	failureFlags
	onFlags
	given []string // of the flags of onFlags those that say how a pod is made
}

// checkOn refuses flags that are none of builds in a cluster.
func (o *bakeFlags) checkOn(f *pflag.FlagSet) (err error) {
	rules, pods := onRules(), pflag.NewFlagSet("", pflag.ContinueOnError)
	(&onFlags{}).add(pods)
	f.Visit(func(f *pflag.Flag) {
		switch rule := rules[f.Name]; {
		case f.Name != "on" && pods.Lookup(f.Name) != nil:
			o.given = append(o.given, "--"+f.Name+"="+f.Value.String())
		case err == nil && rule != "" && rule != onHere && f.Name != "call" && f.Name != "print":
			err = fmt.Errorf("--%s and --on=kubernetes: %s", f.Name, rule)
		}
	})
	return err
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
			if err := a.checkFailureShell(cmd, &opts.failureFlags); err != nil {
				return err
			}
			if err := a.takeBuilder(&opts.onFlags, cmd.Flags()); err != nil {
				return err
			}
			if opts.on != "" {
				if err := opts.checkOn(cmd.Flags()); err != nil {
					return err
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
	opts.tellFlags.add(f)
	opts.failureFlags.add(f, "")
	opts.onFlags.add(f)
	a.builderFlag(f)
	for _, name := range []string{"list-targets", "list-variables"} {
		f.Lookup(name).Hidden = true
	}
	f.BoolVar(&opts.noCache, "no-cache", false, "Do not use cache when building the image")
	addWarm(f, &opts.warm)
	f.BoolVar(&opts.pull, "pull", false, "Always attempt to pull all referenced images")
	f.StringVar(&opts.metadataFile, "metadata-file", "", "Write build result metadata to a file")
	f.StringVar(&opts.progress, "progress", cmp.Or(os.Getenv("BUILDKIT_PROGRESS"), "auto"), `Set type of progress output ("auto", "none", "plain", "quiet", "rawjson", "tty"). Use plain to show container output`)
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
			return err
		}
		opts.FilesFromEnv = len(opts.Files) > 0
	}
	display, err := a.openDisplay(ctx, opts.progress)
	if err != nil {
		return err
	}
	defer display.Wait()
	def, err := a.readBake(ctx, opts, list, targets, display)
	if err != nil || def == nil {
		return err
	}
	if display.ended { // to ask for something
		if display, err = a.openDisplay(ctx, opts.progress); err != nil {
			return err
		}
		defer display.Wait()
	}
	if opts.on != "" {
		return a.bakeOn(ctx, opts, def, display)
	}
	endInTime(ctx)
	return a.buildTargets(ctx, bakeShown{opts.progress, opts.metadataFile, opts.Call, opts.warm, opts.tellFlags, opts.failureFlags}, def, display)
}

// openDisplay is a display that may be waited for several times.
type openDisplay struct {
	*progress.Display
	ended bool
}

func (a *app) openDisplay(ctx context.Context, mode string) (*openDisplay, error) {
	a.tellIsolation(mode)
	d, err := a.display(ctx, mode)
	return &openDisplay{Display: d}, err
}

// Wait ends the display; only the first call returns warnings.
func (d *openDisplay) Wait() []client.VertexWarning {
	if d.ended {
		return nil
	}
	d.ended = true
	return d.Display.Wait()
}

// afterDisplay is a writer for what is shown instead of a display, which ends before.
type afterDisplay struct {
	display *openDisplay
	io.Writer
}

func (w afterDisplay) Write(p []byte) (int, error) {
	w.display.Wait()
	return w.Writer.Write(p)
}

// readBake reads the definition, and asks for what it wants. When it is to be shown and not built, that
// happens, and there is none.
func (a *app) readBake(ctx context.Context, opts *bakeFlags, list bakeList, targets []string, display *openDisplay) (*bake.Definition, error) {
	src, err := opts.Read(ctx, a.bakeRemote(display), a.stdin, display)
	if err != nil {
		return nil, err
	}
	defer showWarnings(afterDisplay{display, a.stderr})()
	if opts.list != "" {
		display.Wait()
		cfg, vars, err := opts.Parse(ctx, src)
		if err != nil {
			return nil, err
		}
		return nil, list.print(a.stdout, cfg, vars)
	}
	def, err := opts.Resolve(ctx, src, targets)
	if err != nil {
		return nil, err
	}
	if opts.print {
		display.Wait()
		return nil, a.printDefinition(def)
	}
	return def, def.Authorize(ctx, afterDisplay{display, a.stderr})
}

// showWarnings has what the readers of compose files warn of written, as of a variable that is not set, until end is called.
func showWarnings(to io.Writer) (end func()) {
	l := logrus.StandardLogger()
	level, out, form := l.GetLevel(), l.Out, l.Formatter
	l.SetLevel(logrus.WarnLevel)
	l.SetOutput(to)
	l.SetFormatter(warningLines{})
	return func() {
		l.SetLevel(level)
		l.SetOutput(out)
		l.SetFormatter(form)
	}
}

// warningLines has each warning in a line, once: files are read several times.
type warningLines map[string]bool

func (w warningLines) Format(e *logrus.Entry) ([]byte, error) {
	if w[e.Message] {
		return nil, nil
	}
	w[e.Message] = true
	return []byte("WARNING: " + terminal.Line(e.Message) + "\n"), nil
}

// printDefinition prints what --print shows.
func (a *app) printDefinition(def *bake.Definition) error {
	text, err := def.JSON()
	if err == nil {
		_, err = fmt.Fprintln(a.stdout, string(text))
	}
	return err
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
