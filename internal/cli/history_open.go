package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/history"
	"github.com/slipway-build/slipway/internal/report"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/timing"
	"github.com/slipway-build/slipway/internal/view"
	"github.com/slipway-build/slipway/internal/view/imagesize"
)

func newHistoryOpenCmd(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "open [OPTIONS] [REF]",
		Short: "Show a build as a page",
		Long: "Write a page about a build, one file that needs no network and has no scripts: when its steps ran and what they waited for, what was cached and why not, the stages, " +
			"sizes, logs, and what is not as in the build before. On a desktop the browser shows it; its path is printed.",
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.buildRecord(strings.Join(args, ""))
			if err != nil {
				return err
			}
			page, err := a.page(cmd.Context(), r)
			if err != nil {
				return err
			}
			if log, err := r.Log(); err == nil { // a build that was killed may have none
				defer log.Close()
				page.Log = log
			}
			if output != "" {
				return a.writeOutput(output, func(w io.Writer) error { return report.WritePage(w, page) })
			}
			return a.showPage(page)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", `Output file path, "-" for standard output (default: a file in the directory for temporary ones)`)
	return cmd
}

// page is what there is to show of a build, without its log.
func (a *app) page(ctx context.Context, r *history.Record) (*report.Page, error) {
	s, err := a.Store()
	if err != nil {
		return nil, err
	}
	p := &report.Page{Timing: timing.Of(r)}
	p.Timing.Measure(ctx, s)
	if p.Processes, err = r.Processes(); err != nil {
		return nil, err
	}
	before, err := a.buildBefore(r)
	if err != nil {
		return nil, err
	}
	if before != nil {
		if p.Comparison, err = a.comparison(ctx, before, r); err != nil {
			return nil, err
		}
	}
	if p.Sizes = imageSizes(ctx, s, p.Timing.ImageID); p.Sizes == nil {
		p.Sizes = report.StepSizes(p.Timing)
	}
	return p, nil
}

// imageSizes are the directories and files of an image, or nil if it is gone or cannot be read: then nobody is kept from the rest of the page.
func imageSizes(ctx context.Context, s *store.Store, id string) *imagesize.Node {
	if id == "" {
		return nil
	}
	img, err := view.UseImage(ctx, s, id)
	if err != nil {
		return nil
	}
	r, err := imagesize.Measure(ctx, s, id, img, imagesize.Options{Share: 0.002})
	if err != nil {
		return nil
	}
	return r.Root
}

// showPage writes a page to a temporary file and has the desktop show it, if there is one.
func (a *app) showPage(p *report.Page) (err error) {
	f, err := os.CreateTemp("", "slipway-*.html")
	if err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}
	if err := errors.Join(report.WritePage(f, p), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("writing the page: %w", err), os.Remove(f.Name()))
	}
	if _, err := fmt.Fprintln(a.stdout, f.Name()); err != nil {
		return err
	}
	if !isTerminal(a.stdout) || os.Getenv("DISPLAY")+os.Getenv("WAYLAND_DISPLAY")+os.Getenv("BROWSER") == "" {
		return nil
	}
	browser := cmp.Or(os.Getenv("BROWSER"), "xdg-open")
	if _, err := exec.LookPath(browser); err != nil {
		return nil
	}
	if err := exec.Command(browser, f.Name()).Start(); err != nil {
		return fmt.Errorf("showing the page: %w", err)
	}
	return nil
}
