package docker

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	containertypes "github.com/moby/moby/api/types/container"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
)

// memoryLimit is a machine's memory for a container that has no limit.
func (s *Server) memoryLimit(st *container.Stats) uint64 {
	if st.Limit > 0 {
		return uint64(st.Limit)
	}
	return uint64(max(s.opt.System.Memory, 0))
}

// statsTime is the time between two answers of stats.
const statsTime = time.Second

// containerStats answers GET /containers/NAME/stats.
func (s *Server) containerStats(ctx context.Context, r *request) error {
	ctx, m, c, err := r.container(ctx)
	if err != nil {
		return err
	}
	ctx = r.letGo()
	stream := r.FormValue("stream") == "" || r.flag("stream")
	once := !r.before("1.41") && r.flag("one-shot") || !m.State(c.ID).Running // which uses nothing, now and before
	var before *containertypes.StatsResponse
	for {
		now, err := s.statsOf(ctx, m, c)
		if err != nil {
			return err
		}
		if m.Gone(c) && before != nil {
			return nil
		}
		if before != nil {
			now.PreRead, now.PreCPUStats = before.Read, before.CPUStats
		}
		if before != nil || once || stream {
			if err := r.answerPart(now); err != nil || !stream {
				return err
			}
		}
		before = now
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(statsTime):
		}
	}
}

// statsOf is what a container uses; one that does not run uses nothing.
func (s *Server) statsOf(ctx context.Context, m *container.Manager, c store.Container) (*containertypes.StatsResponse, error) {
	out := &containertypes.StatsResponse{ID: c.ID, Name: "/" + c.Name, OSType: "linux"}
	st, err := m.Stats(ctx, c)
	if errors.Is(err, container.ErrNotRunning) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	system, cpus := systemTime()
	out.Read = st.Time
	out.CPUStats = containertypes.CPUStats{
		CPUUsage:    containertypes.CPUUsage{TotalUsage: uint64(st.User + st.System), UsageInUsermode: uint64(st.User), UsageInKernelmode: uint64(st.System)},
		SystemUsage: system, OnlineCPUs: cpus,
	}
	out.MemoryStats = containertypes.MemoryStats{Usage: uint64(st.Memory), Limit: s.memoryLimit(st), Stats: map[string]uint64{}}
	out.PidsStats = containertypes.PidsStats{Current: uint64(st.Pids)}
	return out, nil
}

// systemTime is how much time all processors have had since the machine began, in nanoseconds, and how many there are.
func systemTime() (ns uint64, cpus uint32) {
	cpus = uint32(runtime.NumCPU())
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, cpus
	}
	line, _, _ := strings.Cut(string(data), "\n")
	for i, field := range strings.Fields(line) {
		n, err := strconv.ParseUint(field, 10, 64)
		if i > 0 && i < 9 && err == nil { // without those of guests, which count twice
			ns += n * 10_000_000
		}
	}
	return ns, cpus
}
