package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/config"
)

// variables are those that win over what files say of a flag.
var variables = map[string]string{
	"root": "SLIPWAY_ROOT", "certs-dir": "SLIPWAY_CERTS_DIR", "worker-net": "SLIPWAY_WORKER_NET", "progress": "BUILDKIT_PROGRESS",
}

// configure gives a command the settings of files, where neither a flag nor a variable says something else.
func (a *app) configure(cmd *cobra.Command) (err error) {
	a.settings, err = config.Read(a.configFile, func(text string) { fmt.Fprintln(a.stderr, "WARNING:", text) })
	if err != nil || a.settings == nil {
		return err
	}
	if err := set(cmd.Root().PersistentFlags(), a.settings.Flags); err != nil {
		return err
	}
	switch cmd.Name() {
	case "build":
		return set(cmd.Flags(), a.settings.Build)
	case "run", "create":
		return set(cmd.Flags(), a.settings.Run)
	}
	return nil
}

// set sets the flags of a group of settings.
func set(flags *pflag.FlagSet, group any) error {
	return config.Each(group, func(name string, values []string) error {
		f := flags.Lookup(name)
		if f == nil || f.Changed || variables[name] != "" && os.Getenv(variables[name]) != "" {
			return nil
		}
		for _, v := range values {
			if err := f.Value.Set(v); err != nil {
				return fmt.Errorf("invalid %s %q in the configuration: %w", name, v, err)
			}
		}
		return nil
	})
}
