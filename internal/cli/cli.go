// Package cli is the command line: flags in, one call, text out.
//
// # Structure
//
// Each command has a file. [Main] builds the tree of commands, runs one, and turns its error into
// a message and an exit code; no other package prints or exits. The app (app.go) opens the store,
// the registry and the sandbox, each when a command first asks for it, so that commands that need
// none of them start at once.
//
// The commands, their flags and their output have the shapes of Docker's, so that a script that
// calls docker runs unchanged when docker is a link to this program.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"path/filepath"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/sandbox"
)

// Main runs the command line args, of which the first is the program's name, and returns the exit
// code of the process.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	name := "slipway"
	if len(args) > 0 {
		switch base := filepath.Base(args[0]); base {
		case "docker", daemonName, daemonClientName, executorName:
			name = base
		}
	}
	log.SetOutput(io.Discard)          // net/http's, which has what servers send
	logrus.SetLevel(logrus.ErrorLevel) // libraries' warnings: what counts is in their errors
	ctx, stop := withSignals(context.Background())
	defer stop()
	a := &app{
		name:   name,
		stdin:  stdin,
		stdout: newStream(ctx, stdout),
		stderr: newStream(ctx, stderr),
	}
	logrus.SetOutput(a.stderr)
	if len(args) > 0 {
		a.words = args[1:]
	}
	completes := len(args) > 1 && strings.HasPrefix(args[1], cobra.ShellCompRequestCmd)
	a.allCommands = completes
	root := a.rootOf(name)
	if completes {
		a.registerCompletions(root)
	}
	calls.begin()
	err := a.execute(ctx, root)
	if err != nil {
		catchSignals(ctx) // the exit code is the error's, also where nobody reads the message
	}
	code := a.report(ctx, err) // nobody waits for that until the store is tidied, or looked at
	a.tidy(ctx)
	fmt.Fprint(a.stderr, a.noSpace(ctx, err))
	if cerr := a.close(); err == nil {
		code = a.report(ctx, cerr)
	}
	calls.end()
	return code
}

// execute runs the command line.
func (a *app) execute(ctx context.Context, root *cobra.Command) error {
	if a.words != nil {
		root.SetArgs(a.words)
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	return root.ExecuteContext(ctx)
}

// calls are the commands that this process executes: one, but for tests. What runs beside the process
// ends with the last one, as it would kill the containers of the others.
var calls callCount

type callCount struct {
	mu  sync.Mutex
	now int
}

func (c *callCount) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now++
}

func (c *callCount) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now--; c.now == 0 {
		sandbox.Close()
	}
}

// rootOf builds the tree of commands of the program that is called by a name.
func (a *app) rootOf(name string) *cobra.Command {
	switch name {
	case daemonName:
		return newDaemon(a)
	case daemonClientName:
		return newDaemonClient(a)
	case executorName:
		return newExecutor(a)
	}
	return newRoot(a)
}

// Commands is the tree of all commands, for what describes them.
func Commands() *cobra.Command {
	root := newRoot(&app{name: "slipway"})
	root.InitDefaultCompletionCmd()
	bareUsage(root)
	return root
}

// newRoot builds the tree of commands.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           a.name + " [OPTIONS] COMMAND",
		Short:         "Build container images from multi-stage Dockerfiles, without a daemon",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && !a.allCommands {
				a.allCommands = true
				return a.execute(cmd.Context(), newRoot(a))
			}
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			if v, err := cmd.Flags().GetBool("version"); v || err != nil {
				return errors.Join(err, a.printVersion())
			}
			return cmd.Help()
		},
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: a.name},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.HasParent() || cmd.Annotations[printsOnly] != "" {
				return nil
			}
			return a.begin(cmd)
		},
	}
	root.TraverseChildren = true
	root.Flags().SetInterspersed(false) // a command that is not there has flags of its own
	root.SetFlagErrorFunc(wrongFlag)
	a.globalFlags(root)

	a.addCommands(root)
	templateFuncs()
	root.SetHelpTemplate(helpTemplate)
	root.SetUsageTemplate(usageTemplate)
	bareUsage(root)
	return root
}

// begin is what a command that works begins with.
func (a *app) begin(cmd *cobra.Command) error {
	if err := a.configure(cmd); err != nil {
		return err
	}
	if err := a.isolate(cmd); err != nil { // before signals are caught, which would be lost
		return err
	}
	catchSignals(cmd.Context())
	return nil
}

// printsOnly is the annotation of a command that prints what the program knows, and that no signal finds at work.
const printsOnly = "prints only"

// templateFuncs adds the functions of the templates, once: cobra keeps them for the whole process.
var templateFuncs = sync.OnceFunc(func() { cobra.AddTemplateFunc("flagUsages", flagUsages) })

// The texts of --help have Docker's shape.
const (
	helpTemplate = "{{.UsageString}}"

	usageTemplate = `Usage:  {{.UseLine}}

{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}{{end}}
{{- if gt (len .Aliases) 0}}

Aliases:
  {{.NameAndAliases}}
{{- end}}
{{- if .HasAvailableSubCommands}}

Commands:
{{- range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}
{{- end}}{{end}}
{{- end}}
{{- if .HasAvailableLocalFlags}}

Options:
{{flagUsages .LocalFlags | trimTrailingWhitespaces}}
{{- end}}
{{- if .HasAvailableInheritedFlags}}

Global options:
{{flagUsages .InheritedFlags | trimTrailingWhitespaces}}
{{- end}}
{{- if .HasAvailableSubCommands}}

Run '{{.CommandPath}} COMMAND --help' for more information on a command.
{{- end}}
`
)

// flagUsages is the text of flags, in which those that can be repeated take a "list", as in Docker's.
func flagUsages(flags *pflag.FlagSet) string {
	shown := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.VisitAll(func(f *pflag.Flag) {
		c := *f
		if c.Value.Type() == "stringArray" {
			c.Value, c.DefValue = listValue{f.Value}, ""
		}
		shown.AddFlag(&c)
	})
	return shown.FlagUsages()
}

type listValue struct{ pflag.Value }

func (listValue) Type() string   { return "list" }
func (listValue) String() string { return "" }

// bareUsage keeps cobra from adding "[flags]" to usage lines that say [OPTIONS] already.
func bareUsage(cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = true
	for _, c := range cmd.Commands() {
		bareUsage(c)
	}
}

// group is a command that only holds others.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use + " COMMAND",
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.AddCommand(children...)
	return cmd
}

func hidden(cmd *cobra.Command) *cobra.Command {
	cmd.Hidden = true
	return cmd
}

// exactArgs, minArgs and maxArgs check the number of arguments with Docker's words.
func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return usageErrorf(cmd, 1, "'%s' requires %s", cmd.CommandPath(), plural(n))
	}
}

func minArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return usageErrorf(cmd, 1, "'%s' requires at least %s", cmd.CommandPath(), plural(n))
	}
}

func maxArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) <= n {
			return nil
		}
		return usageErrorf(cmd, 1, "'%s' accepts at most %s", cmd.CommandPath(), plural(n))
	}
}

func plural(n int) string {
	switch n {
	case 0:
		return "no arguments"
	case 1:
		return "1 argument"
	}
	return fmt.Sprintf("%d arguments", n)
}
