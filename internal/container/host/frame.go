package host

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// The kinds of frames.
const (
	frameRequest = 'q' // JSON, the first frame of a client
	frameAnswer  = 'a' // JSON, the first one to it
	frameStdin   = 'i'
	frameClose   = 'c' // of the standard input, which ends
	frameStdout  = 'o'
	frameStderr  = 'e'
	frameExit    = 'x' // JSON, the last one to a client
)

// maxFrame bounds what a frame holds, in bytes.
const maxFrame = 1 << 20

// socketName is the socket in the container's directory.
const socketName = "socket"

// conn is a connection on which frames go both ways: a byte that says the kind, four of the length, the highest first, and what it holds.
type conn struct {
	*net.UnixConn
	in *bufio.Reader

	mu sync.Mutex // of those who write
}

func newConn(c *net.UnixConn) *conn { return &conn{UnixConn: c, in: bufio.NewReader(c)} }

// send writes a frame.
func (c *conn) send(kind byte, data []byte) error {
	frame := append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(data))), data...)
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.Write(frame)
	return err
}

// tell writes a frame of JSON.
func (c *conn) tell(kind byte, v any) error {
	data, err := json.Marshal(v)
	if err == nil && len(data) > maxFrame {
		err = fmt.Errorf("%d bytes are more than a message may have", len(data))
	}
	if err != nil {
		return err
	}
	return c.send(kind, data)
}

// receive reads a frame. The end of the connection is io.EOF.
func (c *conn) receive() (kind byte, data []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("a message of %d bytes is too long", n)
	}
	data = make([]byte, n)
	_, err = io.ReadFull(c.in, data)
	return head[0], data, err
}

// hear reads a frame of JSON of a kind.
func (c *conn) hear(kind byte, into any) error {
	got, data, err := c.receive()
	if err != nil {
		return err
	}
	if got != kind {
		return fmt.Errorf("a message is of the kind %q, want %q", got, kind)
	}
	return json.Unmarshal(data, into)
}

// inDir calls do with a path of the socket in a directory that is short enough for an address, whatever the directory's is.
func inDir(dir string, do func(path string) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return do(filepath.Join("/proc/self/fd", fmt.Sprint(fd), socketName))
}

// listen makes the socket, in the place of one that a killed process has left.
func listen(dir string) (l *net.UnixListener, err error) {
	err = inDir(dir, func(path string) error {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		l, err = net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false) // that path is gone by then
		return os.Chmod(path, 0o600)
	})
	if err != nil && l != nil {
		err = errors.Join(err, l.Close())
	}
	return l, err
}

// dial connects to the socket.
func dial(dir string) (c *conn, err error) {
	err = inDir(dir, func(path string) error {
		u, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: path})
		if err == nil {
			c = newConn(u)
		}
		return err
	})
	return c, err
}

// trusted reports whether a client is this process's user, or root.
func trusted(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return err == nil && cerr == nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
}
