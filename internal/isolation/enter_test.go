//go:build cgo

package isolation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// told is what a process that has entered says of itself.
type told struct {
	Entry    *Entry
	Err      string
	PID, UID int
	User     int
	UIDs     []user.IDMap
	GIDs     []user.IDMap
	Dir      string
	Variable bool
	Carried  string
	Shown    string // what is in the file that was out of reach
	Proc     uint32 // owner of its files in /proc
	Mode     uint32 // of the directory that was prepared
	MayMount bool
}

// TestMain makes this program one that enters what SLIPWAY_TEST_ENTER says, and tells what came of it.
func TestMain(m *testing.M) {
	text := os.Getenv("SLIPWAY_TEST_ENTER")
	if text == "" {
		os.Exit(m.Run())
	}
	if Entered() == nil {
		var ids struct{ IDs, UIDs, GIDs, UIDProgram, GIDProgram, Setgroups, Prepare, Home string }
		if err := json.Unmarshal([]byte(text), &ids); err != nil {
			panic(err)
		}
		fmt.Fprintln(os.Stderr, os.Getpid())
		c := &Choice{IDs: IDs(ids.IDs), Why: "a test", enter: maps{ids.UIDs, ids.GIDs, ids.UIDProgram, ids.GIDProgram, ids.Setgroups}}
		carried := "carried"
		if ids.Prepare != "" {
			if err := c.Prepare(ids.Prepare); err != nil || !c.Shifted() {
				panic(fmt.Sprint(c.Shifted(), err))
			}
			carried = string(Gather([]string{ids.Home})[0].Data)
		}
		fmt.Fprintln(os.Stderr, Enter(c, []byte(carried)))
		os.Exit(1)
	}
	t := told{Entry: Entered(), PID: os.Getpid(), UID: os.Geteuid(), User: User()}
	if t.Entry.Err != nil {
		t.Err, t.Entry.Err = t.Entry.Err.Error(), nil
	}
	t.UIDs, _ = user.ParseIDMapFile("/proc/self/uid_map")
	t.GIDs, _ = user.ParseIDMapFile("/proc/self/gid_map")
	t.Dir, _ = os.Getwd()
	_, t.Variable = os.LookupEnv("_SLIPWAY_ENTER")
	carried, err := Carried()
	if err != nil {
		panic(err)
	}
	t.Carried = string(carried)
	var asked struct{ Prepare, Home string }
	if err := json.Unmarshal([]byte(text), &asked); err == nil && asked.Prepare != "" {
		if err := Show([]File{{asked.Home, carried}, {asked.Home + ".none", nil}}); err != nil {
			panic(err)
		}
		data, err := os.ReadFile(asked.Home)
		var st unix.Stat_t
		if err = errors.Join(err, unix.Stat(asked.Prepare, &st), os.WriteFile(filepath.Join(asked.Prepare, "file"), nil, 0o600)); err != nil {
			panic(err)
		}
		if _, err := os.Stat(asked.Home + ".none"); !errors.Is(err, os.ErrNotExist) {
			panic(err)
		}
		t.Shown, t.Mode = string(data), st.Mode&0o777
	}
	var own unix.Stat_t
	if err := unix.Stat("/proc/self/environ", &own); err != nil {
		panic(err)
	}
	t.Proc = own.Uid
	t.MayMount = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") == nil
	if err := json.NewEncoder(os.Stdout).Encode(t); err != nil {
		panic(err)
	}
	os.Exit(0)
}

// enters runs this program as a user and has it enter; it asserts that it stayed the same process.
func enters(t *testing.T, attr *syscall.SysProcAttr, how string, wrapper ...string) told {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root, to become other users")
	}
	// The test's own directory lets nobody else in.
	dir, err := os.MkdirTemp("/tmp", "enter-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "program")
	from, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(program, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	if wrapper != nil {
		cmd = exec.Command(wrapper[0], append(wrapper[1:], program)...)
	}
	cmd.Dir = dir
	cmd.Env = []string{"SLIPWAY_TEST_ENTER=" + how, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = attr
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	var got told
	if err := json.Unmarshal([]byte(stdout.String()), &got); err != nil {
		t.Fatalf("%v: %s\n%s", err, &stdout, &stderr)
	}
	if want := fmt.Sprintln(got.PID); stderr.String() != want {
		t.Errorf("it said %q, want the number of the same process %q", &stderr, want)
	}
	if got.Dir != dir || got.Variable || got.Carried != "carried" {
		t.Errorf("it is in %s (want %s); the variable is in its environment: %v; it was given %q", got.Dir, dir, got.Variable, got.Carried)
	}
	return got
}

func asNobody() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54322}}
}

func TestEnterOneID(t *testing.T) {
	got := enters(t, asNobody(), `{"IDs":"one","UIDs":"0 54321 1","GIDs":"0 54322 1","Setgroups":"deny"}`)
	if got.Err != "" || !got.Entry.Inside || !got.MayMount || got.UID != 0 || got.User != 54321 || got.Entry.UID != 54321 || got.Entry.GID != 54322 ||
		got.Entry.IDs != One || got.Entry.Why != "a test" {
		t.Errorf("got %+v, %+v", got, got.Entry)
	}
	if one := (user.IDMap{ID: 0, ParentID: 54321, Count: 1}); len(got.UIDs) != 1 || got.UIDs[0] != one {
		t.Errorf("its users are %v", got.UIDs)
	}
}

// Root of a container may map all that there is but itself without CAP_SETFCAP; it may with it.
func TestEnterIdentity(t *testing.T) {
	got := enters(t, &syscall.SysProcAttr{}, `{"IDs":"identity","UIDs":"0 0 65536","GIDs":"0 0 65536"}`)
	if got.Err != "" || !got.Entry.Inside || !got.MayMount || got.UID != 0 || got.User != 0 || len(got.UIDs) != 1 || got.UIDs[0].Count != 65536 {
		t.Errorf("got %+v, %+v", got, got.Entry)
	}
	got = enters(t, &syscall.SysProcAttr{}, `{"IDs":"identity","UIDs":"0 1 65534","GIDs":"0 0 65536"}`)
	if got.Err != "" || !got.Entry.Inside || !got.MayMount || got.UID != 0 || len(got.UIDs) != 1 || got.UIDs[0].ParentID != 1 {
		t.Errorf("got %+v, %+v", got, got.Entry)
	}
}

// Root with SETUID and SETGID alone, as in a pod that has just these: who it becomes has a directory, and the files of who it was.
func TestEnterShifted(t *testing.T) {
	above := t.TempDir()
	for dir := above; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	home := filepath.Join(above, "home")
	if err := os.MkdirAll(filepath.Join(home, ".docker"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(home, ".docker", "config.json")
	if err := os.WriteFile(file, []byte("carried"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(above, "lib", "store")
	how := fmt.Sprintf(`{"IDs":"identity","UIDs":"0 1 65534","GIDs":"0 0 65536","Prepare":%q,"Home":%q}`, dir, file)
	got := enters(t, &syscall.SysProcAttr{}, how, "setpriv", "--bounding-set=-all,+setuid,+setgid", "--inh-caps=-all")
	if got.Err != "" || !got.Entry.Inside || got.UID != 0 || got.Shown != "carried" || got.Mode != 0o700 || got.Proc != 0 {
		t.Errorf("got %+v, %+v", got, got.Entry)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "file"), &st); err != nil || st.Uid != 1 {
		t.Errorf("what it makes belongs to user %d of the container, %v", st.Uid, err)
	}
	left, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(left) != 1 {
		t.Errorf("beside the directory there is %v, %v", left, err)
	}
}

// What programs say that cannot map is kept, and the process has gone nowhere: it can try something else.
func TestEnterFails(t *testing.T) {
	got := enters(t, asNobody(), `{"IDs":"subids","UIDs":"0 54321 1 1 100000 65536","GIDs":"0 54322 1","UIDProgram":"/usr/bin/newuidmap","GIDProgram":"/usr/bin/newgidmap"}`)
	if !strings.Contains(got.Err, "mapping the users of a user namespace: newuidmap: ") && !strings.Contains(got.Err, "newgidmap: ") || got.Entry.Inside || got.UID != 54321 {
		t.Errorf("got %+v, %+v", got, got.Entry)
	}
	got = enters(t, asNobody(), `{"IDs":"subids","UIDs":"0 54321 1","GIDs":"0 54322 1","UIDProgram":"/no/such/program","GIDProgram":"/no/such/program"}`)
	if !strings.Contains(got.Err, "/no/such/program: No such file or directory") || got.Entry.Inside {
		t.Errorf("got %+v, %+v", got, got.Entry)
	}
	got = enters(t, asNobody(), `{"IDs":"one","UIDs":"0 1 1","GIDs":"0 54322 1"}`)
	if got.Err != "mapping the users of a user namespace: operation not permitted" || got.Entry.Inside {
		t.Errorf("got %+v, %+v", got, got.Entry)
	}
}

// A variable that another process was given does nothing, and is seen by nobody.
func TestEnterIsForOneProcess(t *testing.T) {
	if os.Getenv("SLIPWAY_TEST_STALE") != "" {
		if _, seen := os.LookupEnv("_SLIPWAY_ENTER"); seen || Entered() != nil || os.Geteuid() != 0 {
			t.Errorf("entered: %+v; in the environment: %v", Entered(), seen)
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestEnterIsForOneProcess$")
	cmd.Env = append(os.Environ(), "SLIPWAY_TEST_STALE=1", "_SLIPWAY_ENTER=1\none\nwhy\n0 0 1\n0 0 1\n\n\n\n-1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestProbe(t *testing.T) {
	if made, mounts := tryNamespaces(unix.CLONE_NEWUSER | unix.CLONE_NEWNS); made != nil || mounts != nil {
		t.Errorf("this machine has user namespaces: %v, %v", made, mounts)
	}
	if made, _ := tryNamespaces(unix.CLONE_NEWUSER | unix.CLONE_THREAD | unix.CLONE_SIGHAND); made != unix.EINVAL {
		t.Errorf("got %v, want that the kernel refuses it", made)
	}
}
