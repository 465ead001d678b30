package build_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/client"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/progress"
)

// TestFirstMissing: of several sources that are missing the first in the Dockerfile is named, whichever was found
// first. What step runs nobody waits for.
func TestFirstMissing(t *testing.T) {
	tests := []struct {
		name, dockerfile string
		line             int
		want             string
	}{
		{"copies of one stage", "FROM busybox\nCOPY one /\nCOPY two /\nCOPY three /\n", 2, "/one"},
		{"copies of two stages", "FROM busybox AS a\nCOPY one /\nFROM busybox\nCOPY two /\nCOPY --from=a /etc/passwd /x\n", 2, "/one"},
		{"the same file", "FROM busybox AS a\nCOPY one /a\nFROM busybox\nCOPY one /b\nCOPY --from=a /etc/passwd /x\n", 2, "/one"},
		{"a mount", "FROM busybox AS a\nRUN --mount=type=bind,source=one,target=/one true\nFROM busybox\nCOPY two /\nCOPY --from=a /etc/passwd /x\n", 2, "/one"},
		{"files of a stage", "FROM busybox AS a\nRUN true\nFROM busybox\nCOPY --from=a /one /\nCOPY --from=a /two /\nCOPY --from=a /three /\n", 4, "/one"},
		{"files of two stages", "FROM busybox AS a\nCOPY Dockerfile /\nFROM scratch AS b\nCOPY Dockerfile /\nFROM busybox\nCOPY --from=a /one /\nCOPY --from=b /two /\n", 6, "/one"},
		{"a file before an URL", "FROM busybox\nCOPY one /\nADD http://127.0.0.1:1/two /\n", 2, "/one"},
		{"URLs", "FROM busybox\nADD SLOW/one /\nADD FAST/two /\n", 2, "/one"},
		{"an URL before a file", "FROM busybox\nADD SLOW/one /\nCOPY two /\nADD FAST/three /\n", 2, "/one"},
		{"the same URL", "FROM busybox AS a\nADD FAST/one /a\nFROM busybox\nADD FAST/one /b\nCOPY --from=a /etc/passwd /x\n", 2, "/one"},
		{"a running step", "FROM busybox AS a\nRUN sleep 600\nFROM busybox\nCOPY --from=a /one /\nCOPY two /\n", 5, "/two"},
		{"a file behind a step", "FROM busybox\nRUN exit 3\nCOPY two /\n", 3, "/two"},
		{"images", "FROM slow/one AS a\nFROM busybox\nCOPY --from=fast/two /x /\nCOPY --from=a /x /\n", 1, "slow/one"},
		{"an image of a copy", "FROM busybox AS a\nCOPY --from=slow/one /x /\nFROM fast/two\nCOPY --from=a /x /\n", 2, "slow/one"},
		{"the same image", "FROM busybox AS a\nCOPY --from=fast/one /x /\nFROM fast/one\nCOPY --from=a /x /\n", 2, "fast/one"},
		{"images before files", "FROM busybox\nCOPY one /\nCOPY --from=fast/two /x /\n", 3, "fast/two"},
		{"an image with a variable", "ARG V=fast/one\nFROM $V AS a\nFROM busybox\nCOPY --from=fast/two /x /\nCOPY --from=a /x /\n", 2, "fast/one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHarness(t)
			failed := make(chan struct{}) // what is slow answers after something else has failed
			late := func(r *http.Request) {
				select {
				case <-failed:
				case <-r.Context().Done():
				}
			}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/slow/") {
					late(r)
				}
				http.NotFound(w, r)
			}))
			defer server.Close()
			h.reg.Use(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if strings.HasPrefix(r.URL.Path, "/v2/slow/") {
					late(r)
				}
				next.ServeHTTP(w, r)
			})
			h.write("Dockerfile", strings.NewReplacer("SLOW", server.URL+"/slow", "FAST", server.URL+"/fast").Replace(tt.dockerfile))
			once := sync.OnceFunc(func() { close(failed) })
			_, err := h.builder.Build(t.Context(), build.Request{Context: h.context}, progress.SinkFunc(func(s *client.SolveStatus) {
				for _, v := range s.Vertexes {
					if v.Error != "" {
						once()
					}
				}
			}))
			if err == nil || !strings.Contains(err.Error(), tt.want) || place(err) != tt.line {
				t.Errorf("line %d: %v; want %s, line %d", place(err), err, tt.want, tt.line)
			}
		})
	}
}
