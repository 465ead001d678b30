// Command record builds the conformance cases with BuildKit and writes down what it made.
//
//	record -buildkitd PATH -buildctl PATH [-out DIR] [-run RE] CASES
//	record -buildkitd PATH -buildctl PATH -slipway PATH [INDEX]
//
// The second form compares how large layers are that slipway and BuildKit compress, and fails where slipway's are larger. With
// INDEX it has both keep caches at the same places, and writes BuildKit's index to that file.
//
// It runs the daemon as root with everything below a temporary directory.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/hack/conformance"
	"github.com/slipway-build/slipway/hack/conformance/daemon"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

func main() {
	var r recorder
	flag.StringVar(&r.buildkitd, "buildkitd", "buildkitd", "BuildKit's daemon")
	flag.StringVar(&r.buildctl, "buildctl", "buildctl", "BuildKit's client")
	flag.StringVar(&r.out, "out", "testdata/buildkit", "where the records go")
	run := flag.String("run", ".", "which cases, by a regular expression")
	show := flag.Bool("show", false, "print the records instead of keeping them")
	slipway := flag.String("slipway", "", "compare sizes of layers, and caches, with this slipway, instead of recording cases")
	flag.Parse()
	if *slipway != "" {
		err := r.with(func() error {
			err := r.sizes(*slipway)
			if index := flag.Arg(0); index != "" {
				err = errors.Join(err, r.caches(*slipway, index))
			}
			return err
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, "record:", err)
			os.Exit(1)
		}
		return
	}
	r.show = *show
	if err := r.main(flag.Arg(0), regexp.MustCompile(*run)); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

type recorder struct {
	buildkitd, buildctl, out, dir string
	certs                         string // names the registry as docker.io, for slipway
	show                          bool
	bases                         map[string]bool
	daemons                       chan *daemon.Daemon
	mu                            sync.Mutex
}

// parallel is how many daemons build at the same time.
const parallel = 4

func (r *recorder) main(cases string, run *regexp.Regexp) (err error) {
	all, err := conformance.Load(cases)
	if err != nil {
		return err
	}
	return r.with(func() error {
		var g errgroup.Group
		g.SetLimit(parallel)
		errs := make([]error, len(all))
		for i, c := range all {
			if run.MatchString(c.Name) {
				g.Go(func() error {
					errs[i] = r.record(c)
					return nil
				})
			}
		}
		return errors.Join(g.Wait(), errors.Join(errs...))
	})
}

// with runs f while the registry and the daemons run.
func (r *recorder) with(f func() error) (err error) {
	if r.dir, err = os.MkdirTemp("/dev/shm", "conformance-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	stop, err := r.start()
	defer stop()
	if err != nil {
		return err
	}
	return f()
}

// start starts the registry and the daemons.
func (r *recorder) start() (stop func(), err error) {
	reg := registrytest.New()
	stop = reg.Close
	if r.bases, err = conformance.PushBases(reg.Host); err != nil {
		return stop, err
	}
	r.certs = filepath.Join(r.dir, "certs")
	if err := os.MkdirAll(filepath.Join(r.certs, "docker.io"), 0o755); err != nil {
		return stop, err
	}
	if err := os.WriteFile(filepath.Join(r.certs, "docker.io", "hosts.toml"), fmt.Appendf(nil, "server = %q\n", reg.URL), 0o644); err != nil {
		return stop, err
	}
	var started []*daemon.Daemon
	stop = func() {
		for _, d := range started {
			d.Stop()
		}
		reg.Close()
	}
	r.daemons = make(chan *daemon.Daemon, parallel)
	for i := range parallel {
		d := &daemon.Daemon{Buildctl: r.buildctl, Dir: filepath.Join(r.dir, fmt.Sprint("daemon", i))}
		started = append(started, d)
		if err := d.Start(r.buildkitd, reg.Host); err != nil {
			return stop, err
		}
		r.daemons <- d
	}
	return stop, nil
}

// record builds the Dockerfiles of a case.
func (r *recorder) record(c *conformance.Case) error {
	d := <-r.daemons
	defer func() { r.daemons <- d }()
	out := map[string]*conformance.Record{}
	for _, file := range c.Dockerfiles {
		scratch, err := os.MkdirTemp(r.dir, "case-")
		if err != nil {
			return err
		}
		// What is there of other builds, of their contexts above all, shows in times.
		if err := d.Prune(); err != nil {
			return err
		}
		if out[file], err = c.Build(d, file, scratch, r.bases); err != nil {
			return fmt.Errorf("%s, %s: %w", c.Name, file, err)
		}
		if err := os.RemoveAll(scratch); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, file := range c.Dockerfiles {
		if r.show {
			fmt.Printf("%s %s\n%s", c.Name, file, out[file].JSON())
		} else if e := out[file].Error; e != "" { // to see whether that is what the case is about
			fmt.Printf("%s, %s: %s\n", c.Name, file, e)
		}
	}
	if r.show {
		return nil
	}
	return conformance.WriteRecords(filepath.Join(r.out, c.Name+".json"), out)
}
