package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// place is what a suite runs in: programs, the compiled tests, and a registry's directory with images.
type place struct {
	dir     string // of this run alone
	kept    string // what later runs have, too
	module  string // BuildKit's sources
	version string
	tests   string // the compiled suite
	sources string // its package's directory
	engine  bool   // the daemon is Docker's
}

func (p *place) bin() string { return filepath.Join(p.dir, "bin") }

func (p *place) fixtures() string { return filepath.Join(p.dir, "fixtures") }

// programs puts those that the tests look for by their names in one directory.
func (p *place) programs(o *options) error {
	if err := os.Mkdir(p.bin(), 0o755); err != nil {
		return err
	}
	programs := map[string]string{"buildctl": o.buildctl, "registry": "docker-registry"}
	if p.engine {
		programs[engineName], programs[dockerdName] = o.dockerd, "/proc/self/exe"
	} else {
		programs["buildkitd"] = o.buildkitd
	}
	for as, program := range programs {
		path, err := exec.LookPath(program)
		if err != nil {
			return err
		}
		if path, err = filepath.Abs(path); err == nil && as == dockerdName {
			path, err = os.Executable()
		}
		if err != nil {
			return err
		}
		if err := os.Symlink(path, filepath.Join(p.bin(), as)); err != nil {
			return err
		}
	}
	return nil
}

// find finds the sources of the BuildKit that slipway links.
func (p *place) find(ctx context.Context) error {
	const module = "github.com/moby/buildkit"
	out, err := exec.CommandContext(ctx, "go", "mod", "download", "-json", module).Output()
	if err != nil {
		return fmt.Errorf("finding %s: %w", module, err)
	}
	var m struct{ Dir, Version string }
	if err := json.Unmarshal(out, &m); err != nil {
		return err
	}
	p.module, p.version = m.Dir, m.Version
	return nil
}

// compile compiles a suite with the dependencies that it was released with, or takes what an earlier run compiled.
func (p *place) compile(ctx context.Context, suite string) error {
	p.sources = filepath.Join(p.module, suite)
	p.tests = filepath.Join(p.kept, strings.ReplaceAll(suite, "/", "-")+"-"+p.version+"-"+runtime.Version()+".test")
	if _, err := os.Stat(p.tests); err == nil {
		return nil
	}
	if err := os.MkdirAll(p.kept, 0o755); err != nil {
		return err
	}
	for _, file := range []string{"go.mod", "go.sum"} { // the module's own cannot be written to
		data, err := os.ReadFile(filepath.Join(p.module, file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(p.dir, file), data, 0o600); err != nil {
			return err
		}
	}
	partial := filepath.Join(p.dir, "suite.test")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-buildvcs=false", "-mod=mod", "-modfile="+filepath.Join(p.dir, "go.mod"), "-o", partial, "./"+suite)
	cmd.Dir, cmd.Stderr = p.module, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("compiling the tests of %s: %w", suite, err)
	}
	if err := copyFile(partial, p.tests+".new"); err != nil { // the directories may be two filesystems
		return err
	}
	return os.Rename(p.tests+".new", p.tests)
}

func copyFile(from, to string) (err error) {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	_, err = io.Copy(w, r)
	return err
}

// sign makes the keys that commits and files are signed with, by BuildKit's own scripts.
func (p *place) sign(ctx context.Context) error {
	if err := os.Mkdir(p.fixtures(), 0o700); err != nil {
		return err
	}
	for _, script := range []string{"gen_gpg_test_env.sh", "gen_ssh_test_env.sh"} {
		text, err := os.ReadFile(filepath.Join(p.module, "hack/fixtures", script))
		if err != nil {
			return err
		}
		// Git writes the key to TMPDIR.
		text = bytes.ReplaceAll(text, []byte("        /tmp/.git_signing_key_tmp"), []byte("        */.git_signing_key_tmp"))
		for _, user := range []string{"user1", "user2"} {
			cmd := exec.CommandContext(ctx, "sh", "-s", user)
			cmd.Stdin, cmd.Env = bytes.NewReader(text), p.env()
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("making keys with BuildKit's %s: %w\n%s", script, err, out)
			}
		}
	}
	return nil
}

// env is the tests' environment.
func (p *place) env() []string {
	env := os.Environ()
	if p.engine {
		env = append(env, "TEST_DOCKERD=1")
	}
	return append(env, "PATH="+p.bin()+":"+os.Getenv("PATH"), "TMPDIR="+filepath.Join(p.dir, "t"),
		"BUILDKIT_REGISTRY_MIRROR_DIR="+filepath.Join(p.dir, "mirror"), "BUILDKIT_TEST_SIGN_FIXTURES="+p.fixtures(),
		"REGISTRY_VALIDATION_DISABLED=true") // of newer registries so by default: layers may be elsewhere
}

// config is what the tests would write, had they found no registry.
const config = `version: 0.1
loglevel: debug
storage:
    filesystem:
        rootdirectory: %s
http:
    addr: 127.0.0.1:0
`

// mirror makes the directory of a registry that has the images, so that no test asks another one for them.
func (p *place) mirror(ctx context.Context) (err error) {
	dir := filepath.Join(p.dir, "mirror")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, filepath.Join(dir, "data")), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin(), "registry"), "serve", file)
	cmd.Env = p.env()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer cmd.Wait() //nolint:errcheck // it is killed
	defer cancel()
	listening := regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)
	host := ""
	lines := bufio.NewScanner(stderr)
	for host == "" && lines.Scan() {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			host = m[1]
		}
	}
	if host == "" {
		return errors.New("the registry does not listen")
	}
	go func() {
		for lines.Scan() { // it must not wait for somebody who reads
		}
	}()
	images, err := images()
	if err != nil {
		return err
	}
	for image, img := range images {
		ref, err := name.ParseReference(host+"/"+image, name.Insecure)
		if err != nil {
			return err
		}
		if err := remote.Write(ref, img, remote.WithContext(ctx), remote.WithNondistributable); err != nil {
			return err
		}
	}
	return nil
}
