// Package daemon runs BuildKit's daemon for the tools that record what it makes.
package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/hack/conformance"
)

// Daemon is one buildkitd with all that it has below Dir, which is not there yet.
type Daemon struct {
	Buildctl, Dir string
	Addr          string // since Start
	cmd           *exec.Cmd
	log           bytes.Buffer
}

// Config is the configuration of a daemon that keeps what it has in root and listens at addr, with overlayfs and the host's network, for
// which a step takes least; registry is docker.io.
func Config(root, addr, registry string) []byte {
	return fmt.Appendf(nil, `root = %q
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
`, root, addr, registry)
}

// Start starts the daemon, for which registry is docker.io.
func (d *Daemon) Start(buildkitd, registry string) error {
	if err := os.Mkdir(d.Dir, 0o755); err != nil {
		return err
	}
	d.Addr = "unix://" + filepath.Join(d.Dir, "socket")
	file := filepath.Join(d.Dir, "buildkitd.toml")
	if err := os.WriteFile(file, Config(filepath.Join(d.Dir, "root"), d.Addr, registry), 0o600); err != nil {
		return err
	}
	d.cmd = exec.Command(buildkitd, "--config", file, "--allow-insecure-entitlement", "security.insecure")
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	if err := d.cmd.Start(); err != nil {
		return err
	}
	for range 100 {
		if exec.Command(d.Buildctl, "--addr", d.Addr, "debug", "workers").Run() == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	d.Stop()
	return fmt.Errorf("buildkitd does not start: %s", d.log.String())
}

// Stop ends it.
func (d *Daemon) Stop() {
	if d.cmd == nil || d.cmd.Process == nil {
		return
	}
	d.cmd.Process.Signal(unix.SIGTERM) //nolint:errcheck // then it has ended
	d.cmd.Wait()                       //nolint:errcheck // by that signal
}

// Prune makes the daemon forget all builds.
func (d *Daemon) Prune() error {
	out, err := exec.Command(d.Buildctl, "--addr", d.Addr, "prune", "--all").CombinedOutput()
	if err != nil {
		return fmt.Errorf("pruning: %w: %s", err, out)
	}
	return nil
}

// Build implements conformance.Builder.
func (d *Daemon) Build(dir *conformance.Dir, dockerfile string, options []string, output, dest string) ([]byte, bool, error) {
	args := []string{"--addr", d.Addr, "build", "--progress=rawjson", "--frontend", "dockerfile.v0",
		"--local", "context=" + dir.Context, "--local", "dockerfile=" + dir.Dockerfiles, "--opt", "filename=" + dockerfile,
		"--output", "type=" + output + ",dest=" + dest}
	for _, o := range options {
		switch e, isAllow := strings.CutPrefix(o, "allow="); {
		case o == "no-cache=":
			args = append(args, "--no-cache")
		case strings.HasPrefix(o, "secret="):
			args = append(args, "--secret", dir.Expand(strings.TrimPrefix(o, "secret=")))
		case isAllow:
			args = append(args, "--allow", e)
		default:
			args = append(args, "--opt", o)
		}
	}
	var stderr bytes.Buffer
	cmd := exec.Command(d.Buildctl, args...)
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return stderr.Bytes(), true, nil
	}
	return stderr.Bytes(), false, err
}
