package baseimage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// caBundle is where Debian, and so the public Go image, keeps the certificates that TLS
// clients trust.
const caBundle = "/etc/ssl/certs/ca-certificates.crt"

// skipRoot are the parts of GOROOT that no build reads.
var skipRoot = map[string]bool{"api": true, "doc": true, "misc": true, "test": true, ".git": true, "pkg/obj": true}

// FindGo returns the GOROOT of the go command in PATH and its version without the "go"
// prefix, such as "1.26.8".
func FindGo() (goroot, version string, err error) {
	out, err := exec.Command("go", "env", "GOROOT", "GOVERSION").Output()
	if err != nil {
		return "", "", fmt.Errorf("asking the go command: %w: %w", ErrMissing, err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 2 {
		return "", "", fmt.Errorf("asking the go command: got %q, want GOROOT and GOVERSION", out)
	}
	// A version may carry words: "go1.26.8 X:nocoverageredesign".
	return lines[0], strings.TrimPrefix(strings.Fields(lines[1])[0], "go"), nil
}

// GoToolchain returns busybox with the Go tool chain of goroot at /usr/local/go, in three
// layers: busybox, certificates and work directories, tool chain. There is no C compiler in
// it, so CGO_ENABLED is 0; GO111MODULE is auto so that a directory without go.mod builds, as
// tutorials have it. It takes a few seconds.
func GoToolchain(goroot, version string) (v1.Image, error) {
	static, err := isStatic(filepath.Join(goroot, "bin", "go"))
	if err != nil {
		return nil, fmt.Errorf("reading the go command: %w", err)
	}
	if !static {
		return nil, fmt.Errorf("the go command of %s needs shared libraries: %w: install Go from https://go.dev/dl/", goroot, ErrMissing)
	}
	busybox, err := Busybox()
	if err != nil {
		return nil, err
	}
	system, err := tarLayer(goSystem)
	if err != nil {
		return nil, fmt.Errorf("making layer of certificates: %w", err)
	}
	tools, err := tarLayer(func(w *tarWriter) error { return goRoot(w, goroot) })
	if err != nil {
		return nil, fmt.Errorf("making tool chain layer: %w", err)
	}
	steps := []step{{system, "certificates and work directories"}, {tools, "Go " + version + " at /usr/local/go"}}
	return assemble(busybox, steps, v1.Config{
		Env: []string{
			"PATH=/go/bin:/usr/local/go/bin:" + systemPath,
			"GOLANG_VERSION=" + version,
			"GOTOOLCHAIN=local",
			"GOPATH=/go",
			"GO111MODULE=auto",
			"CGO_ENABLED=0",
		},
		WorkingDir: "/go",
		Cmd:        []string{"sh"},
	})
}

// goSystem writes what the Go image has besides busybox and Go. A machine without a
// certificate bundle gets an image without one: builds that download nothing work there.
func goSystem(w *tarWriter) error {
	bundle, err := os.ReadFile(caBundle)
	switch {
	case err == nil:
		if err := w.bytes(strings.TrimPrefix(caBundle, "/"), 0o644, bundle); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	for _, name := range []string{"go", "go/bin", "go/src"} {
		if err := w.dir(name, 0o777); err != nil {
			return err
		}
	}
	return nil
}

// goRoot writes a GOROOT to usr/local/go. Links are followed: distributions keep parts of
// GOROOT elsewhere.
func goRoot(w *tarWriter, goroot string) error {
	if err := w.dir("usr/local", 0o755); err != nil {
		return err
	}
	return goTree(w, goroot, "")
}

// goTree writes the directory rel of the tree at root and everything below it.
func goTree(w *tarWriter, root, rel string) error {
	if err := w.dir(path.Join("usr/local/go", rel), 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(root, rel))
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(rel, e.Name())
		if skipRoot[name] || e.Name() == "testdata" || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		from := filepath.Join(root, name)
		info, err := os.Stat(from)
		if err != nil {
			return err
		}
		switch {
		case info.IsDir():
			err = goTree(w, root, name)
		case info.Mode().IsRegular():
			err = w.hostFile(path.Join("usr/local/go", name), from, info)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
