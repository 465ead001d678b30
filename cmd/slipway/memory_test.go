package main

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

const (
	few        = 20_000
	many       = 120_000
	mostOfFew  = 80 << 20 // of the program itself, not of a test binary
	mostOfMany = 250 << 20
)

// bytesOfFile is how much memory one file more may cost. Each has a kilobyte in a layer, and an entry of a tree takes a
// quarter of that, of which the collector lets as much again lie about: who keeps either for each file is seen. COPY
// remembers the digests of a context's files, load what it has seen of a layer, and export the names of a directory.
var bytesOfFile = map[string]int64{
	"COPY": 350, "again": 400, "layout": 350, "export": 250, "ADD": 200, "FROM": 300, "load": 350,
	"save": 100, "create": 100, "pull": 100, "push": 100, "size": 300, "diff": 100, "pulled": 350,
}

// What is handled does not decide how much memory is needed. SLIPWAY_SCALE is another number of files (`make scale`
// has a million) and SLIPWAY_SCALE_PROGRAM a program whose memory is to have fixed bounds.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("long: every command with 140,000 files")
	}
	if os.Geteuid() != 0 {
		t.Skip("files of other owners need root")
	}
	if detectsRaces() {
		t.Skip("the race detector takes several times the memory of the program")
	}
	n := many
	if s := os.Getenv("SLIPWAY_SCALE"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	fixed := os.Getenv("SLIPWAY_SCALE_PROGRAM") != ""
	over := func(what string, little, much int64) bool {
		if fixed {
			return little > mostOfFew || much > mostOfMany
		}
		return much-little > bytesOfFile[what]*int64(n-few)
	}
	// How late the collector comes on a busy machine is chance, and adds: what a command needs is the least of its peaks.
	little, much := peaks(t, few), peaks(t, n)
	for range 2 {
		again := false
		for what := range much {
			again = again || over(what, little[what], much[what])
		}
		if !again {
			break
		}
		lower(little, peaks(t, few))
		lower(much, peaks(t, n))
	}
	for what, peak := range much {
		growth := (peak - little[what]) / int64(n-few)
		t.Logf("%-8s %4d MB with %d files, %4d MB with %d", what, little[what]>>20, few, peak>>20, n)
		switch {
		case !over(what, little[what], peak):
		case fixed:
			t.Errorf("%s: %d MB and %d MB, which should be less than %d and %d", what, little[what]>>20, peak>>20, mostOfFew>>20, mostOfMany>>20)
		default:
			t.Errorf("%s: %d bytes of memory for each file more, which should be less than %d", what, growth, bytesOfFile[what])
		}
	}
}

// lower takes the lower ones of two measurements.
func lower(a, b map[string]int64) {
	for what := range a {
		a[what] = min(a[what], b[what])
	}
}

// peaks tells the most memory, in bytes, that the commands had in use which handle a tree of n files.
func peaks(t *testing.T, n int) map[string]int64 {
	dir, err := os.MkdirTemp(tmpfs(), "slipway-memory-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := makeContexts(dir, n); err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	run := func(what, store string, args ...string) {
		t.Helper()
		peak, err := peakOf(filepath.Join(dir, store), args)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		out[what] = max(out[what], peak)
		t.Logf("%-7s of %d files: %d MB", what, n, peak>>20) // those of a million take long
	}
	copied, file := filepath.Join(dir, "copy"), filepath.Join(dir, "out")
	run("COPY", "store", "build", "-q", "-t", "copy", copied)
	run("again", "store", "build", "-q", "-t", "copy", copied)
	run("save", "store", "save", "-o", file, "copy")
	run("size", "store", "image", "size", "copy")
	run("diff", "store", "image", "diff", "copy", "copy")
	layout := filepath.Join(dir, "layout") // of a plain tar: a compressed one of such files is small
	run("layout", "store", "build", "-q", "-o", "type=oci,tar=false,compression=uncompressed,dest="+layout, copied)
	os.RemoveAll(copied) // inodes are few on a tmpfs
	server := httptest.NewServer(serveLayout(layout))
	defer server.Close()
	image := strings.TrimPrefix(server.URL, "http://") + "/app:latest"
	run("tag", "store", "tag", "copy", image)
	run("push", "store", "push", "-q", image)
	run("create", "store", "create", "--name", "c", "copy", "true")
	run("export", "store", "export", "-o", filepath.Join(dir, "exported"), "c")
	os.Remove(filepath.Join(dir, "exported"))
	os.RemoveAll(filepath.Join(dir, "store"))
	run("load", "loaded", "load", "-q", "-i", file)
	os.RemoveAll(filepath.Join(dir, "loaded"))
	os.Remove(file)
	run("pull", "pulled", "pull", "-q", image)
	run("pulled", "pulled", "image", "size", image)
	os.RemoveAll(filepath.Join(dir, "pulled"))
	run("FROM", "from", "build", "-q", "-t", "from", "--build-arg", "BASE="+image, filepath.Join(dir, "from-image"))
	os.RemoveAll(filepath.Join(dir, "from"))
	os.RemoveAll(layout)
	run("ADD", "added", "build", "-q", "-t", "add", filepath.Join(dir, "add"))
	delete(out, "tag") // which has nothing to do with files
	return out
}

// makeContexts makes a build context with n files and one with an archive of as many.
func makeContexts(dir string, n int) (err error) {
	for name, text := range map[string]string{
		"copy":       "FROM scratch\nCOPY tree /tree\n",
		"add":        "FROM scratch\nADD tree.tar /\n",
		"from-image": "ARG BASE\nFROM $BASE AS base\nFROM scratch\nCOPY --from=base /tree /copied\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name, "Dockerfile"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Join(dir, "add", "tree.tar"))
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	tw := tar.NewWriter(w)
	for i := range n {
		parent := fmt.Sprintf("tree/group%d/dir%d", i/50_000, i/1000)
		if i%1000 == 0 {
			if err := os.MkdirAll(filepath.Join(dir, "copy", parent), 0o755); err != nil {
				return err
			}
		}
		name, content := fmt.Sprintf("%s/file%d", parent, i), []byte(strconv.Itoa(i))
		err := os.WriteFile(filepath.Join(dir, "copy", name), content, 0o644)
		if err == nil {
			err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))})
		}
		if err == nil {
			_, err = tw.Write(content)
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(tw.Close(), w.Flush(), f.Close())
}

// peakOf runs a command and tells the most memory that it had in use. What this process has counts as the command's
// until that begins, so it must have little.
func peakOf(store string, args []string) (int64, error) {
	program := os.Getenv("SLIPWAY_SCALE_PROGRAM")
	if program == "" {
		program = os.Args[0]
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "SLIPWAY_TEST_START=1", "SLIPWAY_ROOT="+store, "GOGC=", "GOMEMLIMIT=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, out)
	}
	return cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10, nil
}

// serveLayout is a registry that has the image of an OCI layout under any name, and takes everything without keeping it.
func serveLayout(dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPost:
			w.Header().Set("Location", r.URL.Path+"upload")
			w.WriteHeader(http.StatusAccepted)
			return
		case http.MethodPut, http.MethodPatch:
			hash := sha256.New()
			io.Copy(hash, r.Body) //nolint:errcheck // the digest tells
			w.Header().Set("Location", r.URL.Path)
			w.Header().Set("Docker-Content-Digest", "sha256:"+hex.EncodeToString(hash.Sum(nil)))
			w.WriteHeader(http.StatusCreated)
			return
		}
		ref := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		if ref == "" {
			return // it is one
		}
		var index struct {
			Manifests []struct{ MediaType, Digest string }
		}
		data, err := os.ReadFile(filepath.Join(dir, "index.json"))
		if err == nil {
			err = json.Unmarshal(data, &index)
		}
		if err != nil || len(index.Manifests) != 1 {
			http.Error(w, fmt.Sprint(err), http.StatusInternalServerError)
			return
		}
		if strings.Contains(r.URL.Path, "/manifests/") {
			ref = index.Manifests[0].Digest
			w.Header().Set("Content-Type", index.Manifests[0].MediaType)
			w.Header().Set("Docker-Content-Digest", ref)
		}
		f, err := os.Open(filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(ref, "sha256:")))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer f.Close()
		if fi, err := f.Stat(); err == nil {
			w.Header().Set("Content-Length", strconv.FormatInt(fi.Size(), 10))
		}
		if r.Method != http.MethodHead {
			io.Copy(w, f) //nolint:errcheck // the client finds out
		}
	})
}

// tmpfs is where trees of tests are.
func tmpfs() string {
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		return "/dev/shm"
	}
	return os.TempDir()
}

// detectsRaces reports whether this program, which the test runs as slipway, is compiled with the race detector.
func detectsRaces() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}
