package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/sandbox"
)

// Errors of requests.
var (
	// ErrNone: there is no host, or not any more.
	ErrNone = errors.New("nobody runs the container")
	// ErrRuns: the container runs already.
	ErrRuns = errors.New("the container runs already")
	// ErrNoExec: no process with that ID was created.
	ErrNoExec = errors.New("No such exec instance") //lint:ignore ST1005 Docker's words
	// ErrNoNetwork: a network of the container is not there any more.
	ErrNoNetwork = errors.New("the container was put into one that was removed: disconnect it from that")
)

// kinds are the errors that a client can tell apart.
func kinds() map[string]error {
	return map[string]error{
		"over": ErrNone, "runs": ErrRuns, "no exec": ErrNoExec, "no network": ErrNoNetwork, "not found": sandbox.ErrCommandNotFound, "not executable": sandbox.ErrCommandNotExecutable, "not running": sandbox.ErrNotRunning,
	}
}

func kindOf(err error) string {
	if errors.Is(err, errOver) {
		return "over"
	}
	for kind, known := range kinds() {
		if errors.Is(err, known) {
			return kind
		}
	}
	return ""
}

// remote is an error that a host tells.
type remote struct {
	text string
	kind error // may be nil
}

func (e *remote) Error() string { return e.text }
func (e *remote) Unwrap() error { return e.kind }

func (a *answer) err() error {
	if a.Error == "" {
		return nil
	}
	return &remote{a.Error, kinds()[a.Kind]}
}

// exitOf is how a process has ended whose run gave an error.
func exitOf(err error) Exit {
	var exit *sandbox.ExitError
	switch {
	case err == nil:
		return Exit{}
	case errors.As(err, &exit):
		return Exit{Code: exit.Code}
	case errors.Is(err, sandbox.ErrCommandNotFound):
		return Exit{127, err.Error()}
	case errors.Is(err, sandbox.ErrCommandNotExecutable):
		return Exit{126, err.Error()}
	}
	return Exit{128, err.Error()}
}

// call connects to the host of a directory, sends a request and hears the answer.
func call(dir string, q request) (c *conn, a *answer, err error) {
	c, err = dial(dir)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		return nil, nil, ErrNone
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reaching who runs the container: %w", err)
	}
	a = &answer{}
	if err = c.tell(frameRequest, q); err == nil {
		err = c.hear(frameAnswer, a)
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
		err = ErrNone
	case err != nil:
		err = fmt.Errorf("talking to who runs the container: %w", err)
	default:
		err = a.err()
	}
	if err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	return c, a, nil
}

// ask is [call] for an answer alone.
func ask(dir string, q request) (*Exec, error) {
	c, a, err := call(dir, q)
	if err != nil {
		return nil, err
	}
	return a.Exec, c.Close()
}

// Start has the container of a directory started by a host that waits for that, and returns when it was.
func Start(dir string) error {
	_, err := ask(dir, request{Op: "start"})
	return err
}

// Create notes a process that may be started in a container.
func Create(dir string, opt ExecOptions) (*Exec, error) {
	return ask(dir, request{Op: "create", Create: &opt})
}

// Inspect tells of a process.
func Inspect(dir, id string) (*Exec, error) { return ask(dir, request{Op: "inspect", Exec: id}) }

// Resize sets the size of the terminal of the container, or of a process if id is not "".
func Resize(dir, id string, size sandbox.WinSize) error {
	_, err := ask(dir, request{Op: "resize", Exec: id, Size: &size})
	return err
}

// Session is a connection to the streams of a process.
type Session struct{ c *conn }

// Attach begins to get what the container of a directory prints from now on.
func Attach(dir string, want Streams) (*Session, error) {
	c, _, err := call(dir, request{Op: "attach", Want: want})
	if err != nil {
		return nil, err
	}
	return &Session{c}, nil
}

// RunExec starts a process that was created. size may be nil. A detached one has no streams.
func RunExec(dir, id string, detach bool, size *sandbox.WinSize) (*Session, error) {
	c, _, err := call(dir, request{Op: "exec", Exec: id, Detach: detach, Size: size})
	if err != nil {
		return nil, err
	}
	return &Session{c}, nil
}

// Close ends a session. The process goes on.
func (s *Session) Close() error { return s.c.Close() }

// Input sends what is read, and then that it has ended. It returns when the session is over, or the reader has come to its end.
func (s *Session) Input(r io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 && s.c.send(frameStdin, buf[:n]) != nil {
			return
		}
		if err != nil {
			_ = s.c.send(frameClose, nil) // who is gone needs no end
			return
		}
	}
}

// Output writes what the process prints, until it ends. Without an end of the process, as when it was killed with who ran it, the error is io.ErrUnexpectedEOF.
func (s *Session) Output(stdout, stderr io.Writer) (Exit, error) {
	for {
		kind, data, err := s.c.receive()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET):
			return Exit{}, io.ErrUnexpectedEOF
		case err != nil:
			return Exit{}, err
		case kind == frameExit:
			return readExit(data)
		}
		to := stdout
		if kind == frameStderr {
			to = stderr
		}
		if to == nil {
			continue
		}
		if _, err := to.Write(data); err != nil {
			return Exit{}, err
		}
	}
}

func readExit(data []byte) (e Exit, err error) {
	err = json.Unmarshal(data, &e)
	return e, err
}
