package docker

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/view"
)

// TestVolumes: containers share named ones, and what is anonymous goes with its container.
func TestVolumes(t *testing.T) {
	l := newContainers(t)
	ctx := t.Context()
	v, err := l.VolumeCreate(ctx, client.VolumeCreateOptions{Name: "data", Labels: map[string]string{"a": "b"}})
	must(t, err)
	if v.Volume.Name != "data" || v.Volume.Driver != "local" {
		t.Errorf("it is %+v", v.Volume)
	}
	for i, script := range []string{"echo shared > /v/f; test -e /filled/passwd && touch /anonymous/x", "grep shared /v/f"} {
		id := l.create(script, func(o *client.ContainerCreateOptions) {
			o.HostConfig.Binds = []string{"data:/v", "filled:/etc"}
			o.Config.Cmd[2] = strings.ReplaceAll(script, "/filled", "/etc")
			o.Config.Volumes = map[string]struct{}{"/anonymous": {}}
		})
		ended := l.wait(id, containertypes.WaitConditionNextExit)
		l.start(id)
		if code := ended(); code != 0 {
			t.Errorf("%s: exit code %d", script, code)
		}
		c, err := l.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
		must(t, err)
		if len(c.Container.Mounts) != 3 || c.Container.Mounts[0].Name != "data" || c.Container.Mounts[0].Type != "volume" {
			t.Errorf("the mounts are %+v", c.Container.Mounts)
		}
		if _, err := l.VolumeRemove(ctx, "data", client.VolumeRemoveOptions{}); err == nil || !strings.Contains(err.Error(), "volume is in use") {
			t.Errorf("removing what is in use: %v", err)
		}
		_, err = l.ContainerRemove(ctx, id, client.ContainerRemoveOptions{RemoveVolumes: i == 0})
		must(t, err)
	}
	// One that is there and has nothing is filled, too; one that nobody gets is not made.
	_, err = l.VolumeCreate(ctx, client.VolumeCreateOptions{Name: "empty"})
	must(t, err)
	id := l.create("test -e /etc/passwd", func(o *client.ContainerCreateOptions) { o.HostConfig.Binds = []string{"empty:/etc"} })
	ended := l.wait(id, containertypes.WaitConditionNextExit)
	l.start(id)
	if code := ended(); code != 0 {
		t.Errorf("a volume that was empty was not filled: %d", code)
	}
	_, err = l.ContainerRemove(ctx, id, client.ContainerRemoveOptions{})
	must(t, err)
	_, err = l.VolumeRemove(ctx, "empty", client.VolumeRemoveOptions{})
	must(t, err)
	list, err := l.VolumeList(ctx, client.VolumeListOptions{})
	must(t, err)
	if len(list.Items) != 3 {
		t.Errorf("there are %+v", list.Items)
	}
	pruned, err := l.VolumePrune(ctx, client.VolumePruneOptions{})
	must(t, err)
	if len(pruned.Report.VolumesDeleted) != 1 {
		t.Errorf("pruned were %+v", pruned.Report)
	}
	_, err = l.VolumeRemove(ctx, "data", client.VolumeRemoveOptions{})
	must(t, err)
	for _, bad := range []string{"../x", "a/b", "", ".hidden"} {
		if _, err := l.VolumeRemove(ctx, bad, client.VolumeRemoveOptions{}); err == nil {
			t.Errorf("a volume %q was removed", bad)
		}
	}
	if _, err := os.Stat(l.store.Root()); err != nil {
		t.Error(err)
	}
}

// TestLabelFilters: all labels that a filter names have to be there, and what it excludes has all of them.
func TestLabelFilters(t *testing.T) {
	labels := map[string]string{"keep": "no", "team": "a"}
	v := container.Volume{Name: "v", Labels: labels}
	m := events.Message{Type: events.VolumeEventType, Actor: events.Actor{ID: "v", Attributes: labels}}
	e := container.Event{Attributes: labels}
	for _, tc := range []struct {
		key    string
		values []string
		want   bool
	}{
		{"label", []string{"keep=no", "team=a"}, true}, {"label", []string{"keep=no", "team=b"}, false}, {"label", []string{"team"}, true},
		{"label!", []string{"keep=no", "team=a"}, false}, {"label!", []string{"keep=no", "team=b"}, true}, {"label!", []string{"keep"}, false},
	} {
		args := view.Args{tc.key: tc.values}
		if got := volumeWanted(v, args); got != tc.want {
			t.Errorf("volumes, %v: %v", args, got)
		}
		if tc.key != "label" {
			continue
		}
		if got := wanted(args, m); got != tc.want {
			t.Errorf("events, %v: %v", args, got)
		}
		if got := e.Matches(args); got != tc.want {
			t.Errorf("events of containers, %v: %v", args, got)
		}
	}
	if !volumeWanted(container.Volume{Anonymous: true}, view.Args{"label": {"com.docker.volume.anonymous"}}) {
		t.Error("an anonymous volume has its label in lists alone")
	}
}

// TestVolumeIsMadeAlone: none is made while another process has the volumes.
func TestVolumeIsMadeAlone(t *testing.T) {
	l := newContainers(t)
	release, err := (&container.Manager{Store: l.store}).LockVolumes(t.Context())
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := l.VolumeCreate(ctx, client.VolumeCreateOptions{Name: "data"}); err == nil {
		t.Error("a volume was made while they were locked")
	}
	must(t, release())
	_, err = l.VolumeCreate(t.Context(), client.VolumeCreateOptions{Name: "data"})
	must(t, err)
}

// TestAnonymousVolumesGo with their containers, however these go.
func TestAnonymousVolumesGo(t *testing.T) {
	l := newContainers(t)
	ctx := t.Context()
	m := &container.Manager{Store: l.store}
	for what, of := range map[string]struct {
		auto   bool
		remove func(id string) error
	}{
		"rm -v":                             {false, func(id string) error { return m.Remove(ctx, id, false, true) }},
		"one that was to go, before it ran": {true, func(id string) error { return m.Remove(ctx, id, false, false) }},
		"one that was to go, while it runs": {true, func(id string) error {
			l.start(id)
			_, err := l.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true})
			return err
		}},
	} {
		id := l.create("sleep 60", func(o *client.ContainerCreateOptions) {
			o.Config.Volumes, o.HostConfig.AutoRemove = map[string]struct{}{"/anonymous": {}}, of.auto
		})
		must(t, of.remove(id))
		for left := 1; left > 0; { // whoever has removed it removes them, which is the container's process, too
			must(t, ctx.Err())
			list, err := m.Volumes()
			must(t, err)
			if left = len(list); left > 0 && !of.auto {
				t.Fatalf("%s left %+v", what, list)
			}
		}
	}
	// Nothing is left of one that could not be made.
	o := client.ContainerCreateOptions{Config: &containertypes.Config{Image: "busybox", Volumes: map[string]struct{}{"/anonymous": {}}}, HostConfig: &containertypes.HostConfig{AutoRemove: true, Binds: []string{"busy:/bin"}}}
	must(t, os.MkdirAll(filepath.Join(l.store.Root(), "volumes", "busy"), 0o700))
	must(t, os.WriteFile(filepath.Join(l.store.Root(), "volumes", "busy", "_data"), nil, 0o600)) // no directory: it cannot be filled
	must(t, os.WriteFile(filepath.Join(l.store.Root(), "volumes", "busy", "volume.json"), []byte("{}"), 0o600))
	if res, err := l.ContainerCreate(ctx, o); err == nil {
		t.Errorf("%s was made", res.ID)
	}
	list, err := m.Volumes()
	must(t, err)
	if len(list) != 1 {
		t.Errorf("there are %+v", list)
	}
}

// TestNamedVolumeStays: what a container was given by its name stays when that goes, also where it was made for another one without a name; what it has of
// another container's without a name goes with the last one.
func TestNamedVolumeStays(t *testing.T) {
	l := newContainers(t)
	ctx := t.Context()
	m := &container.Manager{Store: l.store}
	anonymous := func(o *client.ContainerCreateOptions) { o.Config.Volumes = map[string]struct{}{"/data": {}} }
	first := l.create("true", anonymous)
	list, err := m.Volumes()
	must(t, err)
	if len(list) != 1 || !list[0].Anonymous {
		t.Fatalf("there are %+v", list)
	}
	name := list[0].Name
	_, err = l.ContainerRemove(ctx, first, client.ContainerRemoveOptions{})
	must(t, err)
	for what, of := range map[string]struct {
		auto, volumes bool
		set           func(h *containertypes.HostConfig)
	}{
		"rm -v of a bind": {false, true, func(h *containertypes.HostConfig) { h.Binds = []string{name + ":/data"} }},
		"--rm of a bind":  {true, false, func(h *containertypes.HostConfig) { h.Binds = []string{name + ":/data"} }},
		"rm -v of a mount": {false, true, func(h *containertypes.HostConfig) {
			h.Mounts = []mount.Mount{{Type: mount.TypeVolume, Source: name, Target: "/data"}}
		}},
	} {
		id := l.create("true", func(o *client.ContainerCreateOptions) {
			o.HostConfig.AutoRemove = of.auto
			of.set(o.HostConfig)
		})
		_, err = l.ContainerRemove(ctx, id, client.ContainerRemoveOptions{RemoveVolumes: of.volumes})
		must(t, err)
		if _, err := m.Volume(name); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	must(t, m.RemoveVolume(ctx, name, false))
	first = l.create("true", anonymous)
	second := l.create("true", func(o *client.ContainerCreateOptions) { o.HostConfig.VolumesFrom = []string{first} })
	for i, id := range []string{first, second} {
		_, err = l.ContainerRemove(ctx, id, client.ContainerRemoveOptions{RemoveVolumes: true})
		must(t, err)
		list, err := m.Volumes()
		must(t, err)
		if len(list) != 1-i {
			t.Errorf("after %d there are %+v", i+1, list)
		}
	}
}

// TestDeepDirectories: what cannot be measured is in lists all the same, and goes.
func TestDeepDirectories(t *testing.T) {
	l := newContainers(t)
	ctx := t.Context()
	_, err := l.VolumeCreate(ctx, client.VolumeCreateOptions{Name: "deep"})
	must(t, err)
	id := l.create("true", nil)
	for _, dir := range []string{filepath.Join(l.store.Root(), "volumes", "deep", "_data"), filepath.Join(l.store.ContainerDir(id), "fs")} {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		must(t, err)
		for range 100 {
			name := strings.Repeat("d", 200)
			must(t, unix.Mkdirat(fd, name, 0o755))
			below, err := unix.Openat(fd, name, unix.O_PATH|unix.O_DIRECTORY, 0)
			must(t, err)
			must(t, unix.Close(fd))
			fd = below
		}
		must(t, unix.Close(fd))
	}
	list, err := l.ContainerList(ctx, client.ContainerListOptions{All: true, Size: true})
	must(t, err)
	if len(list.Items) != 1 {
		t.Errorf("there are %+v", list.Items)
	}
	df, err := l.DiskUsage(ctx, client.DiskUsageOptions{Containers: true, Volumes: true, Verbose: true})
	must(t, err)
	if v := df.Volumes.Items; len(v) != 1 || v[0].UsageData.Size != -1 {
		t.Errorf("the volumes are %+v", v)
	}
	volumes, err := l.VolumePrune(ctx, client.VolumePruneOptions{All: true})
	must(t, err)
	containers, err := l.ContainerPrune(ctx, client.ContainerPruneOptions{})
	must(t, err)
	if len(volumes.Report.VolumesDeleted) != 1 || len(containers.Report.ContainersDeleted) != 1 {
		t.Errorf("gone are %+v and %+v", volumes.Report, containers.Report)
	}
}
