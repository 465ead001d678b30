package baseimage

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// Distribution is a release of Debian or Ubuntu and where its packages come from.
type Distribution struct {
	ID       string   // "debian" or "ubuntu"
	Codename string   // such as "bookworm"
	Mirror   string   // where debootstrap reads from
	Sources  []string // lines of /etc/apt/sources.list
}

// FindDistribution describes the running machine: its release, and the mirrors that its apt is
// set up for.
func FindDistribution() (Distribution, error) {
	release, err := osRelease("/etc/os-release")
	if err != nil {
		return Distribution{}, fmt.Errorf("reading the release of this machine: %w", err)
	}
	d := Distribution{ID: release["ID"], Codename: release["VERSION_CODENAME"]}
	if (d.ID != "debian" && d.ID != "ubuntu") || d.Codename == "" {
		return d, fmt.Errorf("making a Debian image on %q: %w: a machine that runs Debian or Ubuntu", release["PRETTY_NAME"], ErrMissing)
	}
	// The listing has a line for each repository and component, whatever the format of the
	// files in /etc/apt.
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages").Output()
	if err != nil {
		return d, fmt.Errorf("asking apt for its mirrors: %w", err)
	}
	d.addSources(string(out))
	if d.Mirror == "" {
		return d, fmt.Errorf("finding the mirror of %s: apt lists none for its component main", d.Codename)
	}
	return d, nil
}

// addSources takes the listing of apt and keeps the main component of the release itself, of
// its updates and of its security fixes.
func (d *Distribution) addSources(listing string) {
	seen := map[string]bool{}
	for line := range strings.Lines(listing) {
		field := strings.Fields(line)
		if len(field) != 3 || field[2] != "main" || seen[line] {
			continue
		}
		seen[line] = true
		switch strings.TrimPrefix(field[1], d.Codename) {
		case "":
			d.Mirror = field[0]
		case "-updates", "-security":
		default:
			continue
		}
		d.Sources = append(d.Sources, fmt.Sprintf("deb %s %s main\n", field[0], field[1]))
	}
}

func osRelease(file string) (map[string]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	values := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), "="); ok {
			values[key] = strings.Trim(value, `"'`)
		}
	}
	return values, lines.Err()
}

// Debian returns an image of d's minimal system, made by debootstrap, in one layer. It needs
// root, the network, and about half a minute; work is an existing directory for the 200 MB
// that the system takes meanwhile, on a filesystem with device files. progress receives what
// debootstrap prints.
func Debian(ctx context.Context, d Distribution, work string, progress io.Writer) (v1.Image, error) {
	tool, err := exec.LookPath("debootstrap")
	if err != nil {
		return nil, fmt.Errorf("finding debootstrap: %w: install Debian's package debootstrap", ErrMissing)
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("running debootstrap: %w: root", ErrMissing)
	}
	root, err := os.MkdirTemp(work, "debian-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(root)
	cmd := exec.CommandContext(ctx, tool, "--variant=minbase", d.Codename, root, d.Mirror)
	cmd.Stdout, cmd.Stderr = progress, progress
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("running debootstrap for %s from %s: %w", d.Codename, d.Mirror, err)
	}
	if err := slim(root, d); err != nil {
		return nil, fmt.Errorf("slimming the Debian system: %w", err)
	}
	layer, err := tarLayer(func(w *tarWriter) error { return hostTree(w, root) })
	if err != nil {
		return nil, fmt.Errorf("making Debian layer: %w", err)
	}
	return assemble(scratch(), []step{{layer, "debootstrap --variant=minbase " + d.Codename}}, v1.Config{
		Env: []string{"PATH=" + systemPath},
		Cmd: []string{"bash"},
	})
}

// dpkgExcludes makes packages that are installed later as slim as the image is.
const dpkgExcludes = `path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
`

// slim removes what no container needs and writes the apt configuration.
func slim(root string, d Distribution) error {
	for _, pattern := range []string{
		"var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/lib/apt/lists/*_*", "var/log/*.log", "var/log/apt/*",
		"usr/share/info/*", "usr/share/locale/*", "usr/share/man/*/*", "dev/*", "run/*", "tmp/*", "etc/resolv.conf", "etc/hostname",
	} {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := os.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	docs, err := filepath.Glob(filepath.Join(root, "usr/share/doc/*/*"))
	if err != nil {
		return err
	}
	for _, name := range docs {
		if filepath.Base(name) != "copyright" {
			if err := os.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	return errors.Join(
		os.WriteFile(filepath.Join(root, "etc/apt/sources.list"), []byte(strings.Join(d.Sources, "")), 0o644),
		os.WriteFile(filepath.Join(root, "etc/dpkg/dpkg.cfg.d/slim"), []byte(dpkgExcludes), 0o644),
		// Packages that bring a service must not start it while they are installed.
		os.WriteFile(filepath.Join(root, "usr/sbin/policy-rc.d"), []byte("#!/bin/sh\nexit 101\n"), 0o755),
	)
}

// inode identifies a file of the host.
type inode struct{ dev, ino uint64 }

// hostTree writes a whole directory with its owners, modes, links and times. Sockets and pipes
// are left out.
func hostTree(w *tarWriter, root string) error {
	linked := map[inode]string{}
	return filepath.WalkDir(root, func(file string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, file)
		if err != nil || name == "." {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		return hostEntry(w, file, path.Clean(name), info, linked)
	})
}

// hostEntry writes one file; linked has the names of files with several.
func hostEntry(w *tarWriter, file, name string, info fs.FileInfo, linked map[inode]string) error {
	if info.Mode()&(fs.ModeSocket|fs.ModeNamedPipe) != 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(file); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name, h.Uname, h.Gname = name, "", ""
	h.ModTime, h.AccessTime, h.ChangeTime = info.ModTime().Truncate(time.Second), time.Time{}, time.Time{}
	if info.IsDir() {
		h.Name += "/"
	}
	if err := capability(h, file, info); err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return w.add(h, nil)
	}
	if id := (inode{uint64(st.Dev), st.Ino}); st.Nlink > 1 {
		if first, ok := linked[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return w.add(h, nil)
		}
		linked[id] = name
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return w.add(h, f)
}

// capability adds a file's capabilities to its header, where Docker looks for them.
func capability(h *tar.Header, file string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return nil
	}
	value := make([]byte, 64)
	n, err := unix.Lgetxattr(file, "security.capability", value)
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
		return nil
	case err != nil:
		return fmt.Errorf("reading capabilities of %s: %w", h.Name, err)
	}
	h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": string(value[:n])}
	return nil
}
