package docker

import (
	"os"
	"strings"
	"testing"

	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
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
