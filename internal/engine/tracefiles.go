package engine

import (
	"errors"
	"fmt"

	"github.com/slipway-build/slipway/internal/filetrace"
)

// traceFiles is what the sandbox tells of the filesystems of a step, so that its files are traced; nil: they are not. What fails of it is told, and the step
// runs without.
func (x *execution) traceFiles(n *node, notice func(string)) func(root string, mounts []string) (ended func()) {
	id, known := n.key.peek()
	if x.r.opt.TraceFiles == nil || !known {
		return nil
	}
	return func(root string, mounts []string) func() {
		x.mounted = true
		w, err := x.r.opt.TraceFiles(id.key)
		var watch *filetrace.Watch
		if err == nil {
			if watch, err = filetrace.Start(root, mounts, w.Add); err != nil {
				err = errors.Join(err, w.Abort())
			}
		}
		if err != nil {
			notice(fmt.Sprintf("files are not traced: %v", err))
			return func() {}
		}
		return func() {
			lost, err := watch.Close()
			sum, werr := w.Close(lost, watch.Mounts())
			if err := errors.Join(err, werr); err != nil {
				notice(fmt.Sprintf("files are not traced: %v", err))
				return
			}
			if !sum.Whole() {
				notice("files are not all traced: too many, or with names that are too long")
			}
			x.process.Files = sum
		}
	}
}

// untraced tells of a step that has run where there is no filesystem of its own to be traced.
func (x *execution) untraced(notice func(string)) {
	if x.r.opt.TraceFiles != nil && !x.mounted {
		notice("files are not traced: the step ran without a filesystem of its own (slipway info says why)")
	}
}
