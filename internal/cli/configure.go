package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/config"
	"github.com/slipway-build/slipway/internal/isolation"
	"github.com/slipway-build/slipway/internal/store"
)

// variables are those that win over what files say of a flag.
var variables = map[string]string{
	"root": "SLIPWAY_ROOT", "certs-dir": "SLIPWAY_CERTS_DIR", "worker-net": "SLIPWAY_WORKER_NET", "isolation": "SLIPWAY_ISOLATION", "store-limit": "SLIPWAY_STORE_LIMIT", "progress": "BUILDKIT_PROGRESS",
}

// configure gives a command the settings of files, where neither a flag nor a variable says something else.
func (a *app) configure(cmd *cobra.Command) (err error) {
	if text := os.Getenv("SLIPWAY_STORE_LIMIT"); text != "" && !changed(cmd.Root().PersistentFlags(), "store-limit") {
		if err := a.limit.UnmarshalText([]byte(text)); err != nil {
			return fmt.Errorf("reading SLIPWAY_STORE_LIMIT: %w", err)
		}
	}
	warn := func(text string) { fmt.Fprintln(a.stderr, "WARNING:", text) }
	if isolation.Entered() != nil { // there may be nothing to read any more, or no right to
		warn = func(string) {} // it was told before
		var text []byte
		if text, err = isolation.Carried(); err == nil && len(text) > 0 {
			err = json.Unmarshal(text, &a.carried)
		}
		a.files = a.carried.Settings
	} else {
		a.files, err = config.Load(a.configFile)
	}
	if err == nil {
		a.settings, err = config.Parse(a.files, warn)
	}
	if err != nil || a.settings == nil {
		return err
	}
	if err := set(cmd.Root().PersistentFlags(), a.settings.Flags); err != nil {
		return err
	}
	switch path := cmd.CommandPath(); {
	case cmd.Name() == "bake", strings.HasSuffix(path, " compose build"): // the rest holds for what targets do not say
		shown := pflag.NewFlagSet(path, pflag.ContinueOnError)
		shown.AddFlag(cmd.Flag("progress"))
		return set(shown, a.settings.Build)
	case cmd.Name() == "build":
		return set(cmd.Flags(), a.settings.Build)
	case cmd.Name() == "run", cmd.Name() == "create":
		return set(cmd.Flags(), a.settings.Run)
	}
	return nil
}

// changed reports whether a flag was given.
func changed(flags *pflag.FlagSet, name string) bool {
	f := flags.Lookup(name)
	return f != nil && f.Changed
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

// tidy lets build cache and records of builds go that nobody wants to keep, after whatever command wrote to the store. It is no failure of what was done before.
func (a *app) tidy(ctx context.Context) {
	if a.openStore != nil {
		a.tidyStore(ctx, a.openStore, false)
	}
}

// tidyStore is tidy for a store; beside says that this process works with it meanwhile.
func (a *app) tidyStore(ctx context.Context, s *store.Store, beside bool) {
	if ctx.Err() != nil || !s.Wrote() {
		return
	}
	keep := store.Keep{Beside: beside}
	var err error
	if keep.Policies, err = a.policiesOf(s); err == nil {
		keep.History, err = a.history()
	}
	if err == nil {
		err = s.Tidy(ctx, keep)
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(a.stderr, "WARNING:", err)
	}
}

// policies are those of the configuration; without any, defaults by the size of the disk.
func (a *app) policies() ([]store.Policy, error) { return a.policiesOf(a.openStore) }

// policiesOf are those of a store.
func (a *app) policiesOf(s *store.Store) ([]store.Policy, error) {
	c := a.settings
	if c == nil {
		c = &config.Settings{}
	}
	if c.GC != nil && !*c.GC {
		return nil, nil
	}
	if len(c.Policies) == 0 {
		limits, err := limitsOf(c.ReservedSpace, c.MaxUsedSpace, c.MinFreeSpace)
		if err != nil {
			return nil, err
		}
		return s.DefaultPolicies(limits)
	}
	var all []store.Policy
	for _, r := range c.Policies {
		p, err := limitsOf(&r.ReservedSpace, &r.MaxUsedSpace, &r.MinFreeSpace)
		if err != nil {
			return nil, err
		}
		p.All, p.KeepDuration, p.Filters = r.All, r.KeepDuration.Duration, r.Filters
		all = append(all, p)
	}
	return all, nil
}

// unrecorded reports whether no build shall leave a record.
func (a *app) unrecorded() bool {
	return a.settings != nil && a.settings.History != nil && a.settings.History.MaxEntries != nil && *a.settings.History.MaxEntries == 0
}

// history is which records of builds are kept; nil where nothing goes by itself.
func (a *app) history() (*store.History, error) {
	keep := store.DefaultHistory()
	if a.settings == nil {
		return &keep, nil
	}
	c := a.settings.History
	if c == nil {
		if gc := a.settings.GC; gc != nil && !*gc {
			return nil, nil
		}
		return &keep, nil
	}
	if c.MaxAge != nil {
		keep.MaxAge = c.MaxAge.Duration
	}
	if c.MaxEntries != nil {
		keep.MaxEntries = *c.MaxEntries
	}
	if c.MaxSize != nil {
		if err := keep.MaxSize.UnmarshalText([]byte(*c.MaxSize)); err != nil {
			return nil, fmt.Errorf("reading the configuration: %w", err)
		}
	}
	return &keep, nil
}

// limitsOf reads amounts of the disk.
func limitsOf(reserved, used, free *config.Text) (p store.Policy, err error) {
	for _, of := range []struct {
		text *config.Text
		to   *store.Space
	}{{reserved, &p.ReservedSpace}, {used, &p.MaxUsedSpace}, {free, &p.MinFreeSpace}} {
		if of.text == nil || *of.text == "" {
			continue
		}
		if err := of.to.UnmarshalText([]byte(*of.text)); err != nil {
			return p, fmt.Errorf("reading the configuration: %w", err)
		}
	}
	return p, nil
}
