package sandbox

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/sandbox/inplace"
)

// mount puts everything in place that the spec's mounts show, and what the container's network needs.
func (p *placing) mount(view *inplace.View) error {
	if err := p.files(view); err != nil {
		return err
	}
	trees := map[int]string{}
	for _, mt := range p.mounts {
		trees[mt.index] = mt.path
	}
	for i, m := range p.spec.Mounts {
		var err error
		dest := filepath.Clean(m.Dest)
		switch {
		case m.Tmpfs != nil && dest == "/dev/shm": // which is one
		case m.Tmpfs != nil:
			err = view.Directory(dest, cmp.Or(m.Tmpfs.Mode, 0o1777))
		case m.Root != nil:
			err = view.Bind(dest, trees[i])
		case m.Bind != "":
			if m.Above != nil {
				view.Above = &layer.Owner{UID: uint32(m.Above.UID), GID: uint32(m.Above.GID)}
			}
			err = view.Bind(dest, m.Bind)
			view.Above = nil
		case m.File != nil:
			err = view.Secret(dest, m.File.Data, m.File.Mode, m.File.UID, m.File.GID)
		case m.Socket != nil:
			var path string
			if path, err = p.socket(i, m.Socket); err == nil {
				err = view.Link(dest, path)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// scratch are directories in which steps work whose results go elsewhere. What the kernel shows is among them.
var scratch = []string{"tmp", "var/tmp", "run", "dev", "proc", "sys"}

// checkWorkdir refuses a step whose working directory does not show: the files that it has there would be missing, and what it makes there would be in
// no layer. It is asked before the step's own mounts are there, and before its working directory is made.
func (p *placing) checkWorkdir(view *inplace.View) error {
	cwd := filepath.Join("/", p.spec.Cwd)
	for _, m := range p.spec.Mounts {
		if dest := filepath.Clean(m.Dest); cwd == dest || strings.HasPrefix(cwd, dest+"/") {
			return nil
		}
	}
	root, err := openRoot(p.root)
	if err != nil {
		return err
	}
	defer root.Close()
	rel, err := resolveInRoot(root, cwd)
	if err != nil {
		return fmt.Errorf("looking for working directory %s: %w", cwd, err)
	}
	for at := rel; at != "." && at != ""; at = filepath.Dir(at) {
		if view.Stays(at) && (!slices.Contains(scratch, at) || slices.Contains(view.Hidden, "/"+at)) {
			return fmt.Errorf("the container has a mount of its own at /%s, or slipway its context, store or working directory, which hides this step's working directory %s: "+
				"without isolation (--isolation=none) that cannot be put aside. Mount it elsewhere (mountPath of a pod's volume), or use another WORKDIR", at, cwd)
		}
	}
	return nil
}

// files puts the files there that a container has from outside.
func (p *placing) files(view *inplace.View) error {
	resolv, err := view.Host("etc/resolv.conf")
	if err != nil {
		return err
	}
	own, err := view.Host("etc/hosts")
	if err != nil {
		return err
	}
	for path, text := range map[string]string{"/etc/resolv.conf": resolv, "/etc/hosts": hostsFile(p.spec) + otherHosts(own)} {
		if view.Stays(path) {
			continue // it is the container's own, which is mounted there
		}
		if err := view.File(path, text, 0o644); err != nil {
			return err
		}
	}
	// apt has its downloads be those of a user, and looks whether it has become that one.
	const apt = "/etc/apt/apt.conf.d"
	if os.Geteuid() != 0 && view.Has(apt) {
		if err := view.File(apt+"/zz-slipway", "APT::Sandbox::User \"root\";\n", 0o644); err != nil {
			return err
		}
	}
	if p.spec.Container && !view.Stays("/etc/hostname") {
		return view.File("/etc/hostname", hostname(p.spec)+"\n", 0o644)
	}
	return nil
}

// otherHosts are the lines of a hosts file that name other machines: the network is the container's, and this process looks
// there too while a step runs.
func otherHosts(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		ip, err := netip.ParseAddr(f[0])
		if err == nil && !ip.IsLoopback() && !ip.IsMulticast() && !ip.IsUnspecified() {
			b.WriteString(strings.Join(f, "\t") + "\n")
		}
	}
	return b.String()
}

// inMemory is a directory of the container's that is in memory, as far as there is one.
const inMemory = "/dev/shm"

// memoryDir makes a directory in memory, for what is to be on no disk.
func (p *placing) memoryDir() (string, error) {
	if p.memory != "" {
		return p.memory, nil
	}
	dir := filepath.Join(inMemory, "slipway-"+rand.Text())
	if err := os.Mkdir(dir, 0o711); err != nil {
		return "", fmt.Errorf("making a directory in memory: %w", err)
	}
	p.memory = dir
	return dir, os.Chmod(dir, 0o711)
}

// socket makes a socket on which this process answers.
func (p *placing) socket(i int, s *Socket) (string, error) {
	dir, err := p.memoryDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, fmt.Sprint(i))
	l, err := net.Listen("unix", path)
	if err != nil {
		return "", err
	}
	p.sockets = append(p.sockets, l)
	uid, gid := s.UID, s.GID
	if os.Geteuid() != 0 {
		uid, gid = -1, -1
	}
	if err := errors.Join(os.Chown(path, uid, gid), os.Chmod(path, os.FileMode(s.Mode&0o777))); err != nil {
		return "", err
	}
	return path, s.Serve(l)
}
