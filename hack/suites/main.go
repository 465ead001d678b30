// Command suites runs BuildKit's own integration tests, of the release that slipway links, unchanged, against a daemon.
//
//	suites -buildkitd PATH | -dockerd PATH -buildctl PATH [-part I/N] [-run REGEXP] [-skip REGEXP] [-record] SUITE LIST
//
// SUITE is a package of BuildKit with such tests ("client", "frontend/dockerfile"), or "moby": the integration tests of Docker's daemon, with -dockerd. PATH is started as buildkitd by the
// tests themselves; it may be slipway, which knows that name. With -dockerd, tests have BuildKit's API by Docker's (TEST_DOCKERD=1), of which
// PATH, slipway, is the daemon; it has another LIST then. LIST has the tests that do not pass, a line each: the test's
// name, a tab, and the reason; a name stands for all its variants ("/frontend=client"). The run fails when a test does not pass that
// is not in the list, or passes that is. A test that does not pass and is not listed is run a second time, since many wait for so and so long.
//
// It runs as root; what the tests need beside the daemon is BuildKit's client, Debian's docker-registry, git, gpg and a Go tool chain.
// Images that the tests pull from Docker Hub are stood in for by those of hack/bases. A test that needs what only the
// real ones have, or what a machine like this lacks, passes with no daemon here: its reason in the list begins with "machine: ", which
// is to be seen with BuildKit's own daemon ("-record -machine" with it notes all that it does not pass); with "machine: skips, " the test finds that out itself, and must get that far. Reasons of tests that skip themselves with every
// daemon everywhere, as they are for another variant or another system, begin with "skips itself: ". All other reasons are slipway's.
//
// Nothing hangs: a test that does not end in time is one that fails. Its daemon is asked where it stands, which is in the output then.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if filepath.Base(os.Args[0]) == dockerdName {
		if err := dockerd(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "dockerd:", err)
			os.Exit(1)
		}
	}
	var o options
	flag.StringVar(&o.buildkitd, "buildkitd", "", "the daemon")
	flag.StringVar(&o.dockerd, "dockerd", "", "slipway, for what tests ask of Docker's daemon")
	flag.StringVar(&o.buildctl, "buildctl", "", "BuildKit's client")
	flag.StringVar(&o.part, "part", "", "one of several parts: 1/8 is the first of eight")
	flag.StringVar(&o.run, "run", "", "only tests that match")
	flag.StringVar(&o.skip, "skip", "", "no tests that match")
	flag.BoolVar(&o.record, "record", false, "write the tests that do not pass to the list instead of comparing; reasons that are known are kept")
	flag.BoolVar(&o.machine, "machine", false, "with -record: what does not pass lacks something on this machine")
	flag.StringVar(&o.logs, "logs", "", "keep the output of each test that does not pass in this directory")
	flag.StringVar(&o.kept, "dir", "build/suites", "keep compiled tests in this directory")
	flag.DurationVar(&o.timeout, "timeout", 3*time.Minute, "how long a test may take")
	flag.IntVar(&o.goal, "goal", 0, "how many per cent of the tests shall pass, to be printed")
	flag.Parse()
	if flag.NArg() != 2 || (o.buildkitd == "") == (o.dockerd == "") || o.buildctl == "" {
		flag.Usage()
		os.Exit(2)
	}
	o.suite, o.list = flag.Arg(0), flag.Arg(1)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	ok, err := o.main(ctx, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "suites:", err)
		os.Exit(1)
	}
	if !ok {
		os.Exit(1)
	}
}

type options struct {
	buildkitd, dockerd          string
	buildctl, suite, list       string
	part, run, skip, logs, kept string
	record, machine             bool
	timeout                     time.Duration
	goal                        int
}

// main runs the suite and reports whether it went as the list says.
func (o *options) main(ctx context.Context, out io.Writer) (ok bool, err error) {
	known, err := readList(o.list)
	if err != nil {
		return false, err
	}
	if o.kept, err = filepath.Abs(o.kept); err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "s") // tests make sockets in it, whose paths are short
	if err != nil {
		return false, err
	}
	p := place{dir: dir, kept: o.kept, engine: o.dockerd != ""}
	defer p.leave(os.Stderr)
	// What the daemon leaves behind, containers among it, has this process for a parent then, which ends it.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return false, fmt.Errorf("becoming the parent of orphans: %w", err)
	}
	var results results
	if o.suite == mobySuite {
		results, err = o.moby(ctx, &p, out)
	} else if err = p.prepare(ctx, o); err == nil {
		results, err = o.runAll(ctx, &p, known, out)
	}
	if err != nil {
		return false, err
	}
	if o.logs != "" {
		if err := results.keep(filepath.Clean(o.logs)); err != nil {
			return false, err
		}
	}
	if o.record {
		return true, results.list(known, o.whole(), o.machine).write(o.list)
	}
	return results.compare(out, known, o.whole(), o.goal), nil
}

// whole reports whether all tests of the suite run.
func (o *options) whole() bool { return o.part == "" && o.run == "" && o.skip == "" }

// prepare makes all that the tests need.
func (p *place) prepare(ctx context.Context, o *options) error {
	if err := os.Mkdir(filepath.Join(p.dir, "t"), 0o755); err != nil {
		return err
	}
	if err := p.programs(o); err != nil {
		return err
	}
	if err := p.find(ctx); err != nil {
		return err
	}
	if err := p.compile(ctx, o.suite); err != nil {
		return err
	}
	if err := p.sign(ctx); err != nil {
		return err
	}
	if err := p.mirror(ctx); err != nil {
		return fmt.Errorf("filling the registry: %w", err)
	}
	return nil
}
