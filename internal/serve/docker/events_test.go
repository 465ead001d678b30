package docker

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
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
