package docker

import (
	"net/http"
	"testing"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// TestContainerFilters: a filter lets through what dockerd's would, also one of what no container here has, and one that is none is an error.
func TestContainerFilters(t *testing.T) {
	l := newContainers(t)
	id := l.create("true", func(o *client.ContainerCreateOptions) {
		o.HostConfig.Binds = []string{"data:/v"}
		o.Config.ExposedPorts = network.PortSet{network.MustParsePort("80/tcp"): {}}
	})
	for _, tc := range []struct {
		key, value string
		there      bool
	}{
		{"volume", "data", true}, {"volume", "/v", true}, {"volume", "other", false}, {"volume", "dat", false},
		{"health", "none", true}, {"health", "healthy", false}, {"is-task", "false", true}, {"is-task", "true", false},
		{"expose", "80", true}, {"expose", "80/udp", false}, {"expose", "70-90", true}, {"expose", "81-90/tcp", false}, {"publish", "80", false},
	} {
		list, err := l.ContainerList(t.Context(), client.ContainerListOptions{All: true, Filters: client.Filters{}.Add(tc.key, tc.value)})
		must(t, err)
		if there := len(list.Items) == 1 && list.Items[0].ID == id; there != tc.there {
			t.Errorf("%s=%s: it is there: %t", tc.key, tc.value, there)
		}
	}
	for _, bad := range []string{`{"health":["fine"]}`, `{"expose":["x"]}`, `{"publish":["1-"]}`, `{"is-task":["x"]}`} {
		if _, status := l.get(http.MethodGet, "/containers/json?filters="+bad); status != http.StatusBadRequest {
			t.Errorf("%s: %d", bad, status)
		}
	}
}
