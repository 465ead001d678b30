package cli

import (
	"context"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
)

type imageLsFlags struct {
	quiet, all, noTrunc, digests bool
	format                       string
	filters                      []string
}

func newImageLsCmd(a *app, use string) *cobra.Command {
	var opts imageLsFlags
	cmd := &cobra.Command{
		Use:   use + " [OPTIONS] [REPOSITORY[:TAG]]",
		Short: "List images",
		Args:  maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.Store()
			if err != nil {
				return err
			}
			return a.listImages(cmd.Context(), s, &opts, strings.Join(args, ""))
		},
	}
	if use == "ls" {
		cmd.Aliases = []string{"list"}
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.quiet, "quiet", "q", false, "Only show image IDs")
	f.BoolVarP(&opts.all, "all", "a", false, "Show all images (they all are anyway)")
	f.BoolVar(&opts.noTrunc, "no-trunc", false, "Do not shorten IDs")
	f.BoolVar(&opts.digests, "digests", false, "Show digests of manifests")
	f.StringVar(&opts.format, "format", "", `"table", "json", or a Go template, such as "{{.Repository}}:{{.Tag}}"`)
	f.StringArrayVarP(&opts.filters, "filter", "f", nil, `Only show some: "dangling=true", "reference=PATTERN"`)
	return cmd
}

func (a *app) listImages(ctx context.Context, s *store.Store, opts *imageLsFlags, name string) error {
	images, err := s.Images(ctx)
	if err != nil {
		return err
	}
	keep, err := imageFilter(opts.filters, name)
	if err != nil {
		return err
	}
	kept := images[:0]
	for _, img := range images {
		if !keep(img) {
			continue
		}
		if err := s.Measure(ctx, &img); err != nil {
			return err
		}
		kept = append(kept, img)
	}
	return printImages(a.stdout, opts, kept)
}

// imageFilter combines the values of --filter with the argument.
func imageFilter(filters []string, name string) (func(store.Image) bool, error) {
	var all []func(store.Image) bool
	for _, f := range filters {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "dangling":
			want := value != "false" && value != "0"
			all = append(all, func(i store.Image) bool { return i.Tagged() != want })
		case "reference":
			all = append(all, func(i store.Image) bool { return matchesName(i, value) })
		default:
			return nil, fmt.Errorf("--filter %s: only dangling and reference are there", f)
		}
	}
	if name != "" {
		all = append(all, func(i store.Image) bool { return matchesName(i, name) })
	}
	return func(i store.Image) bool {
		for _, keep := range all {
			if !keep(i) {
				return false
			}
		}
		return true
	}, nil
}

// matchesName reports whether an image has the repository, or the repository and tag, which may
// be a pattern.
func matchesName(i store.Image, pattern string) bool {
	if !i.Tagged() {
		return false
	}
	repo, tag := store.FamiliarName(i.Name)
	for _, name := range []string{repo, repo + ":" + tag, i.Name, strings.TrimSuffix(i.Name, ":"+tag)} {
		if ok, err := path.Match(pattern, name); ok && err == nil {
			return true
		}
	}
	return false
}

// imageTable is what `image ls` shows.
var imageTable = table{
	columns: []column{{"Repository", "REPOSITORY"}, {"Tag", "TAG"}, {"ID", "IMAGE ID"}, {"CreatedSince", "CREATED"}, {"Size", "SIZE"}},
	more:    []column{{"Digest", "DIGEST"}, {"CreatedAt", "CREATED AT"}, {"Containers", "CONTAINERS"}, {"SharedSize", "SHARED SIZE"}, {"UniqueSize", "UNIQUE SIZE"}, {"VirtualSize", "SIZE"}},
}

// printImages prints images, the newest first.
func printImages(w io.Writer, opts *imageLsFlags, images []store.Image) error {
	sort.SliceStable(images, func(i, j int) bool { return images[i].Created.After(images[j].Created) })
	id := func(i store.Image) string {
		if opts.noTrunc {
			return i.ID.String()
		}
		return shortID(i.ID.String())
	}
	if opts.quiet && opts.format == "" {
		seen := map[string]bool{}
		for _, i := range images {
			if seen[id(i)] {
				continue
			}
			seen[id(i)] = true
			if _, err := fmt.Fprintln(w, id(i)); err != nil {
				return err
			}
		}
		return nil
	}
	var rows []map[string]string
	for _, i := range images {
		repo, tag := "<none>", "<none>"
		if i.Tagged() {
			repo, tag = store.FamiliarName(i.Name)
		}
		rows = append(rows, map[string]string{
			"Repository": repo, "Tag": tag, "ID": id(i), "CreatedSince": ago(i.Created), "Size": size(i.Size),
			"Digest": i.Manifest.Digest.String(), "CreatedAt": i.Created.Local().Format("2006-01-02 15:04:05 -0700 MST"),
			"Containers": "N/A", "SharedSize": "N/A", "UniqueSize": "N/A", "VirtualSize": size(i.Size),
		})
	}
	t := imageTable
	t.format = opts.format
	if opts.digests {
		t.columns = append(append(t.columns[:2:2], column{"Digest", "DIGEST"}), t.columns[2:]...)
	}
	return t.print(w, rows)
}
