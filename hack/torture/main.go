// Command torture does to slipway's store what a machine may do to it in years: it kills slipway at any moment,
// takes the power, fills the disk, breaks reads and files, sets the clock, and lets many processes work in one
// store at once. After each round it looks whether what was promised held (docs/reliability.md), and it prints
// a table of what was done, how often, and what was lost. It needs root.
//
//	go run ./hack/torture                     all kinds, as many rounds as docs/reliability.md tells
//	go run ./hack/torture -part 20            a twentieth of that
//	go run ./hack/torture -list               the kinds
//	go run ./hack/torture -run 'kill|power' -rounds 50
//	go run ./hack/torture -run kill -seed 17 -rounds 1   the round that failed with seed 17
//	go run ./hack/torture -run none -plant .             nothing but whether planted defects are found
//
// # Structure
//
// A kind (kind.go) has a function that is one round: it makes a store (store.go), does something to it while
// commands run there (work.go), and checks all promises (check.go). What the commands have to give was found out
// by running them once in peace (ground.go). All choices of a round come from its seed.
//
// Whether a kind can find anything is tried, too: slipway is built with defects planted in it (defects.go), and rounds
// of their kinds have to fail (plant.go).
//
// # Caveats
//
// A round that is repeated makes the same choices; where a process was when it met them depends on the machine.
// Everything is mounted in a mount namespace that ends with the program.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// settings are the flags.
type settings struct {
	run      string         // regular expression of kinds
	calls    *regexp.Regexp // of those that are chosen to kill at, or to fail
	deeds    *regexp.Regexp // of commands that are chosen
	places   *regexp.Regexp // of files that are chosen to damage
	plant    string         // regular expression of planted defects
	planted  string         // the one that slipway has, or ""
	rounds   int            // of each kind; 0: its own number
	part     int            // of its own number, where rounds is 0: one part-th
	seed     uint64         // of the first round; the next ones count on
	slipway  string         // path of the binary
	tmpfs    string         // where the stores go
	workers  int            // rounds at the same time
	timeout  time.Duration
	write    string // file whose table is replaced
	past     string // file with what was done, with which a run that was stopped goes on
	list     bool
	verbose  bool
	keep     bool // the directory of a round that failed
	short    bool // as in the tests
	markdown bool
}

var anything = regexp.MustCompile("")

func main() {
	s := settings{calls: anything, deeds: anything, places: anything}
	for _, f := range []struct {
		name, usage string
		of          **regexp.Regexp
	}{
		{"calls", "only kill at, or have fail, system calls that match this `regexp`", &s.calls},
		{"deeds", "only do commands that match this `regexp`", &s.deeds},
		{"places", "only damage files whose place matches this `regexp`", &s.places},
	} {
		flag.Func(f.name, f.usage, func(text string) (err error) {
			*f.of, err = regexp.Compile(text)
			return err
		})
	}
	flag.StringVar(&s.plant, "plant", "", "plant defects whose name matches this `regexp`, to see that they are found (default: all, unless -run is given)")
	flag.StringVar(&s.run, "run", "", "only kinds whose name matches this `regexp`; \"none\" is none")
	flag.IntVar(&s.rounds, "rounds", 0, "rounds of each kind (default: its own number)")
	flag.IntVar(&s.part, "part", 1, "only one `n`-th of each kind's own number of rounds")
	flag.Uint64Var(&s.seed, "seed", 1, "seed of the first round; each next one has the next seed")
	flag.StringVar(&s.slipway, "slipway", "bin/slipway", "`path` of the binary")
	flag.StringVar(&s.tmpfs, "tmpfs", "/dev/shm", "`directory` on a tmpfs for the stores")
	flag.IntVar(&s.workers, "j", runtime.NumCPU(), "rounds at the same time")
	flag.DurationVar(&s.timeout, "timeout", 5*time.Minute, "how long a command may take before it counts as hanging")
	flag.StringVar(&s.write, "w", "", "`file` in which the table is put between its marks")
	flag.StringVar(&s.past, "journal", "", "`file` with what was done: a run that was stopped goes on where it was")
	flag.BoolVar(&s.markdown, "markdown", false, "print the table as markdown")
	flag.BoolVar(&s.list, "list", false, "list the kinds and end")
	flag.BoolVar(&s.verbose, "v", false, "show each command")
	flag.BoolVar(&s.keep, "keep", false, "keep the directory of a round that failed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := start(ctx, s)
	stop()
	var ended *exec.ExitError
	if errors.As(err, &ended) { // the one in the namespace has said why
		os.Exit(1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		os.Exit(1)
	}
}

// inNamespace is set in the environment of the process that has a mount namespace of its own.
const inNamespace = "_SLIPWAY_TORTURE"

func start(ctx context.Context, s settings) error {
	kinds, err := choose(s.run)
	if err != nil {
		return err
	}
	planted, err := chooseDefects(s)
	if err != nil {
		return err
	}
	if s.list {
		for _, k := range kinds {
			fmt.Printf("%-8s %d rounds: %s\n", k.name, k.long, k.done)
		}
		for _, d := range planted {
			fmt.Printf("planted %s, which %s has to find: %s\n", d.name, d.kind, d.what)
		}
		return nil
	}
	if os.Geteuid() != 0 {
		return errors.New("containers are run as root today: run it as root")
	}
	if os.Getenv(inNamespace) == "" {
		return again(ctx)
	}
	if s.slipway, err = filepath.Abs(s.slipway); err != nil {
		return err
	}
	if _, err := os.Stat(s.slipway); err != nil {
		return fmt.Errorf("%w: run make build", err)
	}
	return torture(ctx, s, kinds, planted)
}

// again runs this program with a mount namespace of its own, so that whatever is mounted ends with it.
func again(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Setpgid: true, Pdeathsig: syscall.SIGTERM}
	return cmd.Run()
}

// torture runs rounds of the kinds, and prints the tables also of what was done before a failure.
func torture(ctx context.Context, s settings, kinds []kind, planted []defect) (err error) {
	g, err := newGround(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	if g.journal, err = openJournal(s.past, s.slipway); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.journal.close()) }()
	var outcomes []outcome
	for _, k := range kinds {
		if ctx.Err() != nil {
			break
		}
		o := g.rounds(ctx, k)
		fmt.Fprintln(os.Stderr, o.line())
		outcomes = append(outcomes, o)
		for _, f := range o.failures {
			err = errors.Join(err, f)
		}
	}
	findings, perr := g.plantAll(ctx, planted)
	err = errors.Join(err, perr)
	if ctx.Err() != nil {
		err = errors.Join(err, errors.New("interrupted"))
	}
	return errors.Join(err, s.show(ctx, doneTable, doneRows(outcomes)), s.show(ctx, plantedTable, plantedRows(findings)))
}

// show prints a table, unless nothing was done of it, and writes it into a file if it was all done.
func (s *settings) show(ctx context.Context, name string, rows [][]string) error {
	if len(rows) == 1 {
		return nil
	}
	text := table(rows, s.markdown || s.write != "")
	fmt.Print(text)
	if s.write == "" || ctx.Err() != nil {
		return nil
	}
	return writeTable(s.write, name, text)
}

// choose returns the kinds whose name matches a regular expression.
func choose(pattern string) ([]kind, error) {
	if pattern == "none" {
		return nil, nil
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("reading -run: %w", err)
	}
	var chosen []kind
	for _, k := range kinds() {
		if re.MatchString(k.name) {
			chosen = append(chosen, k)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no kind matches %q: -list shows them", pattern)
	}
	return chosen, nil
}

// lastLines are the last lines of a text, for messages.
func lastLines(text string, n int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}
