package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// store is one store and what has to be in it.
type store struct {
	*round
	root string
	// boot is a file with another boot id than the machine's, or "".
	boot string
	// names are the images that have to be there, and the containers, by name.
	names, containers map[string]allowed
	// damaged says that something of it was damaged, which may still be there.
	damaged bool
}

// allowed are the values that a name may have: "" is that it is not there, "*" anything. What a command
// that did not end had begun may be done or not.
type allowed []string

func only(id string) allowed { return allowed{id} }

func (a allowed) has(id string) bool {
	for _, v := range a {
		if v == id || v == "*" && id != "" {
			return true
		}
	}
	return false
}

// or is a value that it may have besides.
func (a allowed) or(id string) allowed {
	if a == nil {
		a = only("")
	}
	return append(append(allowed{}, a...), id)
}

// sure is the one value that it has, or "".
func (a allowed) sure() string {
	if len(a) == 1 && a[0] != "*" {
		return a[0]
	}
	return ""
}

func (r *round) store(root string) *store {
	return &store{round: r, root: root, names: map[string]allowed{}, containers: map[string]allowed{}}
}

// What a store begins with. What is built in one that has all of it already is the same as what is there, to the byte,
// and so nothing is written.
type beginning string

const (
	empty beginning = "nothing"
	bare  beginning = "the base image"
	full  beginning = "all images"
)

// stocked is a store with some beginning, by the round's choice.
func (r *round) stocked(root string) (*store, error) {
	return r.beginning(root, oneOf(r, empty, bare, full, full))
}

func (r *round) beginning(root string, with beginning) (*store, error) {
	s := r.store(root)
	r.note("a store with %s", with)
	switch with {
	case empty:
		return s, nil
	case bare:
		s.names[busybox] = only("*")
		return s, copyTree(r.bareroom, root)
	}
	return s, s.stock()
}

// stock puts all images in the store.
func (s *store) stock() error {
	for name, t := range s.truths {
		s.names[name] = only(t.id)
	}
	return copyTree(s.stockroom, s.root)
}

// busybox is the base image.
const busybox = "docker.io/library/busybox:latest"

// result is how a command ended.
type result struct {
	args     []string
	out, err string
	code     int
	killed   bool
	hung     bool
}

func (c result) ok() bool { return c.code == 0 && !c.killed && !c.hung }

func (c result) String() string {
	how := fmt.Sprintf("exit %d", c.code)
	switch {
	case c.hung:
		how = "hung"
	case c.killed:
		how = "killed"
	}
	text := fmt.Sprintf("slipway %s: %s", strings.Join(c.args, " "), how)
	if !c.ok() && !c.killed && c.err != "" {
		text += ": " + lastLines(c.err, 3)
	}
	return text
}

// program is slipway's command line in the store; around are words before it.
func (s *store) program(ctx context.Context, around []string, args ...string) *exec.Cmd {
	words := append(append([]string{}, around...), s.slipway)
	if s.boot != "" {
		words = append([]string{"unshare", "-m", "sh", "-ec", `mount --bind "$0" /proc/sys/kernel/random/boot_id; exec "$@"`, s.boot}, words...)
	}
	words = append(words, args...)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + s.dir, "SLIPWAY_ROOT=" + s.root,
		"SLIPWAY_CERTS_DIR=" + s.path("certs.d"), "SOURCE_DATE_EPOCH=1700000000",
		"GORACE=" + os.Getenv("GORACE"), // `make race` has suppressions there
		plantedVariable + "=" + s.planted,
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// exec runs a command of slipway to its end.
func (s *store) exec(ctx context.Context, around []string, args ...string) result {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return s.finish(ctx, s.program(ctx, around, args...), args, nil)
}

// finish starts a command, calls while, and waits for it.
func (s *store) finish(ctx context.Context, cmd *exec.Cmd, args []string, while func(pid int)) result {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	c := result{args: args}
	err := cmd.Start()
	if err == nil {
		if while != nil {
			while(cmd.Process.Pid)
		}
		err = cmd.Wait()
	}
	c.out, c.err = out.String(), errs.String()
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		c.code = ended.ExitCode()
		c.killed = ended.Sys().(syscall.WaitStatus).Signaled()
	case err != nil:
		c.code, c.err = -1, c.err+err.Error()
	}
	c.hung = errors.Is(ctx.Err(), context.DeadlineExceeded)
	s.note("%s", c)
	return c
}

// noSentence is what no message may have: it is for those who wrote the program.
var noSentence = regexp.MustCompile(`(?i)panic:|goroutine \d|SIGSEGV|runtime error|sqlite|SQL logic|constraint failed|malformed|database is locked|database disk`)

// sane says what is wrong with how a command ended, whatever was done to it.
func (s *store) sane(c result) error {
	if c.hung {
		return fmt.Errorf("it hung: %s", c)
	}
	if m := noSentence.FindString(c.err); m != "" {
		return fmt.Errorf("%q is no sentence: slipway %s:\n%s", m, strings.Join(c.args, " "), lastLines(c.err, 30))
	}
	// A container whose process was killed has its exit code and no more words, as with docker.
	container := c.code == 128+int(syscall.SIGKILL) && slices.Contains([]string{"run", "start"}, c.args[0])
	if !c.ok() && !c.killed && !container && strings.TrimSpace(c.err) == "" {
		return fmt.Errorf("it says nothing of why: %s", c)
	}
	return nil
}

// must runs a command that has to work.
func (s *store) must(ctx context.Context, args ...string) (stdout string, err error) {
	c := s.exec(ctx, nil, args...)
	if err := s.sane(c); err != nil {
		return "", err
	}
	if !c.ok() {
		return "", fmt.Errorf("it has to work: %s\n%s", c, lastLines(c.err, 12))
	}
	return c.out, nil
}

// copyTree copies a directory as it is.
func copyTree(from, to string) error {
	if out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copying %s: %w: %s", from, err, out)
	}
	return nil
}

// mounts are the mount points below a directory, the last mounted first, as a process sees them.
func mounts(pid, dir string) (points []string, err error) {
	data, err := os.ReadFile(filepath.Join("/proc", pid, "mountinfo"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && (fields[4] == dir || strings.HasPrefix(fields[4], dir+"/")) {
			points = append([]string{fields[4]}, points...)
		}
	}
	return points, nil
}

// removeAll unmounts what is mounted below dir, and removes it.
func removeAll(dir string) error {
	points, err := mounts("self", dir)
	if err != nil {
		return err
	}
	for _, p := range points {
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmounting %s: %w", p, err)
		}
	}
	return os.RemoveAll(dir)
}
