package docker

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
)

// TestDocuments: what is sent has to be one document, and say so; nothing at all is not wrong.
func TestDocuments(t *testing.T) {
	l := newLab(t)
	for _, path := range []string{"/volumes/create", "/networks/create", "/containers/create", "/networks/bridge/connect", "/containers/x/exec", "/commit", "/exec/x/start"} {
		for _, c := range []struct{ kind, body, want string }{
			{"text/plain", "{}", "unsupported Content-Type header (text/plain): must be 'application/json'"}, {"", "{}", "unsupported Content-Type header"},
			{"application/json", "{x", "invalid JSON: invalid character 'x'"}, {"application/json; charset=utf-8", "{} {}", "unexpected content after JSON"},
		} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, l.url+path, strings.NewReader(c.body))
			must(t, err)
			req.Header.Set("Content-Type", c.kind)
			resp, err := http.DefaultClient.Do(req)
			must(t, err)
			said, err := io.ReadAll(resp.Body)
			must(t, err)
			must(t, resp.Body.Close())
			if resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(said), c.want) {
				t.Errorf("%s: %q as %q: %d, %s", path, c.body, c.kind, resp.StatusCode, said)
			}
		}
		if doc, status := l.get(http.MethodPost, path); status >= http.StatusInternalServerError {
			t.Errorf("%s with nothing: %d, %v", path, status, doc)
		}
	}
	for path, want := range map[string]string{"/containers/x/resize?h=-1&w=1": `invalid resize height "-1": value out of range`, "/exec/x/resize?h=1&w=": `invalid resize width "": invalid syntax`} {
		if doc, status := l.get(http.MethodPost, path); status != http.StatusBadRequest || !strings.Contains(fmt.Sprint(doc), want) {
			t.Errorf("%s: %d, %v", path, status, doc)
		}
	}
	for path, want := range map[string]int{"/plugins": http.StatusOK, "/networks/": http.StatusOK, "/v1.49/info": http.StatusOK} {
		if doc, status := l.get(http.MethodGet, path); status != want || path == "/v1.49/info" && in(doc, "BridgeNfIp6tables") != false {
			t.Errorf("%s: %d, %v", path, status, doc)
		}
	}
	l.load("app:v1")
	if doc, status := l.get(http.MethodPost, "/images/app:v1/tag?repo=sha256&tag=x"); status != http.StatusBadRequest {
		t.Errorf("a name that a digest has: %d, %v", status, doc)
	}
}

// TestInvalidContainers: what no container can have is refused in dockerd's words.
func TestInvalidContainers(t *testing.T) {
	l := newContainers(t)
	for want, change := range map[string]func(*client.ContainerCreateOptions){
		"invalid environment variable: =x": func(o *client.ContainerCreateOptions) { o.Config.Env = []string{"=x"} },
		"Interval in Healthcheck cannot be": func(o *client.ContainerCreateOptions) {
			o.Config.Healthcheck = &containertypes.HealthConfig{Interval: -1}
		},
		"Retries in Healthcheck cannot be": func(o *client.ContainerCreateOptions) {
			o.Config.Healthcheck = &containertypes.HealthConfig{Retries: -1}
		},
		"unknown policy 'x'": func(o *client.ContainerCreateOptions) { o.HostConfig.RestartPolicy.Name = "x" },
		"only be used with 'on-failure'": func(o *client.ContainerCreateOptions) {
			o.HostConfig.RestartPolicy = containertypes.RestartPolicy{Name: "always", MaximumRetryCount: 1}
		},
		"retry count cannot be negative": func(o *client.ContainerCreateOptions) {
			o.HostConfig.RestartPolicy = containertypes.RestartPolicy{Name: "on-failure", MaximumRetryCount: -1}
		},
		"invalid IPC mode: x":          func(o *client.ContainerCreateOptions) { o.HostConfig.IpcMode = "x" },
		"invalid PID mode: x":          func(o *client.ContainerCreateOptions) { o.HostConfig.PidMode = "x" },
		"invalid UTS mode: x":          func(o *client.ContainerCreateOptions) { o.HostConfig.UTSMode = "x" },
		"invalid CPU shares (-1)":      func(o *client.ContainerCreateOptions) { o.HostConfig.CPUShares = -1 },
		"invalid Annotations":          func(o *client.ContainerCreateOptions) { o.HostConfig.Annotations = map[string]string{"": "x"} },
		"destination can't be '/'":     func(o *client.ContainerCreateOptions) { o.HostConfig.Tmpfs = map[string]string{"//": ""} },
		"want one below /proc or /sys": func(o *client.ContainerCreateOptions) { o.HostConfig.MaskedPaths = []string{"/etc"} },
	} {
		o := client.ContainerCreateOptions{Config: &containertypes.Config{Image: "busybox", Cmd: []string{"true"}}, HostConfig: &containertypes.HostConfig{}}
		change(&o)
		if _, err := l.ContainerCreate(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	// What is told of one makes another one.
	id := l.create("true", func(o *client.ContainerCreateOptions) {
		o.HostConfig.Tmpfs, o.HostConfig.Mounts = map[string]string{"/a": ""}, []mount.Mount{{Type: mount.TypeTmpfs, Target: "/b"}}
	})
	c, err := l.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
	must(t, err)
	if h := c.Container.HostConfig; !slices.Contains(h.MaskedPaths, "/proc/kcore") || !slices.Contains(h.ReadonlyPaths, "/proc/sys") || len(h.Tmpfs) != 1 {
		t.Errorf("it has %+v", h)
	}
	if m := c.Container.Mounts; len(m) != 1 || m[0].Destination != "/b" {
		t.Errorf("its mounts are %+v", m)
	}
	_, err = l.ContainerCreate(t.Context(), client.ContainerCreateOptions{Config: c.Container.Config, HostConfig: c.Container.HostConfig})
	must(t, err)
}
