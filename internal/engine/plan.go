package engine

import (
	"fmt"
	"strings"

	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/fileop"
)

// use says what a vertex reads of one input.
type use struct {
	// whole is set when the input's identity counts: its files end up in the result, or the
	// process sees and may change all of them.
	whole bool
	// copies select the files that count by their content when whole is not set.
	copies []*pb.FileActionCopy
	// read is set when files of the input are copied, whether or not whole is set too.
	read bool
}

// uses returns what n reads of each of its inputs.
func (n *node) uses() ([]use, error) {
	all := make([]use, len(n.inputs))
	switch op := n.v.Op.Op.(type) {
	case *pb.Op_File:
		usage, err := fileop.Usage(op.File, len(n.inputs))
		if err != nil {
			return nil, fmt.Errorf("reading file operation: %w", err)
		}
		for i, u := range usage {
			all[i] = use{whole: u.Whole, copies: u.Copies, read: len(u.Copies) > 0}
		}
	case *pb.Op_Exec:
		for _, m := range op.Exec.Mounts {
			if m.Input < 0 {
				continue
			}
			if int(m.Input) >= len(all) {
				return nil, fmt.Errorf("reading mounts: %s uses input %d of %d", m.Dest, m.Input, len(all))
			}
			u := &all[m.Input]
			if byContent(m) {
				u.copies = append(u.copies, selection(m.Selector))
			} else {
				u.whole = true
			}
		}
	default:
		for i := range all {
			all[i].whole = true
		}
	}
	for i := range all {
		if all[i].whole {
			all[i].copies = nil
		}
	}
	return all, nil
}

// byContent reports whether a mount's input counts by content: nothing of it can end up in a
// layer but through what the process does with it. For a cache mount the input is what a new cache is
// filled with. Whoever made the operation may want none of that, as reading the files takes time.
func byContent(m *pb.Mount) bool {
	return (m.MountType == pb.MountType_BIND || m.MountType == pb.MountType_CACHE) && m.Dest != pb.RootMount && m.Output == int64(pb.SkipOutput) &&
		m.ContentCache != pb.MountContentCache_OFF
}

// selection describes the files below a mount's selector as a copy would select them.
func selection(selector string) *pb.FileActionCopy {
	src := "/" + strings.TrimPrefix(selector, "/")
	return &pb.FileActionCopy{Src: src, Dest: "/", FollowSymlink: true, DirCopyContents: true, Mode: -1, Timestamp: -1}
}
