// Command suites runs BuildKit's own integration tests, of the release that slipway links, unchanged, against a daemon.
//
//	suites -buildkitd PATH [-run REGEXP] [-skip REGEXP] [-record LIST] [-v] SUITE LIST
//
// SUITE is a package of BuildKit with such tests ("client", "frontend/dockerfile"). PATH is started as buildkitd by the
// tests themselves; it may be slipway, which knows that name. LIST has the tests that do not pass, a line each: the test's
// name, a tab, and the reason. The run fails when a test fails that is not in the list, or passes that is.
//
// It runs as root; what the tests need beside the daemon is buildctl (-buildctl), Debian's docker-registry, git and a Go tool chain.
// Images that the tests pull from Docker Hub are stood in for by those of hack/bases; a test that needs what only the
// real ones have fails with every daemon here, and its reason in the list begins with "machine: ".
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
	var o options
	flag.StringVar(&o.buildkitd, "buildkitd", "", "the daemon")
	flag.StringVar(&o.buildctl, "buildctl", "", "BuildKit's client")
	flag.StringVar(&o.run, "run", "", "only tests that match")
	flag.StringVar(&o.skip, "skip", "", "no tests that match")
	flag.StringVar(&o.record, "record", "", "write the tests that do not pass to this list instead of comparing; reasons that are known are kept")
	flag.StringVar(&o.logs, "logs", "", "keep the output of each test that fails in this directory")
	flag.DurationVar(&o.timeout, "timeout", time.Hour, "end the tests after")
	flag.Parse()
	if flag.NArg() != 2 || o.buildkitd == "" || o.buildctl == "" {
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
	buildkitd, buildctl, suite, list string
	run, skip, record, logs          string
	timeout                          time.Duration
}

// main runs the suite and reports whether it went as the list says.
func (o *options) main(ctx context.Context, out io.Writer) (bool, error) {
	known, err := readList(o.list)
	if err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "suites")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	p := place{dir: dir}
	if err := p.programs(o.buildkitd, o.buildctl); err != nil {
		return false, err
	}
	if err := p.compile(ctx, o.suite); err != nil {
		return false, err
	}
	if err := p.mirror(ctx); err != nil {
		return false, fmt.Errorf("filling the registry: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	results, err := o.runAll(ctx, &p, out)
	if err != nil {
		return false, err
	}
	if o.logs != "" {
		if err := results.keep(filepath.Clean(o.logs)); err != nil {
			return false, err
		}
	}
	if o.record != "" {
		return true, results.list(known).write(o.record)
	}
	return results.compare(out, known, o.run == "" && o.skip == ""), nil
}
