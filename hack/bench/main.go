// Command bench times slipway beside the plain commands that bound it from below, and beside
// Debian's buildah, and its server beside BuildKit's daemon with the same client, in one run. It needs root, and prints a
// table; it never judges a time.
//
//	go run ./hack/bench                 every row
//	go run ./hack/bench -list           the names of the rows
//	go run ./hack/bench -run 'copy|run' some of them
//
// # Structure
//
// A row (rows_*.go) has up to three tasks: what slipway does, the bound, and the same by
// buildah, or by BuildKit's daemon (daemon.go). They take turns (measure.go), so that whatever else the machine does meets all of
// them, each with its store in one directory on a tmpfs that is removed at the end, whatever
// happened (room.go).
//
// # Caveats
//
// A registry runs as a second process of this program (serve.go), not in this one: the kernel
// counts the memory of this process as a floor of the peak of every process that it starts, so
// it must stay small. Stores on a tmpfs hide what a disk would cost.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"
)

// settings are the flags.
type settings struct {
	run      string // regular expression of row names
	n        int    // repetitions; 0 is each row's own number
	markdown bool
	list     bool
	slipway  string // path of the binary; empty: build it
	bases    string // directory of base images
	buildkit string // directory of BuildKit's programs and buildx
	tmpfs    string // where the stores go
	serve    string // directory to serve; set in the second process only
	toolset  bool   // whether that process makes the image of the large rows
	debian   bool   // whether it makes the Debian base image
	noOther  bool   // leave buildah out
	verbose  bool
}

func main() {
	var s settings
	flag.StringVar(&s.run, "run", "", "only rows whose name matches this `regexp`")
	flag.IntVar(&s.n, "n", 0, "repetitions of each row (default: its own number)")
	flag.BoolVar(&s.markdown, "markdown", false, "print the table as markdown")
	flag.BoolVar(&s.list, "list", false, "list the rows and end")
	flag.StringVar(&s.slipway, "slipway", "", "`path` of the binary (default: build bin/slipway)")
	flag.StringVar(&s.bases, "bases", "", "`directory` of base images (default: build/bases of the repository)")
	flag.StringVar(&s.buildkit, "buildkit", "", "`directory` of buildkitd, buildctl and buildx (default: compile them into build/tools of the repository)")
	flag.StringVar(&s.tmpfs, "tmpfs", "/dev/shm", "`directory` on a tmpfs for the stores")
	flag.BoolVar(&s.noOther, "no-buildah", false, "leave buildah and BuildKit's daemon out")
	flag.BoolVar(&s.verbose, "v", false, "show each command")
	flag.StringVar(&s.serve, "serve", "", "used by the program itself")
	flag.BoolVar(&s.toolset, "toolset", false, "used by the program itself")
	flag.BoolVar(&s.debian, "debian", false, "used by the program itself")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, s)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s settings) error {
	if s.serve != "" {
		return serve(ctx, s)
	}
	rows, err := choose(s.run)
	if err != nil {
		return err
	}
	if s.list {
		for _, r := range rows {
			fmt.Println(r.name)
		}
		return nil
	}
	if os.Geteuid() != 0 {
		return errors.New("containers are run as root today: run it as root")
	}
	repo, err := repository(ctx)
	if err != nil {
		return err
	}
	if s.bases == "" {
		s.bases = filepath.Join(repo, "build", "bases")
	}
	if s.buildkit == "" {
		s.buildkit = filepath.Join(repo, "build", "tools")
	}
	if s.slipway == "" {
		if s.slipway, err = buildSlipway(ctx, repo); err != nil {
			return err
		}
	}
	for _, path := range []*string{&s.slipway, &s.bases, &s.buildkit} { // rows run in directories of their own
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	return bench(ctx, s, repo, rows)
}

// bench runs the rows and prints the table, also of what was measured before a failure.
func bench(ctx context.Context, s settings, repo string, rows []row) (err error) {
	debug.SetGCPercent(10) // to stay small: see Caveats
	room, err := newRoom(ctx, s, repo, rows)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, room.close()) }()
	var results []result
	for i, r := range rows {
		if ctx.Err() != nil {
			break
		}
		fmt.Fprintf(os.Stderr, "[%d/%d] %s\n", i+1, len(rows), r.name)
		res, rerr := room.run(ctx, r)
		if ctx.Err() != nil {
			break // the row is incomplete
		}
		if rerr != nil {
			err = errors.Join(err, fmt.Errorf("row %s: %w", r.name, rerr))
			continue
		}
		results = append(results, res)
		if res.slipway.err != nil {
			err = errors.Join(err, fmt.Errorf("row %s: %w", r.name, res.slipway.err))
		}
	}
	if ctx.Err() != nil {
		err = errors.Join(err, errors.New("interrupted"))
	}
	if len(results) > 0 {
		perr := writeTable(os.Stdout, results, s.markdown)
		err = errors.Join(err, perr, writeNotes(os.Stdout, room, results))
	}
	return err
}

// choose returns the rows whose name matches a regular expression.
func choose(pattern string) ([]row, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("reading -run: %w", err)
	}
	var chosen []row
	for _, r := range catalogue() {
		if re.MatchString(r.name) {
			chosen = append(chosen, r)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no row matches %q: -list shows their names", pattern)
	}
	return chosen, nil
}

// repository is the root of slipway's source, in which the program was started.
func repository(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/slipway-build/slipway").Output()
	if err != nil {
		return "", fmt.Errorf("finding slipway's source: %w: run it in the repository", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// buildSlipway builds the binary and returns its path.
func buildSlipway(ctx context.Context, repo string) (string, error) {
	cmd := exec.CommandContext(ctx, "make", "-C", repo, "build")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("building slipway: %w", err)
	}
	return filepath.Join(repo, "bin", "slipway"), nil
}

// firstLine returns the first line that a command prints, or "" when it cannot be run.
func firstLine(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// tail returns the last lines of a reader's file, for messages.
func tail(path string, lines int) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const window = 4 << 10
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		f.Seek(max(0, end-window), io.SeekStart)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
