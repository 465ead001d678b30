package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"
)

// imageLoader takes a docker archive and hands it to a daemon while it is written. A daemon hears
// of it with the first byte: a build that fails bothers nobody.
type imageLoader struct {
	load func(io.Reader) error
	pipe *io.PipeWriter // nil before the first byte
	done chan error
}

// Write is for one goroutine.
func (l *imageLoader) Write(p []byte) (int, error) {
	if l.pipe == nil {
		r, w := io.Pipe()
		l.pipe, l.done = w, make(chan error, 1)
		go func() {
			err := l.load(r)
			r.CloseWithError(errors.Join(err, io.ErrClosedPipe)) // a daemon that takes no more must not block the build
			l.done <- err
		}()
	}
	return l.pipe.Write(p)
}

// finish ends the archive, waits for the daemon and returns what went wrong; failure is why the
// build failed, or nil. A build that fails because the daemon took no more failed for its reason.
func (l *imageLoader) finish(failure error) error {
	if l == nil || l.pipe == nil {
		return failure
	}
	l.pipe.CloseWithError(failure)
	err := <-l.done
	if failure == nil || err != nil && errors.Is(failure, io.ErrClosedPipe) {
		return err
	}
	return failure
}

// newLoader finds a running Docker, or else containerd. Without either it returns nil: then the
// store is the only place that there is for images.
func (a *app) newLoader(ctx context.Context) (*imageLoader, error) {
	client, err := dockerClient(ctx)
	if err != nil {
		return nil, err
	}
	if client != nil {
		return &imageLoader{load: func(r io.Reader) error { return loadDocker(ctx, client, r) }}, nil
	}
	if ctr, err := exec.LookPath("ctr"); err == nil && listening(ctx, "unix", containerdSocket()) {
		return &imageLoader{load: func(r io.Reader) error { return loadContainerd(ctx, ctr, r) }}, nil
	}
	return nil, nil
}

// dockerClient returns a client of the Docker daemon that DOCKER_HOST names or that listens where
// Docker does, or nil.
func dockerClient(ctx context.Context) (*http.Client, error) {
	network, address := "unix", "/var/run/docker.sock"
	host := os.Getenv("DOCKER_HOST")
	if host != "" {
		u, err := url.Parse(host)
		switch {
		case err == nil && u.Scheme == "unix":
			address = u.Path
		case err == nil && u.Scheme == "tcp" && os.Getenv("DOCKER_TLS_VERIFY") == "":
			network, address = "tcp", u.Host
		default:
			return nil, fmt.Errorf("--load: DOCKER_HOST %q: only unix:// and tcp:// without TLS are supported: write type=docker,dest=FILE and load that", host)
		}
	}
	if !listening(ctx, network, address) {
		if host != "" {
			return nil, fmt.Errorf("--load: cannot connect to the Docker daemon at %s", host)
		}
		return nil, nil
	}
	var d net.Dialer
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, network, address)
	}}}, nil
}

func listening(ctx context.Context, network, address string) bool {
	d := net.Dialer{Timeout: 2 * time.Second}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// loadDocker is `docker load` (Engine API, "Import images").
func loadDocker(ctx context.Context, client *http.Client, archive io.Reader) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://docker/images/load?quiet=1", archive)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-tar")
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("loading into Docker: %w", err)
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var msg struct{ Error, Message string }
		if err := dec.Decode(&msg); err == io.EOF {
			break
		} else if err != nil {
			return fmt.Errorf("loading into Docker: reading its answer: %w", err)
		}
		if msg.Error != "" {
			return fmt.Errorf("loading into Docker: %s", msg.Error)
		}
		if resp.StatusCode != http.StatusOK && msg.Message != "" {
			return fmt.Errorf("loading into Docker: %s: %s", resp.Status, msg.Message)
		}
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("loading into Docker: %s", resp.Status)
	}
	return nil
}

func containerdSocket() string {
	if v := os.Getenv("CONTAINERD_ADDRESS"); v != "" {
		return v
	}
	return "/run/containerd/containerd.sock"
}

// loadContainerd imports an archive by containerd's own client, into the namespace of
// CONTAINERD_NAMESPACE ("default" without).
func loadContainerd(ctx context.Context, ctr string, archive io.Reader) error {
	cmd := exec.CommandContext(ctx, ctr, "--address", containerdSocket(), "images", "import", "-")
	var output bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = archive, &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("loading into containerd: %w: %s", err, strings.TrimSpace(output.String()))
	}
	return nil
}
