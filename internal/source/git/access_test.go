package gitsource

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// asked notes what a server was sent.
type asked struct {
	*httptest.Server
	authorized atomic.Int32 // requests with the secret
	plain      atomic.Int32
}

// No other test has this password: others may run at the same time with theirs in arguments.
const (
	secret     = "battery-staple"
	secretSent = "Basic bWU6YmF0dGVyeS1zdGFwbGU=" // me:battery-staple
)

func newAsked(t *testing.T, h http.HandlerFunc) *asked {
	a := &asked{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "" {
			a.authorized.Add(1)
		} else {
			a.plain.Add(1)
		}
		h(w, req)
	}))
	t.Cleanup(a.Close)
	return a
}

// onlyFor passes on what has the secret.
func onlyFor(t *testing.T, next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != secretSent {
			w.Header().Set("WWW-Authenticate", "Basic")
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, req)
		if names := commandLinesWith(secret); names != "" {
			t.Errorf("everybody can read the password in the arguments of %s", names)
		}
	}
}

func commandLinesWith(text string) string {
	list, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is good
	found := ""
	for _, name := range list {
		if data, err := os.ReadFile(name); err == nil && strings.Contains(string(data), text) {
			found += string(data) + "\n"
		}
	}
	return found
}

// TestRedirects follows a remote to where it is now, with the secret only when that is the same server.
func TestRedirects(t *testing.T) {
	if testing.Short() {
		t.Skip("long: many repositories")
	}
	rem := newRemote(t)
	for _, how := range []string{"url", "secret"} {
		var home *asked
		other := newAsked(t, rem.serve)
		home = newAsked(t, func(w http.ResponseWriter, req *http.Request) {
			moved, ok := strings.CutPrefix(req.URL.Path, "/old")
			switch {
			case ok:
				http.Redirect(w, req, moved+"?"+req.URL.RawQuery, http.StatusMovedPermanently)
			case strings.HasPrefix(req.URL.Path, "/away"):
				http.Redirect(w, req, other.URL+strings.TrimPrefix(req.URL.Path, "/away")+"?"+req.URL.RawQuery, http.StatusMovedPermanently)
			default:
				onlyFor(t, http.HandlerFunc(rem.serve))(w, req)
			}
		})
		for _, path := range []string{"/repo.git", "/old/repo.git", "/away/repo.git"} {
			s, dir := newTestSource(t)
			r := &Request{Remote: home.URL + path, AuthHeaderSecret: "H", SkipSubmodules: true}
			env := Env{Secret: func(_ context.Context, id string) ([]byte, error) {
				if id == "H" && how == "secret" {
					return []byte(secretSent), nil
				}
				return nil, errdefs.ErrNotFound
			}}
			if how == "url" {
				r.Remote = strings.Replace(r.Remote, "//", "//me:battery-staple@", 1)
			}
			c, err := s.Resolve(t.Context(), r, env)
			if err != nil {
				t.Errorf("%s by %s: %v", path, how, err)
				continue
			}
			if err := s.Checkout(t.Context(), r, c, t.TempDir(), t.TempDir(), env); err != nil {
				t.Errorf("%s by %s: %v", path, how, err)
			}
			config, err := os.ReadFile(filepath.Join(dir, "config"))
			if err != nil || strings.Contains(string(config), secret) {
				t.Errorf("the configuration is %s, %v", config, err)
			}
		}
		if home.authorized.Load() == 0 || other.authorized.Load() != 0 || other.plain.Load() == 0 {
			t.Errorf("%s: the other server was sent %d requests with the secret, %d without", how, other.authorized.Load(), other.plain.Load())
		}
	}
}

// TestHostileRepository has a repository, and what is kept of it here, try to run programs.
func TestHostileRepository(t *testing.T) {
	rem := newRemote(t)
	mark := filepath.Join(t.TempDir(), "ran")
	program := "#!/bin/sh\ntouch " + mark + "\n"
	s, dir := newTestSource(t)
	r := &Request{Remote: rem.url, KeepGitDir: true}
	c, err := s.Resolve(t.Context(), r, Env{})
	if err != nil {
		t.Fatal(err)
	}
	checkout(t, s, r, c)
	// As if a flaw of git's had let the repository write into what is kept.
	for _, hook := range []string{"post-checkout", "reference-transaction", "post-index-change", "pre-auto-gc"} {
		if err := os.WriteFile(filepath.Join(dir, "hooks", hook), []byte(program), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	git(t, dir, "config", "core.fsmonitor", filepath.Join(dir, "hooks", "post-checkout"))
	rem.commit(t, "two")
	rem.push(t, "main")
	for _, keep := range []bool{false, true} {
		r := &Request{Remote: rem.url, KeepGitDir: keep}
		if c, err = s.Resolve(t.Context(), r, Env{}); err != nil {
			t.Fatal(err)
		}
		if got := checkout(t, s, r, c); got != "two" {
			t.Errorf("the file is %q", got)
		}
	}
	if _, err := os.Lstat(mark); err == nil {
		t.Error("a program of the repository ran")
	}
}

// TestHostileSubmodules name what is not on a server.
func TestHostileSubmodules(t *testing.T) {
	if testing.Short() {
		t.Skip("long: many repositories")
	}
	local := t.TempDir()
	git(t, local, "init", "-q")
	git(t, local, "commit", "-q", "--allow-empty", "-m", "local")
	commit := git(t, local, "rev-parse", "HEAD")
	mark := filepath.Join(t.TempDir(), "ran")
	for _, keep := range []bool{false, true} {
		for _, url := range []string{"file://" + local, "ext::touch " + mark} {
			rem := newRemote(t)
			git(t, rem.work, "update-index", "--add", "--cacheinfo", "160000,"+commit+",sub")
			modules := "[submodule \"sub\"]\n\tpath = sub\n\turl = " + url + "\n"
			if err := os.WriteFile(filepath.Join(rem.work, ".gitmodules"), []byte(modules), 0o600); err != nil {
				t.Fatal(err)
			}
			git(t, rem.work, "add", ".gitmodules")
			git(t, rem.work, "commit", "-qm", "sub")
			rem.push(t, "main")
			s, _ := newTestSource(t)
			r := &Request{Remote: rem.url, KeepGitDir: keep}
			c, err := s.Resolve(t.Context(), r, Env{})
			if err != nil {
				t.Fatal(err)
			}
			err = s.Checkout(t.Context(), r, c, t.TempDir(), t.TempDir(), Env{})
			if err == nil || !strings.Contains(err.Error(), "not allowed") {
				t.Errorf("submodule %s: %v", url, err)
			}
		}
	}
	if _, err := os.Lstat(mark); err == nil {
		t.Error("a program of the repository ran")
	}
}

// TestSSH looks at how ssh is started: nothing of the user's is used that the build was not given.
func TestSSH(t *testing.T) {
	bin := t.TempDir()
	args := filepath.Join(bin, "args")
	if err := os.WriteFile(filepath.Join(bin, "ssh"), []byte("#!/bin/sh\necho \"$@\" >"+args+"\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	s, _ := newTestSource(t)
	for _, known := range []string{"", "h ssh-ed25519 AAAA"} {
		if _, err := s.Resolve(t.Context(), &Request{Remote: "ssh://git:battery-staple@127.0.0.1/x.git", KnownHosts: known}, Env{}); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("error is %v", err)
		}
		got, err := os.ReadFile(args)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"-F /dev/null ", "IdentityFile=none", "BatchMode=yes", "UserKnownHostsFile="} {
			if !strings.Contains(string(got), want) {
				t.Errorf("ssh was started with %s without %s", got, want)
			}
		}
		if strings.Contains(string(got), secret) || strings.Contains(string(got), "StrictHostKeyChecking=no") != (known == "") {
			t.Errorf("ssh was started with %s", got)
		}
	}
}

// TestIdle gives up a server that takes the connection and says nothing.
func TestIdle(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			go io.Copy(io.Discard, conn)
		}
	}()
	s, _ := newTestSource(t)
	s.idle.window = 20 * time.Millisecond
	_, err = s.Resolve(t.Context(), &Request{Remote: "git://" + l.Addr().String() + "/x.git"}, Env{})
	if err == nil || !strings.Contains(err.Error(), "the server has sent less than") {
		t.Errorf("error is %v", err)
	}
}

// TestEndlessOutput has a server with more references than anybody would want.
func TestEndlessOutput(t *testing.T) {
	bin := t.TempDir()
	for name, script := range map[string]string{"references": "exec yes refs/heads/main", "messages": "exec yes remote: main >&2"} {
		if err := os.WriteFile(filepath.Join(bin, "git"), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
		s, _ := newTestSource(t)
		_, err := s.Resolve(t.Context(), &Request{Remote: "git://127.0.0.1/x.git", Ref: "main"}, Env{})
		if !errors.Is(err, errOutput) || len(err.Error()) > maxMessages+1000 {
			t.Errorf("%s: error is %.200v", name, err)
		}
	}
}

// TestServersWords are shown without what commands a terminal.
func TestServersWords(t *testing.T) {
	srv := newAsked(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "go \x1b]0;away\x07\xc2\x9b2J http://me:battery-staple@h/\n")
	})
	s, _ := newTestSource(t)
	_, err := s.Resolve(t.Context(), &Request{Remote: srv.URL + "/x.git"}, Env{})
	if err == nil || !strings.Contains(err.Error(), "go ]0;away") || strings.ContainsAny(err.Error(), "\x1b\x07\u009b") || strings.Contains(err.Error(), secret) {
		t.Errorf("error is %q", err)
	}
}
