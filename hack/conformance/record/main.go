// Command record builds the conformance cases with BuildKit and writes down what it made.
//
//	record -buildkitd PATH -buildctl PATH [-out DIR] [-run RE] CASES
//
// It runs the daemon as root with everything below a temporary directory.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/hack/conformance"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

func main() {
	var r recorder
	flag.StringVar(&r.buildkitd, "buildkitd", "buildkitd", "BuildKit's daemon")
	flag.StringVar(&r.buildctl, "buildctl", "buildctl", "BuildKit's client")
	flag.StringVar(&r.out, "out", "testdata/buildkit", "where the records go")
	run := flag.String("run", ".", "which cases, by a regular expression")
	show := flag.Bool("show", false, "print the records instead of keeping them")
	flag.Parse()
	r.show = *show
	if err := r.main(flag.Arg(0), regexp.MustCompile(*run)); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

type recorder struct {
	buildkitd, buildctl, out, dir, addr string
	show                                bool
	bases                               map[string]bool
	mu                                  sync.Mutex
}

func (r *recorder) main(cases string, run *regexp.Regexp) (err error) {
	all, err := conformance.Load(cases)
	if err != nil {
		return err
	}
	if r.dir, err = os.MkdirTemp("/dev/shm", "conformance-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	stop, err := r.start()
	if err != nil {
		return err
	}
	defer stop()
	var g errgroup.Group
	g.SetLimit(4)
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
}

// start starts the registry and the daemon.
func (r *recorder) start() (stop func(), err error) {
	bases, err := conformance.NewBases()
	if err != nil {
		return nil, err
	}
	if r.bases, err = bases.DiffIDs(); err != nil {
		return nil, err
	}
	reg := registrytest.New()
	if err := bases.Push(reg.Host); err != nil {
		reg.Close()
		return nil, err
	}
	r.addr = "unix://" + filepath.Join(r.dir, "socket")
	config := fmt.Sprintf(`root = %q
[grpc]
  address = [%q]
[worker.oci]
  enabled = true
  gc = false
  networkMode = "host"
  snapshotter = "overlayfs"
[worker.containerd]
  enabled = false
[registry."docker.io"]
  mirrors = [%[3]q]
[registry.%[3]q]
  http = true
`, filepath.Join(r.dir, "root"), r.addr, reg.Host)
	file := filepath.Join(r.dir, "buildkitd.toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	var log bytes.Buffer
	cmd := exec.Command(r.buildkitd, "--config", file, "--allow-insecure-entitlement", "security.insecure")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
		reg.Close()
	}
	for range 100 {
		if exec.Command(r.buildctl, "--addr", r.addr, "debug", "workers").Run() == nil {
			return stop, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	stop()
	return nil, fmt.Errorf("buildkitd does not start: %s", log.String())
}

// record builds the Dockerfiles of a case.
func (r *recorder) record(c *conformance.Case) error {
	out := map[string]*conformance.Record{}
	for _, d := range c.Dockerfiles {
		scratch, err := os.MkdirTemp(r.dir, "case-")
		if err != nil {
			return err
		}
		if out[d], err = c.Build(r, d, scratch, r.bases); err != nil {
			return fmt.Errorf("%s, %s: %w", c.Name, d, err)
		}
		if err := os.RemoveAll(scratch); err != nil {
			return err
		}
	}
	if r.show {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, d := range c.Dockerfiles {
			fmt.Printf("%s %s\n%s", c.Name, d, out[d].JSON())
		}
		return nil
	}
	for _, d := range c.Dockerfiles {
		if e := out[d].Error; e != "" { // to see whether that is what the case is about
			fmt.Printf("%s, %s: %s\n", c.Name, d, e)
		}
	}
	return conformance.WriteRecords(filepath.Join(r.out, c.Name+".json"), out)
}

// Build implements conformance.Builder.
func (r *recorder) Build(dir *conformance.Dir, dockerfile string, options []string, output, dest string) ([]byte, bool, error) {
	args := []string{"--addr", r.addr, "build", "--progress=rawjson", "--frontend", "dockerfile.v0",
		"--local", "context=" + dir.Context, "--local", "dockerfile=" + dir.Dockerfiles, "--opt", "filename=" + dockerfile,
		"--output", "type=" + output + ",dest=" + dest}
	for _, o := range options {
		if name, ok := strings.CutSuffix(o, "no-cache="); ok && name == "" {
			args = append(args, "--no-cache")
			continue
		}
		if e, ok := strings.CutPrefix(o, "allow="); ok {
			args = append(args, "--allow", e)
			continue
		}
		args = append(args, "--opt", o)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(r.buildctl, args...)
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return stderr.Bytes(), true, nil
	}
	return stderr.Bytes(), false, err
}
