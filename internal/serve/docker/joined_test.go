package docker

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/view"
)

// noWayOut is a script that succeeds where there is no way out.
const noWayOut = "test ! -e /sys/class/net/eth0 && test -z \"$(tail -n +2 /proc/net/route)\""

// inNetworks has a container made in a network, and in others.
func inNetworks(mode string, others ...string) func(*client.ContainerCreateOptions) {
	return func(o *client.ContainerCreateOptions) {
		o.HostConfig.NetworkMode, o.NetworkingConfig = containertypes.NetworkMode(mode), &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{}}
		for _, name := range others {
			o.NetworkingConfig.EndpointsConfig[name] = &network.EndpointSettings{}
		}
	}
}

// network makes a network, and returns its ID.
func (l *lab) network(name string, internal bool) string {
	l.t.Helper()
	n, err := l.NetworkCreate(l.t.Context(), name, client.NetworkCreateOptions{Internal: internal})
	must(l.t, err)
	return n.ID
}

func (l *lab) removeNetwork(name string) {
	l.t.Helper()
	_, err := l.NetworkRemove(l.t.Context(), name, client.NetworkRemoveOptions{})
	must(l.t, err)
}

// connect and disconnect return the status.
func (l *lab) connect(name, id string) int {
	return l.post("/networks/"+name+"/connect", `{"Container":"`+id+`"}`)
}

func (l *lab) disconnect(name, id string) int {
	return l.post("/networks/"+name+"/disconnect", `{"Container":"`+id+`"}`)
}

// endpoints are the networks that a container is in, as inspect tells them.
func (l *lab) endpoints(id string) map[string]*network.EndpointSettings {
	l.t.Helper()
	c, err := l.ContainerInspect(l.t.Context(), id, client.ContainerInspectOptions{})
	must(l.t, err)
	return c.Container.NetworkSettings.Networks
}

// isIn checks in which networks a container is.
func (l *lab) isIn(id string, want ...string) {
	l.t.Helper()
	if names := slices.Sorted(maps.Keys(l.endpoints(id))); !slices.Equal(names, want) {
		l.t.Errorf("it is in %q, not in %q", names, want)
	}
}

// runs starts a container, and wants it to succeed.
func (l *lab) runs(id string) {
	l.t.Helper()
	ended := l.wait(id, containertypes.WaitConditionNextExit)
	l.start(id)
	if code := ended(); code != 0 {
		l.t.Errorf("it ended with %d", code)
	}
}

// TestNetworkOfAnotherTime: a network that is made anew is another one: a container of the first does not run before it has left that.
func TestNetworkOfAnotherTime(t *testing.T) {
	l := newContainers(t)
	first := l.network("app", false)
	id := l.create(noWayOut, inNetworks("app"))
	l.removeNetwork("app")
	if status := l.connect("app", id); status != http.StatusNotFound {
		t.Errorf("connecting it to what is gone: %d", status)
	}
	second := l.network("app", true)
	if e := l.endpoints(id)["app"]; e == nil || e.NetworkID != first {
		t.Errorf("it is in %+v, and was in %s", e, first)
	}
	for _, how := range []string{"start", "restart"} {
		if doc, status := l.get(http.MethodPost, "/containers/"+id+"/"+how); status != http.StatusNotFound {
			t.Errorf("%s: %d, %v", how, status, doc)
		}
	}
	for value, want := range map[string]int{first: 1, second: 0} {
		list, err := l.ContainerList(t.Context(), client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("network", value)})
		must(t, err)
		if len(list.Items) != want {
			t.Errorf("network=%s: %d", value, len(list.Items))
		}
	}
	pruned, err := l.NetworkPrune(t.Context(), client.NetworkPruneOptions{})
	must(t, err)
	if !slices.Equal(pruned.Report.NetworksDeleted, []string{"app"}) {
		t.Errorf("pruned were %q, and nobody is in app", pruned.Report.NetworksDeleted)
	}
	l.network("app", true)
	if status := l.connect("app", id); status != http.StatusOK {
		t.Errorf("connecting it: %d", status)
	}
	l.runs(id)
}

// TestLeaveRemovedNetwork: what was in a network that was removed leaves it, by the name or by the ID.
func TestLeaveRemovedNetwork(t *testing.T) {
	l := newContainers(t)
	for _, byID := range []bool{false, true} {
		name := "app"
		id := l.network(name, false)
		c := l.create("true", inNetworks(name))
		l.removeNetwork(name)
		if byID {
			name = id
		}
		if status := l.disconnect(name, c); status != http.StatusOK {
			t.Errorf("disconnecting it from %s: %d", name, status)
		}
		l.isIn(c)
		if status := l.disconnect(name, c); status != http.StatusNotFound {
			t.Errorf("once more: %d", status)
		}
		l.runs(c)
	}
}

// TestLeaveOneOfSeveral has a container leave networks by their names, IDs and the beginnings of these, whichever it joined first, but none that it is not in.
func TestLeaveOneOfSeveral(t *testing.T) {
	l := newContainers(t)
	ids := map[string]string{}
	for _, name := range []string{"one", "two", "three", "other"} {
		ids[name] = l.network(name, false)
	}
	id := l.create("true", inNetworks("one", "two", "three"))
	l.isIn(id, "one", "three", "two")
	if code := l.disconnect("other", id); code != http.StatusForbidden {
		t.Errorf("to leave a network that it is not in is %d", code)
	}
	for _, name := range []string{"two", ids["three"], ids["one"][:12]} {
		if code := l.disconnect(name, id); code != http.StatusOK {
			t.Errorf("to leave %s is %d", name, code)
		}
	}
	l.isIn(id)
}

// TestNetworksAfterAttach: what a container is in when it is started counts, not when somebody has attached to it.
func TestNetworksAfterAttach(t *testing.T) {
	l := newContainers(t)
	l.network("app", false)
	l.network("inner", true)
	id := l.create(noWayOut, inNetworks("app"))
	a, err := l.ContainerAttach(t.Context(), id, client.ContainerAttachOptions{Stream: true, Stdout: true})
	must(t, err)
	defer a.Close()
	if status := l.disconnect("app", id); status != http.StatusOK {
		t.Errorf("disconnecting it: %d", status)
	}
	if status := l.connect("inner", id); status != http.StatusOK {
		t.Errorf("connecting it: %d", status)
	}
	l.isIn(id, "inner")
	l.runs(id)
}

// TestStartOfRemovedNetwork: a network goes while a container of it is being started; who runs that looks once more.
func TestStartOfRemovedNetwork(t *testing.T) {
	l := newContainers(t)
	l.network("app", false)
	id := l.create("true", inNetworks("app"))
	m := l.server.manager(&Backend{Store: l.store})
	c, err := view.FindContainer(t.Context(), l.store, id)
	must(t, err)
	release, err := m.LockNetworks(t.Context())
	must(t, err)
	started := make(chan error)
	go func() { started <- m.Start(t.Context(), c) }()
	must(t, l.server.forgetNetwork(t.Context(), m, "app"))
	must(t, release())
	if err := <-started; !errors.Is(err, container.ErrNoNetwork) || status(err) != http.StatusNotFound {
		t.Errorf("it was started: %v", err)
	}
	if s := m.State(id); s.Running || !s.Started.IsZero() {
		t.Errorf("it is %+v", s)
	}
}

// TestUsualNetworkBesideOthers: the mode that is the usual one adds no way out to networks that a client names.
func TestUsualNetworkBesideOthers(t *testing.T) {
	l := newContainers(t)
	l.network("inner", true)
	for _, mode := range []string{"", "default", "bridge"} {
		id := l.create(noWayOut, inNetworks(mode, "inner"))
		l.isIn(id, "inner")
		l.runs(id)
	}
	id := l.create("true", inNetworks("bridge", "bridge", "inner"))
	l.isIn(id, "bridge", "inner")
}

// TestInNoNetwork: who has left all networks joins others, also as a container of the command line.
func TestInNoNetwork(t *testing.T) {
	l := newContainers(t)
	l.network("inner", true)
	m := l.server.manager(&Backend{Store: l.store})
	img, _, err := imageFor(t.Context(), l.store, "busybox", "")
	must(t, err)
	own, err := m.Create(t.Context(), "", img, container.Options{Args: []string{"sh", "-c", noWayOut}})
	must(t, err)
	for id, first := range map[string]string{own.ID: "bridge", l.create(noWayOut, inNetworks("none")): "none"} {
		l.isIn(id, first)
		if status := l.disconnect(first, id); status != http.StatusOK {
			t.Errorf("disconnecting it from %s: %d", first, status)
		}
		l.isIn(id)
		if _, err := l.ContainerList(t.Context(), client.ContainerListOptions{All: true}); err != nil {
			t.Error(err)
		}
		l.runs(id)
		if status := l.connect("host", id); status != http.StatusForbidden {
			t.Errorf("connecting it to the host's: %d", status)
		}
		if status := l.connect("inner", id); status != http.StatusOK {
			t.Errorf("connecting what was in %s: %d", first, status)
		}
		l.isIn(id, "inner")
		l.runs(id)
		if status := l.disconnect("inner", id); status != http.StatusOK {
			t.Errorf("disconnecting it from inner: %d", status)
		}
		if status := l.connect(first, id); status != http.StatusOK {
			t.Errorf("connecting it to %s again: %d", first, status)
		}
		l.isIn(id, first)
	}
}

// TestNetworkNamedAsAnother: a container is in the network that it was put into, also where the name of that is the ID of another one.
func TestNetworkNamedAsAnother(t *testing.T) {
	l := newContainers(t)
	first := l.network("app", false)
	second := l.network(first, true)
	id := l.create(noWayOut, inNetworks(second))
	if e := l.endpoints(id)[first]; e == nil || e.NetworkID != second {
		t.Errorf("it is in %+v, not in %s", e, second)
	}
	l.runs(id)
	l.removeNetwork("app")
	l.runs(id)
	l.removeNetwork(second)
	if _, status := l.get(http.MethodPost, "/containers/"+id+"/start"); status != http.StatusNotFound {
		t.Errorf("starting what was in it: %d", status)
	}
}

// TestNetworkFilters: a network is dangling that no container has which runs; those that there always are never are.
func TestNetworkFilters(t *testing.T) {
	l := newContainers(t)
	l.network("app", false)
	l.network("idle", false)
	id := l.create("sleep 1000", inNetworks("app"))
	check := func(filter, want string) {
		t.Helper()
		key, value, _ := strings.Cut(filter, "=")
		list, err := l.NetworkList(t.Context(), client.NetworkListOptions{Filters: client.Filters{}.Add(key, value)})
		must(t, err)
		var names []string
		for _, n := range list.Items {
			names = append(names, n.Name)
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %q, not %q", filter, got, want)
		}
	}
	check("dangling=1", "app idle")
	l.start(id)
	check("dangling=true", "idle")
	check("dangling=false", "app bridge host none")
	check("dangling=0", "app bridge host none")
	check("type=builtin", "bridge host none")
	for _, bad := range []string{`{"dangling":["no"]}`, `{"dangling":["true","false"]}`, `{"type":["other"]}`, `{"type":["builtin","other"]}`} {
		if _, status := l.get(http.MethodGet, "/networks?filters="+url.QueryEscape(bad)); status != http.StatusBadRequest {
			t.Errorf("%s: %d", bad, status)
		}
	}
	if _, status := l.get(http.MethodGet, "/volumes?filters="+url.QueryEscape(`{"dangling":["no"]}`)); status != http.StatusBadRequest {
		t.Errorf("of volumes: %d", status)
	}
	if status := l.post("/networks/create", `{"Name":"large","Labels":{"a":"`+strings.Repeat("a", 70<<10)+`"}}`); status != http.StatusBadRequest {
		t.Errorf("large labels: %d", status)
	}
}

// TestNetworkEvents: who follows events is told who is in a network.
func TestNetworkEvents(t *testing.T) {
	l := newContainers(t)
	first := l.network("app", false)
	id := l.create("true", inNetworks("bridge"))
	for _, status := range []int{l.connect("app", id), l.disconnect("bridge", id)} {
		if status != http.StatusOK {
			t.Errorf("changing it: %d", status)
		}
	}
	l.removeNetwork("app")
	second := l.network("app", false)
	if status := l.disconnect("app", id); status != http.StatusOK {
		t.Errorf("disconnecting it: %d", status)
	}
	_, err := l.NetworkPrune(t.Context(), client.NetworkPruneOptions{})
	must(t, err)
	past, _, leave := l.server.events.join()
	leave()
	var told []string
	for _, e := range past {
		if e.Type == events.NetworkEventType {
			told = append(told, fmt.Sprintf("%s %s %s", e.Action, e.Actor.ID, e.Actor.Attributes))
		}
	}
	attributes := func(name string) map[string]string { return map[string]string{"name": name, "type": "bridge"} }
	with := func(name string) map[string]string {
		a := attributes(name)
		a["container"] = id
		return a
	}
	var want []string
	for _, e := range []struct {
		action, id string
		attributes map[string]string
	}{
		{"create", first, attributes("app")}, {"connect", first, with("app")}, {"disconnect", networkID("bridge"), with("bridge")}, {"destroy", first, attributes("app")}, {"create", second, attributes("app")},
		{"disconnect", first, with("app")}, {"destroy", second, attributes("app")}, {"prune", "", map[string]string{"reclaimed": "0"}},
	} {
		want = append(want, fmt.Sprintf("%s %s %s", e.action, e.id, e.attributes))
	}
	if !slices.Equal(told, want) {
		t.Errorf("told were\n%s\nnot\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
}

// TestNetworksBesideVolumes: nothing that is done with networks waits for who has the volumes.
func TestNetworksBesideVolumes(t *testing.T) {
	l := newContainers(t)
	l.network("app", false)
	id := l.create("true", inNetworks("app"))
	release, err := l.server.manager(&Backend{Store: l.store}).LockVolumes(t.Context())
	must(t, err)
	done := make(chan bool)
	go func() {
		defer close(done)
		l.network("other", false)
		l.connect("other", id)
		l.disconnect("app", id)
		l.start(id)
		l.removeNetwork("app")
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Error("they wait")
	}
	must(t, release())
	<-done
}

// TestTmpfsOfCommandLine: what a container of the command line has in memory is told as what a client asks for.
func TestTmpfsOfCommandLine(t *testing.T) {
	l := newContainers(t)
	img, _, err := imageFor(t.Context(), l.store, "busybox", "")
	must(t, err)
	want := []sandbox.Mount{{Dest: "/a", Tmpfs: &sandbox.Tmpfs{NoExec: true}}, {Dest: "/b", Tmpfs: &sandbox.Tmpfs{Size: 1 << 20, Mode: 0o1750}}}
	c, err := l.server.manager(&Backend{Store: l.store}).Create(t.Context(), "", img, container.Options{Args: []string{"true"}, Mounts: want})
	must(t, err)
	got, err := l.ContainerInspect(t.Context(), c.ID, client.ContainerInspectOptions{})
	must(t, err)
	if all := got.Container.HostConfig.Tmpfs; len(all) != len(want) {
		t.Errorf("it has %q", all)
	}
	for _, m := range want {
		parsed := &sandbox.Tmpfs{NoExec: true}
		must(t, tmpfsOptions(parsed, got.Container.HostConfig.Tmpfs[m.Dest]))
		if *parsed != *m.Tmpfs {
			t.Errorf("%s: %q", m.Dest, got.Container.HostConfig.Tmpfs[m.Dest])
		}
	}
}
