package serve

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/slipway-build/slipway/internal/isolation"
)

// ListenOptions say who may connect.
type ListenOptions struct {
	// Mode is that of sockets, Group their group, by its name or number; "" is the process's own. UID is their owner; -1 is the process.
	Mode  os.FileMode
	Group string
	UID   int
	// Cert and Key are the files of the server's certificate, CA that of whose certificates a client must have one. A
	// network is listened to with all three, or when Insecure says that whoever reaches it may do everything.
	Cert, Key, CA string
	Insecure      bool
}

// Listen opens addresses: unix://PATH, tcp://HOST:PORT, and fd:// or fd://NAME for sockets that systemd has opened.
func Listen(addrs []string, opt ListenOptions) (all []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			all = nil
		}
	}()
	if len(addrs) == 0 {
		return nil, errors.New("no address to listen at: give --addr")
	}
	config, err := opt.tls()
	if err != nil {
		return nil, err
	}
	for _, addr := range addrs {
		proto, where, ok := strings.Cut(addr, "://")
		var l net.Listener
		switch {
		case !ok:
			return all, fmt.Errorf("address %s does not contain proto, you meant unix://%s ?", addr, addr)
		case proto == "unix":
			l, err = opt.unix(where)
		case proto == "tcp":
			if err = opt.guarded(addr, config); err == nil {
				l, err = net.Listen("tcp", where)
			}
			if err == nil && config != nil {
				l = tls.NewListener(l, config)
			}
		case proto == "fd":
			var more []net.Listener
			more, err = opt.passed(passed(), where, config)
			all = append(all, more...)
		default:
			return all, fmt.Errorf("addr %s not supported: want unix://, tcp:// or fd://", addr)
		}
		if err != nil {
			return all, fmt.Errorf("listening at %s: %w", addr, err)
		}
		if l != nil {
			all = append(all, l)
		}
	}
	return all, nil
}

// passed are the sockets that systemd has opened for this process, which tells of them once.
var passed = sync.OnceValue(func() []*os.File { return activation.Files(true) })

// guarded refuses a network on which clients need not prove who they are.
func (o *ListenOptions) guarded(addr string, config *tls.Config) error {
	if o.Insecure || config != nil && config.ClientAuth == tls.RequireAndVerifyClientCert {
		return nil
	}
	return fmt.Errorf("whoever reaches %s could do everything that this user may: give --tlscert, --tlskey and --tlscacert, so that clients need a certificate, or --insecure", addr)
}

// tls is the configuration of networks; nil without a certificate.
func (o *ListenOptions) tls() (*tls.Config, error) {
	if o.Cert == "" && o.Key == "" && o.CA == "" {
		return nil, nil
	}
	if o.Cert == "" || o.Key == "" {
		return nil, errors.New("you must specify key and cert file if one is specified: --tlscert and --tlskey")
	}
	pair, err := tls.LoadX509KeyPair(o.Cert, o.Key)
	if err != nil {
		return nil, fmt.Errorf("could not load server key pair: %w", err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}
	if o.CA == "" {
		return config, nil
	}
	data, err := os.ReadFile(o.CA)
	if err != nil {
		return nil, fmt.Errorf("could not read ca certificate: %w", err)
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("failed to append ca cert: %s has none", o.CA)
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	return config, nil
}

// passed are the sockets of systemd: those with a name, or all.
func (o *ListenOptions) passed(files []*os.File, name string, config *tls.Config) (all []net.Listener, err error) {
	for _, f := range files {
		if name != "" && f.Name() != name {
			continue
		}
		l, err := net.FileListener(f)
		if err != nil {
			return all, fmt.Errorf("taking the socket %s: %w", f.Name(), err)
		}
		all = append(all, l)
		f.Close()
		if l.Addr().Network() == "unix" { // its permissions are systemd's affair
			continue
		}
		if err := o.guarded(l.Addr().String(), config); err != nil {
			return all, err
		}
		if config != nil {
			all[len(all)-1] = tls.NewListener(l, config)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no sockets found via socket activation: make sure the service was started by systemd")
	}
	return all, nil
}

// group is the number of the sockets' group.
func (o *ListenOptions) group() (int, error) {
	if o.Group == "" {
		return os.Getegid(), nil
	}
	if id, err := strconv.Atoi(o.Group); err == nil {
		if id < 0 {
			return 0, fmt.Errorf("group %s is no group", o.Group)
		}
		return id, nil
	}
	g, err := user.LookupGroup(o.Group)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}

// unix listens at a path. The socket gets its owner and its mode where nobody else can reach it, and then its place: nobody who
// may not connects meanwhile.
func (o *ListenOptions) unix(path string) (net.Listener, error) {
	if path == "" || strings.HasPrefix(path, "@") || strings.Contains(path, "\x00") {
		return nil, errors.New("the address of a socket is a path: others have no permissions")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	gid, err := o.group()
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := private(dir, gid); err != nil {
		return nil, err
	}
	if err := vacant(path); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(dir, ".serve-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	f, err := os.Open(tmp)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// The length of an address is bounded, and that of this one would be longer than its own.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/s", f.Fd()), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	made := filepath.Join(tmp, "s")
	err = os.Chown(made, o.UID, gid)
	if err == nil {
		err = os.Chmod(made, o.Mode)
	}
	s := &socket{UnixListener: l, path: path}
	if err == nil {
		s.made, err = os.Lstat(made)
	}
	if err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return s, nil
}

// private refuses a directory in which, or on the way to which, somebody else could put something of his own in the place of the
// socket.
func private(dir string, gid int) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for {
		if err := others(dir, gid); err != nil || dir == "/" {
			return err
		}
		dir = filepath.Dir(dir)
	}
}

// others reports who else could replace what is in a directory. Of one that is sticky only its owner could.
func others(dir string, gid int) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	st := fi.Sys().(*syscall.Stat_t)
	trusted := isolation.Trusted()
	if !trusted.User(st.Uid) {
		return fmt.Errorf("%s belongs to user %d, who could put another socket there: choose another directory", dir, st.Uid)
	}
	if fi.Mode()&os.ModeSticky != 0 {
		return nil
	}
	ours := trusted.Group(st.Gid) || int(st.Gid) == gid
	if perm := fi.Mode().Perm(); perm&0o002 != 0 || perm&0o020 != 0 && !ours {
		return fmt.Errorf("other users may write to %s (its mode is %04o), and put another socket there: take that away with chmod go-w", dir, perm)
	}
	return nil
}

// vacant refuses a path at which something else is than a socket that nobody listens at any more.
func vacant(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is there already, and no socket", path)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return fmt.Errorf("somebody listens at %s already", path)
	}
	return nil
}

// socket is a listener at a path, which is gone with it.
type socket struct {
	*net.UnixListener
	path string
	made os.FileInfo
}

// Addr is the path.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

// Close removes the socket, unless another one has its place.
func (s *socket) Close() error {
	if fi, err := os.Lstat(s.path); err == nil && os.SameFile(fi, s.made) {
		_ = os.Remove(s.path)
	}
	return s.UnixListener.Close()
}
