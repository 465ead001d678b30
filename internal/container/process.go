package container

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// Process is the host's number of the first process of a running container. The kernel is asked: it is
// a descendant of the slipway process that runs the container, in a PID namespace of its own, and its
// root is mounted from the container's directory.
func (m *Manager) Process(c store.Container) (int, error) {
	s := m.State(c.ID)
	if !s.Running {
		return 0, fmt.Errorf("container %s is not running", c.ID)
	}
	for _, pid := range candidates(s.PID) {
		if firstOfNamespace(pid) && rootedIn(pid, m.upper(c.ID)) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("container %s has no process yet, or not any more", c.ID)
}

// rootOf is the directory that is the root of a process, with all that is mounted there.
func rootOf(pid int) string { return fmt.Sprintf("/proc/%d/root", pid) }

// rootTree is what a container has: what its process sees, or the layers of one that does not run.
func (m *Manager) rootTree(ctx context.Context, c store.Container) (layer.Tree, error) {
	if m.State(c.ID).Running {
		pid, err := m.started(ctx, c)
		if err != nil {
			return nil, err
		}
		if pid != 0 {
			return layer.OpenDir(rootOf(pid), layer.DirOptions{}), nil
		}
	}
	return m.tree(ctx, c)
}

// candidates are the processes that a slipway process may have started; where the kernel does not tell
// the children of processes, all.
func candidates(pid int) []int {
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/task/%[1]d/children", os.Getpid())); err == nil {
		return descendants(pid, 3)
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var all []int
	for _, dir := range dirs {
		if n, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			all = append(all, n)
		}
	}
	return all
}

// descendants are the children of a process and theirs, to a depth: an OCI runtime may stand between.
func descendants(pid, depth int) []int {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var all []int
	for _, f := range files {
		data, _ := os.ReadFile(f) // a thread that ended has none
		for _, field := range strings.Fields(string(data)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				continue
			}
			all = append(all, child)
			if depth > 1 {
				all = append(all, descendants(child, depth-1)...)
			}
		}
	}
	return all
}

// firstOfNamespace reports whether a process has the number 1 in a PID namespace below ours.
func firstOfNamespace(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if numbers, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(numbers)
			return len(fields) > 1 && fields[len(fields)-1] == "1"
		}
	}
	return false
}

// rootedIn reports whether a directory is a layer of a process's root.
func rootedIn(pid int, dir string) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && fields[4] == "/" && strings.Contains(line, dir) {
			return true
		}
	}
	return false
}
