package secrets

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

func TestParseSource(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want Source
		err  string
	}{
		{in: "id=a", want: Source{ID: "a"}},
		{in: "id=a,src=f", want: Source{ID: "a", FilePath: "f"}},
		{in: "ID=a,source=f,type=file", want: Source{ID: "a", FilePath: "f"}},
		{in: "id=a,env=E", want: Source{ID: "a", Env: "E"}},
		{in: "type=env,id=a,src=E", want: Source{ID: "a", Env: "E"}},
		{in: "type=env,id=a", want: Source{ID: "a"}},
		{in: `"id=a,b",src=f`, want: Source{ID: "a,b", FilePath: "f"}},
		{in: "a", err: "invalid field 'a' must be a key=value pair"},
		{in: "id=a,type=pipe", err: `unsupported secret type "pipe"`},
		{in: "id=a,mode=1", err: "unexpected key 'mode' in 'mode=1'"},
	} {
		got, err := ParseSource(tc.in)
		if tc.err != "" || err != nil {
			if err == nil || err.Error() != tc.err {
				t.Errorf("ParseSource(%q): error %v, want %q", tc.in, err, tc.err)
			}
			continue
		}
		if got != tc.want {
			t.Errorf("ParseSource(%q) = %+v, want %+v", tc.in, got, tc.want)
		}
	}
}

func TestSecret(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("VARIABLE", "from env")
	if err := os.WriteFile("file", []byte("from file"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := NewStore([]Source{{ID: "a", FilePath: "file"}, {ID: "b", Env: "VARIABLE"}, {ID: "VARIABLE"}, {ID: "file"}})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"a": "from file", "b": "from env", "VARIABLE": "from env", "file": "from file"} {
		if got, err := s.Secret(t.Context(), id); err != nil || string(got) != want {
			t.Errorf("secret %s: %q, %v, want %q", id, got, err, want)
		}
	}
	// A value that came along is told apart from others of the variable's name, and from this process' variable.
	own, other := "own", "other"
	valued, err := NewStore([]Source{{ID: "b", Env: "VARIABLE", Value: &own}, {ID: "a", Env: "VARIABLE", Value: &own}, {ID: "a", FilePath: "file"}})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"a": "from file", "b": "own"} {
		if got, err := valued.Secret(t.Context(), id); err != nil || string(got) != want {
			t.Errorf("secret %s: %q, %v, want %q", id, got, err, want)
		}
	}
	second, err := NewStore([]Source{{ID: "b", Env: "VARIABLE", Value: &other}})
	if err != nil {
		t.Fatal(err)
	}
	if o := valued.Origin("b"); o == s.Origin("b") || o == second.Origin("b") || strings.Contains(o, own) {
		t.Errorf("the origin of a value is %s", o)
	}
	for _, s := range []*Store{s, valued, nil} {
		if _, err := s.Secret(t.Context(), "c"); !errdefs.IsNotFound(err) || err.Error() != "secret c: not found" {
			t.Errorf("missing secret: %v", err)
		}
	}
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, make([]byte, 500<<10+1), 0o600); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 500<<10+1)
	for _, tc := range []struct {
		source Source
		err    string
	}{
		{Source{ID: "x", FilePath: big}, "too big"}, {Source{ID: "x", Value: &large}, "too big"},
		{Source{}, "secret missing ID"}, {Source{Value: &own}, "secret missing ID"}, {Source{ID: "nosuch"}, "failed to stat nosuch"},
	} {
		if _, err := NewStore([]Source{tc.source}); err == nil || !strings.Contains(err.Error(), tc.err) {
			t.Errorf("NewStore(%+v): %v, want %q", tc.source, err, tc.err)
		}
	}
}

func TestParseAgent(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want Agent
		err  string
	}{
		{in: "default", want: Agent{ID: "default"}},
		{in: "a=/sock", want: Agent{ID: "a", Paths: []string{"/sock"}}},
		{in: "a=k1,k2", want: Agent{ID: "a", Paths: []string{"k1", "k2"}}},
		{in: "a=/sock,raw=true", want: Agent{ID: "a", Paths: []string{"/sock"}, Raw: true}},
		{in: "a=/sock,raw=maybe", err: "invalid value for 'raw': maybe"},
		{in: "a=k1,k2,raw=true", err: `raw mode must supply exactly one socket path for "a"`},
	} {
		got, err := ParseAgent(tc.in)
		if tc.err != "" {
			if err == nil || err.Error() != tc.err {
				t.Errorf("ParseAgent(%q): error %v, want %q", tc.in, err, tc.err)
			}
		} else if err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("ParseAgent(%q) = %+v, %v, want %+v", tc.in, got, err, tc.want)
		}
	}
}

// keyFile writes a new private key to a file and returns its public one.
func keyFile(t *testing.T, path string) ssh.PublicKey {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// served connects to an agent that is served on a socket of its own.
func served(t *testing.T, a *Agents, id string) (agent.ExtendedAgent, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := a.Serve(t.Context(), id, l); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return agent.NewClient(conn), path
}

// checkAgent checks that an agent has one key, signs with it, and takes no other.
func checkAgent(t *testing.T, a agent.ExtendedAgent, key ssh.PublicKey, raw bool) {
	t.Helper()
	keys, err := a.List()
	if err != nil || len(keys) != 1 || string(keys[0].Marshal()) != string(key.Marshal()) {
		t.Fatalf("keys: %v, %v", keys, err)
	}
	sig, err := a.Sign(key, []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Verify([]byte("text"), sig); err != nil {
		t.Error(err)
	}
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Add(agent.AddedKey{PrivateKey: other}); (err == nil) != raw {
		t.Errorf("adding a key: %v, raw %v", err, raw)
	}
}

func TestAgents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	key := keyFile(t, path)
	a, err := NewAgents([]Agent{{Paths: []string{path}}})
	if err != nil {
		t.Fatal(err)
	}
	client, sock := served(t, a, "")
	checkAgent(t, client, key, false)

	t.Setenv("SSH_AUTH_SOCK", sock)
	a, err = NewAgents([]Agent{{ID: "default"}, {ID: "named", Paths: []string{sock}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", "default", "named"} {
		client, _ = served(t, a, id)
		checkAgent(t, client, key, false)
	}

	keyring := agent.NewKeyring()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := keyring.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(t.TempDir(), "open")
	l, err := net.Listen("unix", open)
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
			go agent.ServeAgent(keyring, conn) //nolint:errcheck // ends with the connection
		}
	}()
	a, err = NewAgents([]Agent{{ID: "raw", Paths: []string{open}, Raw: true}})
	if err != nil {
		t.Fatal(err)
	}
	client, _ = served(t, a, "raw")
	checkAgent(t, client, public, true)
}

func TestAgentErrors(t *testing.T) {
	dir := t.TempDir()
	key, sock, text := filepath.Join(dir, "key"), filepath.Join(dir, "sock"), filepath.Join(dir, "text")
	keyFile(t, key)
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.WriteFile(text, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSH_AUTH_SOCK", "")
	for _, tc := range []struct {
		agents []Agent
		err    string
	}{
		{[]Agent{{}}, "make sure SSH_AUTH_SOCK is set"},
		{[]Agent{{Paths: []string{key, sock}}}, "invalid combination of keys and sockets"},
		{[]Agent{{Paths: []string{sock, key}}}, "only single socket allowed"},
		{[]Agent{{Paths: []string{text}}}, "failed to parse " + text},
		{[]Agent{{Paths: []string{dir + "/nosuch"}}}, "no such file"},
		{[]Agent{{Paths: []string{key}, Raw: true}}, "raw mode only supported with socket paths"},
		{[]Agent{{ID: "default", Paths: []string{key}}, {Paths: []string{key}}}, `duplicate agent ID "default"`},
	} {
		if _, err := NewAgents(tc.agents); err == nil || !strings.Contains(err.Error(), tc.err) {
			t.Errorf("NewAgents(%+v): %v, want %q", tc.agents, err, tc.err)
		}
	}
	some, err := NewAgents([]Agent{{ID: "one", Paths: []string{key}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		agents *Agents
		id     string
		err    string
	}{{nil, "", `no SSH key "default" forwarded from the client`}, {some, "two", "unset ssh forward key two"}} {
		if err := tc.agents.Serve(t.Context(), tc.id, l); !errors.Is(err, errdefs.ErrNotFound) || err.Error() != tc.err {
			t.Errorf("Serve(%q): %v, want %q", tc.id, err, tc.err)
		}
	}
}
