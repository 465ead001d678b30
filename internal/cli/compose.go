package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/bake"
)

// newComposeCmd is docker compose, of which building is there.
func newComposeCmd(a *app) *cobra.Command {
	var opts composeFlags
	cmd := group("compose", "Build the services of a compose file", newComposeBuildCmd(a, &opts))
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.PersistentFlags()
	f.StringArrayVarP(&opts.Files, "file", "f", nil, "Compose configuration files")
	f.StringArrayVar(&opts.Profiles, "profile", nil, "Specify a profile to enable")
	f.StringArrayVar(&opts.EnvFiles, "env-file", nil, "Specify an alternate environment file")
	f.StringVarP(&opts.Name, "project-name", "p", "", "Project name")
	f.StringVar(&opts.Directory, "project-directory", "", "Specify an alternate working directory (default: the path of the first compose file)")
	f.StringVar(&opts.progress, "progress", os.Getenv("BUILDKIT_PROGRESS"), `Set type of progress output ("auto", "none", "plain", "quiet", "rawjson", "tty")`)
	f.String("ansi", "", "Accepted for Docker's sake: see --progress")
	f.Int("parallel", -1, "Accepted for Docker's sake: what can run does")
	for _, name := range []string{"ansi", "parallel"} {
		f.Lookup(name).Hidden = true
	}
	return cmd
}

// composeFlags are the flags of compose and compose build as they were given.
type composeFlags struct {
	bake.Compose
	noCache, pull, quiet, print bool
	progress                    string
}

func newComposeBuildCmd(a *app, opts *composeFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "build [OPTIONS] [SERVICE...]",
		Short: "Build services, of files that -f, --profile, --env-file, --project-directory and -p of compose itself choose",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runComposeBuild(cmd.Context(), opts, args)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f, o := cmd.Flags(), &opts.Compose
	f.StringArrayVar(&o.BuildArgs, "build-arg", nil, "Set build-time variables for services")
	f.BoolVar(&opts.noCache, "no-cache", false, "Do not use cache when building the image")
	f.BoolVar(&opts.pull, "pull", false, "Always attempt to pull a newer version of the image")
	f.BoolVar(&o.Push, "push", false, "Push service images")
	f.BoolVarP(&opts.quiet, "quiet", "q", false, "Suppress the build output")
	f.StringArrayVar(&o.SSH, "ssh", nil, "Set SSH authentications used when building service images")
	f.BoolVar(&o.WithDependencies, "with-dependencies", false, "Also build dependencies (transitively)")
	f.StringVarP(&o.Memory, "memory", "m", "", "Set memory limit of each RUN")
	f.StringVar(&o.Provenance, "provenance", "", "Add a provenance attestation")
	f.StringVar(&o.SBOM, "sbom", "", "Add a SBOM attestation")
	f.BoolFunc("check", "Check build configuration", func(v string) error {
		on, err := strconv.ParseBool(v)
		if err == nil && on {
			o.Call = "check"
		}
		return err
	})
	f.BoolVar(&opts.print, "print", false, "Print equivalent bake file")
	a.builderFlag(f)
	for _, name := range []string{"compress", "force-rm", "no-rm", "parallel-build"} {
		f.Bool(name, true, "Accepted for Docker's sake: it changes nothing")
		f.Lookup(name).Hidden = true
	}
	return cmd
}

func (a *app) runComposeBuild(ctx context.Context, opts *composeFlags, services []string) error {
	endInTime(ctx)
	if err := a.checkHere("build there by \"slipway bake\", which reads compose files"); err != nil {
		return err
	}
	o := &opts.Compose
	if opts.noCache {
		o.NoCache = &opts.noCache
	}
	if opts.pull {
		o.Pull = &opts.pull
	}
	if opts.quiet {
		opts.progress = "quiet"
	}
	end := showWarnings(a.stderr)
	def, err := o.Resolve(ctx, services)
	end()
	if errors.Is(err, bake.ErrNothing) {
		_, err = fmt.Fprintln(a.stderr, "No services to build")
		return err
	}
	if err != nil {
		return err
	}
	if opts.print {
		return a.printDefinition(def)
	}
	display, err := a.openDisplay(ctx, opts.progress)
	if err != nil {
		return err
	}
	defer display.Wait()
	return a.buildTargets(ctx, bakeShown{progress: opts.progress, call: o.Call}, def, display)
}
