package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// signed is a release of one file, with a key that was made for it, and the environment of hack/sign.sh.
func signed(t *testing.T) (dist string, env []string) {
	t.Helper()
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("there is no ssh-keygen (Debian's package openssh-client), which hack/deps.sh test installs")
	}
	dir := t.TempDir()
	dist, key, signers := filepath.Join(dir, "dist"), filepath.Join(dir, "key"), filepath.Join(dir, "signers")
	must(t, os.Mkdir(dist, 0o755))
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	public, err := os.ReadFile(key + ".pub")
	must(t, err)
	must(t, os.WriteFile(signers, append([]byte(`releases namespaces="file" `), public...), 0o644))
	must(t, os.WriteFile(filepath.Join(dist, "file"), []byte("released\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(dist, "SHA256SUMS"), fmt.Appendf(nil, "%x  file\n", sha256.Sum256([]byte("released\n"))), 0o644))
	return dist, append(os.Environ(), "DIST="+dist, "ALLOWED_SIGNERS="+signers, "SIGNING_KEY="+key, "SSH_AUTH_SOCK=")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sign(t *testing.T, env []string, what string) (string, error) {
	t.Helper()
	cmd := exec.Command("../sign.sh", what)
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestSign: what was signed is taken, by the command of docs/installing.md too, and nothing else is.
func TestSign(t *testing.T) {
	dist, env := signed(t)
	if out, err := sign(t, env, "verify"); err == nil {
		t.Errorf("without a signature it says\n%s", out)
	}
	for _, what := range []string{"sign", "verify"} {
		if out, err := sign(t, env, what); err != nil || !strings.Contains(out, `Good "file" signature for releases`) {
			t.Fatalf("%s: %v\n%s", what, err, out)
		}
	}
	documented(t, dist, env)
	for _, change := range []struct{ name, content, says string }{
		{"file", "another\n", "did NOT match"},
		{"SHA256SUMS", fmt.Sprintf("%x  file\n", sha256.Sum256([]byte("another\n"))), "is no signature of"},
	} {
		must(t, os.WriteFile(filepath.Join(dist, change.name), []byte(change.content), 0o644))
		if out, err := sign(t, env, "verify"); err == nil || !strings.Contains(out, change.says) {
			t.Errorf("another %s: %v\n%s", change.name, err, out)
		}
	}
}

// documented carries out the command that docs/installing.md tells, on the release.
func documented(t *testing.T, dist string, env []string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/installing.md")
	must(t, err)
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "ssh-keygen -Y verify ") {
			cmd := exec.Command("sh", "-ec", `cp "$ALLOWED_SIGNERS" allowed_signers; `+line)
			cmd.Dir, cmd.Env = dist, env
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
			return
		}
	}
	t.Error("docs/installing.md does not tell how to verify")
}

// TestSignOtherKey: what users could not verify is not signed.
func TestSignOtherKey(t *testing.T) {
	dist, env := signed(t)
	_, others := signed(t)
	env = append(env, others[len(others)-2]) // the key
	if out, err := sign(t, env, "sign"); err == nil || !strings.Contains(out, "is no signature of") {
		t.Errorf("with a key that is not in the list: %v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dist, "SHA256SUMS.sig")); err == nil {
		t.Error("the signature is left")
	}
	if out, err := sign(t, append(env, "SIGNING_KEY="), "sign"); err == nil || !strings.Contains(out, "SIGNING_KEY") {
		t.Errorf("without a key: %v\n%s", err, out)
	}
	none := filepath.Join(t.TempDir(), "signers")
	must(t, os.WriteFile(none, []byte("# a comment\n\n"), 0o644))
	for _, what := range []string{"sign", "verify"} {
		if out, err := sign(t, append(env, "ALLOWED_SIGNERS="+none), what); err == nil || !strings.Contains(out, "has no key") {
			t.Errorf("%s without a key in the list: %v\n%s", what, err, out)
		}
	}
}
