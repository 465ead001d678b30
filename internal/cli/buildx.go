package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/builders"
	"github.com/slipway-build/slipway/internal/config"
	"github.com/slipway-build/slipway/internal/kube"
)

// newBuildxCmd is buildx, Docker's plugin for builds, to which Docker sends `builder` as well.
func newBuildxCmd(a *app) *cobra.Command {
	cmd := group("buildx", "Builders, their cache, and records of builds",
		newBuildCmd(a), newBakeCmd(a), newBuilderCreateCmd(a), newBuilderUseCmd(a), newBuilderLsCmd(a), newBuilderInspectCmd(a), newBuilderRmCmd(a), newBuilderStopCmd(a),
		newBuilderPruneCmd(a), newBuilderDuCmd(a), newBuildHistoryCmd(a), newBuildxVersionCmd(a), newBuildxInstallCmd(a, "install"), newBuildxInstallCmd(a, "uninstall"))
	cmd.Aliases = []string{"builder"}
	cmd.Long = `Builders, their cache, and records of builds, in the words of docker buildx ` + buildxRelease + `.

There is one builder: this program, on this machine, with the cache of its store.
It is called "default"; what "create" makes are other names of it.`
	cmd.AddCommand(newImagetoolsCmd(a))
	a.builderFlag(cmd.PersistentFlags())
	addRefused(cmd, map[string]string{
		"dap":        unsupported,
		"debug":      unsupported,
		"dial-stdio": "there is no BuildKit daemon behind the builder that could be talked to",
		"policy":     unsupported,
	})
	return cmd
}

// builderFlag adds --builder.
func (a *app) builderFlag(f *pflag.FlagSet) {
	f.StringVar(&a.builder, "builder", os.Getenv("BUILDX_BUILDER"), "Name of the builder (BUILDX_BUILDER)")
}

// statusTimeout adds a flag of buildx' commands that ask machines how their builders are.
func statusTimeout(f *pflag.FlagSet) {
	f.Duration("timeout", 20*time.Second, "Accepted for Docker's sake: no other machine is waited for")
	f.Lookup("timeout").Hidden = true
}

// buildersFile is where the names of builders are: in the directory of the user's settings.
func buildersFile() (string, error) {
	file := config.UserFile()
	if file == "" {
		return "", errors.New("finding the names of builders: neither HOME nor XDG_CONFIG_HOME is set")
	}
	return filepath.Join(filepath.Dir(file), "builders.json"), nil
}

// builderList are the names of builders, none where the file is damaged, which is told.
func (a *app) builderList() (builders.List, error) {
	file, err := buildersFile()
	if err != nil { // then nobody could have given any
		return builders.List{}, nil
	}
	l, err := builders.Read(file)
	if errors.Is(err, builders.ErrDamaged) {
		if !a.toldDamaged {
			fmt.Fprintln(a.stderr, "WARNING:", err)
		}
		a.toldDamaged, err = true, nil
	}
	return l, err
}

// changeBuilders changes the names of builders.
func (a *app) changeBuilders(change func(*builders.List) error) error {
	file, err := buildersFile()
	if err != nil {
		return err
	}
	return builders.Change(file, change)
}

// useBuilder is the builder that --builder names for a command, or the current one.
func (a *app) useBuilder() (builders.Builder, error) {
	l, err := a.builderList()
	if err != nil {
		return builders.Builder{}, err
	}
	return l.Named(a.builder)
}

// checkBuilder refuses a builder that is not there, and takes what was said of registries and of steps for it.
func (a *app) checkBuilder() error {
	b, err := a.useBuilder()
	a.maxRuns = b.MaxRuns
	if err != nil || !b.Registries {
		return err
	}
	if a.builderCerts, err = builderFiles(b.Name); err != nil {
		return err
	}
	if _, err := os.Stat(a.builderCerts); err != nil { // as when `buildx rm` was killed: its mirrors are not to be passed over
		return fmt.Errorf("reading the settings of registries of builder %s: %w: make it again with `buildx create`, or remove it with `buildx rm %s`", b.Name, err, b.Name)
	}
	return nil
}

func newBuilderUseCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "use [OPTIONS] NAME",
		Short: "Set the current builder instance",
		Args:  maxArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			name := a.builder
			if len(args) > 0 {
				name = args[0]
			}
			l, err := a.builderList()
			if err == nil && name == builders.Default && l.Current == "" {
				return nil
			}
			if err != nil {
				return err
			}
			return a.changeBuilders(func(l *builders.List) error {
				b := l.Find(name)
				if b == nil && name != builders.Default {
					return fmt.Errorf("failed to find instance %q: %s buildx ls shows those that are there, and create makes one", name, a.name)
				}
				if l.Current = ""; b != nil {
					l.Current = b.Name
				}
				return nil
			})
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	for _, name := range []string{"default", "global"} {
		cmd.Flags().Bool(name, false, "Accepted for Docker's sake: there is one context")
		cmd.Flags().Lookup(name).Hidden = true
	}
	return cmd
}

func newBuilderRmCmd(a *app) *cobra.Command {
	var allInactive, force bool
	cmd := &cobra.Command{
		Use:   "rm [OPTIONS] [NAME...]",
		Short: "Remove one or more builder instances",
		Long:  "Remove names of the builder. Its cache stays: prune removes that.",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case allInactive && len(args) > 0:
				return errors.New("cannot specify builder name when --all-inactive is set")
			case allInactive && !force:
				yes, err := a.confirm(cmd.Context(), "WARNING! This will remove all builders that are not in running state. Are you sure you want to continue?")
				if err != nil || !yes {
					return err
				}
			}
			switch {
			case allInactive:
				l, err := a.builderList()
				if err != nil {
					return err
				}
				for _, b := range l.Builders {
					if b.Driver == kube.Scheme {
						args = append(args, b.Name)
					}
				}
			case len(args) == 0:
				args = []string{a.builder}
			}
			return a.removeBuilders(args)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVar(&allInactive, "all-inactive", false, "Remove all inactive builders: those of clusters")
	f.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	for _, name := range []string{"keep-daemon", "keep-state"} {
		f.Bool(name, false, "Accepted for Docker's sake: no daemon runs, and the cache stays")
		f.Lookup(name).Hidden = true
	}
	statusTimeout(f)
	return cmd
}

// removeBuilders forgets names. What cannot be forgotten is told, and an error in the end.
func (a *app) removeBuilders(names []string) error {
	failed := false
	for _, name := range names {
		err := a.changeBuilders(func(l *builders.List) error {
			b, err := l.Named(name)
			if err != nil {
				return err
			}
			if b.Name == builders.Default {
				return fmt.Errorf("context builder cannot be removed: %s is the builder itself", builders.Default)
			}
			if strings.EqualFold(l.Current, b.Name) {
				l.Current = ""
			}
			l.Remove(b.Name)
			return setBuilderFiles(&b, nil)
		})
		if err != nil {
			failed = true
			fmt.Fprintf(a.stderr, "failed to remove %s: %v\n", name, err)
			continue
		}
		fmt.Fprintln(a.stderr, name, "removed")
	}
	if failed {
		return errors.New("failed to remove one or more builders")
	}
	return nil
}

func newBuilderStopCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "stop [NAME]",
		Short: "Stop builder instance",
		Long:  "Stop a builder. Nothing runs between builds, and what builds is not disturbed: only the name is looked for.",
		Args:  maxArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				a.builder = args[0]
			}
			_, err := a.useBuilder()
			return err
		},
	}
}

func newBuildxVersionCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:         "version",
		Short:       "Show buildx version information",
		Long:        "Show the release of buildx whose words the commands have, and the version of this program.",
		Args:        exactArgs(0),
		Annotations: map[string]string{printsOnly: "true"},
		RunE: func(*cobra.Command, []string) error {
			// Scripts and actions take the second word, and compare it with releases of buildx.
			_, err := fmt.Fprintf(a.stdout, "github.com/docker/buildx %s slipway-%s\n", buildxRelease, version())
			return err
		},
	}
}

// newBuildxInstallCmd is install or uninstall, which tell Docker whether `builder` is buildx.
func newBuildxInstallCmd(a *app, name string) *cobra.Command {
	return hidden(&cobra.Command{
		Use:   name,
		Short: "Accepted for Docker's sake: builder is buildx",
		Args:  exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(a.stderr, "%s builder is %[1]s buildx, and stays so: nothing was changed\n", a.name)
			return err
		},
	})
}
