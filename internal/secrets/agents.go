package secrets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// DefaultAgent is the ID of the agent that is meant when none is named.
const DefaultAgent = "default"

// maxKey is how much of a key's file is read, in bytes; dialTime bounds connecting to a socket.
const (
	maxKey   = 100 << 10
	dialTime = 2 * time.Second
)

// Agent says what an SSH agent of a build is: the socket of a running one, or files with keys.
// Without paths it is the agent of SSH_AUTH_SOCK.
type Agent struct {
	ID    string
	Paths []string
	// Raw passes everything on to a socket, whatever it speaks. Otherwise only what lists keys and
	// signs with them gets through, as in BuildKit.
	Raw bool
}

// ParseAgent reads a value of --ssh, "default|ID[=SOCKET|KEY[,KEY]][,raw=BOOL]", as BuildKit does.
func ParseAgent(value string) (Agent, error) {
	id, list, ok := strings.Cut(value, "=")
	a := Agent{ID: id}
	if !ok {
		return a, nil
	}
	for path := range strings.SplitSeq(list, ",") {
		raw, ok := strings.CutPrefix(path, "raw=")
		if !ok {
			a.Paths = append(a.Paths, path)
			continue
		}
		var err error
		if a.Raw, err = strconv.ParseBool(raw); err != nil {
			return a, fmt.Errorf("invalid value for 'raw': %s", raw)
		}
	}
	if a.Raw && len(a.Paths) != 1 {
		return a, fmt.Errorf("raw mode must supply exactly one socket path for %q", a.ID)
	}
	return a, nil
}

// Agents are the SSH agents of one build, by ID. A nil *Agents has none.
type Agents struct {
	serve   map[string]server
	origins map[string]string
}

// server speaks the agent's protocol on a connection until that ends, and does not close it.
type server func(ctx context.Context, conn io.ReadWriter) error

// NewAgents reads the keys and checks the sockets that agents name.
func NewAgents(agents []Agent) (*Agents, error) {
	all := &Agents{serve: map[string]server{}, origins: map[string]string{}}
	for _, a := range agents {
		if a.ID == "" {
			a.ID = DefaultAgent
		}
		if _, ok := all.serve[a.ID]; ok {
			return nil, fmt.Errorf("duplicate agent ID %q", a.ID)
		}
		s, err := a.server()
		if err != nil {
			return nil, fmt.Errorf("failed to convert agent config for ID: %q: %w", a.ID, err)
		}
		all.serve[a.ID], all.origins[a.ID] = s, fmt.Sprintf("%q raw %t", a.Paths, a.Raw)
	}
	return all, nil
}

func (a Agent) server() (server, error) {
	paths := a.Paths
	if len(paths) == 0 || len(paths) == 1 && paths[0] == "" {
		paths = []string{os.Getenv("SSH_AUTH_SOCK")}
		if paths[0] == "" {
			return nil, errors.New("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set")
		}
	}
	keys := agent.NewKeyring()
	socket, hasKeys := "", false
	for _, path := range paths {
		if socket != "" {
			return nil, errors.New("only single socket allowed")
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if info.Mode()&os.ModeSocket != 0 {
			socket = path
			continue
		}
		if a.Raw {
			return nil, errors.New("raw mode only supported with socket paths")
		}
		if err := addKey(keys, path); err != nil {
			return nil, err
		}
		hasKeys = true
	}
	switch {
	case socket != "" && hasKeys:
		return nil, errors.New("invalid combination of keys and sockets")
	case socket != "":
		return forward(socket, a.Raw), nil
	}
	return func(_ context.Context, conn io.ReadWriter) error {
		return agent.ServeAgent(readOnly{keys.(agent.ExtendedAgent)}, conn)
	}, nil
}

// addKey adds the private key in a file to a keyring.
func addKey(keys agent.Agent, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return fmt.Errorf("failed to read %s: %w", path, err)
	}
	key, err := ssh.ParseRawPrivateKey(data)
	if err != nil {
		return fmt.Errorf("failed to parse %s: %w", path, err)
	}
	if err := keys.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		return fmt.Errorf("failed to add %s to agent: %w", path, err)
	}
	return nil
}

// forward serves with the agent behind a socket.
func forward(socket string, raw bool) server {
	return func(ctx context.Context, conn io.ReadWriter) error {
		dialer := net.Dialer{Timeout: dialTime}
		behind, err := dialer.DialContext(ctx, "unix", socket)
		if err != nil {
			return fmt.Errorf("failed to connect to %s: %w", socket, err)
		}
		defer behind.Close()
		if !raw {
			return agent.ServeAgent(readOnly{agent.NewClient(behind)}, conn)
		}
		go func() {
			_, _ = io.Copy(behind, conn) // its end is that of the connection
			if half, ok := behind.(*net.UnixConn); ok {
				_ = half.CloseWrite()
			}
		}()
		_, err = io.Copy(conn, behind)
		return err
	}
}

// readOnly is an agent that lists keys and signs, and refuses everything else.
type readOnly struct{ agent.ExtendedAgent }

func (readOnly) Add(agent.AddedKey) error   { return errors.New("adding new keys not allowed") }
func (readOnly) Remove(ssh.PublicKey) error { return errors.New("removing keys not allowed") }
func (readOnly) RemoveAll() error           { return errors.New("removing keys not allowed") }
func (readOnly) Lock([]byte) error          { return errors.New("locking agent not allowed") }
func (readOnly) Unlock([]byte) error        { return errors.New("unlocking agent not allowed") }
func (readOnly) Extension(string, []byte) ([]byte, error) {
	return nil, errors.New("extensions not allowed")
}

// Check reports whether there is an agent with the ID; "" is DefaultAgent. The error is of the
// category errdefs.ErrNotFound.
func (a *Agents) Check(id string) error {
	if id == "" {
		id = DefaultAgent
	}
	if a == nil || len(a.serve) == 0 {
		return agentError{fmt.Sprintf("no SSH key %q forwarded from the client", id)}
	}
	if a.serve[id] == nil {
		return agentError{"unset ssh forward key " + id}
	}
	return nil
}

// Origin tells where an agent is, as [Store.Origin] does.
func (a *Agents) Origin(id string) string {
	if a == nil {
		return ""
	}
	if id == "" {
		id = DefaultAgent
	}
	return a.origins[id]
}

// agentError keeps BuildKit's words.
type agentError struct{ text string }

func (e agentError) Error() string   { return e.text }
func (agentError) Is(err error) bool { return err == errdefs.ErrNotFound }

// Serve answers on l with the agent id until l is closed. It returns at once.
func (a *Agents) Serve(ctx context.Context, id string, l net.Listener) error {
	if err := a.Check(id); err != nil {
		return err
	}
	if id == "" {
		id = DefaultAgent
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
				defer stop()
				_ = a.serve[id](ctx, conn) // the process sees the connection end
				_ = conn.Close()
			}()
		}
	}()
	return nil
}
