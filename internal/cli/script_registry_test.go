package cli_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/bcrypt"

	"github.com/slipway-build/slipway/internal/outbound/outboundtest"
)

// distribution is the command `distribution`: Debian's docker-registry, on a loopback port of its own.
//
//	distribution start NAME [htpasswd] [tls] [clients]
//	        its host is in $NAME. With htpasswd it knows anna, password "s3cret"; with tls it has a
//	        certificate of the CA in ca.crt, with clients it wants one in return, as client.cert and
//	        client.key have it
//	distribution front NAME BEHIND   a proxy in front of it, whose host is in $NAME
//	distribution flaky NAME          every third request of a front fails: by 429, 503, a reset
//	distribution cut NAME N          the next N uploads break in the middle
//	distribution calm NAME           neither
//	distribution asked NAME RE       a front was asked for "METHOD /path?query" since the last time
//	distribution asked NAME only RE...   and for nothing that none of them matches
func distribution(ts *testscript.TestScript, neg bool, args []string) {
	usage := func() { ts.Fatalf("usage: distribution start|front|flaky|cut|calm|asked NAME ...") }
	if len(args) < 2 || neg && args[0] != "asked" {
		usage()
	}
	switch args[0] {
	case "start":
		ts.Setenv(args[1], startDistribution(ts, args[2:]))
		return
	case "front":
		f := newFront(args[2])
		ts.Defer(f.Close)
		ts.Setenv(args[1], f.Listener.Addr().String())
		fronts.Store(f.Listener.Addr().String(), f)
		return
	}
	v, ok := fronts.Load(ts.Getenv(args[1]))
	if !ok {
		ts.Fatalf("there is no front %s", args[1])
	}
	f := v.(*front)
	switch args[0] {
	case "flaky":
		f.flaky.Store(true)
	case "cut":
		var n int32
		_, err := fmt.Sscan(args[2], &n)
		ts.Check(err)
		f.cuts.Store(n)
	case "calm":
		f.flaky.Store(false)
		f.cuts.Store(0)
	case "asked":
		all := f.Asked()
		if args[2] == "only" {
			onlyAsked(ts, all, args[3:])
			return
		}
		if slices.ContainsFunc(all, regexp.MustCompile(args[2]).MatchString) == neg {
			ts.Fatalf("requests of %s: want %v, there were %q", args[2], !neg, all)
		}
	default:
		usage()
	}
}

// onlyAsked checks that each pattern matches a request, and each request one of the patterns.
func onlyAsked(ts *testscript.TestScript, all, patterns []string) {
	for _, p := range patterns {
		if !slices.ContainsFunc(all, regexp.MustCompile(p).MatchString) {
			ts.Fatalf("no request %s, there were %q", p, all)
		}
	}
	re := regexp.MustCompile(strings.Join(patterns, "|"))
	if i := slices.IndexFunc(all, func(req string) bool { return !re.MatchString(req) }); i >= 0 {
		ts.Fatalf("there was the request %s", all[i])
	}
}

// fronts are the proxies of all scripts by their host.
var fronts sync.Map

// front is a proxy that notes requests and spoils some.
type front struct {
	*httptest.Server
	flaky atomic.Bool
	cuts  atomic.Int32
	count atomic.Int32
	outboundtest.Notes
}

func newFront(behind string) *front {
	f := &front{}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: behind})
			r.Out.Host = r.In.Host // the registry makes addresses of it
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		f.Ask(req.Method + " " + req.URL.RequestURI())
		if f.flaky.Load() && f.spoil(w) {
			return
		}
		if req.Method == http.MethodPatch && f.cuts.Add(-1) >= 0 {
			reset(&half{Reader: req.Body, left: req.ContentLength / 2, w: w})
			return
		}
		proxy.ServeHTTP(w, req)
	}))
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	return f
}

// spoil fails every third request, each time in another way.
func (f *front) spoil(w http.ResponseWriter) bool {
	switch f.count.Add(1) % 9 {
	case 3:
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusTooManyRequests)
	case 6:
		w.WriteHeader(http.StatusServiceUnavailable)
	case 0:
		reset(&half{w: w})
	default:
		return false
	}
	return true
}

// half is a request of which a part is read.
type half struct {
	io.Reader
	left int64
	w    http.ResponseWriter
}

// reset reads a part of a request and resets its connection.
func reset(h *half) {
	if h.Reader != nil {
		io.CopyN(io.Discard, h.Reader, h.left)
	}
	if conn, _, err := h.w.(http.Hijacker).Hijack(); err == nil {
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
}

// startDistribution starts docker-registry and returns its host.
func startDistribution(ts *testscript.TestScript, options []string) string {
	binary, err := exec.LookPath("docker-registry")
	if err != nil {
		ts.Fatalf("docker-registry is missing: install it (apt-get install docker-registry)")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	host := l.Addr().String()
	ts.Check(l.Close())
	dir, err := os.MkdirTemp(tmpfs(), "slipway-registry-")
	ts.Check(err)
	ts.Defer(func() { os.RemoveAll(dir) })
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp:\n  addr: %s\n", dir, host)
	if slices.Contains(options, "tls") {
		config += writeCertificates(ts, dir, slices.Contains(options, "clients"))
	}
	if slices.Contains(options, "htpasswd") {
		hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
		ts.Check(err)
		ts.Check(os.WriteFile(filepath.Join(dir, "htpasswd"), fmt.Appendf(nil, "anna:%s\n", hash), 0o600))
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s/htpasswd}}\n", dir)
	}
	ts.Check(os.WriteFile(filepath.Join(dir, "config.yml"), []byte(config), 0o600))
	var output strings.Builder
	cmd := exec.Command(binary, "serve", filepath.Join(dir, "config.yml"))
	cmd.Stdout, cmd.Stderr = &output, &output
	ts.Check(cmd.Start())
	ts.Defer(func() {
		cmd.Process.Kill()
		cmd.Wait() // it was killed
	})
	for range 3000 {
		if conn, err := net.Dial("tcp", host); err == nil {
			conn.Close()
			return host
		}
		time.Sleep(20 * time.Millisecond)
	}
	cmd.Process.Kill()
	cmd.Wait()
	ts.Fatalf("docker-registry does not listen: %s", output.String())
	return ""
}

// writeCertificates makes a CA, whose certificate is ca.crt in the script's directory, a certificate
// for the registry and, if it is to want them, one for clients. It returns the registry's settings.
func writeCertificates(ts *testscript.TestScript, dir string, clients bool) string {
	ca := newCertificate(ts, nil, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	server := newCertificate(ts, ca, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	client := newCertificate(ts, ca, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	for path, data := range map[string][]byte{
		ts.MkAbs("ca.crt"): ca.pem, filepath.Join(dir, "ca.crt"): ca.pem,
		filepath.Join(dir, "server.crt"): server.pem, filepath.Join(dir, "server.key"): server.keyPEM,
		ts.MkAbs("client.cert"): client.pem, ts.MkAbs("client.key"): client.keyPEM,
	} {
		ts.Check(os.WriteFile(path, data, 0o600))
	}
	config := fmt.Sprintf("  tls:\n    certificate: %[1]s/server.crt\n    key: %[1]s/server.key\n", dir)
	if clients {
		config += fmt.Sprintf("    clientcas: [%s/ca.crt]\n", dir)
	}
	return config
}

type certificate struct {
	*x509.Certificate
	key         *ecdsa.PrivateKey
	pem, keyPEM []byte
}

// newCertificate makes a certificate signed by ca, or by itself.
func newCertificate(ts *testscript.TestScript, ca *certificate, c *x509.Certificate) *certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	ts.Check(err)
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.Subject = pkix.Name{CommonName: fmt.Sprint("test ", c.SerialNumber)}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := c, key
	if ca != nil {
		parent, signer = ca.Certificate, ca.key
	}
	raw, err := x509.CreateCertificate(crand.Reader, c, parent, key.Public(), signer)
	ts.Check(err)
	made, err := x509.ParseCertificate(raw)
	ts.Check(err)
	rawKey, err := x509.MarshalECPrivateKey(key)
	ts.Check(err)
	return &certificate{
		Certificate: made, key: key,
		pem:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}),
		keyPEM: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: rawKey}),
	}
}
