package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/cache"
)

func newCacheCmd(a *app) *cobra.Command {
	return group("cache", "Manage caches that machines share", newCachePruneCmd(a))
}

func newCachePruneCmd(a *app) *cobra.Command {
	var keep ageFlag
	var dry bool
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS] --keep AGE REPOSITORY|DIRECTORY",
		Short: "Remove results of a cache of mode=keys that were neither made nor used lately",
		Long: "Removes results that were neither made nor used lately from a cache of mode=keys: of a repository of a registry, or of a directory,\n" +
			"which begins with / or a dot. Builds may use it meanwhile.",
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if keep.age <= 0 {
				return errors.New("--keep is missing: say for how long results are kept that nobody uses, as in --keep 14d")
			}
			return a.pruneShared(cmd.Context(), args[0], keep.age, dry)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.Var(&keep, "keep", `Keep what was made or used in this time (e.g. "14d", "36h")`)
	f.BoolVar(&dry, "dry-run", false, "Tell what would be removed, and remove nothing")
	return cmd
}

func (a *app) pruneShared(ctx context.Context, where string, keep time.Duration, dry bool) error {
	e := cache.Entry{Type: cache.TypeRegistry, Attrs: map[string]string{"mode": "keys", "ref": where}}
	if strings.HasPrefix(where, "/") || strings.HasPrefix(where, ".") {
		if _, err := os.Stat(where); err != nil {
			return err
		}
		e = cache.Entry{Type: cache.TypeLocal, Attrs: map[string]string{"mode": "keys", "src": where}}
	}
	done, err := cache.Prune(ctx, e, a.registry(), time.Now().Add(-keep), dry)
	switch {
	case errdefs.IsNotImplemented(err):
		return fmt.Errorf("the registry of %s lets nobody remove manifests, or nobody by this interface: have a rule of the registry remove tags that are older than %s (docs/cache.md): %w", where, keep, err)
	case err != nil:
		return err
	}
	what := "removed"
	if dry {
		what = "would be removed"
	}
	fmt.Fprintf(a.stdout, "%d of %d entries %s\n", done.Removed, done.Removed+done.Kept, what)
	if done.Bytes > 0 {
		fmt.Fprintf(a.stdout, "Total reclaimed space: %s\n", units.HumanSize(float64(done.Bytes)))
	}
	return nil
}

// ageFlag is a duration that may be in days.
type ageFlag struct{ age time.Duration }

func (f *ageFlag) String() string {
	if f.age == 0 {
		return ""
	}
	return f.age.String()
}
func (*ageFlag) Type() string { return "duration" }

func (f *ageFlag) Set(s string) (err error) {
	if days, is := strings.CutSuffix(s, "d"); is {
		n, err := strconv.ParseUint(days, 10, 16)
		f.age = time.Duration(n) * 24 * time.Hour
		return err
	}
	f.age, err = time.ParseDuration(s)
	if err == nil && f.age < 0 {
		err = errors.New("it is negative")
	}
	return err
}
