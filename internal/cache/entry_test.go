package cache

import (
	"strings"
	"testing"

	"github.com/slipway-build/slipway/internal/layer"
)

func TestParseTo(t *testing.T) {
	registry := func(kv ...string) Entry {
		e := Entry{Type: TypeRegistry, Attrs: map[string]string{"ref": "app:cache"}}
		for i := 0; i < len(kv); i += 2 {
			e.Attrs[kv[i]] = kv[i+1]
		}
		return e
	}
	for name, tc := range map[string]struct {
		in   Entry
		want To
		err  string
	}{
		"defaults": {registry(), To{Ref: "docker.io/library/app:cache", ImageManifest: true, Encoding: layer.Encoding{Compression: layer.Gzip}}, ""},
		"all": {registry("mode", "max", "compression", "zstd", "compression-level", "3", "force-compression", "", "ignore-error", "true"),
			To{Ref: "docker.io/library/app:cache", Max: true, IgnoreError: true, ImageManifest: true, Encoding: layer.Encoding{Compression: layer.Zstd, Level: 3, Force: true}}, ""},
		"docker": {registry("oci-mediatypes", "false"),
			To{Ref: "docker.io/library/app:cache", DockerTypes: true, Encoding: layer.Encoding{Compression: layer.Gzip}}, ""},
		// BuildKit skips these.
		"unknown mode":         {registry("mode", "most", "ignore-error", "maybe"), To{Ref: "docker.io/library/app:cache", ImageManifest: true, Encoding: layer.Encoding{Compression: layer.Gzip}}, ""},
		"local":                {Entry{Type: TypeLocal, Attrs: map[string]string{"dest": "d"}}, To{Dest: "d", Tag: "latest", ImageManifest: true, Encoding: layer.Encoding{Compression: layer.Gzip}}, ""},
		"insecure":             {registry("registry.insecure", "true"), To{Ref: "docker.io/library/app:cache", Insecure: true, ImageManifest: true, Encoding: layer.Encoding{Compression: layer.Gzip}}, ""},
		"insecure or what":     {registry("registry.insecure", "perhaps"), To{}, "failed to parse registry.insecure"},
		"level":                {registry("compression-level", "high"), To{}, "non-integer value high specified for compression-level"},
		"level out of range":   {registry("compression-level", "30"), To{}, "level"},
		"boolean":              {registry("image-manifest", "perhaps"), To{}, "failed to parse image-manifest"},
		"manifest and docker":  {registry("image-manifest", "true", "oci-mediatypes", "false"), To{}, "OCI mediatypes are required"},
		"reference":            {Entry{Type: TypeRegistry, Attrs: map[string]string{"ref": "A:B"}}, To{}, "failed to configure registry cache exporter"},
		"type":                 {Entry{Type: "gha"}, To{}, `cache exporter "gha" is not supported: use type=registry`},
		"type that is nowhere": {Entry{Type: "ftp"}, To{}, `unknown cache exporter: "ftp"`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseTo(tc.in)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tc.want.Type = tc.in.Type
			if *got != tc.want {
				t.Errorf("got %+v\nwant %+v", *got, tc.want)
			}
		})
	}
}

// As BuildKit has it: inline caches are one, other places may be named once.
func TestParseTos(t *testing.T) {
	inline := Entry{Type: TypeInline}
	ref := Entry{Type: TypeRegistry, Attrs: map[string]string{"ref": "app", "mode": "max"}}
	same := Entry{Type: TypeRegistry, Attrs: map[string]string{"ref": "app"}}
	all, err := ParseTos([]Entry{inline, ref, inline})
	if err != nil || len(all) != 2 {
		t.Errorf("got %v, %v", all, err)
	}
	if _, err := ParseTos([]Entry{ref, same}); err == nil || err.Error() != "duplicate cache exports [registry]" {
		t.Errorf("got %v", err)
	}
}
