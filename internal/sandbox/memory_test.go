package sandbox

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func testFile(l *lab) {
	spec := l.spec("stat -c '%F %a %u:%g' /run/secrets/a /opt/b.sh /etc/passwd; cat /run/secrets/a; /opt/b.sh; wc -c < /etc/passwd; (: > /run/secrets/a) 2>/dev/null || echo ro; chmod 777 /opt/b.sh 2>/dev/null || echo ro; sh -c '/run/secrets/a' 2>&1 | grep -c denied")
	spec.Mounts = []Mount{
		{Dest: "/run/secrets/a", File: &File{Data: []byte("value\n"), Mode: 0o440, UID: 7, GID: 8}},
		{Dest: "/opt/b.sh", File: &File{Data: []byte("#!/bin/sh\necho runs\n"), Mode: 0o4755}},
		{Dest: "/etc/passwd", File: &File{}},
	}
	want := "regular file 440 7:8\nregular file 755 0:0\nregular empty file 0 0:0\nvalue\nruns\n0\nro\nro\n1"
	if got := l.run(spec); got != want {
		l.t.Errorf("got %q, want %q", got, want)
	}
	l.wantUpper("files in memory", spec)
	// Not even the process's own changes beside it bring the mount point into the layer.
	spec = l.spec("touch /run/x; mv /run/secrets /moved 2>&1 | grep -c busy")
	spec.Mounts = []Mount{{Dest: "/run/secrets/a", File: &File{Data: []byte("value")}}}
	if got := l.run(spec); got != "1" {
		l.t.Errorf("moving the directory of a file in memory: got %q", got)
	}
	for _, line := range tree(l.t, spec.Root.Upper) {
		if strings.Contains(line, "secrets/a") {
			l.t.Errorf("upper directory has %q", line)
		}
	}
}

// testSocket has the container write to a socket through the shell that it sends there: busybox
// cannot connect to one, so the test's own program does.
func testSocket(l *lab) {
	tool, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		l.t.Fatal(err)
	}
	dir := l.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tool"), tool, 0o755); err != nil {
		l.t.Fatal(err)
	}
	spec := l.spec("stat -c '%F %a %u:%g' /deep/sock; /tools/tool -test.run '^TestSocketHelper$'")
	spec.Env = []string{"SLIPWAY_TEST_SOCKET=/deep/sock"}
	var closed net.Listener
	spec.Mounts = []Mount{
		{Dest: "/deep/sock", Socket: &Socket{Mode: 0o660, UID: 7, GID: 8, Serve: func(listener net.Listener) error {
			closed = listener
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = io.WriteString(conn, "from outside")
			}()
			return nil
		}}},
		{Dest: "/tools", Bind: dir}, {Dest: "/lib", Bind: "/lib", ReadOnly: true}, {Dest: "/lib64", Bind: "/lib64", ReadOnly: true}, {Dest: "/usr", Bind: "/usr", ReadOnly: true},
	}
	got := l.run(spec)
	if !strings.HasPrefix(got, "socket 660 7:8\n") || !strings.Contains(got, "from outside") {
		l.t.Errorf("got %q", got)
	}
	if _, err := closed.Accept(); err == nil {
		l.t.Error("the listener is open after the run")
	}
	l.wantUpper("socket", spec)

	spec = l.spec("true")
	spec.Mounts = []Mount{{Dest: "/sock", Socket: &Socket{Serve: func(net.Listener) error { return unix.ENOTSUP }}}}
	if _, err := l.try(spec); err == nil || !strings.Contains(err.Error(), "/sock: operation not supported") {
		l.t.Errorf("nobody to serve: got %v", err)
	}
}

// TestSocketHelper is the program that testSocket runs in a container.
func TestSocketHelper(t *testing.T) {
	path := os.Getenv("SLIPWAY_TEST_SOCKET")
	if path == "" {
		t.Skip("run by another test only")
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(os.Stdout, conn); err != nil {
		t.Fatal(err)
	}
}
