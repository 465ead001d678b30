package cli

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
)

func newBuilderPruneCmd(a *app) *cobra.Command {
	var p store.Policy
	var force, verbose bool
	var by []string
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove build cache",
		Args:  maxArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if p.KeepDuration, p.Filters, err = cacheFilters(by); err != nil {
				return err
			}
			if err := a.checkBuilder(); err != nil {
				return err
			}
			if !force {
				what := "all dangling build cache"
				if p.All {
					what = "all build cache"
				}
				if takesBuilds(p) {
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
			pruned, err := s.Prune(cmd.Context(), p)
			if err != nil {
				return err
			}
			freed, err := a.pruneBuilds(s, p)
			if pruned.Freed += freed; err != nil {
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

// pruneBuilds removes records of builds, with what is pruned of the cache: those that the configuration does not want to
// keep, or all when all of the cache goes that was not used for some time.
func (a *app) pruneBuilds(s *store.Store, p store.Policy) (freed int64, err error) {
	keep := &store.History{MaxAge: p.KeepDuration}
	if !takesBuilds(p) {
		if keep, err = a.history(); err != nil || keep == nil {
			return 0, err
		}
	}
	_, freed, err = s.PruneBuilds(*keep)
	return freed, err
}

// takesBuilds reports whether all records of builds go with what a policy takes of the cache.
func takesBuilds(p store.Policy) bool {
	limits := p.ReservedSpace != (store.Space{}) || p.MaxUsedSpace != (store.Space{}) || p.MinFreeSpace != (store.Space{})
	return p.All && !limits && len(p.Filters) == 0
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

// cacheFilters reads --filter of commands about the build cache as buildx does: until=DURATION is how long something must
// not have been used, id=ID is a part of one, and the others are "field", "field=value", "field!=value" and
// "field~=expression" of the store's filters. All of them have to match.
func cacheFilters(values []string) (unused time.Duration, by []string, err error) {
	var all []string
	for _, v := range values {
		key, value, has := strings.Cut(v, "=")
		switch plain := strings.TrimRight(key, "!~"); {
		case !slices.Contains([]string{"until", "unused-for", "id", "parents", "description", "type", "inuse", "mutable", "immutable", "shared", "private"}, plain):
			return 0, nil, fmt.Errorf("invalid filter %q: want one of until, id, parents, description, type, inuse, mutable, immutable, shared, private", v)
		case key == "until" || key == "unused-for":
			if unused, err = time.ParseDuration(value); err != nil {
				return 0, nil, fmt.Errorf("invalid filter 'until=%s': %w", value, err)
			}
			continue
		case plain == "type" && plain == key && !slices.Contains(cacheTypes, strings.TrimPrefix(value, "=")):
			return 0, nil, fmt.Errorf("invalid filter '%s': use %s", v, strings.Join(cacheTypes, ", "))
		case !has:
			all = append(all, plain)
			continue
		}
		value = strings.TrimPrefix(value, "=")
		switch op := key[len(strings.TrimRight(key, "!~")):]; {
		case op != "":
			all = append(all, strings.TrimRight(key, "!~")+op+"="+strconv.Quote(value))
		case key == "id":
			all = append(all, "id~="+strconv.Quote(regexp.QuoteMeta(value)))
		default:
			all = append(all, key+"=="+strconv.Quote(value))
		}
	}
	if len(all) > 0 {
		by = []string{strings.Join(all, ",")}
	}
	return unused, by, nil
}

var cacheTypes = []string{store.TypeRegular, store.TypeMount, store.TypeGit, store.TypeLocal, store.TypeInternal}

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
	cache := store.Policy{All: all}
	for _, v := range filters["until"] {
		if cache.KeepDuration, _, err = cacheFilters([]string{"until=" + v}); err != nil {
			return err
		}
	}
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
		pruned, err := s.Prune(ctx, cache)
		if total += pruned.Freed; err != nil {
			return err
		}
		freed, err := a.pruneBuilds(s, cache)
		if total += freed; err != nil {
			return err
		}
	}
	return a.printReclaimed(total)
}
