package docker

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// TestArchives copies into a container that a hostile image made, and out of it.
func TestArchives(t *testing.T) {
	l := newContainers(t)
	ctx := t.Context()
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.Mkdir(outside, 0o700))
	id := l.create("mkdir /d; echo file > /d/f; ln -s /d/f /link; ln -s "+outside+" /out; ln -s / /root/l", nil)
	ended := l.wait(id, containertypes.WaitConditionNextExit)
	l.start(id)
	ended()
	stat, err := l.ContainerStatPath(ctx, id, client.ContainerStatPathOptions{Path: "/link"})
	must(t, err)
	if stat.Stat.LinkTarget != "/d/f" || stat.Stat.Mode&os.ModeSymlink == 0 {
		t.Errorf("the link is %+v", stat.Stat)
	}
	got, err := l.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: "/d"})
	must(t, err)
	defer got.Content.Close()
	if names := tarNames(t, got.Content); !slices.Equal(names, []string{"d", "d/f"}) || !got.Stat.Mode.IsDir() {
		t.Errorf("the archive has %q, of %+v", names, got.Stat)
	}
	put := func(dir, file string) error {
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		must(t, w.WriteHeader(&tar.Header{Name: file, Mode: 0o644, Size: 2, Uid: 7}))
		_, err := w.Write([]byte("in"))
		must(t, err)
		must(t, w.Close())
		_, err = l.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: dir, Content: &archive})
		return err
	}
	must(t, put("/d", "new"))
	got, err = l.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: "/d/new"})
	must(t, err)
	defer got.Content.Close()
	if h, err := tar.NewReader(got.Content).Next(); err != nil || h.Uid != 7 { // its owner is that of the archive
		t.Errorf("it came back as %+v, %v", h, err)
	}
	must(t, os.MkdirAll(filepath.Join(outside, "sub"), 0o700))
	for _, to := range [][2]string{{"/out", "planted"}, {"/", "out/planted"}, {"/d", "../../../../../../planted"}, {"/root/l", "etc/planted"}} {
		err := put(to[0], to[1])
		t.Logf("%s into %s: %v", to[1], to[0], err)
		if left, _ := os.ReadDir(outside); len(left) != 1 {
			t.Fatalf("%s into %s left %v on the host", to[1], to[0], left)
		}
	}
	for _, p := range []string{"/etc/planted", "/planted"} {
		if _, err := os.Lstat(p); err == nil {
			t.Fatalf("%s is on the host", p)
		}
	}
	if err := put("/d/f", "x"); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("into a file: %v", err)
	}
	if err := put("/nosuch", "x"); err == nil || !strings.Contains(err.Error(), "Could not find") {
		t.Errorf("into nothing: %v", err)
	}
	if _, status := l.get(http.MethodHead, "/containers/"+id+"/archive?path=/nosuch"); status != http.StatusNotFound {
		t.Errorf("of nothing: %d", status)
	}
	img, err := l.ContainerCommit(ctx, id, client.ContainerCommitOptions{Reference: "made:v1", Changes: []string{"CMD cat /d/new"}})
	must(t, err)
	if found, err := l.ImageInspect(ctx, "made:v1"); err != nil || found.ID != img.ID {
		t.Errorf("the image is %v, want %s, %v", found.ID, img.ID, err)
	}
	whole, err := l.ContainerExport(ctx, id, client.ContainerExportOptions{})
	must(t, err)
	defer whole.Close()
	if names := tarNames(t, whole); !slices.Contains(names, "d/new") {
		t.Errorf("the export has %q", names)
	}
}

// TestArchivesOfRunning: what runs as another user, or in a user namespace, is copied from and into where it has its files, with the owners that it
// sees.
func TestArchivesOfRunning(t *testing.T) {
	l := newContainers(t)
	ctx := t.Context()
	for _, mode := range []containertypes.UsernsMode{"", "auto"} {
		id := l.create("echo out > /tmp/out; mkdir /tmp/d; until [ -e /tmp/d/in ]; do sleep 0.05; done; stat -c %u /tmp/d/in; cat /tmp/d/in", func(o *client.ContainerCreateOptions) {
			o.HostConfig.UsernsMode, o.HostConfig.Tmpfs, o.Config.User = mode, map[string]string{"/tmp": "mode=1777"}, "1000"
		})
		l.start(id)
		for end := time.Now().Add(time.Minute); ; { // until it has made the directory
			_, err := l.ContainerStatPath(ctx, id, client.ContainerStatPathOptions{Path: "/tmp/d"})
			if err == nil {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("userns %q: %v", mode, err)
			}
		}
		if c, err := l.ContainerInspect(ctx, id, client.ContainerInspectOptions{}); err != nil || c.Container.State.Pid == 0 {
			t.Errorf("userns %q: its process is not known, %v", mode, err)
		}
		got, err := l.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: "/tmp/out"})
		must(t, err)
		tr := tar.NewReader(got.Content)
		h, err := tr.Next()
		must(t, err)
		if data, err := io.ReadAll(tr); err != nil || string(data) != "out\n" || h.Uid != 1000 {
			t.Errorf("userns %q: it has %q of user %d, %v", mode, data, h.Uid, err)
		}
		must(t, got.Content.Close())
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		must(t, w.WriteHeader(&tar.Header{Name: "in", Mode: 0o644, Size: 3, Uid: 7}))
		_, err = w.Write([]byte("in\n"))
		must(t, err)
		must(t, w.Close())
		ended := l.wait(id, containertypes.WaitConditionNotRunning)
		_, err = l.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: "/tmp/d", Content: &archive})
		must(t, err)
		if code := ended(); code != 0 {
			t.Errorf("userns %q: the exit code is %d", mode, code)
		}
		logs, err := l.ContainerLogs(ctx, id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true})
		must(t, err)
		if out, errs := output(t, logs); out != "7\nin\n" || errs != "" {
			t.Errorf("userns %q: it saw %q, %q", mode, out, errs)
		}
	}
}

// TestArchiveNames: names in an archive begin as clients expect it, who replace the beginning.
func TestArchiveNames(t *testing.T) {
	l := newContainers(t)
	id := l.create("mkdir -p /d/e; echo x > /d/e/f; ln /d/e/f /d/e/g; ln -s d /l", nil)
	ended := l.wait(id, containertypes.WaitConditionNextExit)
	l.start(id)
	ended()
	for from, want := range map[string][]string{
		"/": {"/", "/d/", "/d/e/f"}, ".": {"./", "./d/e/"}, "./": {"./", "./d/"}, "/.": {"./", "./d/e/f"}, "/d/.": {"./", "./e/", "./e/f", "./e/g ./e/f"}, "/l/.": {"./", "./e/f"}, "/d": {"d/", "d/e/f", "d/e/g d/e/f"}, "/l/": {"l/", "l/e/f"}, "/l": {"l d"},
	} {
		got, err := l.CopyFromContainer(t.Context(), id, client.CopyFromContainerOptions{SourcePath: from})
		must(t, err)
		var names []string
		for tr := tar.NewReader(got.Content); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			names = append(names, strings.TrimSpace(h.Name+" "+h.Linkname))
		}
		must(t, got.Content.Close())
		for _, name := range want {
			if !slices.Contains(names, name) {
				t.Errorf("%s has %q, and not %q", from, names, name)
			}
		}
	}
}

func tarNames(t *testing.T, r io.Reader) (names []string) {
	t.Helper()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		must(t, err)
		names = append(names, path.Clean(h.Name))
	}
}

// TestArchivesOfVolumes: what is copied to and from a container that does not run is in its volumes, as it sees them.
func TestArchivesOfVolumes(t *testing.T) {
	l := newContainers(t)
	ctx := t.Context()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("host"), 0o600))
	l.server.opt.Entitlements = []string{"security.insecure"}
	id := l.create("cat /data/in /a/b/in /etc/in; rm /data/in", func(o *client.ContainerCreateOptions) {
		o.HostConfig.Binds = []string{"data:/data", "deep:/a/b", "etc:/etc", "data:/ro:ro", filepath.Join(dir, "file") + ":/file"}
	})
	put := func(dest string, headers ...*tar.Header) error {
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		for _, h := range headers {
			must(t, w.WriteHeader(h))
			_, err := w.Write([]byte("in\n")[:h.Size])
			must(t, err)
		}
		must(t, w.Close())
		_, err := l.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: dest, Content: &archive})
		return err
	}
	file := func(name string) *tar.Header { return &tar.Header{Name: name, Mode: 0o644, Size: 3} }
	must(t, put("/data", file("in"), &tar.Header{Name: "again", Typeflag: tar.TypeLink, Linkname: "in"}))
	must(t, put("/", file("a/b/in"), file("etc/in"), file("plain")))
	for _, name := range []string{"data", "deep", "etc"} {
		v, err := l.VolumeInspect(ctx, name, client.VolumeInspectOptions{})
		must(t, err)
		if data, err := os.ReadFile(filepath.Join(v.Volume.Mountpoint, "in")); string(data) != "in\n" {
			t.Errorf("volume %s has %q, %v", name, data, err)
		}
	}
	for _, bad := range []struct {
		dest    string
		headers []*tar.Header
	}{{"/ro", []*tar.Header{file("x")}}, {"/", []*tar.Header{file("file")}}, {"/", []*tar.Header{file("y"), {Name: "data/y", Typeflag: tar.TypeLink, Linkname: "y"}}}, {"/", []*tar.Header{{Name: "z", Typeflag: tar.TypeLink, Linkname: "data/in"}}}} {
		if err := put(bad.dest, bad.headers...); err == nil {
			t.Errorf("into %s: %+v was taken", bad.dest, bad.headers)
		}
	}
	for from, want := range map[string][]string{
		"/data": {"data", "data/again", "data/in"}, "/ro/in": {"in"}, "/a": {"a", "a/b", "a/b/in"}, "/file": {"file"},
	} {
		got, err := l.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: from})
		must(t, err)
		if names := tarNames(t, got.Content); !slices.Equal(names, want) {
			t.Errorf("%s has %q", from, names)
		}
		must(t, got.Content.Close())
	}
	ended := l.wait(id, containertypes.WaitConditionNextExit)
	l.start(id)
	if code := ended(); code != 0 {
		t.Errorf("it did not see what was copied: %d", code)
	}
}
