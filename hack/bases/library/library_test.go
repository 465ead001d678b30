package library

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
)

// served makes busybox in a new library and serves it.
func served(t *testing.T) (l *Library, s *Server, certs string) {
	t.Helper()
	l, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	made, err := l.Make(context.Background(), "busybox")
	if errors.Is(err, baseimage.ErrMissing) {
		t.Skip(err)
	}
	if err != nil || !made {
		t.Fatalf("making busybox: made %v, error %v", made, err)
	}
	certs = t.TempDir()
	s, err = l.Serve("127.0.0.1:0", certs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return l, s, certs
}

func TestMakeKeeps(t *testing.T) {
	l, _, _ := served(t)
	again, err := Open(l.dir)
	if err != nil {
		t.Fatal(err)
	}
	if made, err := again.Make(context.Background(), "busybox"); err != nil || made {
		t.Errorf("second make: made %v, error %v, want it kept", made, err)
	}
	if _, err := again.Make(context.Background(), "windows"); err == nil || !strings.Contains(err.Error(), "busybox, golang, debian") {
		t.Errorf("got error %v, want one that names the kinds", err)
	}
}

func TestPull(t *testing.T) {
	_, s, _ := served(t)
	for _, tag := range []string{"alpine:latest", "busybox:1"} {
		ref, err := name.ParseReference(s.Addr + "/library/" + tag)
		if err != nil {
			t.Fatal(err)
		}
		index, err := remote.Index(ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(index); err != nil {
			t.Errorf("pulling %s: %v", tag, err)
		}
	}
	ref, err := name.ParseReference(s.Addr + "/library/busybox:none")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Get(ref); err == nil || !strings.Contains(err.Error(), "MANIFEST_UNKNOWN") {
		t.Errorf("got error %v for an unknown tag, want MANIFEST_UNKNOWN", err)
	}
}

func TestTags(t *testing.T) {
	_, s, _ := served(t)
	repo, err := name.NewRepository(s.Addr + "/library/alpine")
	if err != nil {
		t.Fatal(err)
	}
	tags, err := remote.List(repo)
	if got := strings.Join(tags, " "); err != nil || got != "3 latest" {
		t.Errorf("got tags %q, error %v, want 3 and latest", got, err)
	}
}

// TestResume asks for the end of a blob, as a client does after a broken connection.
func TestResume(t *testing.T) {
	l, s, _ := served(t)
	all, err := filepath.Glob(filepath.Join(l.dir, "blobs/sha256/*"))
	if err != nil || len(all) == 0 {
		t.Fatalf("no blobs: %v", err)
	}
	whole, err := os.ReadFile(all[0])
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest("GET", "http://"+s.Addr+"/v2/library/busybox/blobs/sha256:"+filepath.Base(all[0]), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Range", "bytes=10-")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	rest, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusPartialContent || string(rest) != string(whole[10:]) {
		t.Errorf("got status %d, %d bytes, error %v; want 206 and %d bytes", resp.StatusCode, len(rest), err, len(whole)-10)
	}
}

// TestHosts reads the written file with containerd's own reader.
func TestHosts(t *testing.T) {
	_, s, certs := served(t)
	hosts, err := config.ConfigureHosts(context.Background(), config.HostOptions{HostDir: config.HostDirFromRoot(certs)})("docker.io")
	if err != nil {
		t.Fatal(err)
	}
	if len(hosts) != 2 || hosts[0].Host != s.Addr || hosts[0].Scheme != "http" || hosts[1].Host != "registry-1.docker.io" {
		t.Fatalf("got hosts %+v, want %s over http, then the public registry", hosts, s.Addr)
	}
	if want := docker.HostCapabilityPull | docker.HostCapabilityResolve; hosts[0].Capabilities != want {
		t.Errorf("got capabilities %v, want pull and resolve", hosts[0].Capabilities)
	}
}

func TestServeRefusesOtherAddresses(t *testing.T) {
	l, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"0.0.0.0:0", "192.0.2.1:80", ":0", "nonsense"} {
		if s, err := l.Serve(addr, t.TempDir()); err == nil {
			s.Close()
			t.Errorf("serving on %q: want an error", addr)
		}
	}
}

func TestGoNames(t *testing.T) {
	got := strings.Join(goNames("1.26.8"), " ")
	if want := "golang:latest golang:1 golang:1.26 golang:1.26.8"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
