package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fleetRow builds the operator's example on a machine that has nothing but a cache by keys in a registry: the bound is the download of the layers that
// the image has.
func fleetRow(ctx context.Context, p *place) (contest, error) {
	host, err := p.startRegistry(ctx)
	if err != nil {
		return contest{}, err
	}
	dir, keys := filepath.Join(p.repo, "examples", "operator"), "type=registry,mode=keys,ref="+host+"/fleet"
	var flags []string
	if os.Getenv("GOPROXY") != "" {
		flags = []string{"--build-arg", "GOPROXY"}
	}
	script := ""
	return contest{
		what: "operator example, empty store, with the cache by keys of other machines",
		bound: need(task{
			what: "curl of the layers of the image at the same time",
			setup: func(ctx context.Context) error {
				image := host + "/operator"
				build := p.build(dir, append(flags, "--cache-to", keys, "-t", image)...)
				build.long = true // it compiles client-go
				if err := p.do(ctx, build, p.slipway("push", image)); err != nil {
					return err
				}
				var m ocispec.Manifest
				if err := getJSON(ctx, "http://"+host+"/v2/operator/manifests/latest", &m); err != nil {
					return err
				}
				end, packed := "", int64(0)
				for i, l := range m.Layers {
					packed += l.Size
					script += fmt.Sprintf("curl -sf -o '%s%d' 'http://%s/v2/operator/blobs/%s' & p%d=$!\n", p.path("blob"), i, host, l.Digest, i)
					end += fmt.Sprintf("wait $p%d\n", i)
				}
				script += end
				fmt.Fprintf(os.Stderr, "  %d layers, %s\n", len(m.Layers), size(packed))
				return nil
			},
			run: func(int) []command { return []command{shell("%s", script)} },
		}, "curl"),
		slipway: task{
			setup: func(ctx context.Context) error {
				before, err := p.asked()
				if err := errors.Join(err, p.emptyStores(ctx, 0), p.do(ctx, p.build(dir, append(flags, "--cache-from", keys)...))); err != nil {
					return err
				}
				after, err := p.asked()
				fmt.Fprintf(os.Stderr, "  %d requests of the cache's registry\n", after-before)
				return err
			},
			before: p.emptyStores,
			run:    func(int) []command { return []command{p.build(dir, append(flags, "--cache-from", keys)...)} },
		},
		buildah: missing("its caches are in registries"),
	}, nil
}

// startRegistry starts Debian's docker-registry until the end of the row.
func (p *place) startRegistry(ctx context.Context) (host string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	host = l.Addr().String()
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", p.path("registry"), host)
	file := p.path("registry.yml")
	log, err := os.Create(p.path("registry.log"))
	if err := errors.Join(err, l.Close(), os.WriteFile(file, []byte(config), 0o600)); err != nil {
		return "", err
	}
	defer log.Close()
	cmd := exec.Command("docker-registry", "serve", file)
	cmd.Stdout = log // a line for each request
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	p.atEnd(func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // killed
		return err
	})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := getJSON(ctx, "http://"+host+"/v2/", nil)
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return host, err
		}
	}
}

// asked is how many requests the registry has answered.
func (p *place) asked() (int, error) {
	text, err := os.ReadFile(p.path("registry.log"))
	return bytes.Count(text, []byte("\n")), err
}

// getJSON reads an answer of a registry into out, which may be nil.
func getJSON(ctx context.Context, url string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", ocispec.MediaTypeImageManifest)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}
