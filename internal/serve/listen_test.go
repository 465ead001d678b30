package serve

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/serve/control"
)

var socketMode = ListenOptions{Mode: 0o660, UID: -1}

// A socket has its owner and its mode before anybody can connect, and is gone with its listener.
func TestListenUnix(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "deep", "er", "s")
	opt := socketMode
	opt.Group = "12345"
	if os.Geteuid() != 0 {
		opt.Group = ""
	}
	ls, err := Listen([]string{"unix://" + path}, opt)
	must(t, err)
	fi, err := os.Lstat(path)
	must(t, err)
	if fi.Mode().Perm() != 0o660 || fi.Mode().Type() != os.ModeSocket {
		t.Errorf("its mode is %v", fi.Mode())
	}
	if gid := fi.Sys().(*syscall.Stat_t).Gid; opt.Group != "" && gid != 12345 {
		t.Errorf("its group is %d", gid)
	}
	c, err := net.Dial("unix", path)
	must(t, err)
	c.Close()
	if ls[0].Addr().String() != path {
		t.Errorf("its address is %s", ls[0].Addr())
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("beside it there is %v, %v", entries, err)
	}
	_, err = Listen([]string{"unix://" + path}, socketMode)
	wantErr(t, err, "somebody listens at")
	must(t, ls[0].Close())
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}

	// One that a killed server left is replaced, and is not removed by that one's end.
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	old.SetUnlinkOnClose(false)
	must(t, old.Close())
	ls, err = Listen([]string{"unix://" + path}, socketMode)
	must(t, err)
	must(t, os.Remove(path))
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, ls[0].Close())
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("what has its place is gone: %v", err)
	}
	_, err = Listen([]string{"unix://" + path}, socketMode)
	wantErr(t, err, "no socket")

	for addr, want := range map[string]string{
		"unix://@abstract": "is a path", "unix://": "is a path", path: "does not contain proto", "http://x": "not supported", "fd://": "no sockets found",
	} {
		_, err := Listen([]string{addr}, socketMode)
		wantErr(t, err, want)
	}
	_, err = Listen(nil, socketMode)
	wantErr(t, err, "--addr")
	open := filepath.Join(dir, "open")
	must(t, os.Mkdir(open, 0o700))
	must(t, os.Chmod(open, 0o777))
	_, err = Listen([]string{"unix://" + open + "/s"}, socketMode)
	wantErr(t, err, "other users may write")
	must(t, os.Chmod(open, 0o777|os.ModeSticky))
	ls, err = Listen([]string{"unix://" + open + "/s"}, socketMode)
	must(t, err)
	must(t, ls[0].Close())
	if os.Geteuid() == 0 {
		must(t, os.Chown(open, 12345, 0))
		_, err = Listen([]string{"unix://" + open + "/s"}, socketMode)
		wantErr(t, err, "belongs to user 12345")
		must(t, os.Mkdir(open+"/below", 0o700))
		_, err = Listen([]string{"unix://" + open + "/below/s"}, socketMode)
		wantErr(t, err, "belongs to user 12345")
	}
}

// certificate makes one that another signs, or itself, and returns the paths of its files.
func certificate(t *testing.T, dir, name string, by *tls.Certificate) (tls.Certificate, string, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: by == nil, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	parent, signer := tmpl, any(key)
	if by != nil {
		parent, err = x509.ParseCertificate(by.Certificate[0])
		must(t, err)
		signer = by.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	must(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	cert, priv := filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem")
	must(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(priv, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, cert, priv
}

// A network is listened to when clients prove who they are, or when that is said not to be wanted.
func TestListenNetwork(t *testing.T) {
	dir := t.TempDir()
	ca, caFile, _ := certificate(t, dir, "ca", nil)
	_, cert, key := certificate(t, dir, "server", &ca)
	user, _, _ := certificate(t, dir, "client", &ca)
	stranger, _, _ := certificate(t, dir, "stranger", nil)
	for _, opt := range []ListenOptions{{}, {Cert: cert, Key: key}} {
		_, err := Listen([]string{"tcp://127.0.0.1:0"}, opt)
		wantErr(t, err, "--insecure")
	}
	for want, opt := range map[string]ListenOptions{
		"specify key and cert": {Cert: cert, CA: caFile}, "key pair": {Cert: key, Key: cert, CA: caFile}, "failed to append": {Cert: cert, Key: key, CA: key}, "ca certificate": {Cert: cert, Key: key, CA: dir + "/none"},
	} {
		_, err := Listen([]string{"tcp://127.0.0.1:0"}, opt)
		wantErr(t, err, want)
	}
	ls, err := Listen([]string{"tcp://127.0.0.1:0"}, ListenOptions{Insecure: true})
	must(t, err)
	must(t, ls[0].Close())

	ls, err = Listen([]string{"tcp://127.0.0.1:0"}, ListenOptions{Cert: cert, Key: key, CA: caFile})
	must(t, err)
	defer ls[0].Close()
	go func() {
		for {
			c, err := ls[0].Accept()
			if err != nil {
				return
			}
			if c.(*tls.Conn).HandshakeContext(context.Background()) == nil {
				_, _ = c.Write([]byte("x"))
			}
			c.Close()
		}
	}()
	roots := x509.NewCertPool()
	data, err := os.ReadFile(caFile)
	must(t, err)
	roots.AppendCertsFromPEM(data)
	reached := func(certs ...tls.Certificate) bool {
		c, err := tls.Dial("tcp", ls[0].Addr().String(), &tls.Config{RootCAs: roots, Certificates: certs})
		if err != nil {
			return false
		}
		defer c.Close()
		n, _ := c.Read(make([]byte, 1))
		return n == 1
	}
	if !reached(user) || reached(stranger) || reached() {
		t.Error("who has no certificate of the CA gets in, or who has does not")
	}
}

// BuildKit's client is served over a network.
func TestServeNetwork(t *testing.T) {
	dir := t.TempDir()
	ca, caFile, _ := certificate(t, dir, "ca", nil)
	_, cert, key := certificate(t, dir, "server", &ca)
	_, ccert, ckey := certificate(t, dir, "client", &ca)
	s := start(t, func(_ context.Context, _ control.Solve, sink progress.Sink) (*control.Result, error) {
		step(sink, "one", "hello")
		return nil, nil
	}, func(_ *control.Options, _ *Options, s *server) {
		s.addr, s.listen = "tcp://127.0.0.1:0", ListenOptions{Cert: cert, Key: key, CA: caFile}
		s.how = []client.ClientOpt{client.WithServerConfig("127.0.0.1", caFile), client.WithCredentials(ccert, ckey)}
	})
	_, w, err := s.solve(t, client.SolveOpt{})
	must(t, err)
	if w.output.String() != "hello" {
		t.Errorf("told is %+v", w)
	}
}

// passedSockets listens at the sockets of a parent, and says where.
func passedSockets() {
	os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	ls, err := Listen([]string{os.Getenv("SLIPWAY_TEST_PASSED")}, ListenOptions{})
	for _, l := range ls {
		fmt.Print(l.Addr().Network(), " ")
	}
	fmt.Print(err)
}

// The sockets of systemd are used as they are, and those of networks guarded as others.
func TestListenPassed(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	must(t, err)
	defer l.Close()
	unix, err := l.File()
	must(t, err)
	defer unix.Close()
	tl, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer tl.Close()
	tcp, err := tl.(*net.TCPListener).File()
	must(t, err)
	defer tcp.Close()
	run := func(addr string, files ...*os.File) string {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "SLIPWAY_TEST_PASSED="+addr, "LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES=one:two")
		cmd.ExtraFiles = files
		out, err := cmd.CombinedOutput()
		must(t, err)
		return string(out)
	}
	if got := run("fd://", unix); got != "unix <nil>" {
		t.Errorf("one socket gives %q", got)
	}
	if got := run("fd://one", unix, tcp); got != "unix <nil>" {
		t.Errorf("one by its name gives %q", got)
	}
	if got := run("fd://", tcp); got == "tcp <nil>" {
		t.Error("a network is listened to without certificates")
	}
	if _, err := os.Stat(l.Addr().String()); err != nil {
		t.Errorf("systemd's socket is gone: %v", err)
	}
}
