package build_test

import (
	"archive/tar"
	"bytes"
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
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/build"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tool runs a program that the tests need and returns its standard output.
func tool(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("this test needs %s: install it (apt-get install %s)", name, name)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return stdout.Bytes()
}

// out is a path for an output, in a directory of its own.
func (h *harness) out(name string) string {
	h.t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(h.context), "out-")
	must(h.t, err)
	return filepath.Join(dir, name)
}

// labels asks skopeo for the labels of an image, and for nothing else: that it can read all of it.
func labels(t testing.TB, ref string) map[string]string {
	t.Helper()
	var got struct{ Labels map[string]string }
	must(t, json.Unmarshal(tool(t, "skopeo", "inspect", ref), &got))
	return got.Labels
}

const labelled = "FROM busybox\nLABEL key=value\nRUN echo x > /x\n"

func TestImageOutput(t *testing.T) {
	h := newHarness(t)
	ctx := context.Background()
	h.write("Dockerfile", labelled)

	res, _ := h.build(build.Request{})
	img, err := h.store.Image(ctx, res.ImageID.Encoded()[:12])
	must(t, err)
	if img.Tagged() || img.ID != res.ImageID || img.Manifest.Digest != res.Manifest.Digest {
		t.Errorf("an image without a name is %+v", img)
	}

	res, _ = h.build(build.Request{Tags: []string{"app:v1", "example.com/me/app"}, Outputs: []build.Output{{Type: build.OutputImage, Attrs: map[string]string{"name": "third:v3,app:v1"}}}})
	want := []string{"docker.io/library/app:v1", "example.com/me/app:latest", "docker.io/library/third:v3"}
	if !slices.Equal(res.Names, want) {
		t.Errorf("names are %q, want %q", res.Names, want)
	}
	all, err := h.store.Images(ctx)
	must(t, err)
	if len(all) != 3 {
		t.Errorf("the store has %d images, want one per name", len(all))
	}
	for _, name := range []string{"app:v1", "example.com/me/app", "third:v3"} {
		img, err := h.store.Image(ctx, name)
		if err != nil || img.ID != res.ImageID {
			t.Errorf("image %s is %s, %v, want %s", name, img.ID, err, res.ImageID)
		}
	}
	if got := labels(t, "oci:"+h.store.Root()+":app:v1"); got["key"] != "value" {
		t.Errorf("skopeo sees the labels %v", got)
	}

	for _, tag := range []string{"App", "app:", "app@" + digest.FromString("x").String()} {
		if _, _, err := h.try(build.Request{Tags: []string{tag}}); err == nil || !strings.Contains(err.Error(), "invalid tag") {
			t.Errorf("the tag %q gave %v", tag, err)
		}
	}
}

func TestArchiveOutputs(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", labelled)
	for _, c := range []string{"", "gzip", "zstd", "uncompressed"} {
		attrs := map[string]string{}
		if c != "" {
			attrs["compression"] = c
		}
		oci, docker := h.out("oci.tar"), h.out("docker.tar")
		res, _ := h.build(build.Request{Tags: []string{"app:v1"}, Outputs: []build.Output{
			{Type: build.OutputOCI, Dest: oci, Attrs: attrs}, {Type: build.OutputDocker, Dest: docker, Attrs: attrs},
		}})
		for _, ref := range []string{"oci-archive:" + oci + ":v1", "docker-archive:" + docker + ":app:v1"} {
			if got := labels(t, ref); got["key"] != "value" {
				t.Errorf("compression %q: skopeo sees the labels %v in %s", c, got, ref)
			}
			if got := digest.FromBytes(tool(t, "skopeo", "inspect", "--raw", "--config", ref)); got != res.ImageID {
				t.Errorf("compression %q: the image in %s is %s, want %s", c, ref, got, res.ImageID)
			}
		}
	}
	if all, _ := h.store.Images(context.Background()); len(all) != 0 {
		t.Errorf("archives left the images %v in the store", all)
	}
	// The same build gives the same bytes.
	var one, two bytes.Buffer
	for _, w := range []*bytes.Buffer{&one, &two} {
		h.build(build.Request{Tags: []string{"app:v1"}, Outputs: []build.Output{{Type: build.OutputDocker, Writer: w}}})
	}
	if one.Len() == 0 || !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Errorf("the same build gave archives of %d and %d bytes that differ", one.Len(), two.Len())
	}
}

func TestOCIDirOutput(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", labelled)
	dir := h.out("layout")
	h.build(build.Request{Tags: []string{"app:v1"}, Outputs: []build.Output{{Type: build.OutputOCI, Dest: dir, Attrs: map[string]string{"tar": "false"}}}})
	if got := labels(t, "oci:"+dir+":v1"); got["key"] != "value" {
		t.Errorf("skopeo sees the labels %v", got)
	}
	bundle := h.out("bundle")
	tool(t, "umoci", "unpack", "--image", dir+":v1", bundle)
	if got, err := os.ReadFile(filepath.Join(bundle, "rootfs", "x")); err != nil || string(got) != "x\n" {
		t.Errorf("umoci unpacked %q, %v", got, err)
	}
}

// capability is a value of security.capability: net_bind_service, effective.
const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// files writes a context whose image has files with everything that files can have.
func (h *harness) files() {
	h.t.Helper()
	f, err := os.Create(filepath.Join(h.context, "caps.tar"))
	must(h.t, err)
	w := tar.NewWriter(f)
	must(h.t, w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: "capable", Mode: 0o755, Uid: 5, Gid: 6, Size: 1,
		PAXRecords: map[string]string{"SCHILY.xattr.security.capability": capability},
	}))
	_, err = w.Write([]byte("c"))
	must(h.t, errors.Join(err, w.Close(), f.Close()))
	h.write("Dockerfile", `FROM busybox AS make
RUN mkdir -p /o/dir && cd /o && echo file > file && ln file hard && ln -s file link && chmod 1777 dir && \
    cp file suid && chown 1000:2000 file suid && chmod 4750 suid && mkfifo fifo && touch gone
RUN rm /o/gone && echo more > /o/dir/more
FROM scratch
COPY --from=make /o /
ADD caps.tar /
`)
}

// readTar reads an archive: headers and contents by name.
func readTar(t *testing.T, file string) (got map[string]*tar.Header, content map[string]string) {
	t.Helper()
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	got, content = map[string]*tar.Header{}, map[string]string{}
	for r := tar.NewReader(f); ; {
		hdr, err := r.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		data, err := io.ReadAll(r)
		must(t, err)
		name := strings.TrimSuffix(hdr.Name, "/")
		got[name], content[name] = hdr, string(data)
	}
	return got, content
}

func TestTarOutput(t *testing.T) {
	h := newHarness(t)
	h.files()
	dest := h.out("root.tar")
	h.build(build.Request{Outputs: []build.Output{{Type: build.OutputTar, Dest: dest}}})
	if fi, err := os.Stat(dest); err != nil || fi.Mode() != 0o644 {
		t.Errorf("the file is %v, %v", fi, err)
	}
	got, content := readTar(t, dest)
	var names []string
	for n := range got {
		names = append(names, n)
	}
	slices.Sort(names)
	if want := []string{"capable", "dir", "dir/more", "fifo", "file", "hard", "link", "suid"}; !slices.Equal(names, want) {
		t.Fatalf("the archive has %q, want %q", names, want)
	}
	check := func(name string, typ byte, mode int64, uid, gid int, link, data string) {
		t.Helper()
		e := got[name]
		if e.Typeflag != typ || e.Mode&0o7777 != mode || e.Uid != uid || e.Gid != gid || e.Linkname != link || content[name] != data {
			t.Errorf("%s is %c %o %d:%d %q %q", name, e.Typeflag, e.Mode, e.Uid, e.Gid, e.Linkname, content[name])
		}
	}
	check("file", tar.TypeReg, 0o644, 1000, 2000, "", "file\n")
	check("hard", tar.TypeLink, 0o644, 1000, 2000, "file", "")
	check("link", tar.TypeSymlink, 0o777, 0, 0, "file", "")
	check("suid", tar.TypeReg, 0o4750, 1000, 2000, "", "file\n")
	check("dir", tar.TypeDir, 0o1777, 0, 0, "", "")
	check("dir/more", tar.TypeReg, 0o644, 0, 0, "", "more\n")
	check("capable", tar.TypeReg, 0o755, 5, 6, "", "c")
	if got["fifo"].Typeflag != tar.TypeFifo {
		t.Errorf("fifo is %c", got["fifo"].Typeflag)
	}
	if c := got["capable"].PAXRecords["SCHILY.xattr.security.capability"]; c != capability {
		t.Errorf("the capability is %q", c)
	}
}

// What is written to a directory belongs to the user, as with BuildKit's client.
func TestLocalOutput(t *testing.T) {
	h := newHarness(t)
	h.files()
	dir := h.out("deeper/root")
	must(t, os.MkdirAll(filepath.Join(dir, "mine"), 0o755))
	h.build(build.Request{Outputs: []build.Output{{Type: build.OutputLocal, Dest: dir}}})
	stat := func(name string) unix.Stat_t {
		t.Helper()
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(dir, name), &st))
		return st
	}
	file, hard, suid := stat("file"), stat("hard"), stat("suid")
	if file.Ino != hard.Ino || file.Nlink != 2 || file.Uid != uint32(os.Getuid()) || file.Gid != uint32(os.Getgid()) {
		t.Errorf("file is %+v, hard %+v", file, hard)
	}
	if suid.Mode != unix.S_IFREG|0o4750 || suid.Uid != uint32(os.Getuid()) {
		t.Errorf("suid has the mode %o and the owner %d", suid.Mode, suid.Uid)
	}
	if to, err := os.Readlink(filepath.Join(dir, "link")); err != nil || to != "file" {
		t.Errorf("link points at %q, %v", to, err)
	}
	if d := stat("dir"); d.Mode != unix.S_IFDIR|0o1777 {
		t.Errorf("dir has the mode %o", d.Mode)
	}
	buf := make([]byte, 64)
	if n, err := unix.Getxattr(filepath.Join(dir, "capable"), "security.capability", buf); err != nil || string(buf[:n]) != capability {
		t.Errorf("the capability is %q, %v", buf[:max(n, 0)], err)
	}
	if _, err := os.Stat(filepath.Join(dir, "mine")); err != nil {
		t.Error("what was there is gone")
	}
	if _, err := os.Lstat(filepath.Join(dir, "gone")); err == nil {
		t.Error("a deleted file is there")
	}
}

func TestOutputsThatCannotBe(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	dir := filepath.Dir(h.out("x"))
	tests := []struct {
		out  build.Output
		want string
	}{
		{build.Output{Type: build.OutputTar, Dest: dir}, "dest " + dir + " is a directory, want a file"},
		{build.Output{Type: build.OutputOCI, Dest: dir}, "is a directory, want a file"},
		{build.Output{Type: build.OutputDocker, Dest: dir}, "is a directory, want a file"},
		{build.Output{Type: build.OutputLocal, Dest: filepath.Join(h.context, "Dockerfile")}, "writing files"},
		{build.Output{Type: build.OutputTar, Dest: dir + "/no/such/dir.tar"}, "no such file or directory"},
		{build.Output{Type: build.OutputTar}, "output type tar needs dest=PATH"},
		{build.Output{Type: "registry", Dest: "x"}, `output type "registry" is not supported`},
		{build.Output{Type: build.OutputOCI, Dest: "x", Attrs: map[string]string{"compression": "xz"}}, `compression "xz" is not supported`},
		{build.Output{Type: build.OutputOCI, Dest: "x", Attrs: map[string]string{"compression-level": "10"}}, `gzip has levels -2 to 9, not 10`},
		{build.Output{Type: build.OutputOCI, Dest: "x", Attrs: map[string]string{"compression-level": "high"}}, `non-integer value high specified for compression-level`},
		{build.Output{Type: build.OutputLocal, Dest: "x", Attrs: map[string]string{"name": "x"}}, `output attribute "name" is not supported for type local`},
	}
	for _, tt := range tests {
		_, _, err := h.try(build.Request{Tags: []string{"app"}, Outputs: []build.Output{tt.out, {Type: build.OutputImage}}})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("output %+v gave %v, want %q", tt.out, err, tt.want)
		}
	}
	if all, _ := h.store.Images(context.Background()); len(all) != 0 {
		t.Errorf("a build whose output failed named %v", all)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("outputs that failed left %v", left)
	}
}

func TestFailedBuildLeavesNoOutput(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nRUN exit 1\n")
	dest := h.out("root.tar")
	must(t, os.WriteFile(dest, []byte("from before"), 0o600))
	for _, typ := range []build.OutputType{build.OutputTar, build.OutputOCI, build.OutputDocker} {
		if _, _, err := h.try(build.Request{Outputs: []build.Output{{Type: typ, Dest: dest}}}); err == nil {
			t.Error("the build succeeded")
		}
	}
	if got, err := os.ReadFile(dest); err != nil || string(got) != "from before" {
		t.Errorf("the file from before is %q, %v", got, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(dest)); len(left) != 1 {
		t.Errorf("a failed build left %v", left)
	}
}

// An output that fails halfway leaves the file from before.
func TestFailedExportLeavesNoOutput(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM scratch\nCOPY big /\n")
	h.write("big", strings.Repeat("0123456789abcdef", 1<<16))
	full := errors.New("disk is full")
	if _, _, err := h.try(build.Request{Outputs: []build.Output{{Type: build.OutputTar, Writer: writerFunc(func([]byte) (int, error) { return 0, full })}}}); !errors.Is(err, full) {
		t.Errorf("a full disk gave %v", err)
	}
	dir := h.out("small")
	must(t, os.Mkdir(dir, 0o755))
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	defer unix.Unmount(dir, 0)
	dest := filepath.Join(dir, "image.tar")
	must(t, os.WriteFile(dest, []byte("from before"), 0o600))
	for _, typ := range []build.OutputType{build.OutputTar, build.OutputDocker} {
		attrs := map[string]string{}
		if typ == build.OutputDocker {
			attrs["compression"] = "uncompressed"
		}
		if _, _, err := h.try(build.Request{Outputs: []build.Output{{Type: typ, Dest: dest, Attrs: attrs}}}); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("a full disk gave %v", err)
		}
	}
	if got, err := os.ReadFile(dest); err != nil || string(got) != "from before" {
		t.Errorf("the file from before is %q, %v", got, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("a failed export left %v", left)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A pipe or a device is written to, not replaced by a file.
func TestOutputToPipe(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	pipe := h.out("pipe")
	must(t, unix.Mkfifo(pipe, 0o600))
	r, err := os.OpenFile(pipe, os.O_RDWR, 0) // so that neither end waits for the other
	must(t, err)
	defer r.Close()
	h.build(build.Request{Outputs: []build.Output{{Type: build.OutputTar, Dest: pipe}}})
	if fi, err := os.Lstat(pipe); err != nil || fi.Mode()&os.ModeNamedPipe == 0 {
		t.Fatalf("the pipe became %v, %v", fi, err)
	}
	if hdr, err := tar.NewReader(r).Next(); err != nil || hdr.Name != "Dockerfile" {
		t.Errorf("through the pipe came %v, %v", hdr, err)
	}
}

// A copy that sets the owner itself and one that does not read the same file; what the one may
// ignore, the other must not.
func TestOwnersCountForThoseWhoKeepThem(t *testing.T) {
	h := newHarness(t)
	for _, owner := range []uint32{5, 6} {
		h.write("Dockerfile", fmt.Sprintf(`FROM busybox AS make
RUN echo x > /file && chown %d /file
FROM scratch AS mine
COPY --chown=7:7 --from=make /file /file
FROM scratch AS kept
COPY --from=make /file /file
`, owner))
		for _, want := range []struct {
			target string
			uid    uint32
		}{{"mine", 7}, {"kept", owner}} {
			file := h.out("root.tar")
			h.build(build.Request{Target: want.target}) // an image: its layers are written
			h.build(build.Request{Target: want.target, Outputs: []build.Output{{Type: build.OutputTar, Dest: file}}})
			if headers, _ := readTar(t, file); headers["file"].Uid != int(want.uid) {
				t.Errorf("made for %d, in stage %s the file belongs to %d, want %d", owner, want.target, headers["file"].Uid, want.uid)
			}
		}
	}
}
