package docker

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
)

// TestKilledMonitor: when the process that runs a container is killed, its end is told, noted and waited for all the same.
func TestKilledMonitor(t *testing.T) {
	l := newContainers(t)
	m := &container.Manager{Store: l.store}
	for _, remove := range []bool{false, true} {
		id := l.create("sleep 1000", func(o *client.ContainerCreateOptions) {
			o.HostConfig.AutoRemove, o.Config.Volumes = remove, map[string]struct{}{"/anonymous": {}}
		})
		l.start(id)
		condition := containertypes.WaitConditionNotRunning
		if remove {
			condition = containertypes.WaitConditionRemoved
		}
		ended := l.wait(id, condition)
		must(t, syscall.Kill(m.State(id).PID, syscall.SIGKILL))
		if code := ended(); code != 137 {
			t.Errorf("removed %v: the exit code is %d", remove, code)
		}
		want := "create start die"
		if _, err := l.store.Container(t.Context(), id); remove {
			want += " destroy"
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("it is there still: %v", err)
			}
		}
		if got := l.actions(id); got != want {
			t.Errorf("the events are %q, want %q", got, want)
		}
		if !remove {
			if s := m.State(id); s.ExitCode != 137 || s.Finished.IsZero() {
				t.Errorf("it is %+v", s)
			}
			l.start(id) // it runs again
			_, err := l.ContainerRemove(t.Context(), id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
			must(t, err)
		}
	}
	l.noVolumes()
}

// TestAutoRemove: a container that is to go with its end goes with its own volumes, is restarted all the same, and has the exit code of what ended it.
func TestAutoRemove(t *testing.T) {
	l := newContainers(t)
	ctx := t.Context()
	options := func(o *client.ContainerCreateOptions) {
		o.HostConfig.AutoRemove, o.Config.Volumes = true, map[string]struct{}{"/anonymous": {}}
	}
	id := l.create("sleep 1000", options)
	l.start(id)
	none := 0
	_, err := l.ContainerRestart(ctx, id, client.ContainerRestartOptions{Timeout: &none})
	must(t, err)
	c, err := l.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	must(t, err)
	if !c.Container.State.Running {
		t.Errorf("restarted, it is %+v", c.Container.State)
	}
	ended := l.wait(id, containertypes.WaitConditionRemoved)
	_, err = l.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	must(t, err)
	if code := ended(); code != 137 {
		t.Errorf("removed by force: exit code %d", code)
	}
	id = l.create("exit 3", options)
	ended = l.wait(id, containertypes.WaitConditionRemoved)
	l.start(id)
	if code := ended(); code != 3 {
		t.Errorf("exit code %d", code)
	}
	l.noVolumes()
}

// noVolumes fails where volumes are left: those of a container go after it.
func (l *lab) noVolumes() {
	l.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		list, err := l.VolumeList(l.t.Context(), client.VolumeListOptions{})
		must(l.t, err)
		if len(list.Items) == 0 {
			return
		}
		if time.Now().After(end) {
			l.t.Fatalf("volumes are left: %+v", list.Items)
		}
	}
}

// actions are what was done with a container, in words.
func (l *lab) actions(id string) string {
	l.t.Helper()
	var all []string
	for _, e := range l.events(id) {
		all = append(all, string(e.Action))
	}
	return strings.Join(all, " ")
}

// TestEntrypoint: one of several words stays whole, and what a commit sets is set as it is.
func TestEntrypoint(t *testing.T) {
	l := newContainers(t)
	ctx := t.Context()
	c, err := l.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config:     &containertypes.Config{Image: "busybox", Entrypoint: []string{"sh", "-c", "echo $0 $1"}, Cmd: []string{"a", "b"}},
		HostConfig: &containertypes.HostConfig{NetworkMode: "none"},
	})
	must(t, err)
	got, err := l.ContainerInspect(ctx, c.ID, client.ContainerInspectOptions{})
	must(t, err)
	if cfg := got.Container.Config; len(cfg.Entrypoint) != 3 || strings.Join(cfg.Cmd, " ") != "a b" {
		t.Errorf("it has %q and %q", cfg.Entrypoint, cfg.Cmd)
	}
	hostile := "$HOME \"x\"\nUSER evil"
	img, err := l.ContainerCommit(ctx, c.ID, client.ContainerCommitOptions{
		Reference: "committed", Changes: []string{"LABEL b=c"}, Config: &containertypes.Config{Env: []string{"A=" + hostile}, Labels: map[string]string{"l": hostile}, WorkingDir: "/w\nUSER evil"},
	})
	must(t, err)
	made, err := l.ImageInspect(ctx, img.ID)
	must(t, err)
	cfg := made.Config
	if len(cfg.Entrypoint) != 3 || cfg.User != "" || cfg.Labels["l"] != hostile || cfg.Labels["b"] != "c" || cfg.WorkingDir != "/w\nUSER evil" || cfg.Env[len(cfg.Env)-1] != "A="+hostile {
		t.Errorf("the image has %+v", cfg)
	}
}

// TestPSArguments: a client cannot have ps show the host's processes as the container's.
func TestPSArguments(t *testing.T) {
	l := newContainers(t)
	id := l.create("sleep 1000", nil)
	l.start(id)
	for args, want := range map[string]int{
		"-eo pid,args": 200, "aux": 200, "-eo uid=PID,args": 400, "-eo args,pid h": 400, "-e --no-headers": 400, "axh": 400, "-e h": 400, "-eo pid,comm --sort=pid": 400, "-e -o\tpid=PID": 400,
	} {
		if _, status := l.get(http.MethodGet, "/containers/"+id+"/top?ps_args="+url.QueryEscape(args)); status != want {
			t.Errorf("%s: %d", args, status)
		}
	}
}

// TestRestartOfOneThatGoes: a container that is to go when it has ended is restarted all the same, and goes also when it ends at once then.
func TestRestartOfOneThatGoes(t *testing.T) {
	l := newContainers(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 3 {
		id := l.create("test -e /again && exit; trap exit TERM; touch /again; sleep 60 & wait", func(o *client.ContainerCreateOptions) { o.HostConfig.AutoRemove = true })
		l.start(id)
		for {
			must(t, ctx.Err())
			if _, err := l.ContainerStatPath(ctx, id, client.ContainerStatPathOptions{Path: "/again"}); err == nil {
				break
			}
		}
		if _, err := l.ContainerRestart(ctx, id, client.ContainerRestartOptions{}); err != nil {
			t.Error(err)
		}
		var actions string
		for !strings.Contains(actions, "destroy") {
			must(t, ctx.Err())
			actions = l.actions(id)
		}
		for _, action := range []string{"start", "die"} {
			if strings.Count(" "+actions+" ", " "+action+" ") != 2 {
				t.Errorf("it did %q", actions)
			}
		}
		if _, err := l.ContainerInspect(ctx, id, client.ContainerInspectOptions{}); err == nil {
			t.Error("it is there still")
		}
	}
}
