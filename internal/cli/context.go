package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	csvvalue "github.com/tonistiigi/go-csvvalue"

	"github.com/slipway-build/slipway/internal/builders"
)

// newContextCmd is Docker's context: names of engines, all of which are this machine here. Scripts make one for a builder.
func newContextCmd(a *app) *cobra.Command {
	cmd := group("context", "Manage contexts, all of which are this machine",
		newContextCreateCmd(a), newContextLsCmd(a), newContextInspectCmd(a), newContextRmCmd(a), newContextShowCmd(a), newContextUseCmd(a))
	const other = "a context is this machine: to build on another one, run slipway there"
	addRefused(cmd, map[string]string{"export": other, "import": other, "update": other})
	return cmd
}

// contextInfo is what Docker's `context inspect` shows.
type contextInfo struct {
	Name        string
	Metadata    struct{}
	Endpoints   map[string]contextEndpoint
	TLSMaterial struct{}
	Storage     struct{ MetadataPath, TLSPath string }
}

type contextEndpoint struct {
	Host          string // of a daemon: there is none
	SkipTLSVerify bool
}

// contextNames are all contexts, and the one in use.
func (a *app) contextNames() (all []string, current string, err error) {
	l, err := a.builderList()
	all = append([]string{builders.Default}, l.Contexts...)
	if current = builders.Default; slices.Contains(l.Contexts, l.Context) {
		current = l.Context
	}
	return all, current, err
}

func newContextLsCmd(a *app) *cobra.Command {
	var format string
	var quiet bool
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List contexts",
		Args:    exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			all, current, err := a.contextNames()
			if err != nil {
				return err
			}
			if quiet {
				format = "{{.Name}}"
			}
			def := "table {{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}"
			var rows []any
			for _, name := range all {
				rows = append(rows, &contextRow{name, name == current})
			}
			return printList(a.stdout, listFormat(format, false, def), headers{"Name": "NAME", "Description": "DESCRIPTION", "DockerEndpoint": "DOCKER ENDPOINT", "Error": "ERROR"}, rows)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only show context names")
	return cmd
}

// contextRow is a line of `context ls`.
type contextRow struct {
	name    string
	current bool
}

// MarshalJSON gives all fields.
func (r *contextRow) MarshalJSON() ([]byte, error) { return marshalRow(r) }

// Name is the context's.
func (r *contextRow) Name() string { return r.name }

// Current tells which one is in use.
func (r *contextRow) Current() bool { return r.current }

// Description says what all of them are.
func (r *contextRow) Description() string { return "slipway on this machine" }

// DockerEndpoint is empty: there is no daemon.
func (r *contextRow) DockerEndpoint() string { return "" }

// Error is empty.
func (r *contextRow) Error() string { return "" }

func newContextInspectCmd(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] [CONTEXT] [CONTEXT...]",
		Short: "Display detailed information on one or more contexts",
		RunE: func(_ *cobra.Command, args []string) error {
			all, current, err := a.contextNames()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				args = []string{current}
			}
			return inspectAll(a.stdout, format, args, func(name string) (any, error) {
				if !slices.Contains(all, name) {
					return nil, fmt.Errorf("context %q: context not found", name)
				}
				c := &contextInfo{Name: name, Endpoints: map[string]contextEndpoint{"docker": {}}}
				c.Storage.MetadataPath, c.Storage.TLSPath = "<IN MEMORY>", "<IN MEMORY>"
				return c, nil
			})
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", inspectFormatHelp)
	return cmd
}

func newContextShowCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print the name of the current context",
		Args:  exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			_, current, err := a.contextNames()
			if err == nil {
				_, err = fmt.Fprintln(a.stdout, current)
			}
			return err
		},
	}
}

func newContextUseCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "use CONTEXT",
		Short: "Set the current docker context",
		Args:  exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			name := args[0]
			if _, current, err := a.contextNames(); err != nil || current != name {
				err := a.changeBuilders(func(l *builders.List) error {
					if name != builders.Default && !slices.Contains(l.Contexts, name) {
						return fmt.Errorf("context %q: context not found", name)
					}
					if l.Context = name; name == builders.Default {
						l.Context = ""
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
			fmt.Fprintf(a.stderr, "Current context is now %q\n", name)
			_, err := fmt.Fprintln(a.stdout, name)
			return err
		},
	}
}

func newContextCreateCmd(a *app) *cobra.Command {
	var docker, from string
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] CONTEXT",
		Short: "Create a context",
		Long:  "Create another name of this machine, as builders are made for contexts. A context of another machine's engine is refused.",
		Args:  exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			name := args[0]
			if name == builders.Default {
				return errors.New(`"default" is a reserved context name`)
			}
			if err := errors.Join(builders.CheckName(name), checkDockerEndpoint(docker)); err != nil {
				return err
			}
			err := a.changeBuilders(func(l *builders.List) error {
				if slices.Contains(l.Contexts, name) {
					return fmt.Errorf("context %q already exists", name)
				}
				if from != "" && from != builders.Default && !slices.Contains(l.Contexts, from) {
					return fmt.Errorf("--from: context %q: context not found", from)
				}
				l.Contexts = append(l.Contexts, name)
				slices.Sort(l.Contexts)
				return nil
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "Successfully created context %q\n", name)
			_, err = fmt.Fprintln(a.stdout, name)
			return err
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.String("description", "", "Accepted for Docker's sake")
	f.Lookup("description").Hidden = true
	f.StringVar(&docker, "docker", "", "Set the docker endpoint: this machine alone")
	f.StringVar(&from, "from", "", "Create context from a named context")
	return cmd
}

// checkDockerEndpoint reads --docker, and refuses other machines.
func checkDockerEndpoint(value string) error {
	if value == "" {
		return nil
	}
	fields, err := csvvalue.Fields(value, nil)
	if err != nil {
		return fmt.Errorf("--docker %s: %w", value, err)
	}
	for _, field := range fields {
		key, v, _ := strings.Cut(field, "=")
		switch {
		case v == "", key == "from", key == "skip-tls-verify", key == "host" && thisMachine(v):
		case key == "host", key == "ca", key == "cert", key == "key":
			return fmt.Errorf("--docker %s: there is no client of Docker's engines: to build on another machine, run slipway there", field)
		default:
			return fmt.Errorf("unable to parse %s: unrecognized config key: %s", value, key)
		}
	}
	return nil
}

func newContextRmCmd(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm CONTEXT [CONTEXT...]",
		Aliases: []string{"remove"},
		Short:   "Remove one or more contexts",
		Args:    minArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var all error
			for _, name := range args {
				err := a.changeBuilders(func(l *builders.List) error {
					switch {
					case name == builders.Default:
						return errors.New(`context "default" cannot be removed`)
					case !slices.Contains(l.Contexts, name) && !force:
						return fmt.Errorf("context %q: not found", name)
					case l.Context == name && !force:
						return fmt.Errorf("context %q is in use, set -f flag to force remove", name)
					}
					l.Contexts = slices.DeleteFunc(l.Contexts, func(c string) bool { return c == name })
					return nil
				})
				if err == nil {
					_, err = fmt.Fprintln(a.stdout, name)
				}
				all = errors.Join(all, err)
			}
			return all
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force the removal of a context in use")
	return cmd
}
