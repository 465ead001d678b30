package docker

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// TestMadeNetworks: a network that a client makes is found, and goes when no container is in it.
func TestMadeNetworks(t *testing.T) {
	l := newContainers(t)
	ctx := t.Context()
	made, err := l.NetworkCreate(ctx, "app_default", client.NetworkCreateOptions{Driver: "bridge", Labels: map[string]string{"a": "b"}})
	must(t, err)
	inner, err := l.NetworkCreate(ctx, "inner", client.NetworkCreateOptions{Internal: true})
	must(t, err)
	for name, want := range map[string]int{"app_default": http.StatusConflict, "bridge": http.StatusForbidden, "../x": http.StatusBadRequest, ".new": http.StatusBadRequest, strings.Repeat("a", 300): http.StatusBadRequest} {
		if status := l.post("/networks/create", `{"Name":"`+name+`"}`); status != want {
			t.Errorf("making %q: %d", name, status)
		}
	}
	for body, want := range map[string]int{`"Driver":"overlay"`: http.StatusNotFound, `"Driver":"host"`: http.StatusForbidden, `"ConfigOnly":true`: http.StatusNotImplemented, `"Scope":"swarm"`: http.StatusNotImplemented} {
		if status := l.post("/networks/create", `{"Name":"other",`+body+`}`); status != want {
			t.Errorf("%s: %d", body, status)
		}
	}
	for filter, want := range map[string][]string{
		"label a=b": {"app_default"}, "label a=c": nil, "type custom": {"app_default", "inner"}, "dangling true": {"app_default", "inner"}, "name app": {"app_default"}, "driver null": {"none"},
	} {
		key, value, _ := strings.Cut(filter, " ")
		list, err := l.NetworkList(ctx, client.NetworkListOptions{Filters: client.Filters{}.Add(key, value)})
		must(t, err)
		var names []string
		for _, n := range list.Items {
			names = append(names, n.Name)
		}
		if !slices.Equal(names, want) {
			t.Errorf("%s: %q", filter, names)
		}
	}
	in := func(mode string, others ...string) func(*client.ContainerCreateOptions) {
		return func(o *client.ContainerCreateOptions) {
			o.HostConfig.NetworkMode, o.NetworkingConfig = containertypes.NetworkMode(mode), &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{}}
			for _, name := range others {
				o.NetworkingConfig.EndpointsConfig[name] = &network.EndpointSettings{Aliases: []string{"web"}}
			}
		}
	}
	id := l.create("sleep 1000", in("app_default", "app_default", inner.ID[:12]))
	l.start(id)
	c, err := l.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	must(t, err)
	nets := c.Container.NetworkSettings.Networks
	if len(nets) != 2 || nets["app_default"] == nil || nets["app_default"].NetworkID != made.ID || nets["inner"] == nil || !slices.Equal(nets["inner"].Aliases, []string{"web"}) || c.Container.HostConfig.NetworkMode != "app_default" {
		t.Errorf("it is in %+v, by %s", nets, c.Container.HostConfig.NetworkMode)
	}
	for _, value := range []string{"inner", made.ID} {
		list, err := l.ContainerList(ctx, client.ContainerListOptions{Filters: client.Filters{}.Add("network", value)})
		must(t, err)
		if len(list.Items) != 1 {
			t.Errorf("network=%s: %+v", value, list.Items)
		}
	}
	n, err := l.NetworkInspect(ctx, made.ID[:12], client.NetworkInspectOptions{})
	must(t, err)
	if n.Network.Name != "app_default" || n.Network.Labels["a"] != "b" || n.Network.Containers[id].Name == "" {
		t.Errorf("it is %+v", n.Network)
	}
	if _, status := l.get(http.MethodDelete, "/networks/app_default"); status != http.StatusForbidden {
		t.Errorf("removing one in use: %d", status)
	}
	pruned, err := l.NetworkPrune(ctx, client.NetworkPruneOptions{})
	must(t, err)
	if len(pruned.Report.NetworksDeleted) > 0 {
		t.Errorf("pruned were %q", pruned.Report.NetworksDeleted)
	}
	_, err = l.ContainerKill(ctx, id, client.ContainerKillOptions{})
	must(t, err)
	l.wait(id, containertypes.WaitConditionNotRunning)()
	// One that does not run is put in others.
	connect := func(name string) error {
		_, err := l.NetworkConnect(ctx, name, client.NetworkConnectOptions{Container: id, EndpointConfig: &network.EndpointSettings{Aliases: []string{"again"}}})
		return err
	}
	disconnect := func(name string) error {
		_, err := l.NetworkDisconnect(ctx, name, client.NetworkDisconnectOptions{Container: id})
		return err
	}
	if err := connect("inner"); err == nil || !strings.Contains(err.Error(), "already exists in network inner") {
		t.Errorf("connecting it twice: %v", err)
	}
	if err := connect("host"); err == nil || !strings.Contains(err.Error(), "cannot be connected") {
		t.Errorf("connecting it to the host's: %v", err)
	}
	must(t, disconnect("app_default"))
	must(t, disconnect("inner"))
	if err := disconnect("inner"); err == nil || !strings.Contains(err.Error(), "is not connected") {
		t.Errorf("disconnecting it twice: %v", err)
	}
	must(t, connect(inner.ID))
	l.start(id)
	if err := connect("app_default"); err == nil || !strings.Contains(err.Error(), "while it runs") {
		t.Errorf("a way out for what runs without: %v", err)
	}
	_, err = l.ContainerKill(ctx, id, client.ContainerKillOptions{})
	must(t, err)
	l.wait(id, containertypes.WaitConditionNotRunning)()
	must(t, connect("app_default"))
	c, err = l.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	must(t, err)
	if nets := c.Container.NetworkSettings.Networks; len(nets) != 2 || nets["app_default"] == nil || !slices.Equal(nets["inner"].Aliases, []string{"again"}) {
		t.Errorf("it is in %+v", nets)
	}
	_, err = l.NetworkRemove(ctx, made.ID, client.NetworkRemoveOptions{})
	must(t, err)
	if doc, status := l.get(http.MethodPost, "/containers/"+id+"/start"); status != http.StatusNotFound {
		t.Errorf("starting what was in it: %d, %v", status, doc)
	}
	_, err = l.ContainerRemove(ctx, id, client.ContainerRemoveOptions{})
	must(t, err)
	// An internal one has no way out; the host's is in no other one.
	id = l.create("test ! -e /sys/class/net/eth0 && test -z \"$(tail -n +2 /proc/net/route)\"", in("inner"))
	ended := l.wait(id, containertypes.WaitConditionNextExit)
	l.start(id)
	if code := ended(); code != 0 {
		t.Errorf("there is a way out: %d", code)
	}
	o := client.ContainerCreateOptions{Config: &containertypes.Config{Image: "busybox", Cmd: []string{"true"}}, HostConfig: &containertypes.HostConfig{}}
	in("none", "inner")(&o)
	if _, err := l.ContainerCreate(ctx, o); err == nil || !strings.Contains(err.Error(), "cannot be connected") {
		t.Errorf("none and another one: %v", err)
	}
	_, err = l.ContainerRemove(ctx, id, client.ContainerRemoveOptions{})
	must(t, err)
	pruned, err = l.NetworkPrune(ctx, client.NetworkPruneOptions{})
	must(t, err)
	if !slices.Equal(pruned.Report.NetworksDeleted, []string{"inner"}) {
		t.Errorf("pruned were %q", pruned.Report.NetworksDeleted)
	}
}

// post sends a document, and returns the status.
func (l *lab) post(path, body string) int {
	l.t.Helper()
	req, err := http.NewRequestWithContext(l.t.Context(), http.MethodPost, l.url+path, strings.NewReader(body))
	must(l.t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	must(l.t, err)
	must(l.t, resp.Body.Close())
	return resp.StatusCode
}
