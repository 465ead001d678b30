package cli

import (
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
)

// stamped is how the tests write what stamp tells.
func stamped(number, commit, date string) string {
	return strings.Join([]string{number, commit, date}, "|")
}

// TestStamp completes what the linker was told by what the go command notes.
func TestStamp(t *testing.T) {
	set := func(version, commit, date string) { Version, Commit, Date = version, commit, date }
	t.Cleanup(func() { set("", "", "") })
	vcs := []debug.BuildSetting{{Key: "GOARCH", Value: "arm64"}, {Key: "vcs.revision", Value: "abc"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}}
	built := &debug.BuildInfo{Main: debug.Module{Version: "v0.1.1-0.20260102030405-abc+dirty"}, Settings: vcs}
	for _, c := range []struct {
		name                  string
		version, commit, date string // of the linker
		info                  *debug.BuildInfo
		want                  string
	}{
		{"make", "0.1.0", "def", "2026-06-07T08:09:10Z", built, "0.1.0|def|2026-06-07T08:09:10Z"},
		{"go build", "", "", "", built, "0.1.1-0.20260102030405-abc+dirty|abc|2026-01-02T03:04:05Z"},
		{"go build -buildvcs=false", "", "", "", &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, "devel||"},
		{"go install", "", "", "", &debug.BuildInfo{Main: debug.Module{Version: "v0.1.0"}}, "0.1.0||"},
		{"a version alone", "0.1.0", "", "", built, "0.1.0|abc|2026-01-02T03:04:05Z"},
		{"nothing", "", "", "", nil, "devel||"},
	} {
		set(c.version, c.commit, c.date)
		if got := stamped(stampOf(c.info, c.info != nil)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	set("0.1.0", "def", "then")
	if got, want := stamped(stamp()), "0.1.0|def|then"; got != want {
		t.Errorf("the linker's is %s, want %s", got, want)
	}
}

// TestVersionScript runs hack/version.sh in a repository with tags.
func TestVersionScript(t *testing.T) {
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		cmd.Env = append(cmd.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "TZ=Asia/Tokyo",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_COMMITTER_DATE=2026-01-02T03:04:05+02:00")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	script, err := filepath.Abs(filepath.Join(repository, "hack", "version.sh"))
	if err != nil {
		t.Fatal(err)
	}
	run("mkdir", "hack")
	run("cp", script, "hack/version.sh")
	version := func(want string) {
		t.Helper()
		hash := ""
		if strings.Contains(want, "HASH") {
			hash = "g" + run("git", "rev-parse", "HEAD")[:12]
		}
		if got, want := run("hack/version.sh"), strings.ReplaceAll(want, "HASH", hash); got != want {
			t.Errorf("the version is %q, want %q", got, want)
		}
	}
	commit := func() { run("git", "commit", "-q", "--allow-empty", "-am", "x") }
	version("")
	run("git", "init", "-q")
	version("")
	run("git", "add", ".")
	commit()
	version("0.1.0-dev.1+HASH")
	run("git", "tag", "v0.1.0")
	version("0.1.0")
	run("sh", "-c", "echo >>hack/version.sh")
	version("0.1.1-dev.0+HASH.dirty")
	commit()
	version("0.1.1-dev.1+HASH")
	run("git", "tag", "v0.2.0-rc.1")
	version("0.2.0-rc.1")
	commit()
	version("0.2.0-rc.1.dev.1+HASH")
	if got, want := run("hack/version.sh", "date"), "2026-01-02T01:04:05Z"; got != want {
		t.Errorf("the date is %q, want %q", got, want)
	}
	if got, want := run("hack/version.sh", "commit"), run("git", "rev-parse", "HEAD"); got != want {
		t.Errorf("the commit is %q, want %q", got, want)
	}
}
