package baseimage

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// ErrMissing marks a requirement that this machine does not have. The message says what to
// install.
var ErrMissing = errors.New("requirement is missing")

// systemPath is the PATH of the public images.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// passwd and group are the accounts that the small public images have in common.
const (
	passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
`
	group = `root:x:0:
daemon:x:1:
bin:x:2:
users:x:100:
www-data:x:33:
nogroup:x:65534:
`
)

// FindBusybox returns the path of the machine's static busybox; its bytes are the input of
// [Busybox].
func FindBusybox() (string, error) {
	file, err := exec.LookPath("busybox")
	if err != nil {
		return "", fmt.Errorf("finding busybox: %w: install Debian's package busybox-static", ErrMissing)
	}
	static, err := isStatic(file)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", file, err)
	}
	if !static {
		return "", fmt.Errorf("%s needs shared libraries: %w: install Debian's package busybox-static", file, ErrMissing)
	}
	return file, nil
}

// isStatic reports whether an ELF binary runs without a dynamic linker.
func isStatic(file string) (bool, error) {
	f, err := elf.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false, nil
		}
	}
	return true, nil
}

// Busybox returns an image of one layer: busybox with a hard link for each applet, and the
// usual directories and accounts. It takes well under a second and leaves nothing on disk.
func Busybox() (v1.Image, error) {
	file, err := FindBusybox()
	if err != nil {
		return nil, err
	}
	binary, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading busybox: %w", err)
	}
	list, err := exec.Command(file, "--list-full").Output()
	if err != nil {
		return nil, fmt.Errorf("listing busybox applets: %w", err)
	}
	layer, err := tarLayer(func(w *tarWriter) error {
		return busyboxRoot(w, binary, strings.Fields(string(list)))
	})
	if err != nil {
		return nil, fmt.Errorf("making busybox layer: %w", err)
	}
	return assemble(scratch(), []step{{layer, "busybox and a root filesystem"}}, v1.Config{
		Env: []string{"PATH=" + systemPath},
		Cmd: []string{"sh"},
	})
}

// busyboxRoot writes a root filesystem around the binary.
func busyboxRoot(w *tarWriter, binary []byte, applets []string) error {
	for _, name := range []string{"bin", "dev", "etc", "home", "proc", "root", "sbin", "sys", "usr/bin", "usr/sbin", "var"} {
		mode := int64(0o755)
		if name == "root" {
			mode = 0o700
		}
		if err := w.dir(name, mode); err != nil {
			return err
		}
	}
	for _, name := range []string{"tmp", "var/tmp"} {
		if err := w.dir(name, 0o1777); err != nil {
			return err
		}
	}
	err := errors.Join(
		w.text("etc/passwd", passwd),
		w.text("etc/group", group),
		w.text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
		w.bytes("bin/busybox", 0o755, binary),
	)
	if err != nil {
		return err
	}
	for _, applet := range applets {
		name := path.Clean(applet)
		if name == "bin/busybox" || path.IsAbs(name) || strings.HasPrefix(name, "..") {
			continue
		}
		if err := w.hardLink(name, "bin/busybox"); err != nil {
			return err
		}
	}
	return nil
}
