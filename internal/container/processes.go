package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/slipway-build/slipway/internal/store"
)

// Pids are the host's numbers of the processes of a running container.
func (m *Manager) Pids(ctx context.Context, c store.Container) ([]int, error) {
	if !m.State(c.ID).Running {
		return nil, notRunning(c)
	}
	first, err := m.started(ctx, c)
	if err != nil || first == 0 {
		return nil, errors.Join(err, notRunning(c))
	}
	var all []int
	own := len(numbers(os.Getpid()))
	inPlace := !firstOfNamespace(first)
	for _, pid := range members(m.State(c.ID).PID) {
		if len(numbers(pid)) > own || inPlace && !isGuardian(pid) {
			all = append(all, pid)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// members are the processes that came of one: those of a container are children of its first process, or were started in it by who runs the container.
func members(pid int) []int {
	const deepest = 1000
	if all := descendants(pid, deepest); len(all) > 0 {
		return all
	}
	var all []int // the kernel does not tell the children of processes: those of the same PID namespace
	for _, first := range candidates(pid) {
		if number, ok := stat(first); ok && number(statParent) == pid {
			all = append(all, first)
		}
	}
	return all
}

// psWord is an argument of ps that chooses what is shown and in which order: none gives a column another name, or leaves out the names, by which the
// container's processes are told from the host's.
var psWord = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^-{0,2}[A-Za-z][A-Za-z0-9,:%+_-]*$`) })

// plainTitles are of columns that may come before the PID: each is one word, which no process chooses.
func plainTitles() []string { return []string{"F", "S", "UID", "USER", "PPID"} }

// checkPS refuses other arguments of ps.
func checkPS(args []string) error {
	before := ""
	for _, arg := range args {
		value := strings.HasSuffix(strings.ToLower(before), "o") || before == "--sort" || before == "--format"
		unnamed := strings.HasPrefix(arg, "--no") || !value && !strings.HasPrefix(arg, "-") && strings.Contains(arg, "h") // of columns
		if !psWord().MatchString(arg) || unnamed {
			return fmt.Errorf("%w argument of ps: %q", ErrInvalid, arg)
		}
		before = arg
	}
	return nil
}

// Top lists the processes of a running container as ps does, with its arguments; none are "-ef".
func (m *Manager) Top(ctx context.Context, c store.Container, args []string) (titles []string, rows [][]string, err error) {
	if err := checkPS(args); err != nil {
		return nil, nil, err
	}
	pids, err := m.Pids(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	out, err := exec.CommandContext(ctx, "ps", args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return nil, nil, fmt.Errorf("error running ps: %w", err)
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	titles = strings.Fields(lines[0])
	column := slices.Index(titles, "PID")
	if column < 0 {
		return nil, nil, errors.New("couldn't find PID field in ps output")
	}
	if i := slices.IndexFunc(titles[:column], func(title string) bool { return !slices.Contains(plainTitles(), title) }); i >= 0 {
		return nil, nil, fmt.Errorf("%w arguments of ps: PID has to come before %s, which a process may choose", ErrInvalid, titles[i])
	}
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) <= column {
			continue
		}
		if pid, err := strconv.Atoi(fields[column]); err != nil || !slices.Contains(pids, pid) {
			continue
		}
		if n := len(titles); len(fields) > n { // the last one has spaces
			fields = append(fields[:n-1], strings.Join(fields[n-1:], " "))
		}
		rows = append(rows, fields)
	}
	return titles, rows, nil
}

// Stats is what the processes of a container use now, as the kernel tells it of each of them: what had ended before its parent asked counts with that one.
type Stats struct {
	Time          time.Time
	User, System  time.Duration // of processors, since each began
	Memory, Limit int64         // bytes; of the container, or of the machine
	Pids          int           // processes and threads
}

// clockTick is the unit of times in /proc, which is the same on all architectures.
const clockTick = 10 * time.Millisecond

// Stats asks the kernel.
func (m *Manager) Stats(ctx context.Context, c store.Container) (*Stats, error) {
	pids, err := m.Pids(ctx, c)
	if err != nil {
		return nil, err
	}
	s := &Stats{Time: time.Now()}
	for _, pid := range pids {
		number, ok := stat(pid)
		if !ok {
			continue
		}
		s.User += time.Duration(number(14)+number(16)) * clockTick
		s.System += time.Duration(number(15)+number(17)) * clockTick
		s.Pids += number(20)
		s.Memory += int64(number(24)) * int64(os.Getpagesize())
	}
	if config, err := ReadConfig(c); err == nil {
		s.Limit = config.Resources.Memory
	}
	return s, nil
}
