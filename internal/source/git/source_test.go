package gitsource

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

const (
	hash1 = "1111111111111111111111111111111111111111"
	hash2 = "2222222222222222222222222222222222222222"
	hash3 = "3333333333333333333333333333333333333333"
)

func TestChoose(t *testing.T) {
	tests := []struct {
		name, asked, listing string
		request              Request
		want                 Commit
		fails                string
	}{
		{name: "branch", asked: "main", listing: hash1 + "\trefs/heads/main\n", want: Commit{Ref: "refs/heads/main", Object: hash1}},
		{name: "tag", asked: "v1", listing: hash1 + "\trefs/tags/v1\n", want: Commit{Ref: "refs/tags/v1", Object: hash1}},
		{name: "annotated tag", asked: "v1", listing: hash1 + "\trefs/tags/v1\n" + hash2 + "\trefs/tags/v1^{}\n",
			want: Commit{Ref: "refs/tags/v1", Object: hash1, Peeled: hash2}},
		{name: "annotated tag that is kept", asked: "v1", listing: hash1 + "\trefs/tags/v1\n" + hash2 + "\trefs/tags/v1^{}\n",
			request: Request{KeepGitDir: true}, want: Commit{Ref: "refs/tags/v1", Object: hash1}},
		{name: "annotated tag by its full name", asked: "refs/tags/v1", listing: hash1 + "\trefs/tags/v1\n" + hash2 + "\trefs/tags/v1^{}\n",
			want: Commit{Ref: "refs/tags/v1", Object: hash1, Peeled: hash2}},
		{name: "branch before tag", asked: "x", listing: hash1 + "\trefs/heads/x\n" + hash2 + "\trefs/tags/x\n" + hash3 + "\trefs/tags/x^{}\n",
			want: Commit{Ref: "refs/heads/x", Object: hash1}},
		{name: "full name before both", asked: "pull/1/head", listing: hash1 + "\trefs/heads/pull/1/head\n" + hash2 + "\trefs/pull/1/head\n",
			want: Commit{Ref: "refs/pull/1/head", Object: hash2}},
		{name: "another of the same end", asked: "main", listing: hash1 + "\trefs/heads/not/main\n", fails: "repository does not contain ref main"},
		{name: "nothing", asked: "main", fails: "repository does not contain ref main"},
		{name: "no hash", asked: "main", listing: "nonsense\trefs/heads/main\n", fails: "invalid commit sha"},
		{name: "checksum", asked: "main", listing: hash1 + "\trefs/heads/main\n", request: Request{Checksum: "111"}, want: Commit{Ref: "refs/heads/main", Object: hash1}},
		{name: "checksum of the tag's commit", asked: "v1", listing: hash1 + "\trefs/tags/v1\n" + hash2 + "\trefs/tags/v1^{}\n",
			request: Request{Checksum: "222"}, want: Commit{Ref: "refs/tags/v1", Object: hash1, Peeled: hash2}},
		{name: "other checksum", asked: "v1", listing: hash1 + "\trefs/tags/v1\n" + hash2 + "\trefs/tags/v1^{}\n",
			request: Request{Checksum: "333"}, fails: "expected checksum to match 333, got " + hash1 + " or " + hash2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := tt.request.choose(tt.asked, tt.listing)
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("error is %v, want %q", err, tt.fails)
				}
				return
			}
			tt.want.asked = tt.asked
			if err != nil || *c != tt.want {
				t.Errorf("got %+v, %v, want %+v", c, err, tt.want)
			}
		})
	}
}

func TestParse(t *testing.T) {
	r, err := Parse(&pb.SourceOp{Identifier: "git://h/a.git#main:dir", Attrs: map[string]string{
		pb.AttrFullRemoteURL: "https://user:p4ss@h/a.git", pb.AttrKeepGitDir: "true", pb.AttrGitSkipSubmodules: "true",
		pb.AttrGitMTime: "commit", pb.AttrGitChecksum: "abc", pb.AttrAuthTokenSecret: "T", pb.AttrAuthHeaderSecret: "H",
		pb.AttrMountSSHSock: "default", pb.AttrKnownSSHHosts: "h key",
	}})
	want := Request{Remote: "https://user:p4ss@h/a.git", Ref: "main", Subdir: "dir", KeepGitDir: true, SkipSubmodules: true, CommitTime: true,
		Checksum: "abc", AuthTokenSecret: "T", AuthHeaderSecret: "H", SSHAgent: "default", KnownHosts: "h key"}
	if err != nil || *r != want {
		t.Fatalf("got %+v, %v, want %+v", r, err, want)
	}
	if strings.Contains(r.String(), "p4ss") {
		t.Errorf("the name tells the password: %s", r)
	}
	tests := []struct {
		id, key, value, want string
	}{
		{"git://h/a.git#-x", "", "", "invalid git ref"},
		{"git://h/a.git", pb.AttrGitChecksum, "xyz", "invalid checksum xyz for Git URL, expected hex commit hash"},
		{"git://h/a.git", pb.AttrGitFetchByCommit, "true", "fetch-by-commit requires a checksum"},
		{"git://h/a.git", pb.AttrGitBundle, "x", "bundles are not supported"},
		{"git://ext::sh -c true", "", "", "reading git source"},
	}
	for _, tt := range tests {
		_, err := Parse(&pb.SourceOp{Identifier: tt.id, Attrs: map[string]string{tt.key: tt.value}})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v gives %v", tt, err)
		}
	}
}

func TestTokenScope(t *testing.T) {
	for remote, want := range map[string]string{
		"https://github.com/a/b.git":         "https://github.com/",
		"https://github.com.evil.com/a.git":  "https://github.com.evil.com/a.git",
		"https://example.com/github.com/a/b": "https://example.com/github.com/a/b",
	} {
		if got := tokenScope(remote); got != want {
			t.Errorf("the token for %s goes to %s, want %s", remote, got, want)
		}
	}
}

func TestAuthorization(t *testing.T) {
	tests := []struct {
		name    string
		secrets map[string]string
		remote  string
		want    string
	}{
		{"none", nil, "https://h/a.git", ""},
		{"token", map[string]string{"T": "t"}, "https://h/a.git", "basic eC1hY2Nlc3MtdG9rZW46dA=="},
		{"header", map[string]string{"H": "Bearer b", "T": "t"}, "https://h/a.git", "Bearer b"},
		{"of the host", map[string]string{"H": "Bearer b", "T.h:80": "t"}, "https://h:80/a.git", "basic eC1hY2Nlc3MtdG9rZW46dA=="},
		{"of another host", map[string]string{"T.other": "t"}, "https://h/a.git", ""},
		{"ssh", map[string]string{"T": "t"}, "git@h:a.git", ""},
		{"in the URL", map[string]string{"T": "t"}, "https://me:p4ss@h/a.git", "Basic bWU6cDRzcw=="},
		{"a token in the URL", nil, "https://p4ss@h/a.git", "Basic cDRzczo="},
		{"a password for ssh", nil, "ssh://git:p4ss@h/a.git", ""},
	}
	for _, tt := range tests {
		r := &Request{Remote: tt.remote, AuthHeaderSecret: "H", AuthTokenSecret: "T"}
		a, err := r.authorize(t.Context(), Env{Secret: func(_ context.Context, id string) ([]byte, error) {
			if v, ok := tt.secrets[id]; ok {
				return []byte(v), nil
			}
			return nil, errdefs.ErrNotFound
		}})
		got := a.header
		if strings.Contains(a.remote, "p4ss") || strings.HasPrefix(a.remote, "https://") && strings.Contains(a.remote, "@") {
			t.Errorf("%s: the remote is %s", tt.name, a.remote)
		}
		if err != nil || got != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

// git runs git as a user would, without the configuration of the machine.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@a",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@a", "GIT_AUTHOR_DATE=1600000000 +0000", "GIT_COMMITTER_DATE=1600000000 +0000")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// remote is a repository behind an http server.
type remote struct {
	work, url string
	old       bool // the server speaks the oldest protocol
	serve     http.HandlerFunc
}

func newRemote(t *testing.T) *remote {
	t.Helper()
	program, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	r := &remote{work: filepath.Join(root, "work")}
	git(t, root, "-c", "init.defaultBranch=main", "init", "-q", "work")
	r.commit(t, "one")
	git(t, root, "clone", "-q", "--bare", "work", "repo.git")
	backend := &cgi.Handler{Path: program, Args: []string{"http-backend"}, Stderr: io.Discard,
		Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "HOME=/dev/null"}}
	r.serve = func(w http.ResponseWriter, req *http.Request) {
		if r.old {
			req.Header.Del("Git-Protocol") // by version 0, references alone can be asked for
		}
		backend.ServeHTTP(w, req)
	}
	srv := httptest.NewServer(r.serve)
	t.Cleanup(srv.Close)
	r.url = srv.URL + "/repo.git"
	return r
}

func (r *remote) commit(t *testing.T, content string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(r.work, "f"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	git(t, r.work, "add", ".")
	git(t, r.work, "commit", "-qm", content)
	return git(t, r.work, "rev-parse", "HEAD")
}

func (r *remote) push(t *testing.T, args ...string) {
	t.Helper()
	git(t, r.work, append([]string{"push", "-q", "../repo.git"}, args...)...)
}

// newTestSource keeps all repositories in one directory, as long as there is one remote.
func newTestSource(t *testing.T) (*Source, string) {
	dir := t.TempDir()
	var mu sync.Mutex
	return New(func(context.Context, string) (string, func(), error) {
		mu.Lock()
		return dir, mu.Unlock, nil
	}), dir
}

func checkout(t *testing.T, s *Source, r *Request, c *Commit) string {
	t.Helper()
	dir := t.TempDir()
	if err := s.Checkout(t.Context(), r, c, dir, t.TempDir(), Env{}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The remote's branch moves between the question and the fetch: what the key says is what is used.
func TestBranchThatMoves(t *testing.T) {
	if testing.Short() {
		t.Skip("long: four repositories that change")
	}
	for _, keep := range []bool{false, true} {
		for _, forced := range []bool{false, true} {
			rem := newRemote(t)
			s, _ := newTestSource(t)
			r := &Request{Remote: rem.url, KeepGitDir: keep}
			c, err := s.Resolve(t.Context(), r, Env{})
			if err != nil {
				t.Fatal(err)
			}
			if forced {
				git(t, rem.work, "tag", "kept") // or nobody could find the commit any more
				rem.push(t, "kept")
				git(t, rem.work, "commit", "-q", "--amend", "-m", "other")
				rem.push(t, "-f", "main")
			}
			rem.commit(t, "two")
			rem.push(t, "main")
			if got := checkout(t, s, r, c); got != "one" {
				t.Errorf("keep %t, forced %t: the file is %q", keep, forced, got)
			}
			if c, err = s.Resolve(t.Context(), r, Env{}); err != nil {
				t.Fatal(err)
			}
			if got := checkout(t, s, r, c); got != "two" {
				t.Errorf("keep %t, forced %t: the file is %q afterwards", keep, forced, got)
			}
		}
	}
}

func TestFetchByCommit(t *testing.T) {
	rem := newRemote(t)
	first := git(t, rem.work, "rev-parse", "HEAD")
	rem.commit(t, "two")
	rem.push(t, "main")
	git(t, filepath.Join(rem.work, "../repo.git"), "config", "uploadpack.allowReachableSHA1InWant", "true")
	s, _ := newTestSource(t)
	r := &Request{Remote: rem.url, Ref: "main", Checksum: first, FetchByCommit: true, KeepGitDir: true}
	c, err := s.Resolve(t.Context(), r, Env{})
	if err != nil || c.Ref != "refs/heads/main" || c.Hash() != first {
		t.Fatalf("got %+v, %v", c, err)
	}
	if got := checkout(t, s, r, c); got != "one" {
		t.Errorf("the file is %q", got)
	}
}

// A commit that no reference names is found in the history, also by a server that does not give
// single commits, and also when the repository was shallow.
func TestOldCommit(t *testing.T) {
	if testing.Short() {
		t.Skip("long: repositories of several servers")
	}
	for _, old := range []bool{false, true} {
		testOldCommit(t, old)
	}
}

func testOldCommit(t *testing.T, protocol bool) {
	rem := newRemote(t)
	rem.old = protocol
	first := git(t, rem.work, "rev-parse", "HEAD")
	rem.commit(t, "two")
	rem.push(t, "main")
	s, _ := newTestSource(t)
	now := &Request{Remote: rem.url}
	c, err := s.Resolve(t.Context(), now, Env{})
	if err != nil {
		t.Fatal(err)
	}
	checkout(t, s, now, c)
	old := &Request{Remote: rem.url, Ref: first}
	if c, err = s.Resolve(t.Context(), old, Env{}); err != nil {
		t.Fatal(err)
	}
	if got := checkout(t, s, old, c); got != "one" {
		t.Errorf("the file is %q", got)
	}
	missing := &Request{Remote: rem.url, Ref: hash1}
	if c, err = s.Resolve(t.Context(), missing, Env{}); err == nil {
		err = s.Checkout(t.Context(), missing, c, t.TempDir(), t.TempDir(), Env{})
	}
	if err == nil || !strings.Contains(err.Error(), hash1) {
		t.Errorf("a commit that is not there gives %v", err)
	}
}

func TestObjects(t *testing.T) {
	rem := newRemote(t)
	head := git(t, rem.work, "rev-parse", "HEAD")
	git(t, rem.work, "tag", "-a", "-m", "a tag", "v1")
	rem.push(t, "v1")
	s, _ := newTestSource(t)
	r := &Request{Remote: rem.url, Ref: "v1"}
	c, err := s.Resolve(t.Context(), r, Env{})
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.Objects(t.Context(), r, c, Env{})
	if err != nil || o.Peeled != head || !strings.Contains(string(o.Tag), "a tag") || !strings.Contains(string(o.Commit), "1600000000") {
		t.Errorf("got %+v, %v", o, err)
	}
}

func TestCommitTime(t *testing.T) {
	rem := newRemote(t)
	defer unix.Umask(unix.Umask(0o077))
	s, _ := newTestSource(t)
	r := &Request{Remote: rem.url, CommitTime: true}
	c, err := s.Resolve(t.Context(), r, Env{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := s.Checkout(t.Context(), r, c, dir, t.TempDir(), Env{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".", "f"} {
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || fi.ModTime().Unix() != 1600000000 {
			t.Errorf("%s has the time %v, %v", name, fi.ModTime(), err)
		}
	}
	if fi, err := os.Lstat(filepath.Join(dir, "f")); err != nil || fi.Mode().Perm() != 0o644 {
		t.Errorf("the file has mode %v: git's umask is not 022", fi.Mode())
	}
}

// What was damaged is made anew; a remote that cannot be reached leaves it alone.
func TestDamagedRepository(t *testing.T) {
	if testing.Short() {
		t.Skip("long: repositories that are damaged in each way")
	}
	rem := newRemote(t)
	s, dir := newTestSource(t)
	r := &Request{Remote: rem.url}
	use := func() string {
		c, err := s.Resolve(t.Context(), r, Env{})
		if err != nil {
			t.Fatal(err)
		}
		return checkout(t, s, r, c)
	}
	use()
	for name, damage := range map[string]func() error{
		"lock":    func() error { return os.WriteFile(filepath.Join(dir, "packed-refs.lock"), nil, 0o600) },
		"config":  func() error { return os.Truncate(filepath.Join(dir, "config"), 0) },
		"objects": func() error { return os.RemoveAll(filepath.Join(dir, "objects")) },
		"half":    func() error { return os.Remove(filepath.Join(dir, "HEAD")) },
		"index":   func() error { return os.WriteFile(filepath.Join(dir, "index"), []byte("nonsense"), 0o600) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		content := "after " + name
		rem.commit(t, content)
		rem.push(t, "main")
		if got := use(); got != content {
			t.Errorf("%s: the file is %q", name, got)
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "packed-refs.lock")); err != nil { // nobody needed what it locks
		t.Fatal(err)
	}
	c, err := s.Resolve(t.Context(), r, Env{})
	if err != nil {
		t.Fatal(err)
	}
	marker := filepath.Join(dir, "marker")
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(rem.work, "../repo.git"), filepath.Join(rem.work, "../gone.git")); err != nil {
		t.Fatal(err)
	}
	if err := s.Checkout(t.Context(), r, c, t.TempDir(), t.TempDir(), Env{}); err == nil {
		t.Error("a remote that is gone was fetched")
	}
	if _, err := os.Lstat(marker); err != nil {
		t.Errorf("the repository was thrown away: %v", err)
	}
}

// git, and what it started, ends with the context.
func TestCancel(t *testing.T) {
	bin := t.TempDir()
	pid := filepath.Join(bin, "pid")
	script := "#!/bin/sh\nsleep 60 &\necho $! >" + pid + "\nwait\n"
	if err := os.WriteFile(filepath.Join(bin, "git"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	s, _ := newTestSource(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cancelled := make(chan time.Time, 1)
	go func() {
		for range 6000 {
			if data, err := os.ReadFile(pid); err == nil && len(data) > 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		cancelled <- time.Now()
		cancel()
	}()
	_, err := s.Resolve(ctx, &Request{Remote: "http://127.0.0.1:1/x.git"}, Env{})
	if took := time.Since(<-cancelled); !errors.Is(err, context.Canceled) || took > killAfter/2 {
		t.Errorf("error is %v after %v", err, took)
	}
	data, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	proc := "/proc/" + strings.TrimSpace(string(data)) + "/stat"
	for range 6000 {
		stat, err := os.ReadFile(proc)
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("what git started is still there")
}
