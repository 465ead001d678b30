package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
)

// What a process may not have is refused before anything runs, and so is what is nothing that is known.
func TestPermitProcesses(t *testing.T) {
	e, p := newProcesses(t, nil)
	for _, tt := range []struct {
		name   string
		change func(*pb.ExecOp)
		want   string
	}{
		{"nothing", func(*pb.ExecOp) {}, ""},
		{"a device", func(op *pb.ExecOp) { op.CdiDevices = []*pb.CDIDevice{{Name: "vendor.com/gpu=all"}} }, "is not supported"},
		{"a device if there is one", func(op *pb.ExecOp) {
			op.CdiDevices = []*pb.CDIDevice{{Name: "vendor.com/gpu=all", Optional: true}}
		}, ""},
		{"a security mode", func(op *pb.ExecOp) { op.Security = 2 }, "invalid security mode 2"},
		{"a network", func(op *pb.ExecOp) { op.Network = 3 }, "invalid network mode 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			edge := edgeOf(t, runs("step"))
			tt.change(edge.Vertex.Op.GetExec())
			if err := starts(t, e, RunOptions{}).Permit(edge); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q", err, tt.want)
			}
		})
	}
	edge := edgeOf(t, llb.Scratch().Run(llb.Args([]string{"cached"}), llb.AddMount("/c", llb.Scratch(), llb.AsPersistentCacheDir("id", llb.CacheMountShared))).Root())
	for _, m := range edge.Vertex.Op.GetExec().Mounts {
		if m.CacheOpt != nil {
			m.CacheOpt.Sharing = 7
		}
	}
	if err := <-evaluated(t.Context(), starts(t, e, RunOptions{}), edge); err == nil || !strings.Contains(err.Error(), "invalid sharing mode 7") || p.times("cached") > 0 {
		t.Errorf("a cache that is shared in no known way: %v", err)
	}
}

// Nothing is mounted over the root filesystem, by whatever name.
func TestMountsOverRoot(t *testing.T) {
	for _, dest := range []string{"//", "/.", "/x/..", "", "."} {
		e, p := newProcesses(t, nil)
		edge := edgeOf(t, llb.Scratch().Run(llb.Args([]string{"step"}), llb.AddMount("/other", llb.Scratch(), llb.Tmpfs())).Root())
		for _, m := range edge.Vertex.Op.GetExec().Mounts {
			if m.MountType == pb.MountType_TMPFS {
				m.Dest = dest
			}
		}
		if err := <-evaluated(t.Context(), starts(t, e, RunOptions{}), edge); err == nil || !strings.Contains(err.Error(), "invalid mount at") || p.times("step") > 0 {
			t.Errorf("a mount at %q: %v", dest, err)
		}
	}
}

// A mount counts by what is in it, unless whoever made the step does not want its files read for that.
func TestContentOfMounts(t *testing.T) {
	for _, off := range []bool{false, true} {
		e, p := newProcesses(t, nil)
		for _, other := range []string{"one", "two"} {
			files := llb.Scratch().File(llb.Mkfile("same", 0o644, []byte("same"), llb.WithCreatedTime(time.Unix(0, 0))).Rm(other, llb.WithAllowNotFound(true)))
			opt := []llb.MountOption{llb.Readonly}
			if off {
				opt = append(opt, llb.ContentCache(llb.MountContentCacheOff))
			}
			must(t, <-evaluated(t.Context(), starts(t, e, RunOptions{}), edgeOf(t, llb.Scratch().Run(llb.Args([]string{"step"}), llb.AddMount("/files", files, opt...)).Root())))
		}
		if want := map[bool]int{false: 1, true: 2}[off]; p.times("step") != want {
			t.Errorf("off %t: it ran %d times, want %d", off, p.times("step"), want)
		}
	}
}
