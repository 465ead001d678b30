package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/history"
	"github.com/slipway-build/slipway/internal/terminal"
	"github.com/slipway-build/slipway/internal/timing"
)

func newHistoryCompareCmd(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "compare [OPTIONS] [REF [REF]]",
		Short: "Compare two builds",
		Long: "Say which steps of the second build took another time, were taken from the cache or not, have another instruction or gave layers of another size " +
			"than in the first one. With one REF the build before it is compared with it: the last one of the same Dockerfile and target. Without any it is the newest.",
		Args: maxArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			before, after, err := a.comparedBuilds(args)
			if err != nil {
				return err
			}
			c, err := a.comparison(cmd.Context(), before, after)
			if err != nil {
				return err
			}
			switch format {
			case "table", "pretty":
				return printComparison(a.stdout, c)
			case "json":
				return printJSON(a.stdout, c)
			}
			return printObject(a.stdout, format, c)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().StringVar(&format, "format", "table", `Format the output ("table", "json", or a Go template)`)
	return cmd
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// comparedBuilds are the builds that refs name.
func (a *app) comparedBuilds(refs []string) (before, after *history.Record, err error) {
	if len(refs) == 2 {
		before, err = a.buildRecord(refs[0])
		if err == nil {
			after, err = a.buildRecord(refs[1])
		}
		return before, after, err
	}
	if after, err = a.buildRecord(strings.Join(refs, "")); err != nil {
		return nil, nil, err
	}
	if before, err = a.buildBefore(after); err == nil && before == nil {
		err = errors.New("no earlier build of the same Dockerfile and target: name two")
	}
	return before, after, err
}

// buildBefore is the last build of the same that began before another one, or nil.
func (a *app) buildBefore(r *history.Record) (*history.Record, error) {
	_, all, err := a.buildRecords(func(o *history.Record) bool { return o.Before(r) }, 1)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return &all[0], nil
}

// comparison compares two builds, with the sizes that the store knows.
func (a *app) comparison(ctx context.Context, before, after *history.Record) (*timing.Comparison, error) {
	s, err := a.Store()
	if err != nil {
		return nil, err
	}
	x, y := timing.Of(before), timing.Of(after)
	x.Measure(ctx, s)
	y.Measure(ctx, s)
	return timing.Compare(x, y), nil
}

func printComparison(w io.Writer, c *timing.Comparison) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "\tBEFORE\tAFTER\tDIFFERENCE")
	fmt.Fprintf(tw, "Build\t%s\t%s\t\n", c.Before.ID, c.After.ID)
	fmt.Fprintf(tw, "Time\t%s\t%s\t%s\n", timing.Seconds(c.Before.Took), timing.Seconds(c.After.Took), timing.SecondsDifference(c.After.Took-c.Before.Took))
	fmt.Fprintf(tw, "Cached\t%d of %d\t%d of %d\t\n", c.Before.Cached, c.Before.Total, c.After.Cached, c.After.Total)
	fmt.Fprintf(tw, "Image size\t%s\t%s\t%s\n", timing.Size(c.Before.ImageSize), timing.Size(c.After.ImageSize), timing.SizeDifference(c.Before.ImageSize, c.After.ImageSize))
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(c.Changes) == 0 {
		_, err := fmt.Fprintf(w, "\nAll %d steps are as they were.\n", c.Same)
		return err
	}
	fmt.Fprintln(tw, "\nSTEP\tCHANGED\tBEFORE\tAFTER\tDIFFERENCE\tREASON")
	for i := range c.Changes {
		ch := &c.Changes[i]
		var words []string
		for _, w := range ch.Changed {
			words = append(words, string(w))
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", terminal.Short(ch.Name, maxTableName), strings.Join(words, ", "), sideOf(ch.Before), sideOf(ch.After), ch.Difference(), terminal.Short(ch.Reason, maxTableName))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%d other steps are as they were.\n", c.Same)
	return err
}

// sideOf describes a step in one of the builds.
func sideOf(s *timing.Side) string {
	switch {
	case s == nil:
		return ""
	case s.State == timing.Cached:
		return string(s.State)
	case s.Size > 0:
		return timing.Seconds(s.Took) + ", " + timing.Size(s.Size)
	}
	return timing.Seconds(s.Took)
}
