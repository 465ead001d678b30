package cache

import (
	"reflect"
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
	app := func(insecure, imageManifest, dockerTypes bool) location {
		return &inRegistry{ref: "docker.io/library/app:cache", insecure: insecure, form: form{imageManifest, dockerTypes}}
	}
	gzip := layer.Encoding{Compression: layer.Gzip}
	for name, tc := range map[string]struct {
		in   Entry
		want To
		err  string
	}{
		"defaults": {registry(), To{location: app(false, true, false), Encoding: gzip}, ""},
		"all": {registry("mode", "max", "compression", "zstd", "compression-level", "3", "force-compression", "", "ignore-error", "true"),
			To{location: app(false, true, false), Max: true, IgnoreError: true, Encoding: layer.Encoding{Compression: layer.Zstd, Level: 3, Force: true}}, ""},
		"docker": {registry("oci-mediatypes", "false"),
			To{location: app(false, false, true), dockerTypes: true, Encoding: gzip}, ""},
		// BuildKit skips these.
		"unknown mode":         {registry("mode", "most", "ignore-error", "maybe"), To{location: app(false, true, false), Encoding: gzip}, ""},
		"local":                {Entry{Type: TypeLocal, Attrs: map[string]string{"dest": "d"}}, To{location: &directory{form: form{imageManifest: true}, path: "d", label: "latest"}, Encoding: gzip}, ""},
		"insecure":             {registry("registry.insecure", "true"), To{location: app(true, true, false), Encoding: gzip}, ""},
		"insecure or what":     {registry("registry.insecure", "perhaps"), To{}, "failed to parse registry.insecure"},
		"nothing compressed":   {registry("compression-level", "0"), To{location: app(false, true, false), Encoding: layer.Encoding{Compression: layer.Gzip, Level: layer.Stored}}, ""},
		"level":                {registry("compression-level", "high"), To{}, "non-integer value high specified for compression-level"},
		"level out of range":   {registry("compression-level", "30"), To{}, "level"},
		"boolean":              {registry("image-manifest", "perhaps"), To{}, "failed to parse image-manifest"},
		"manifest and docker":  {registry("image-manifest", "true", "oci-mediatypes", "false"), To{}, "OCI mediatypes are required"},
		"reference":            {Entry{Type: TypeRegistry, Attrs: map[string]string{"ref": "A:B"}}, To{}, "failed to configure registry cache exporter"},
		"type":                 {Entry{Type: "azblob"}, To{}, `cache exporter "azblob" is not supported: use type=registry`},
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
			if !reflect.DeepEqual(*got, tc.want) {
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

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"type=gha,token=abc,scope=x":                        "type=gha,token=...,scope=x",
		"--cache-to=type=s3,Secret_Access_Key=a/b,bucket=b": "--cache-to=type=s3,Secret_Access_Key=...,bucket=b",
		`type=gha,"token=a,""b",scope=x`:                    `type=gha,"token=...",scope=x`,
		"*.cache-from=type=gha,ghtoken=abc":                 "*.cache-from=type=gha,ghtoken=...",
		"token=abc":                                         "token=...", "session_token=abc,type=s3": "session_token=...,type=s3",
		"type=registry,ref=app": "type=registry,ref=app", ".": ".", "--build-context=mytoken=dir": "--build-context=mytoken=dir",
	} {
		if got := Redact(in); got != want {
			t.Errorf("%s becomes %s, want %s", in, got, want)
		}
	}
}
