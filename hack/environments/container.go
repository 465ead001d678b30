package environments

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// containers counts those of this process, for their names.
var containersMade atomic.Int64

// inWorkspace is the workspace's name in containers: a volume, as pods have one.
const inWorkspace = "/workspace"

// openContainer makes the root filesystem and the volumes.
func (p *Place) openContainer() error {
	p.Registry, p.Proxy = fmt.Sprintf("127.0.0.1:%d", registryPort), fmt.Sprintf("http://127.0.0.1:%d", proxyPort)
	p.InWorkspace, p.Shell = inWorkspace, "/bin/sh"
	p.Vars = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "SLIPWAY_CERTS_DIR=" + inWorkspace + "/certs.d", "SLIPWAY_WORKER_NET=host"}
	if p.Image == SkeletonImage {
		p.Shell = "/" + skeletonHome + "/bin/sh"
		p.Vars[0] = "PATH=/" + skeletonHome + "/bin:" + strings.TrimPrefix(p.Vars[0], "PATH=")
		p.Vars = append(p.Vars, "SSL_CERT_FILE=/"+skeletonHome+"/ca-certificates.crt", "SLIPWAY_ROOT=/"+skeletonHome+"/store")
	}
	if err := writeHosts(filepath.Join(p.Workspace, "certs.d"), p.Registry); err != nil {
		return err
	}
	lower, err := p.ground.lower(p.Image, p.UserNamespace)
	if err != nil {
		return err
	}
	if p.Root == PlainRoot {
		if err := exec.Command("cp", "-a", lower, p.path("rootfs")).Run(); err != nil {
			return fmt.Errorf("copying %s: %w", lower, err)
		}
	}
	for name, text := range map[string]string{
		"resolv.conf": "nameserver 127.0.0.1\n", "hosts": "127.0.0.1\tlocalhost\n", "hostname": "place\n",
		"serviceaccount/token": "the token of the service account\n", "serviceaccount/namespace": "default\n",
	} {
		file := p.path("files", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			return err
		}
	}
	for _, dir := range []string{"upper", "work", "rootfs", "volume", "bundle"} {
		if err := os.MkdirAll(p.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := p.ownRoot(lower); err != nil {
		return err
	}
	if err := p.inheritRoot(lower); err != nil {
		return err
	}
	uid, gid := p.owner()
	if p.Pod { // an emptyDir is everybody's
		if err := unix.Chmod(p.path("volume"), 0o777); err != nil {
			return err
		}
		uid, gid = 0, 0
		if p.UserNamespace {
			uid, gid = shift, shift
		}
	}
	if err := os.Chown(p.path("volume"), uid, gid); err != nil {
		return err
	}
	if p.UserNamespace {
		for _, dir := range []string{"upper", "files", "workspace"} {
			if err := chownTree(p.path(dir), shift, shift); err != nil {
				return err
			}
		}
	}
	if p.Volume != "" {
		p.Vars = append(p.Vars, "SLIPWAY_ROOT="+p.Volume+"/store")
	}
	return nil
}

// ownRoot takes the variables of slipway's own image.
func (p *Place) ownRoot(lower string) error {
	if p.Image < OwnImage {
		return nil
	}
	img, err := p.ground.own(p.Image)
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	if p.Image != DaemonImage {
		p.Shell = "/busybox/sh"
	}
	p.Vars = append(slices.Clone(config.Config.Env), p.Vars[1:]...) // but for the path
	return nil
}

// inheritRoot gives the root directory the owner that it has in the image.
func (p *Place) inheritRoot(lower string) error {
	var st unix.Stat_t
	if err := unix.Stat(lower, &st); err != nil {
		return err
	}
	mode := uint32(0o755)
	if p.RootMode {
		mode = st.Mode & 0o7777
	}
	return errors.Join(os.Chown(p.path("upper"), int(st.Uid), int(st.Gid)), unix.Chmod(p.path("upper"), mode))
}

func (p *Place) path(elem ...string) string {
	return filepath.Join(append([]string{p.dir}, elem...)...)
}

// Files lists what is in a container's root filesystem, a line for each: type, mode, owner, size of files, targets of links. Mounts in the
// container are not in it, nor is what slipway keeps for itself.
func (p *Place) Files(ctx context.Context) ([]string, error) {
	own := []string{"./var/lib/slipway", "./" + skeletonHome + "/store", "./" + skeletonHome + "/stages", "./" + skeletonHome + "/lock"}
	script := p.mountRoot() + "cd " + p.path("rootfs") + "\nfind . -xdev"
	for _, dir := range own {
		script += " -path " + dir + " -prune -o"
	}
	script += ` \( -type d -printf '%p %y %m %U:%G\n' -o -printf '%p %y %m %U:%G %s %l\n' \)`
	out, err := inNamespace(ctx, script, os.Environ()).Output()
	var lines []string
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "./"+skeletonHome+" ") { // it is made where it is not there
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines, err
}

// mountRoot is the beginning of a script, which makes the root filesystem.
func (p *Place) mountRoot() string {
	lower, err := p.ground.lower(p.Image, p.UserNamespace)
	if err != nil || p.Root == PlainRoot {
		return ""
	}
	return fmt.Sprintf("mount -t overlay -o lowerdir=%s,upperdir=%s,workdir=%s overlay %s\n", lower, p.path("upper"), p.path("work"), p.path("rootfs"))
}

// spec is the specification of a container that carries out a command.
func (p *Place) spec(id string, args []string) (*specs.Spec, error) {
	ctx := namespaces.WithNamespace(context.Background(), "slipway-environments")
	s, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: id})
	if err != nil {
		return nil, err
	}
	s.Version = "1.0.2" // of the oldest runc that is used
	s.Root.Path = p.path("rootfs")
	s.Root.Readonly = p.Root == ReadOnlyRoot
	s.Hostname = "place"
	s.Process.Args, s.Process.Env = args, p.Vars
	s.Process.NoNewPrivileges = false // as Docker has it
	s.Process.Rlimits = nil
	s.Process.Cwd = inWorkspace
	setCapabilities(s, s.Process.Capabilities.Bounding...)
	var mounts []specs.Mount
	for _, m := range s.Mounts {
		if m.Destination != "/run" { // containerd's alone
			mounts = append(mounts, m)
		}
	}
	s.Mounts = append(mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
		bind(p.Workspace, inWorkspace, "rw"))
	for _, name := range []string{"resolv.conf", "hosts", "hostname"} {
		s.Mounts = append(s.Mounts, bind(p.path("files", name), "/etc/"+name, "rw"))
	}
	if p.Volume != "" {
		s.Mounts = append(s.Mounts, bind(p.path("volume"), p.Volume, "rw"))
	}
	if p.Pod {
		s.Mounts = append(s.Mounts, bind(p.path("files", "serviceaccount"), "/var/run/secrets/kubernetes.io/serviceaccount", "ro"))
	}
	if p.UserNamespace {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: shift, Size: 65536}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
	}
	profile := Seccomp
	if p.Change != nil {
		p.Change(s)
	}
	if s.Linux.Seccomp == nil {
		err = profile(s)
	} else if len(s.Linux.Seccomp.Syscalls) == 0 { // Unconfined
		s.Linux.Seccomp = nil
	}
	return s, err
}

// Seccomp sets moby's default profile, for the capabilities that a specification has.
func Seccomp(s *specs.Spec) (err error) {
	s.Linux.Seccomp, err = seccomp.GetDefaultProfile(s)
	return err
}

func bind(from, to, how string) specs.Mount {
	return specs.Mount{Destination: to, Type: "bind", Source: from, Options: []string{"rbind", "rprivate", how}}
}

func setCapabilities(s *specs.Spec, names ...string) {
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: names, Permitted: names, Effective: names}
	if s.Process.User.UID != 0 { // what execve leaves to others than root
		s.Process.Capabilities.Permitted, s.Process.Capabilities.Effective = nil, nil
	}
}

// inContainer is a command in a new container with the place's root filesystem.
func (p *Place) inContainer(ctx context.Context, args []string) (*exec.Cmd, func() error, error) {
	id := fmt.Sprintf("slipway-environments-%d-%d", os.Getpid(), containersMade.Add(1))
	s, err := p.spec(id, args)
	if err != nil {
		return nil, nil, err
	}
	bundle := p.path("bundle", id)
	if err := os.Mkdir(bundle, 0o755); err != nil {
		return nil, nil, err
	}
	began, ready := filepath.Join(bundle, "began"), filepath.Join(bundle, "ready")
	if err := errors.Join(unix.Mkfifo(began, 0o600), unix.Mkfifo(ready, 0o600)); err != nil {
		return nil, nil, err
	}
	// runc waits in this hook until somebody listens in the container's network.
	s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `cat > "$0" && read ok < "$1" && [ "$ok" = ok ]`, began, ready}}}}
	data, err := json.Marshal(s)
	if err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		return nil, nil, err
	}
	runc := []string{"runc", "--root", filepath.Join(p.ground.dir, "runc"), "run", "--bundle", bundle, id}
	cmd := inNamespace(ctx, p.mountRoot()+`exec "$@"`, os.Environ(), runc...)
	// Both ends are opened without waiting for the other, so that a runc that fails before leaves nobody waiting.
	in, err := os.OpenFile(began, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	out, err := os.OpenFile(ready, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, errors.Join(err, in.Close())
	}
	listened := make(chan error, 1)
	go func() { listened <- p.prepare(in, out) }()
	return cmd, func() error {
		in.Close() // ends prepare, if runc did not get so far
		err := <-listened
		if errors.Is(err, os.ErrClosed) {
			err = nil
		}
		return errors.Join(err, out.Close(), os.RemoveAll(bundle))
	}, nil
}

// prepare is the hook's other half.
func (p *Place) prepare(began io.Reader, ready io.Writer) error {
	var state specs.State
	if err := json.NewDecoder(began).Decode(&state); err != nil {
		return err
	}
	err := p.ground.services.listenIn(state.Pid)
	if err == nil && p.NoNamespaces {
		err = exec.Command("nsenter", "--user", "--target", fmt.Sprint(state.Pid), "sh", "-c", "echo 0 > /proc/sys/user/max_user_namespaces").Run()
	}
	word := "ok"
	if err != nil {
		word = "failed"
	}
	_, werr := fmt.Fprintln(ready, word)
	return errors.Join(err, werr)
}
