package environments

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// userName is what all users of environments are called.
const userName = "slipway-plain"

// openUser writes the files of /etc that the user is in, and its home.
func (p *Place) openUser() error {
	addr, proxy, err := p.ground.services.listen(0, 0)
	if err != nil {
		return err
	}
	p.Registry, p.Proxy, p.InWorkspace, p.Shell = addr, "http://"+proxy, p.Workspace, "/bin/sh"
	p.Home = filepath.Join(p.dir, "home")
	p.Vars = []string{"HOME=" + p.Home, "USER=" + userName, "PATH=" + filepath.Join(p.ground.dir, "bin") + ":" + os.Getenv("PATH"),
		"SLIPWAY_CERTS_DIR=" + filepath.Join(p.Workspace, "certs.d"), "SLIPWAY_WORKER_NET=host"}
	if uid := p.User.UID; uid == 0 {
		p.Vars = append(p.Vars, "SLIPWAY_ROOT="+filepath.Join(p.dir, "store")) // not root's own
	}
	if err := writeHosts(filepath.Join(p.Workspace, "certs.d"), addr); err != nil {
		return err
	}
	p.ground.making.Lock()
	bin := filepath.Join(p.ground.dir, "bin", "slipway")
	if _, err = os.Stat(bin); err != nil {
		err = copyFile(p.ground.slipway, bin, 0o755)
	}
	p.ground.making.Unlock()
	uid := p.User.UID
	if err := errors.Join(err, os.Mkdir(p.Home, 0o700), os.Chown(p.Home, uid, uid), os.Mkdir(filepath.Join(p.dir, "etc"), 0o755)); err != nil {
		return err
	}
	for name, line := range map[string]string{
		"passwd": fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", userName, uid, uid, p.Home),
		"group":  fmt.Sprintf("%s:x:%d:\n", userName, uid),
		"subuid": "", "subgid": "",
	} {
		data, err := os.ReadFile("/etc/" + name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if line == "" {
			data = nil
			if p.User.SubIDs {
				line = fmt.Sprintf("%s:%d:65536\n", userName, 10*65536)
			}
		}
		if err := os.WriteFile(filepath.Join(p.dir, "etc", name), append(data, line...), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// asUser is a command of the user. It sees the machine's files, but for those that list users.
func (p *Place) asUser(ctx context.Context, args []string) *exec.Cmd {
	if p.User.UID == 0 {
		return inNamespace(ctx, `exec "$@"`, p.Vars, args...)
	}
	var script strings.Builder
	for _, name := range []string{"passwd", "group", "subuid", "subgid"} {
		// Whoever has no file of the name has no subordinate IDs.
		fmt.Fprintf(&script, "[ ! -e /etc/%[2]s ] || mount --bind %[1]s/etc/%[2]s /etc/%[2]s\n", p.dir, name)
	}
	// Machines let everybody open it (udev's rule), but not all that are containers themselves.
	fmt.Fprintf(&script, "if [ -c /dev/net/tun ]; then mount -t tmpfs -o mode=755 dev %[1]s/etc/; mknod -m 666 %[1]s/etc/tun c 10 200; mount --bind %[1]s/etc/tun /dev/net/tun; fi\n", p.dir)
	nnp := ""
	if p.User.NoNewPr {
		nnp = " --no-new-privs"
	}
	fmt.Fprintf(&script, "cd %s\nexec setpriv --reuid=%[2]d --regid=%[2]d --clear-groups --inh-caps=-all%s \"$@\"\n", p.Workspace, p.User.UID, nnp)
	return inNamespace(ctx, script.String(), p.Vars, args...)
}
