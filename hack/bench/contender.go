package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// version is the shortest thing that slipway does.
func (m *room) version() command { return command{args: []string{m.settings.slipway, "version"}} }

// slipway is a command line of slipway on the row's store; roots is below the row's directory.
func (p *place) slipway(args ...string) command {
	return command{args: append([]string{p.settings.slipway, "--root", p.path("slipway"), "--certs-dir", p.certs}, args...)}
}

// build builds the context dir of the row as an image, with slipway.
func (p *place) build(dir string, flags ...string) command {
	args := append([]string{"build", "-t", imageName}, flags...)
	return p.slipway(append(args, dir)...)
}

// emptyStores removes what slipway and buildah have of the row.
func (p *place) emptyStores(context.Context, int) error {
	return errors.Join(removeAll(p.path("slipway")), removeAll(p.path("buildah")), removeAll(p.path("buildah-run")))
}

// imageName is what all rows call their image: each has a store of its own.
const imageName = "bench:row"

// writeBuildahConfig lets buildah pull from the registry of the run, and nothing else change it.
func (m *room) writeBuildahConfig() error {
	path, err := exec.LookPath("buildah")
	if err != nil {
		return nil // the table says so
	}
	conf, policy := filepath.Join(m.dir, "registries.conf"), filepath.Join(m.dir, "policy.json")
	text := "unqualified-search-registries = [\"docker.io\"]\n" +
		"[[registry]]\nprefix = \"docker.io\"\nlocation = \"" + m.served.Addr + "\"\ninsecure = true\n"
	err = errors.Join(
		os.WriteFile(conf, []byte(text), 0o644),
		os.WriteFile(policy, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o644),
		os.Mkdir(filepath.Join(m.dir, "registries.conf.d"), 0o755))
	m.buildah = []string{path, "--storage-driver", "overlay",
		"--registries-conf", conf, "--registries-conf-dir", filepath.Join(m.dir, "registries.conf.d")}
	return err
}

// buildahCmd is a command line of buildah on the row's store.
func (p *place) buildahCmd(args ...string) command {
	global := append(append([]string{}, p.buildah...), "--root", p.path("buildah"), "--runroot", p.path("buildah-run"))
	return command{args: append(global, args...)}
}

// bud builds the context dir of the row as an image, with buildah: in a chroot, which is its
// quickest isolation, and with a layer for each step, as slipway has them.
func (p *place) bud(dir string, flags ...string) command {
	args := []string{"bud", "--isolation", "chroot", "--layers", "--signature-policy", filepath.Join(p.room.dir, "policy.json"), "-t", imageName}
	return p.buildahCmd(append(append(args, flags...), dir)...)
}

// buildahTask is t unless there is no buildah.
func (m *room) buildahTask(t task) task {
	if len(m.buildah) == 0 {
		return missing("not installed")
	}
	return t
}

// need returns t unless one of the programs is missing.
func need(t task, programs ...string) task {
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			return missing(name + " not installed")
		}
	}
	return t
}

// shell is a command line of sh.
func shell(format string, args ...any) command {
	return command{args: []string{"sh", "-ec", fmt.Sprintf(format, args...)}}
}

// runc gives commands that run /bin/true n times in the busybox image's files, one container
// after the other.
func (p *place) runc(ctx context.Context, n int) ([]command, error) {
	if _, err := exec.LookPath("runc"); err != nil {
		return nil, err
	}
	bundle := p.path("bundle")
	rootfs := filepath.Join(bundle, "rootfs")
	if err := p.write("rootfs-context", map[string]string{"Dockerfile": "FROM busybox\n"}); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return nil, err
	}
	err := p.do(ctx,
		p.slipway("build", "-o", rootfs, p.path("rootfs-context")),
		command{args: []string{"runc", "spec"}, dir: bundle})
	if err != nil {
		return nil, err
	}
	if err := editSpec(filepath.Join(bundle, "config.json"), "/bin/true"); err != nil {
		return nil, err
	}
	var cmds []command
	for i := range n {
		id := fmt.Sprintf("%s-%d", strings.ReplaceAll(filepath.Base(p.room.dir), ".", "-"), i)
		cmds = append(cmds, command{dir: bundle, args: []string{"runc", "--root", p.path("runc"), "run", id}})
	}
	return cmds, nil
}

// editSpec makes a bundle run one command without a terminal.
func editSpec(path string, args ...string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(data, &spec); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	process, ok := spec["process"].(map[string]any)
	if !ok {
		return fmt.Errorf("reading %s: it has no process", path)
	}
	process["terminal"], process["args"] = false, args
	if data, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
