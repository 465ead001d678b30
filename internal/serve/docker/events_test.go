package docker

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"github.com/slipway-build/slipway/internal/container"
)

// told are the events of a kind so far, each with its attributes.
func (l *lab) told(kind events.Type) (all []string) {
	past, _, leave := l.server.events.join()
	leave()
	for _, e := range past {
		if e.Type == kind {
			text := fmt.Sprint(e.Action, " ", e.Actor.ID)
			for _, key := range slices.Sorted(maps.Keys(e.Actor.Attributes)) {
				text += " " + key + "=" + e.Actor.Attributes[key]
			}
			all = append(all, text)
		}
	}
	return all
}

// TestVolumeEvents: volumes come with containers and go with them, which is told as what is done with them alone.
func TestVolumeEvents(t *testing.T) {
	l := newContainers(t)
	id := l.create("true", func(o *client.ContainerCreateOptions) {
		o.HostConfig.Binds, o.Config.Volumes = []string{"named:/v"}, map[string]struct{}{"/anonymous": {}}
	})
	c, err := l.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
	must(t, err)
	anonymous := c.Container.Mounts[slices.IndexFunc(c.Container.Mounts, func(m containertypes.MountPoint) bool { return m.Destination == "/anonymous" })].Name
	_, err = l.ContainerRemove(t.Context(), id, client.ContainerRemoveOptions{RemoveVolumes: true})
	must(t, err)
	_, err = l.VolumeRemove(t.Context(), "nosuch", client.VolumeRemoveOptions{Force: true})
	must(t, err)
	_, err = l.VolumePrune(t.Context(), client.VolumePruneOptions{All: true})
	must(t, err)
	want := []string{"create named driver=local", "create " + anonymous + " driver=local", "destroy " + anonymous + " driver=local", "destroy named driver=local", "prune  reclaimed=0"}
	if got := l.told(events.VolumeEventType); !slices.Equal(got, want) {
		t.Errorf("told were\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// all are the events of some kinds since a time, by their kinds and what was done.
func (l *lab) all(since string, kinds ...string) (all []string) {
	l.t.Helper()
	res := l.Events(l.t.Context(), client.EventsListOptions{Since: since, Until: l.now(), Filters: client.Filters{}.Add("type", kinds...)})
	for {
		select {
		case m := <-res.Messages:
			all = append(all, string(m.Type)+" "+string(m.Action))
		case err := <-res.Err:
			if err != nil && !errors.Is(err, io.EOF) {
				l.t.Error(err)
			}
			return all
		}
	}
}

// TestEventOrder: volumes are made before their container and go before it, and an image has its name before it is told how it came about.
func TestEventOrder(t *testing.T) {
	l := newContainers(t)
	ctx := t.Context()
	since := l.now()
	told := func(what string, want ...string) {
		t.Helper()
		if got := l.all(since, "container", "volume", "image"); !slices.Equal(got, want) {
			t.Errorf("%s: told were %q, not %q", what, got, want)
		}
		since = l.now()
	}
	for what, auto := range map[string]bool{"rm -v": false, "one that was to go": true} {
		id := l.create("true", func(o *client.ContainerCreateOptions) {
			o.Config.Volumes, o.HostConfig.AutoRemove = map[string]struct{}{"/anonymous": {}}, auto
		})
		_, err := l.ContainerRemove(ctx, id, client.ContainerRemoveOptions{RemoveVolumes: !auto})
		must(t, err)
		told(what, "volume create", "container create", "volume destroy", "container destroy")
	}
	id := l.create("true", nil)
	_, err := l.ContainerCommit(ctx, id, client.ContainerCommitOptions{Reference: "made:v1"})
	must(t, err)
	told("a commit", "container create", "image tag", "container commit")
	_, err = l.ContainerCommit(ctx, id, client.ContainerCommitOptions{})
	must(t, err)
	told("a commit without a name", "container commit")
	var archive bytes.Buffer
	must(t, tar.NewWriter(&archive).Close())
	res, err := l.ImageImport(ctx, client.ImageImportSource{Source: &archive, SourceName: "-"}, "made:v2", client.ImageImportOptions{})
	must(t, err)
	_, err = io.Copy(io.Discard, res)
	must(t, err)
	told("an import", "image tag", "image import")
	taken := l.named(id)
	o := client.ContainerCreateOptions{Name: taken, Config: &containertypes.Config{Image: "busybox", Volumes: map[string]struct{}{"/anonymous": {}}}}
	if _, err := l.ContainerCreate(ctx, o); err == nil {
		t.Error("two containers have a name")
	}
	told("one that could not be made", "volume create", "volume destroy")
}

// TestLooks: what clients do all the time is told, but takes no room from the ends of containers in the store.
func TestLooks(t *testing.T) {
	l := newContainers(t)
	ctx := t.Context()
	id := l.create("sleep 1000", func(o *client.ContainerCreateOptions) {
		o.Config.Tty, o.Config.Labels = true, map[string]string{"a": "b"}
	})
	l.start(id)
	_, err := l.ContainerTop(ctx, id, client.ContainerTopOptions{})
	must(t, err)
	_, err = l.ContainerResize(ctx, id, client.ContainerResizeOptions{Height: 10, Width: 20})
	must(t, err)
	file, err := l.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: "/etc/passwd"})
	must(t, err)
	must(t, file.Content.Close())
	if got, want := l.actions(id), "create start top resize archive-path"; got != want {
		t.Errorf("told were %q, not %q", got, want)
	}
	if e := l.events(id); e[2].Actor.Attributes["a"] != "b" || e[2].Actor.Attributes["name"] != l.named(id) || e[3].Actor.Attributes["height"] != "10" {
		t.Errorf("told were %+v", e)
	}
	var stored []string
	m := &container.Manager{Store: l.store}
	must(t, m.Events(ctx, time.Time{}, time.Now(), false, func(e container.Event) error {
		stored = append(stored, e.Action)
		return nil
	}))
	if !slices.Equal(stored, []string{"create", "start"}) {
		t.Errorf("the store has %q", stored)
	}
}

// TestEventAnswers: what is between two times is told, also without the first, in the form that the client takes best.
func TestEventAnswers(t *testing.T) {
	l := newLab(t)
	l.load("app:v1")
	ask := func(query string, accept ...string) (kind, body string, status int) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l.url+query, nil)
		must(t, err)
		req.Header["Accept"] = accept
		resp, data := l.do(req)
		return resp.Header.Get("Content-Type"), string(data), resp.StatusCode
	}
	for _, c := range []struct {
		path, kind string
		accept     []string
	}{
		{"/v1.51/events", "application/json", nil}, {"/v1.52/events", "application/jsonl", nil}, {"/events", "application/json-seq", []string{"application/json-seq"}},
		{"/v1.51/events", "application/x-ndjson", []string{"application/x-ndjson"}}, {"/events", "application/jsonl", []string{"application/jsonl", "application/x-ndjson;q=0.9"}},
	} {
		kind, body, status := ask(c.path+"?until="+l.now(), c.accept...)
		if status != http.StatusOK || kind != c.kind || !strings.Contains(body, `"load"`) || strings.HasPrefix(body, "\x1e") != (c.kind == "application/json-seq") {
			t.Errorf("%s of %q: %d, %s, %q", c.path, c.accept, status, kind, body)
		}
	}
	if _, body, status := ask("/events?since=2&until=1"); status != http.StatusBadRequest {
		t.Errorf("between times in the wrong order: %d, %s", status, body)
	}
	id := strings.Fields(l.told(events.ImageEventType)[0])[1]
	_, err := l.ImageTag(t.Context(), client.ImageTagOptions{Source: "app:v1", Target: "other:v2"})
	must(t, err)
	if got, want := l.told(events.ImageEventType), []string{"load " + id + " name=" + id + " of=app:v1", "tag " + id + " name=other:v2 of=app:v1"}; !slices.Equal(got, want) {
		t.Errorf("told were %q, not %q", got, want)
	}
	l.server.tellBuilt(t.Context(), l.store, id, []string{"docker.io/library/app:v1"})
	for version, there := range map[string]bool{"1.45": false, "1.46": true} {
		if _, body, _ := ask("/v" + version + "/events?until=" + l.now()); strings.Contains(body, `"create"`) != there {
			t.Errorf("%s is told %s", version, body)
		}
	}
}
