package store

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// The test binary runs itself to have other processes use a store.
const (
	childEnv = "SLIPWAY_STORE_TEST_CHILD"
	rootEnv  = "SLIPWAY_STORE_TEST_ROOT"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		if err := children[name](os.Getenv(rootEnv)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// children are what other processes do; each is given the store's root.
var children = map[string]func(root string) error{
	"create":            childCreates,
	"upgrade":           childUpgrades,
	"halfway":           childStopsHalfway,
	"locked":            childHoldsCache,
	"user":              childUses,
	"reset":             childResets,
	"one-id":            childOpensWithOneID,
	"looks-with-one-id": childLooksWithOneID,
}

// child is another process with the test's code. Its first line of output has been read.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ready []string // the fields of the line
}

func command(t *testing.T, name, root string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"="+name, rootEnv+"="+root)
	return cmd
}

// start runs a child and waits for its first line. It is killed when the test ends.
func start(t *testing.T, name, root string) *child {
	t.Helper()
	c := &child{cmd: command(t, name, root)}
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stderr = os.Stderr
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("reading what child %s says: %v", name, err)
	}
	c.ready = strings.Fields(line)
	return c
}

// kill ends the child as SIGKILL does: nothing of it runs any more.
func (c *child) kill() {
	if c.cmd.ProcessState == nil {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	}
}

// ownMounts runs the test that calls it again, in a mount namespace of its own, where it reports true: its mounts
// end with that process.
func ownMounts(t *testing.T) bool {
	t.Helper()
	const env = "SLIPWAY_STORE_TEST_MOUNTS"
	if os.Getenv(env) != "" {
		return true
	}
	needRoot(t)
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), env+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // private, says package syscall
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in a mount namespace: %v\n%s", err, out)
	}
	return false
}

// say tells the parent that the child is where it is wanted, and stays there until the parent
// closes the pipe.
func say(words ...any) {
	fmt.Println(words...)
	io.Copy(io.Discard, os.Stdin)
}

// shm is a directory on a tmpfs where there is one.
func shm(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "slipway-store-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("the test left something: %v", err)
		}
	})
	return dir
}

func open(t testing.TB, root string) *Store {
	t.Helper()
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newStore(t testing.TB) *Store { return open(t, filepath.Join(shm(t), "store")) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("error is %v, want %q in it", err, part)
	}
}

// leftovers are the files below tmp/ that somebody forgot, and layer directories without a record.
func leftovers(t testing.TB, s *Store) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(s.root, "tmp", "*", "*"))
	must(t, err)
	dirs, err := filepath.Glob(filepath.Join(s.root, "layers", "*"))
	must(t, err)
	for _, dir := range dirs {
		if _, err := s.Layer(context.Background(), layer.ID(filepath.Base(dir))); err != nil {
			left = append(left, dir)
		}
	}
	return left
}

// wantClean fails when something is left over.
func wantClean(t testing.TB, s *Store) {
	t.Helper()
	if left := leftovers(t, s); len(left) > 0 {
		t.Errorf("these were left behind: %q", left)
	}
}

// tarOf is a tar archive of regular files.
func tarOf(files map[string]string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: n, Mode: 0o644, Size: int64(len(files[n]))})
		io.WriteString(w, files[n])
	}
	w.Close()
	return b.Bytes()
}

// packed is data in a compression.
func packed(t testing.TB, data []byte, c layer.Compression) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := layer.Compress(&b, layer.Encoding{Compression: c})
	must(t, err)
	_, err = w.Write(data)
	must(t, err)
	must(t, w.Close())
	return b.Bytes()
}

// pulled puts a gzip blob and its layer into the store, as pulling does.
func pulled(t testing.TB, s *Store, files map[string]string) (layer.ID, ocispec.Descriptor, digest.Digest) {
	t.Helper()
	data := tarOf(files)
	desc, err := s.PutBlob(context.Background(), ocispec.MediaTypeImageLayerGzip, packed(t, data, layer.Gzip))
	must(t, err)
	diff := digest.FromBytes(data)
	id, err := s.BlobLayer(context.Background(), diff, desc)
	must(t, err)
	return id, desc, diff
}

// made commits a layer with files.
func made(t testing.TB, s *Store, files map[string]string) layer.ID {
	t.Helper()
	d, err := s.NewLayer()
	must(t, err)
	defer d.Abort()
	for n, content := range files {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(d.FS, n)), 0o755))
		must(t, os.WriteFile(filepath.Join(d.FS, n), []byte(content), 0o644))
	}
	id, err := d.Commit(context.Background())
	must(t, err)
	return id
}

// run runs a program that the tests need and returns what it writes.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("this test needs %s: install it (apt-get install %s)", name, name)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
