package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/templates"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/terminal"
	"github.com/slipway-build/slipway/internal/view"
)

func newEventsCmd(a *app) *cobra.Command {
	var since, until, format string
	var filters []string
	cmd := &cobra.Command{
		Use:   "events [OPTIONS]",
		Short: "Tell what is done with containers, as it happens",
		Args:  maxArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			args, err := view.ParseArgs(filters, "type", "event", "container", "image", "label", "scope")
			if err != nil {
				return err
			}
			from, to, err := eventTimes(since, until)
			if err != nil {
				return err
			}
			show, err := eventFormat(format)
			if err != nil {
				return err
			}
			m, err := a.containers()
			if err != nil {
				return err
			}
			resume, err := m.Store.Yield()
			if err != nil {
				return err
			}
			err = m.Events(cmd.Context(), from, to, true, func(e container.Event) error {
				if !e.Matches(args) {
					return nil
				}
				text, err := show(e)
				if err == nil {
					_, err = fmt.Fprintln(a.stdout, text)
				}
				return err
			})
			if rerr := resume(); err == nil {
				err = rerr
			}
			return err
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "Show all events created since timestamp")
	f.StringVar(&until, "until", "", "Stream events until this timestamp")
	f.StringArrayVarP(&filters, "filter", "f", nil, `Filter output based on conditions provided: container=NAME, event=ACTION, image=NAME, label=KEY[=VALUE], type=container`)
	f.StringVar(&format, "format", "", formatHelp)
	return cmd
}

// eventTimes are between which times events are shown; without a first one it is now, the second may be zero.
func eventTimes(since, until string) (from, to time.Time, err error) {
	if from, err = moment(since); err != nil {
		return from, to, fmt.Errorf("invalid value for \"since\": %w", err)
	}
	if from.IsZero() {
		from = time.Now()
	}
	if to, err = moment(until); err != nil {
		return from, to, fmt.Errorf("invalid value for \"until\": %w", err)
	}
	return from, to, nil
}

// eventFormat is how events are shown: in Docker's line, as JSON, or by a template.
func eventFormat(format string) (func(container.Event) (string, error), error) {
	if format == "" {
		return eventLine, nil
	}
	if format == "json" {
		return func(e container.Event) (string, error) {
			data, err := json.Marshal(e.Docker())
			return string(data), err
		}, nil
	}
	tmpl, err := templates.Parse(format)
	if err != nil {
		return nil, fmt.Errorf("failed to parse template: %w", err)
	}
	return func(e container.Event) (string, error) {
		var b strings.Builder
		err := tmpl.Execute(&b, e.Docker())
		return b.String(), err
	}, nil
}

// eventLine is the line of an event.
func eventLine(e container.Event) (string, error) {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(e.Attributes)) {
		all = append(all, k+"="+e.Attributes[k])
	}
	return terminal.Line(fmt.Sprintf("%s container %s %s (%s)", e.Time.Local().Format(logTime), e.Action, e.ID, strings.Join(all, ", "))), nil
}
