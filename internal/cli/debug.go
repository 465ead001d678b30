package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/secrets"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/terminal"
	"github.com/slipway-build/slipway/internal/view"
)

// debugFlags are what a process in a failed step has besides what the step had.
type debugFlags struct {
	secrets, ssh, env []string
	user, cwd         string
}

func (o *debugFlags) add(f *pflag.FlagSet) {
	f.StringArrayVar(&o.secrets, "secret", nil, `Secret of the step to give again (format: "id=mysecret[,src=/local/secret|env=VARIABLE]")`)
	f.StringArrayVar(&o.ssh, "ssh", nil, `SSH agent of the step to give again (format: "default|<id>[=<socket>|<key>[,<key>]]")`)
	f.StringArrayVarP(&o.env, "env", "e", nil, `Set environment variables (format: "KEY=VALUE", or "KEY" to take it from the environment)`)
	f.StringVarP(&o.user, "user", "u", "", "Username or UID instead of the step's")
	f.StringVarP(&o.cwd, "workdir", "w", "", "Working directory instead of the step's")
}

func newDebugCmd(a *app) *cobra.Command {
	var opts debugFlags
	cmd := &cobra.Command{
		Use:   "debug [OPTIONS] [BUILD] [-- COMMAND [ARG...]]",
		Short: "Look into the step that a build failed in",
		Long: `Look into the step that a build failed in

A shell is started, or a command, in the files of the step as it has left them, with its mounts, environment, user,
working directory, network and limits. Secrets and SSH agents are there when they are given again. The build must
have kept the step: "build --on-failure=keep" or "--on-failure=shell". It is kept until another build of the same
Dockerfile has ended, or something is pruned.

BUILD is a build as "history" names it, by ID or "^1", or the name of the container that the step is kept as, which
"cp", "commit", "diff", "export" and "rm" take as well. Without it the step is meant that failed last.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			refs, command := args, []string(nil)
			if n := cmd.ArgsLenAtDash(); n >= 0 {
				refs, command = args[:n], args[n:]
			}
			if len(refs) > 1 {
				return usageErrorf(cmd, 1, "'%s' accepts at most 1 argument before --, which a command follows", cmd.CommandPath())
			}
			c, err := a.failedStep(cmd.Context(), strings.Join(refs, ""))
			if err != nil {
				return failed(err)
			}
			return a.debugStep(cmd.Context(), c, &opts, command)
		},
	}
	if a.calls(cmd) {
		opts.add(cmd.Flags())
	}
	return cmd
}

// failedStep finds a failed step that is kept: by its container, or by its build; "" is the newest.
func (a *app) failedStep(ctx context.Context, ref string) (c store.Container, err error) {
	m, err := a.containers()
	if err != nil {
		return c, err
	}
	steps, err := m.Steps(ctx)
	switch {
	case err != nil:
		return c, err
	case ref == "" && len(steps) == 0:
		return c, fmt.Errorf("no failed step is kept: build with --on-failure=keep, and then look into it with %s debug", a.name)
	case ref == "":
		return steps[0], nil
	}
	if c, err := view.FindContainer(ctx, m.Store, ref); err == nil {
		if container.StepOf(c) == nil {
			return c, fmt.Errorf("container %s is no failed step: %s start runs it, and %s cp copies files out of it", ref, a.name, a.name)
		}
		return c, nil
	}
	r, err := a.buildRecord(ref)
	if err != nil {
		return c, err
	}
	for _, c := range steps {
		if container.StepOf(c).Build == r.ID {
			return c, nil
		}
	}
	switch {
	case r.Running:
		err = fmt.Errorf("build %s has not ended", r.ID)
	case r.Error == "":
		err = fmt.Errorf("build %s did not fail", r.ID)
	case r.Kept != "":
		err = fmt.Errorf("the failed step of build %s is not there any more: a newer build of the same Dockerfile has ended, or it was pruned", r.ID)
	default:
		err = fmt.Errorf("the failed step of build %s was not kept: it is with --on-failure=keep, if it is a RUN whose process has ended by itself", r.ID)
	}
	return c, err
}

// debugStep runs a command in a failed step, or a shell.
func (a *app) debugStep(ctx context.Context, c store.Container, opts *debugFlags, command []string) error {
	m, err := a.containers()
	if err != nil {
		return failed(err)
	}
	config, err := container.ReadConfig(c)
	if err != nil {
		return failed(err)
	}
	given, err := opts.given(config.Step)
	if err != nil {
		return failed(err)
	}
	shell := ""
	if len(command) == 0 {
		shell = shellOf(config.Args)
		command = []string{shell}
	}
	config.Terminal = isTerminal(a.stdin) && isTerminal(a.stdout)
	if shell != "" && config.Terminal {
		fmt.Fprint(a.stderr, stepText(c, config))
	}
	if err := opts.change(config, command); err != nil {
		return failed(err)
	}
	signals, stop := forwardSignals(ctx)
	defer stop()
	err = a.runChanged(ctx, m, c, config, given, true, signals)
	if shell != "" && errors.Is(err, sandbox.ErrCommandNotFound) {
		err = &codeError{exitNotFound, fmt.Errorf("%w\n  name a command that is there: %s debug %s -- COMMAND\n  or copy files out: %s cp %s:PATH .", err, a.name, c.Name, a.name, c.Name)}
	}
	return err
}

// stepText tells what a shell is in.
func stepText(c store.Container, config *container.Config) string {
	command := terminal.Short(terminal.Line(strings.Join(config.Args, " ")), maxTableName)
	return fmt.Sprintf("\n%s\ncommand: %s\nThis is %s, which stays until another build of the Dockerfile has ended.\n", terminal.Line(config.Step.Name), command, c.Name)
}

// change makes of what the step ran what is to be run.
func (o *debugFlags) change(config *container.Config, command []string) error {
	config.Args, config.Entrypoint, config.OpenStdin = command, nil, true
	var env []string
	proxies := withProxies(map[string]string{})
	for _, k := range slices.Sorted(maps.Keys(proxies)) {
		env = append(env, k+"="+proxies[k], strings.ToLower(k)+"="+proxies[k])
	}
	own, err := (&containerFlags{env: o.env}).environment()
	if err != nil {
		return err
	}
	config.Env = container.MergeEnv(container.MergeEnv(config.Env, env), own)
	if o.user != "" {
		config.User = o.user
	}
	if o.cwd != "" {
		config.Cwd = o.cwd
	}
	return nil
}

// given reads secrets and agents, which are those of the step.
func (o *debugFlags) given(step *container.Step) (g container.Given, err error) {
	var req build.Request
	if err := (&secretFlags{secrets: o.secrets, ssh: o.ssh}).set(&req); err != nil {
		return g, err
	}
	ids, agents := step.Secrets()
	for i, s := range req.Secrets {
		if !slices.Contains(ids, s.ID) {
			return g, fmt.Errorf("--secret %s: the step uses no secret %q, %s", o.secrets[i], s.ID, only(ids))
		}
	}
	for i, s := range req.SSH {
		if !slices.Contains(agents, s.ID) {
			return g, fmt.Errorf("--ssh %s: the step uses no agent %q, %s", o.ssh[i], s.ID, only(agents))
		}
	}
	if len(req.Secrets) > 0 {
		if g.Secrets, err = secrets.NewStore(req.Secrets); err != nil {
			return g, fmt.Errorf("reading secrets: %w", err)
		}
	}
	if len(req.SSH) > 0 {
		if g.SSH, err = secrets.NewAgents(req.SSH); err != nil {
			return g, fmt.Errorf("reading SSH agents: %w", err)
		}
	}
	return g, nil
}

// only tells which ones there are.
func only(ids []string) string {
	if len(ids) == 0 {
		return "and none else"
	}
	return fmt.Sprintf("only %q", ids)
}

// shells are programs that are one without arguments.
var shells = []string{"sh", "ash", "bash", "busybox", "dash", "fish", "ksh", "mksh", "pwsh", "zsh"}

// shellOf is the shell that a RUN was executed by, or else /bin/sh.
func shellOf(args []string) string {
	if len(args) > 2 && args[len(args)-2] == "-c" && slices.Contains(shells, filepath.Base(args[0])) {
		return args[0]
	}
	return "/bin/sh"
}
