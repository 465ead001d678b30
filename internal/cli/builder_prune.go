package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

func newBuilderPruneCmd(a *app) *cobra.Command {
	var p store.Policy
	var force, verbose bool
	var by []string
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove build cache",
		Args:  maxArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := view.ParseCacheFilter(by)
			if err != nil {
				return err
			}
			p.KeepDuration, p.Filters = filter.Unused, filter.By
			if err := a.checkHere("\"slipway cache prune\" removes from the repository of the cache"); err != nil {
				return err
			}
			if !force {
				what := "all dangling build cache"
				if p.All {
					what = "all build cache"
				}
				if view.TakesBuilds(p) {
					what += ", and all records and logs of builds"
				}
				yes, err := a.confirm(cmd.Context(), "WARNING! This will remove "+what+". Are you sure you want to continue?")
				if err != nil || !yes {
					return err
				}
			}
			s, err := a.Store()
			if err != nil {
				return err
			}
			pruned, err := a.pruneCache(cmd.Context(), s, p)
			if err != nil {
				return err
			}
			return a.printPrunedCache(&pruned, verbose)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&p.All, "all", "a", false, "Remove all build cache, not just what no image shares")
	f.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	f.BoolVar(&verbose, "verbose", false, "Tell more of what was removed")
	f.StringArrayVar(&by, "filter", nil, `Provide filter values (e.g. "until=24h", "type=exec.cachemount", "id=ID")`)
	f.Var(&spaceFlag{&p.ReservedSpace}, "reserved-space", "Amount of disk space that the cache may keep always (e.g. 10GB, 10%)")
	f.Var(&spaceFlag{&p.ReservedSpace}, "keep-storage", "Former name of --reserved-space")
	f.Var(&spaceFlag{&p.MaxUsedSpace}, "max-used-space", "Maximum amount of disk space that the cache may keep")
	f.Var(&spaceFlag{&p.MinFreeSpace}, "min-free-space", "Amount of disk space that shall be free afterwards")
	statusTimeout(f)
	return cmd
}

// printPrunedCache lists what went, as buildx does.
func (a *app) printPrunedCache(pruned *store.Pruned, verbose bool) error {
	format := recordTable
	if verbose {
		format = recordPretty
	}
	if len(pruned.Records) > 0 {
		if err := printRecords(a.stdout, format, pruned.Records); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(a.stdout, "Total:\t%s\n", longSize(pruned.Freed))
	return err
}

// pruneCache removes build cache, and records of builds that the configuration does not want to keep.
func (a *app) pruneCache(ctx context.Context, s *store.Store, p store.Policy) (store.Pruned, error) {
	var keep *store.History
	if !view.TakesBuilds(p) {
		var err error
		if keep, err = a.history(); err != nil {
			return store.Pruned{}, err
		}
	}
	return view.PruneCache(ctx, s, p, keep)
}

// spaceFlag is a flag whose value is an amount of a disk.
type spaceFlag struct{ *store.Space }

func (f *spaceFlag) Set(v string) error { return f.UnmarshalText([]byte(v)) }
func (f *spaceFlag) Type() string       { return "bytes" }
func (f *spaceFlag) String() string {
	switch {
	case f.Space == nil || *f.Space == store.Space{}:
		return ""
	case f.Percent != 0:
		return fmt.Sprintf("%d%%", f.Percent)
	}
	return fmt.Sprint(f.Bytes)
}

func newSystemPruneCmd(a *app) *cobra.Command {
	var all, force, volumes bool
	var filters []string
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused data",
		Args:  maxArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			images, cache := "all dangling images", "unused build cache"
			if all {
				images, cache = "all images without at least one container associated to them", "all build cache, and all records and logs of builds"
			}
			args, err := view.ParseArgs(filters, "until", "label", "label!")
			if err != nil {
				return err
			}
			if volumes && len(args["until"]) > 0 {
				return errors.New(`the "until" filter is not supported with "--volumes"`)
			}
			if !force {
				also := ""
				if volumes {
					also = "  - all anonymous volumes not used by at least one container\n"
				}
				yes, err := a.confirm(cmd.Context(), "WARNING! This will remove:\n  - all stopped containers\n"+also+"  - "+images+"\n  - "+cache+"\n\nAre you sure you want to continue?")
				if err != nil || !yes {
					return err
				}
			}
			return a.pruneSystem(cmd.Context(), all, volumes, args)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Remove all unused images and all build cache, not just dangling ones")
	f.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	f.BoolVar(&volumes, "volumes", false, "Prune anonymous volumes, which containers of Docker's clients have left")
	f.StringArrayVar(&filters, "filter", nil, `Provide filter values (e.g. "until=24h")`)
	return cmd
}

// pruneSystem removes stopped containers, then anonymous volumes, if that is wanted, images, and build cache: each may set the next one free.
func (a *app) pruneSystem(ctx context.Context, all, volumes bool, args view.Args) error {
	cache := store.Policy{All: all}
	for _, v := range args["until"] {
		filter, err := view.ParseCacheFilter([]string{"until=" + v})
		if err != nil {
			return err
		}
		cache.KeepDuration = filter.Unused
	}
	s, err := a.Store()
	if err != nil {
		return err
	}
	total, err := a.pruneContainers(ctx, args)
	if err != nil {
		return err
	}
	var left error
	if volumes {
		freed, err := a.pruneVolumes(ctx, args)
		total, left = total+freed, err // the others can go all the same
	}
	freed, err := a.pruneImages(ctx, s, args, all)
	if total += freed; err != nil {
		return errors.Join(left, err)
	}
	if len(args["label"])+len(args["label!"]) == 0 { // cache has no labels
		pruned, err := a.pruneCache(ctx, s, cache)
		if total += pruned.Freed; err != nil {
			return errors.Join(left, err)
		}
	}
	return errors.Join(left, a.printReclaimed(total))
}

// pruneVolumes removes the anonymous volumes that no container has and that pass the filters, lists them, and returns how many bytes their files had.
func (a *app) pruneVolumes(ctx context.Context, args view.Args) (int64, error) {
	m, err := a.containers()
	if err != nil {
		return 0, err
	}
	gone, freed, err := m.PruneVolumes(ctx, func(v container.Volume) bool { return v.Anonymous && view.FitLabels(args, view.VolumeLabels(v)) })
	if len(gone) > 0 {
		fmt.Fprintf(a.stdout, "Deleted Volumes:\n%s\n\n", strings.Join(gone, "\n"))
	}
	return freed, err
}
