package cli

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
)

func newBuilderPruneCmd(a *app) *cobra.Command {
	var all, force bool
	var filters []string
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove build cache",
		Args:  maxArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := cachePrune(filters)
			if err != nil {
				return err
			}
			p.All = all
			if !force {
				what := "all dangling build cache"
				if all {
					what = "all build cache"
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
			freed, err := a.pruneCache(cmd.Context(), s, p)
			if err != nil {
				return err
			}
			return a.printReclaimed(freed)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Remove all build cache, not just what no image shares")
	f.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	f.StringArrayVar(&filters, "filter", nil, `Provide filter values (e.g. "until=24h", "type=exec.cachemount")`)
	return cmd
}

// cachePrune reads the filters of a prune of the build cache.
func cachePrune(filters []string) (store.CachePrune, error) {
	p := store.CachePrune{Results: true, Mounts: true}
	parsed, err := parseFilters(filters, "until", "type")
	if err != nil {
		return p, err
	}
	for _, v := range parsed["until"] {
		d, err := time.ParseDuration(v)
		if err != nil {
			return p, fmt.Errorf("invalid filter 'until=%s': %w", v, err)
		}
		p.Before = time.Now().Add(-d)
	}
	for _, v := range parsed["type"] {
		switch v {
		case "exec.cachemount":
			p.Results = false
		case "regular":
			p.Mounts = false
		default:
			return p, fmt.Errorf("invalid filter 'type=%s': use regular or exec.cachemount", v)
		}
	}
	return p, nil
}

// pruneCache removes build cache and returns the bytes of the disk that are free now.
func (a *app) pruneCache(ctx context.Context, s *store.Store, p store.CachePrune) (int64, error) {
	pruned, err := s.PruneCache(ctx, p)
	if err != nil {
		return 0, err
	}
	freed, err := s.Collect(ctx)
	return pruned + freed, err
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
				images, cache = "all images without at least one container associated to them", "all build cache"
			}
			if !force {
				yes, err := a.confirm(cmd.Context(), "WARNING! This will remove:\n  - all stopped containers\n  - "+images+"\n  - "+cache+"\n\nAre you sure you want to continue?")
				if err != nil || !yes {
					return err
				}
			}
			return a.pruneSystem(cmd.Context(), all, filters)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Remove all unused images and all build cache, not just dangling ones")
	f.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	f.BoolVar(&volumes, "volumes", false, "Accepted for Docker's sake: there are no volumes")
	f.StringArrayVar(&filters, "filter", nil, `Provide filter values (e.g. "until=24h")`)
	return cmd
}

// pruneSystem removes stopped containers, then images, then build cache: each may set the next one free.
func (a *app) pruneSystem(ctx context.Context, all bool, values []string) error {
	filters, err := parseFilters(values, "until", "label", "label!")
	if err != nil {
		return err
	}
	var until []string
	for _, v := range filters["until"] {
		until = append(until, "until="+v)
	}
	cache, err := cachePrune(until)
	if err != nil {
		return err
	}
	cache.All = all
	s, err := a.Store()
	if err != nil {
		return err
	}
	total, err := a.pruneContainers(ctx, filters)
	if err != nil {
		return err
	}
	images := maps.Clone(filters)
	if !all {
		images["dangling"] = []string{"true"}
	}
	freed, err := a.pruneImages(ctx, s, images)
	if total += freed; err != nil {
		return err
	}
	if len(filters["label"])+len(filters["label!"]) == 0 { // cache has no labels
		freed, err = a.pruneCache(ctx, s, cache)
		if total += freed; err != nil {
			return err
		}
	}
	return a.printReclaimed(total)
}
