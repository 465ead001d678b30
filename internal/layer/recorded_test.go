package layer

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lesser are who can hold less than root of the machine: a user namespace with one ID, whose root is user 1000; and that user.
var lesser = map[string]*syscall.SysProcAttr{
	"one ID": {
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}},
		Credential:  &syscall.Credential{},
	},
	"many IDs": {
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 100000, Size: 65535}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 100000, Size: 65535}},
		Credential:  &syscall.Credential{},
	},
	"no capabilities": {Credential: &syscall.Credential{Uid: 1000, Gid: 1000}},
}

const asLesser = "SLIPWAY_LAYER_TEST_LESSER"

// asEach runs the test that calls it again as everybody who is lesser, with a directory of theirs, which it returns there.
func asEach(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv(asLesser); dir != "" {
		return dir
	}
	needRoot(t)
	for name, attr := range lesser {
		dir := shmDir(t)
		if err := errors.Join(os.Chmod(dir, 0o700), os.Chown(dir, 1000, 1000)); err != nil {
			t.Fatal(err)
		}
		again(t, name, dir, attr)
	}
	return ""
}

// again runs the test that calls it again as somebody else.
func again(t *testing.T, name, dir string, attr *syscall.SysProcAttr) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), asLesser+"="+dir)
	cmd.Dir, cmd.SysProcAttr = "/", attr
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%s: %v\n%s", name, err, out)
	}
}

// plainTar is the tar of entries that were never on a disk.
func plainTar(t *testing.T, entries []*Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewTarWriter(&b)
	for _, e := range entries {
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func writeUser(t *testing.T, dir string, entries []*Entry) {
	t.Helper()
	w, err := NewDirWriter(dir)
	if err != nil {
		t.Fatal(err)
	}
	w.SetFlavor(User, User.Records(dir))
	for _, e := range entries {
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func openUser(dir string) Tree {
	return OpenDir(dir, DirOptions{Overlay: true, Immutable: true, Flavor: User, Records: User.Records(dir)})
}

// Whoever writes a layer reads back what it is: owners, modes, attributes and devices that the disk cannot hold.
func TestRecorded(t *testing.T) {
	dir := asEach(t)
	if dir == "" {
		return
	}
	for seed := range int64(60) {
		entries := randomLayer(rand.New(rand.NewSource(seed)), true)
		at := filepath.Join(dir, fmt.Sprint(seed))
		if err := os.Mkdir(at, 0o700); err != nil {
			t.Fatal(err)
		}
		writeUser(t, at, entries)
		var c, want collect
		if err := WriteTree(openUser(at), &c); err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := want.Add(e); err != nil {
				t.Fatal(err)
			}
		}
		// Which name of a file comes first is not the directory's to say.
		if got, want := withoutLinks(c.describe()), withoutLinks(want.describe()); got != want {
			t.Fatalf("layer %d is\n%s\nwant\n%s", seed, got, want)
		}
		if seed%10 == 0 && !bytes.Equal(tarOfTree(t, openUser(at)), plainTar(t, entries)) {
			t.Errorf("layer %d has another tar", seed)
		}
	}
}

func tarOfTree(t *testing.T, tree Tree) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewTarWriter(&b)
	if err := errors.Join(WriteTree(tree, w), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func withoutLinks(s string) string {
	var kept []string
	for line := range strings.Lines(s) {
		if !strings.Contains(line, " link \"") || strings.Contains(line, " mode=") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// What a process says in the attributes of a record is what chown may say, or nothing.
func TestRecordedClaims(t *testing.T) {
	dir := asEach(t)
	if dir == "" {
		return
	}
	for claim, want := range map[string]string{
		"7:8":                       "100644 7:8",
		"7:8:104755":                "104755 7:8",
		"7:8:4755":                  "100644 0:0",
		"7:8:0104755":               "104755 7:8",
		"7:8:104755:1:1":            "100644 0:0",
		"4294967295:8":              "100644 0:0",
		"-1:8":                      "100644 0:0",
		"7":                         "100644 0:0",
		"":                          "100644 0:0",
		"7:8:0":                     "100644 0:0",
		"7:8:20644:0:0":             "100644 0:0", // a whiteout
		"7:8:20644":                 "100644 0:0",
		"7:8:20644:1:3":             "20644 7:8 1:3",
		"7:8:40755":                 "100644 0:0", // a directory
		"7:8:120777":                "100644 0:0",
		"7:8:777777777777":          "100644 0:0",
		strings.Repeat("1", 100):    "100644 0:0",
		"0:0\n":                     "100644 0:0",
		"+7:8":                      "100644 0:0",
		"7:8:20644:4294967295:1":    "100644 0:0",
		"99999999999999999999999:1": "100644 0:0",
	} {
		name := filepath.Join(dir, "f")
		if err := errors.Join(os.RemoveAll(name), os.WriteFile(name, nil, 0o600), os.Chmod(name, 0o644), unix.Setxattr(name, OwnerRecord, []byte(claim), 0)); err != nil {
			t.Fatal(err)
		}
		if self().many { // what anybody can set says nothing
			if e, err := openUser(dir).Lstat("f"); err != nil || e.Mode != unix.S_IFREG|0o644 || e.UID != 0 || e.GID != 0 {
				t.Errorf("%q of a file that is not marked gives %+v, %v", claim, e, err)
			}
			if err := os.Chown(name, recordOwner, recordOwner); err != nil {
				t.Fatal(err)
			}
			want = strings.Replace(want, "100644 0:0", fmt.Sprintf("100644 %d:%[1]d", recordOwner), 1)
		}
		e, err := openUser(dir).Lstat("f")
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintf("%o %d:%d", e.Mode, e.UID, e.GID)
		if e.Major+e.Minor > 0 {
			got += fmt.Sprintf(" %d:%d", e.Major, e.Minor)
		}
		if got != want || e.Whiteout || len(e.Xattrs) > 0 {
			t.Errorf("%q gives %s (whiteout %v, attributes %v), want %s", claim, got, e.Whiteout, e.Xattrs, want)
		}
	}
	for attr, want := range map[string]string{
		HeldRecord + "trusted.x":              "trusted.x",
		HeldRecord + "security.capability":    "security.capability",
		HeldRecord + "trusted.overlay.opaque": "",
		HeldRecord + "user.overlay.opaque":    "",
		HeldRecord + OwnerRecord:              "",
		HeldRecord:                            "",
		RecordPrefix + "other":                "",
		HeldRecord + "security.selinux":       "",
	} {
		name := filepath.Join(dir, "d")
		if err := errors.Join(os.RemoveAll(name), os.Mkdir(name, 0o755)); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setxattr(name, attr, []byte("y"), 0); err != nil {
			t.Fatal(attr, err)
		}
		if self().many {
			if e, err := openUser(dir).Lstat("d"); err != nil || len(e.Xattrs) > 0 {
				t.Errorf("%s of a directory that is not marked gives %+v, %v", attr, e, err)
			}
			if err := os.Chown(name, recordOwner, 0); err != nil {
				t.Fatal(err)
			}
		}
		e, err := openUser(dir).Lstat("d")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(sortedKeys(e.Xattrs), " "); got != want || e.Opaque || e.GID != 0 {
			t.Errorf("%s gives %q (opaque %v, owner %d), want %q", attr, got, e.Opaque, e.UID, want)
		}
	}
}

// An image that brings records has none of them: not in its own layer, not in the trusted flavor.
func TestRecordsOfImages(t *testing.T) {
	dir := asEach(t)
	if dir == "" {
		return
	}
	var b bytes.Buffer
	w := NewTarWriter(&b)
	e := &Entry{Path: "f", Mode: unix.S_IFREG | 0o644, ModTime: time.Unix(1e9, 0), Xattrs: map[string]string{
		OwnerRecord: "7:8:104755", HeldRecord + "security.capability": "x", "user.kept": "y", "user.overlay.opaque": "y",
	}}
	if err := errors.Join(w.Add(e), w.Close()); err != nil {
		t.Fatal(err)
	}
	var c collect
	if _, err := ReadTar(&b, TarOptions{}, &c); err != nil {
		t.Fatal(err)
	}
	writeUser(t, dir, c.entries)
	got, err := openUser(dir).Lstat("f")
	if err != nil {
		t.Fatal(err)
	}
	if keys := strings.Join(sortedKeys(got.Xattrs), " "); keys != "user.kept" || got.UID != 0 || got.Mode != e.Mode {
		t.Errorf("it is %+v", got)
	}
	if err := unix.Setxattr(filepath.Join(dir, "f"), OwnerRecord, []byte("7:8"), 0); err != nil {
		t.Fatal(err)
	}
	plain, err := OpenDir(dir, DirOptions{}).Lstat("f")
	if err != nil || plain.UID == 7 || len(plain.Xattrs) != 1 {
		t.Errorf("in the trusted flavor it is %+v, %v", plain, err)
	}
}

// Where everything can be held nothing is recorded, and no call is made for it.
func TestNothingRecorded(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(shmDir(t), "fs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	writeUser(t, dir, randomLayer(rand.New(rand.NewSource(1)), true))
	if _, err := os.Lstat(User.Records(dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a file of records: %v", err)
	}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error {
		buf := make([]byte, 4096)
		n, err := unix.Llistxattr(path, buf)
		if err == nil && strings.Contains(string(buf[:n]), RecordPrefix) {
			t.Errorf("%s has a record", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A link that was replaced has not the owner of the one before.
func TestRecordOfLinkReplaced(t *testing.T) {
	dir := asEach(t)
	if dir == "" {
		return
	}
	link := &Entry{Path: "l", Mode: unix.S_IFLNK | 0o777, Link: "a", UID: 3000005, GID: 6, ModTime: time.Unix(1e9, 1)}
	writeUser(t, dir, []*Entry{link, {Path: "l2", Hardlink: true, Link: "l", Mode: link.Mode}})
	for _, name := range []string{"l", "l2"} {
		if e, err := openUser(dir).Lstat(name); err != nil || e.UID != 3000005 || e.GID != 6 {
			t.Errorf("%s is %+v, %v", name, e, err)
		}
	}
	if err := errors.Join(os.Remove(dir+"/l"), os.Symlink("a", dir+"/l")); err != nil {
		t.Fatal(err)
	}
	if e, err := openUser(dir).Lstat("l"); err != nil || e.UID != 0 {
		t.Errorf("the other one is %+v, %v", e, err)
	}
}

// A file of somebody whose ID is not there any more is an error, not one of somebody else.
func TestForeignOwners(t *testing.T) {
	if dir := os.Getenv(asLesser); dir != "" {
		tree := openUser(dir)
		if _, err := tree.Lstat("f"); !errors.Is(err, ErrForeign) && !self().many { // for whom it may be nobody's
			t.Errorf("it is %v", err)
		}
		if e, err := OpenDir(dir, DirOptions{Live: true, Flavor: User}).Lstat("f"); err != nil {
			t.Errorf("in a directory that is no layer: %+v, %v", e, err)
		}
		return
	}
	needRoot(t)
	for name, attr := range lesser {
		dir := shmDir(t)
		err := errors.Join(os.WriteFile(dir+"/f", nil, 0o644), os.Chown(dir+"/f", 300033, 1000), os.Chown(dir, 1000, 1000))
		if err != nil {
			t.Fatal(err)
		}
		again(t, name, dir, attr)
	}
}

// Where there are many IDs, who gives a file with a record to somebody else has given it.
func TestRecordThatIsOver(t *testing.T) {
	dir := asEach(t)
	if dir == "" || !self().many {
		return
	}
	writeUser(t, dir, []*Entry{{Path: "f", Mode: unix.S_IFREG | 0o644, UID: 3000000, GID: 4000000}, {Path: "l", Mode: unix.S_IFLNK | 0o777, Link: "x", UID: 3000000, GID: 4000000}})
	for _, step := range []struct {
		uid, gid int
		want     Owner
	}{{-1, -1, Owner{3000000, 4000000}}, {-1, 7, Owner{3000000, 7}}, {33, -1, Owner{33, 7}}, {0, 0, Owner{}}} {
		for _, name := range []string{"f", "l"} {
			if err := os.Lchown(filepath.Join(dir, name), step.uid, step.gid); err != nil {
				t.Fatal(err)
			}
			if e, err := openUser(dir).Lstat(name); err != nil || (Owner{e.UID, e.GID}) != step.want {
				t.Errorf("%s given to %d:%d is %+v, %v", name, step.uid, step.gid, e, err)
			}
		}
	}
}
