package main

import (
	"bufio"
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
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// room is the directory on the tmpfs that everything happens in, and what all rows share.
type room struct {
	settings settings
	repo     string
	dir, tmp string
	certs    string // certs.d by which the registry is found
	buildah  []string
	served   served

	server *exec.Cmd
	hangUp io.Closer // ends the server
}

// served is what the second process tells once it serves.
type served struct {
	Addr   string     // host:port
	Layers []blobStat // of the toolset image
	Tree   treeStat   // its /usr/local/go
}

// blobStat is one layer of the toolset image.
type blobStat struct {
	Digest digest.Digest
	Size   int64 // bytes, compressed
}

// newRoom makes the directory and starts the registry with the images that the rows need.
func newRoom(ctx context.Context, s settings, repo string, rows []row) (_ *room, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.tmpfs, &fs); err != nil {
		return nil, fmt.Errorf("looking at %s: %w", s.tmpfs, err)
	}
	if fs.Type != unix.TMPFS_MAGIC {
		fmt.Fprintf(os.Stderr, "bench: %s is not a tmpfs: the disk will be part of the times\n", s.tmpfs)
	}
	const want = 6 << 30
	if free := int64(fs.Bavail) * fs.Bsize; free < want {
		fmt.Fprintf(os.Stderr, "bench: %s has %s free, the largest rows want %s\n", s.tmpfs, size(free), size(want))
	}
	dir, err := os.MkdirTemp(s.tmpfs, "slipway-bench-")
	if err != nil {
		return nil, err
	}
	m := &room{settings: s, repo: repo, dir: dir, tmp: filepath.Join(dir, "tmp"), certs: filepath.Join(dir, "certs.d")}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	if err := os.Mkdir(m.tmp, 0o755); err != nil {
		return nil, err
	}
	toolset, debian := false, false
	for _, r := range rows {
		toolset, debian = toolset || r.toolset, debian || r.debian
	}
	if toolset {
		if err := m.copyGoRoot(ctx); err != nil {
			return nil, err
		}
	}
	if slices.ContainsFunc(rows, func(r row) bool { return r.client || r.warm }) {
		if err := m.compileTools(ctx); err != nil {
			return nil, err
		}
	}
	if err := m.startServer(toolset, debian); err != nil {
		return nil, err
	}
	return m, m.writeBuildahConfig()
}

// startServer starts the registry's process and waits until it serves.
func (m *room) startServer(toolset, debian bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "-serve", m.dir, "-bases", m.settings.bases, fmt.Sprintf("-toolset=%t", toolset), fmt.Sprintf("-debian=%t", debian))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the registry: %w", err)
	}
	m.server, m.hangUp = cmd, in
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("starting the registry: it ended: %w", err)
	}
	if err := json.Unmarshal(line, &m.served); err != nil {
		return fmt.Errorf("starting the registry: %w", err)
	}
	return nil
}

// close ends the registry, unmounts and removes everything.
func (m *room) close() error {
	if m.server != nil {
		m.hangUp.Close()
		ended := make(chan error, 1)
		go func() { ended <- m.server.Wait() }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			m.server.Process.Kill()
			<-ended
		}
	}
	return removeAll(m.dir)
}

// removeAll unmounts what is mounted below dir, and removes it.
func removeAll(dir string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	lines := strings.Split(string(data), "\n")
	for i := len(lines) - 1; i >= 0; i-- { // the last mounted first
		fields := strings.Fields(lines[i])
		if len(fields) > 4 && (fields[4] == dir || strings.HasPrefix(fields[4], dir+"/")) {
			if err := unix.Unmount(fields[4], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				return fmt.Errorf("unmounting %s: %w", fields[4], err)
			}
		}
	}
	return os.RemoveAll(dir)
}

// place is the part of the room that a row has for itself.
type place struct {
	*room
	dir  string
	next int // for contents that were never there before
	ends []func() error
}

func (m *room) place(name string) (*place, error) {
	p := &place{room: m, dir: filepath.Join(m.dir, "rows", name)}
	return p, os.MkdirAll(p.dir, 0o755)
}

// atEnd has something done at the end of the row.
func (p *place) atEnd(end func() error) { p.ends = append(p.ends, end) }

func (p *place) remove() error {
	var errs []error
	for _, end := range p.ends {
		errs = append(errs, end())
	}
	return errors.Join(append(errs, removeAll(p.dir))...)
}

// path is a name in the row's directory.
func (p *place) path(elem ...string) string {
	return filepath.Join(append([]string{p.dir}, elem...)...)
}

// fresh is a text that no earlier call gave.
func (p *place) fresh() string {
	p.next++
	return fmt.Sprintf("content %d of this row\n", p.next)
}

// write makes files below a directory of the row, by name and content.
func (p *place) write(dir string, files map[string]string) error {
	for name, content := range files {
		path := p.path(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// do runs commands that are not timed.
func (m *room) do(ctx context.Context, cmds ...command) error {
	for _, c := range cmds {
		if _, err := m.exec(ctx, c); err != nil {
			return err
		}
	}
	return nil
}
