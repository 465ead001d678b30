package serve

import (
	"testing"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/serve/control"
)

// Of caches a client may name those that there are.
func TestCachesOfClients(t *testing.T) {
	for typ, want := range map[string]bool{"registry": true, "local": true, "inline": true, "gha": true, "s3": true, "azblob": false, "": false} {
		for _, s := range []control.Solve{{CacheTo: []cache.Entry{{Type: typ}}}, {CacheFrom: []cache.Entry{{Type: typ}}}} {
			_, err := (&Builder{}).request(&s)
			if (err == nil) != want {
				t.Errorf("cache %q: %v", typ, err)
			}
			if !want {
				wantErr(t, err, "unknown cache ")
			}
		}
	}
}
