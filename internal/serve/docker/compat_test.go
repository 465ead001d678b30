package docker

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/moby/moby/client"
)

// TestOldContainers: what a container has of what was asked for depends on the version.
func TestOldContainers(t *testing.T) {
	l := newContainers(t)
	l.network("app", false)
	none := int64(0)
	id := l.create("true", func(o *client.ContainerCreateOptions) {
		o.HostConfig.NetworkMode, o.HostConfig.PidsLimit, o.HostConfig.Annotations = "app", &none, map[string]string{"a": "b"}
	})
	for version, want := range map[string]string{"1.44": "[" + id[:12] + "]", "1.45": "<nil>"} {
		doc, _ := l.get(http.MethodGet, "/v"+version+"/containers/"+id+"/json")
		if got := fmt.Sprint(in(doc, "NetworkSettings", "Networks", "app", "Aliases")); got != want {
			t.Errorf("%s: the aliases are %s, not %s", version, got, want)
		}
		if limit := in(doc, "HostConfig", "PidsLimit"); limit != nil {
			t.Errorf("no limit is told as %v", limit)
		}
	}
	for version, want := range map[string]string{"1.45": "<nil>", "1.46": "map[a:b]"} {
		doc, _ := l.get(http.MethodGet, "/v"+version+"/containers/json?all=1")
		if got := fmt.Sprint(in(doc, 0, "HostConfig", "Annotations")); got != want {
			t.Errorf("%s: the annotations are %s, not %s", version, got, want)
		}
	}
	for path, there := range map[string]bool{"/v1.41/system/df?type=volume": true, "/v1.42/system/df?type=volume": false} {
		if doc, _ := l.get(http.MethodGet, path); (in(doc, "Images") != nil) != there {
			t.Errorf("%s: %v", path, doc)
		}
	}
}
