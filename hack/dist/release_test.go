package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRelease cuts a changelog in a repository of its own, tells of what is missing, and refuses what would be no release.
func TestRelease(t *testing.T) {
	dir := t.TempDir()
	put := func(name, content string, mode os.FileMode) {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), mode))
	}
	run := func(program string, args ...string) (string, error) {
		cmd := exec.Command(program, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	git := func(args ...string) string {
		t.Helper()
		out, err := run("git", args...)
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return out
	}
	script, err := os.ReadFile("../release.sh")
	must(t, err)
	put("hack/release.sh", string(script), 0o755)
	put("CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- All of it.\n", 0o644)
	put("contrib/allowed_signers", "# a comment\n", 0o644)
	git("init", "-q")
	git("add", ".")
	git("commit", "-qm", "Begin")

	const cut = "hack/release.sh"
	refused := func(says string, args ...string) {
		t.Helper()
		before := git("rev-parse", "HEAD")
		if out, err := run(cut, args...); err == nil || !strings.Contains(out, says) {
			t.Errorf("%v: %v, want %q\n%s", args, err, says, out)
		}
		if git("rev-parse", "HEAD") != before {
			t.Errorf("%v left a commit", args)
		}
	}
	refused("usage")
	refused("no version of semver", "v0.1.0")
	put("contrib/allowed_signers", "# another comment\n", 0o644)
	refused("in no commit", "0.1.0")
	git("checkout", "-q", ".")

	out, err := run(cut, "0.1.0")
	if err != nil || !strings.Contains(out, "allowed_signers   # has no key") || !strings.Contains(out, "git tag -a v0.1.0") {
		t.Fatalf("cutting: %v\n%s", err, out)
	}
	got, err := os.ReadFile(filepath.Join(dir, "CHANGELOG.md"))
	must(t, err)
	want := regexp.MustCompile(`^# Changelog\n\n## \[Unreleased\]\n\n## \[0\.1\.0\] - \d{4}-\d\d-\d\d\n\n### Added\n\n- All of it\.\n$`)
	if !want.Match(got) {
		t.Errorf("the changelog is\n%s", got)
	}
	if subject := git("log", "-1", "--format=%s"); subject != "Release 0.1.0\n" {
		t.Errorf("the commit is %q", subject)
	}
	if tags := git("tag"); tags != "" {
		t.Errorf("there are tags: %s", tags)
	}
	refused("0.1.0 already", "0.1.0")
	refused("nothing stands below Unreleased", "0.2.0")

	put("CHANGELOG.md", strings.Replace(string(got), "[Unreleased]\n", "[Unreleased]\n\n### Fixed\n\n- One thing.\n", 1), 0o644)
	put("contrib/allowed_signers", "# a comment\nreleases namespaces=\"file\" ssh-ed25519 AAAA who\n", 0o644)
	git("commit", "-qam", "Mend one thing, and add a key")
	if out, err := run(cut, "0.1.1"); err != nil || strings.Contains(out, "no key") {
		t.Errorf("cutting with a key: %v\n%s", err, out)
	}
}
