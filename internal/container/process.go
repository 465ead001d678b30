package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// Process is the host's number of the first process of a running container. The kernel is asked: it is
// a descendant of the slipway process that runs the container, in a PID namespace of its own, and its
// root is mounted from the container's directory. In place it has neither, and is a guardian's child.
func (m *Manager) Process(c store.Container) (int, error) {
	s := m.State(c.ID)
	if !s.Running {
		return 0, fmt.Errorf("container %s is not running", c.ID)
	}
	for _, pid := range candidates(s.PID) {
		if firstOfNamespace(pid) && m.hasRoot(pid, c) {
			return pid, nil
		}
	}
	if pid := firstInPlace(s.PID); pid != 0 {
		return pid, nil
	}
	return 0, fmt.Errorf("container %s has no process yet, or not any more", c.ID)
}

// openRoot opens the root of a container's first process, with all that is mounted there. It is nil when
// the container does not run any more. ids are those of its user namespace.
func (m *Manager) openRoot(ctx context.Context, c store.Container) (root *os.File, ids idMap, err error) {
	for {
		pid, err := m.started(ctx, c)
		if err != nil || pid == 0 {
			return nil, ids, err
		}
		f, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", pid), os.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			if errors.Is(err, os.ErrPermission) {
				err = fmt.Errorf("%w: it is in another user namespace while the container runs: stop the container first", err)
			}
			return nil, ids, fmt.Errorf("opening the container's root: %w", err)
		}
		ids, err = readIDMap(pid)
		// The number may belong to another process by now, unless it is still the container's.
		if again, _ := m.Process(c); err == nil && f != nil && again == pid {
			return f, ids, nil
		}
		if f != nil {
			f.Close()
		}
	}
}

// pathOf names an open directory.
func pathOf(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// rootTree is what a container has: what its process sees, or the layers and the mounts of one that does not run.
func (m *Manager) rootTree(ctx context.Context, c store.Container) (layer.Tree, error) {
	if m.State(c.ID).Running {
		root, ids, err := m.openRoot(ctx, c)
		if err != nil {
			return nil, err
		}
		if root != nil {
			defer root.Close()
			tree := &seenTree{m.Store.OpenDir(pathOf(root), layer.DirOptions{Live: true}), ids}
			_, err := tree.Lstat(".") // it opens the directory for itself
			return tree, err
		}
	}
	tree, err := m.tree(ctx, c)
	if err != nil {
		return nil, err
	}
	return m.withMounts(tree, c)
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

// firstInPlace is the first process of a container that a slipway process runs in place, 0 if it runs none so. That of the container is the
// oldest of the process's guardians, the others are those of what exec has started; the first process is a guardian's oldest child.
func firstInPlace(pid int) int {
	var guardian, oldest int
	for _, child := range descendants(pid, 1) {
		number, ok := stat(child)
		if ok && isGuardian(child) && (guardian == 0 || number(statBegan) < oldest) {
			guardian, oldest = child, number(statBegan)
		}
	}
	if guardian == 0 {
		return 0
	}
	if all := descendants(guardian, 1); len(all) > 0 && !isGuardian(all[0]) { // it has executed its program
		return all[0]
	}
	return 0
}

// isGuardian reports whether a child of a slipway process is the guardian of a process in place, or is about to be what that guards.
func isGuardian(pid int) bool {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	args := strings.Split(string(data), "\x00")
	return len(args) > 2 && args[0] == "init" && args[2] == "guardian"
}

// stat reads what the kernel tells of a process in a line of numbers, which are those of proc(5), from 4 on; 0 where it tells none. It is false
// of a process that has ended.
func stat(pid int) (number func(i int) int, ok bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, false
	}
	const after = 3                                                           // the name may have anything in it
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:])) // from the state, which is the third
	return func(i int) int {
		if i-after >= len(fields) {
			return 0
		}
		n, _ := strconv.Atoi(fields[i-after])
		return n
	}, true
}

// Of the numbers of stat.
const (
	statParent = 4
	statBegan  = 22 // clock ticks since the machine started
)

// numbers are those that a process has in each PID namespace, this one's first.
func numbers(pid int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		if all, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return strings.Fields(all)
		}
	}
	return nil
}

// firstOfNamespace reports whether a process has the number 1 in a PID namespace below ours.
func firstOfNamespace(pid int) bool {
	all := numbers(pid)
	return len(all) > 1 && all[len(all)-1] == "1"
}

// hasRoot reports whether the root of a process is that of a container. In a user namespace its layers are shown to it by mounts of their own, which
// are in the directory of what runs it, below the container's ID.
func (m *Manager) hasRoot(pid int, c store.Container) bool {
	return rootedIn(pid, m.upper(c.ID)) || rootedIn(pid, filepath.Join(m.Store.Root(), "tmp")+"/", "/"+c.ID+"/")
}

// rootedIn reports whether paths, or parts of one, are in what a process's root is made of.
func rootedIn(pid int, parts ...string) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && fields[4] == "/" && !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
			return true
		}
	}
	return false
}
