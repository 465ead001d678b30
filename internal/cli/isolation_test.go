package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// ordinaryUser is a user with a home directory, who has no subordinate IDs and can execute slipway.
type ordinaryUser struct {
	t         *testing.T
	dir, home string
}

const ordinaryID = 54321

func newOrdinaryUser(t *testing.T) *ordinaryUser {
	dir, err := os.MkdirTemp("/tmp", "slipway-user-") // t.TempDir lets nobody else in
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	u := &ordinaryUser{t, dir, filepath.Join(dir, "home")}
	program, err := os.ReadFile(os.Args[0])
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "slipway"), program, 0o755)
	}
	if err == nil {
		err = os.Mkdir(u.home, 0o700)
	}
	for _, f := range []func() error{func() error { return os.Chmod(dir, 0o755) }, func() error { return os.Chown(u.home, ordinaryID, ordinaryID) }} {
		if err == nil {
			err = f()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// slipway runs slipway as the user.
func (u *ordinaryUser) slipway(args ...string) (stdout, stderr string, err error) {
	cmd := exec.Command(filepath.Join(u.dir, "slipway"), args...)
	cmd.Dir = u.home
	cmd.Env = []string{"HOME=" + u.home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + u.home}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryID, Gid: ordinaryID}}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

func (u *ordinaryUser) must(args ...string) string {
	u.t.Helper()
	stdout, stderr, err := u.slipway(args...)
	if err != nil {
		u.t.Fatalf("slipway %s: %v\n%s%s", strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout
}

func owner(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st.Uid
}

// A user who is not root gets a user namespace, in which everything is in the user's own places and belongs to the user.
func TestOrdinaryUser(t *testing.T) {
	u := newOrdinaryUser(t)
	if got := strings.TrimSpace(u.must("info", "--format", "{{.Isolation.Mode}} {{.Isolation.IDs}} {{.DockerRootDir}} {{.SecurityOptions}}")); got !=
		"userns one "+u.home+"/.local/share/slipway [name=seccomp,profile=builtin name=rootless]" {
		t.Errorf("info says %s", got)
	}
	if err := os.WriteFile(filepath.Join(u.home, "Dockerfile"), []byte("FROM scratch\nCOPY Dockerfile /\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	u.must("build", "-q", "-t", "app", "-o", "type=local,dest=out", "-o", "type=image", ".")
	for _, path := range []string{".local/share/slipway/meta.db", "out/Dockerfile"} {
		if got := owner(t, filepath.Join(u.home, path)); got != ordinaryID {
			t.Errorf("%s belongs to user %d", path, got)
		}
	}
	if got := u.must("images", "-q"); got == "" { // from outside of the namespace
		t.Error("there is no image")
	}
	// The directories above a socket belong to others that look like nobody inside.
	u.must("serve", "--addr", "unix://"+u.home+"/s/buildkitd.sock", "--idle", "10ms")
}

// Whose the directories above a store are is known outside alone.
func TestOthersDirectoriesAreSeenBeforeEntering(t *testing.T) {
	u := newOrdinaryUser(t)
	theirs := filepath.Join(u.dir, "theirs")
	if err := os.Mkdir(theirs, 0o755); err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(theirs, "store")
	if err := os.Mkdir(store, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(theirs, ordinaryID+1, ordinaryID+1); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(store, ordinaryID, ordinaryID); err != nil {
		t.Fatal(err)
	}
	_, stderr, err := u.slipway("--root", store, "system", "df")
	if err == nil || !strings.Contains(stderr, theirs+" belongs to user 54322, who could put something else in the store's place") {
		t.Errorf("%v: %s", err, stderr)
	}
}
