package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/history"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/terminal"
	"github.com/slipway-build/slipway/internal/timing"
)

// statusOf is how a build ended, in the words of buildx' `history inspect`.
func statusOf(r *history.Record) string {
	if s := r.Status(); s != history.Failed {
		return string(s)
	}
	return "failed"
}

// recordInfo is a record in the JSON of buildx, as far as it tells of it, with the steps.
type recordInfo struct {
	Name              string `json:",omitempty"`
	Ref               string
	Context           string        `json:",omitempty"`
	Dockerfile        string        `json:",omitempty"`
	Target            string        `json:",omitempty"`
	Platform          []string      `json:",omitempty"`
	StartedAt         *time.Time    `json:",omitempty"`
	CompletedAt       *time.Time    `json:",omitempty"`
	Duration          time.Duration `json:",omitempty"`
	Status            string        `json:",omitempty"`
	Error             *recordError  `json:",omitempty"`
	Kept              string        `json:",omitempty"` // the container that the failed step is kept as, while it is there
	NumCompletedSteps int
	NumTotalSteps     int
	NumCachedSteps    int
	ImageID           string         `json:",omitempty"`
	Names             []string       `json:",omitempty"`
	Imported          bool           `json:",omitempty"` // it was built elsewhere
	Steps             []recordStep   `json:",omitempty"`
	Timing            *timing.Timing `json:",omitempty"` // where its time went
}

type recordError struct {
	Message string   `json:",omitempty"`
	Name    string   `json:",omitempty"` // of the step
	Logs    []string `json:",omitempty"`
}

// recordStep is a step with its times, and why it was not cached.
type recordStep struct {
	Name      string
	Cached    bool          `json:",omitempty"`
	Reason    string        `json:",omitempty"`
	StartedAt time.Time     `json:",omitzero"`
	Duration  time.Duration `json:",omitempty"`
	Error     string        `json:",omitempty"`
}

func newRecordInfo(r *history.Record) *recordInfo {
	rec := &r.Record
	info := &recordInfo{
		Name: rec.Name(), Ref: r.ID, Context: fromHere(rec.Context), Target: rec.Target, Platform: rec.Platforms,
		Dockerfile: strings.TrimPrefix(rec.File, strings.TrimSuffix(rec.Context, "/")+"/"),
		Duration:   rec.Took, Status: statusOf(r), NumTotalSteps: len(rec.Steps), Names: rec.Names, Imported: r.Imported,
	}
	if rec.Error == "" && !r.Running {
		info.ImageID = rec.ImageID
	}
	info.NumCompletedSteps, info.NumCachedSteps = r.Counts()
	if started := rec.Started.Local(); !rec.Started.IsZero() {
		info.StartedAt = &started
		if !r.Running {
			completed := r.Completed().Local()
			info.CompletedAt = &completed
		}
	}
	if rec.Error != "" {
		info.Error = &recordError{Message: rec.Error}
	}
	for _, s := range rec.Steps {
		info.Steps = append(info.Steps, recordStep{s.Name, s.Cached, s.Reason, s.Started, s.Took, s.Error})
		if s.Error != "" && info.Error != nil && info.Error.Name == "" && strings.Contains(rec.Error, s.Error) {
			info.Error.Name = s.Name
		}
	}
	return info
}

// fromHere is a path below the working directory without that.
func fromHere(path string) string {
	wd, err := os.Getwd()
	if err != nil || !filepath.IsAbs(path) {
		return path
	}
	if rel, err := filepath.Rel(wd, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}

func newHistoryInspectCmd(a *app) *cobra.Command {
	var format string
	var files bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] [REF]",
		Short: "Inspect a build record",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 0 && args[0] == "attachment":
				return errors.New("history inspect attachment: records have no attachments: provenance and SBOMs are in the image, imagetools inspect shows them")
			case len(args) > 1:
				return maxArgs(1)(cmd, args)
			}
			ref := strings.Join(args, "")
			r, err := a.buildRecord(ref)
			if err != nil {
				return err
			}
			if files {
				return a.printOpened(r, format)
			}
			info := newRecordInfo(r)
			info.Timing = timing.Of(r)
			if s, err := a.Store(); err == nil {
				info.Timing.Measure(cmd.Context(), s)
				info.Kept = keptOf(cmd.Context(), s, r)
			}
			switch format {
			case "pretty":
				return a.printRecord(info, ref == "", strings.TrimSuffix(cmd.CommandPath(), cmd.Name())+"logs")
			case "json":
				enc := json.NewEncoder(a.stdout)
				enc.SetIndent("", "  ")
				return enc.Encode(info)
			}
			return printObject(a.stdout, format, info)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().StringVar(&format, "format", "pretty", `Format the output ("pretty", "json", or a Go template)`)
	cmd.Flags().BoolVar(&files, "files", false, `List the files that each "RUN" opened, if a build with --trace-files ran it`)
	return cmd
}

// keptOf is the container that the failed step of a build is kept as; "" if it is not, or not any more.
func keptOf(ctx context.Context, s *store.Store, r *history.Record) string {
	c, err := s.Container(ctx, r.Kept)
	if step := container.StepOf(c); r.Kept == "" || err != nil || step == nil || step.Build != r.ID {
		return ""
	}
	return c.Name
}

// printRecord describes a build in the lines of buildx. The command logs is what prints its log.
func (a *app) printRecord(info *recordInfo, withRef bool, logs string) error {
	tw := tabwriter.NewWriter(a.stdout, 1, 8, 1, '\t', 0)
	line := func(name, value string) {
		if name != "Error" { // which has lines of its own
			value = terminal.Line(value)
		}
		if value != "" {
			fmt.Fprintf(tw, "%s:\t%s\n", name, value)
		}
	}
	if info.Imported {
		line("Imported", "yes: what follows is what whoever exported it says")
	}
	line("Name", info.Name)
	if withRef {
		line("Ref", info.Ref)
	}
	line("Context", info.Context)
	line("Dockerfile", info.Dockerfile)
	line("Target", info.Target)
	line("Platforms", strings.Join(info.Platform, ", "))
	tw.Flush()
	fmt.Fprintln(a.stdout)
	if info.StartedAt != nil {
		line("Started", info.StartedAt.Format("2006-01-02 15:04:05"))
	}
	duration := buildDuration(info.Duration)
	switch info.Status {
	case string(history.Running):
		line("Duration", duration+" (running)")
	case "failed":
		line("Duration", duration)
		line("Error", info.Error.Message)
	case string(history.Canceled):
		line("Duration", duration)
		line("Status", "Canceled")
	default:
		line("Duration", duration)
	}
	if n := info.NumTotalSteps; n > 0 {
		line("Build Steps", fmt.Sprintf("%d/%d (%.0f%% cached)", info.NumCompletedSteps, n, float64(info.NumCachedSteps)/float64(n)*100))
	}
	line("Image", info.ImageID)
	line("Names", strings.Join(info.Names, ", "))
	tw.Flush()
	if t := info.Timing; len(t.Steps) > 0 {
		fmt.Fprintln(a.stdout)
		printTiming(a.stdout, t)
		printTraced(a.stdout, t)
	}
	if info.Kept != "" {
		fmt.Fprintf(a.stdout, "\nLook into the failed step: %s debug %s\n", a.name, info.Kept)
	}
	_, err := fmt.Fprintf(a.stdout, "\nPrint build logs: %s %s\n", logs, info.Ref)
	return err
}
