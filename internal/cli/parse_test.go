package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

func TestParseOutput(t *testing.T) {
	var stdout bytes.Buffer
	for _, tc := range []struct {
		in   string
		want build.Output
		err  string // part of the error; "" is none
	}{
		{in: "out", want: build.Output{Type: build.OutputLocal, Dest: "out"}},
		{in: "./a=b", want: build.Output{Type: build.OutputLocal, Dest: "./a=b"}},
		{in: "-", want: build.Output{Type: build.OutputTar, Writer: &stdout}},
		{in: "type=local,dest=out", want: build.Output{Type: build.OutputLocal, Dest: "out", Attrs: map[string]string{}}},
		{in: "type=oci,dest=a.tar,name=app:v1", want: build.Output{Type: build.OutputOCI, Dest: "a.tar", Attrs: map[string]string{"name": "app:v1"}}},
		{in: `type=image,"name=a,b"`, want: build.Output{Type: build.OutputImage, Attrs: map[string]string{"name": "a,b"}}},
		{in: "type=tar", want: build.Output{Type: build.OutputTar, Writer: &stdout, Attrs: map[string]string{}}},
		{in: "type=oci,dest=-", want: build.Output{Type: build.OutputOCI, Writer: &stdout, Attrs: map[string]string{}}},
		{in: "type=oci,dest=d,tar=false", want: build.Output{Type: build.OutputOCI, Dest: "d", Attrs: map[string]string{"tar": "false"}}},
		{in: "type=docker", want: build.Output{Type: build.OutputDocker, Attrs: map[string]string{}}},
		{in: "TYPE=tar,dest=x", want: build.Output{Type: build.OutputTar, Dest: "x", Attrs: map[string]string{}}},
		{in: "", err: "empty"},
		{in: "type=", err: "type is missing"},
		{in: "dest=x,type=", err: "type is missing"},
		{in: "type=zip", err: `unknown type "zip"`},
		{in: "type=local", err: "dest is missing"},
		{in: "type=oci,tar=false", err: "dest is missing"},
		{in: "type=image,dest=x", err: "takes no dest"},
		{in: "type=oci,x", err: `"x" is not key=value`},
		{in: "type=registry,name=x", want: build.Output{Type: build.OutputImage, Attrs: map[string]string{"name": "x", "push": "true", "store": "false"}}},
		{in: "type=image,push=true", want: build.Output{Type: build.OutputImage, Attrs: map[string]string{"push": "true"}}},
		{in: `type="oci`, err: "parsing --output"},
	} {
		got, err := parseOutput(tc.in, &stdout)
		if tc.err != "" || err != nil {
			if err == nil || tc.err == "" || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("parseOutput(%q): error %v, want %q", tc.in, err, tc.err)
			}
			continue
		}
		if !reflect.DeepEqual(got, tc.want) {
			t.Errorf("parseOutput(%q) = %+v, want %+v", tc.in, got, tc.want)
		}
	}
}

func TestKeyValues(t *testing.T) {
	lookup := func(k string) (string, bool) { return "from env", k == "HAVE" }
	got := keyValues([]string{"A=1", "B=", "HAVE", "HAVENOT", "C=x=y", "A=2"}, lookup)
	if want := map[string]string{"A": "2", "B": "", "HAVE": "from env", "C": "x=y"}; !reflect.DeepEqual(got, want) {
		t.Errorf("build args %v, want %v", got, want)
	}
	if got := keyValues([]string{"bare"}, nil); !reflect.DeepEqual(got, map[string]string{"bare": ""}) {
		t.Errorf("labels %v", got)
	}
}

func TestParseVolume(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]*sandbox.Mount{
		"/a:/b":       {Bind: "/a", Dest: "/b"},
		"/a:/b:ro":    {Bind: "/a", Dest: "/b", ReadOnly: true},
		"/a:/b/:rw,z": {Bind: "/a", Dest: "/b"},
		"./x:/b":      {Bind: filepath.Join(wd, "x"), Dest: "/b"},
		".:/b":        {Bind: wd, Dest: "/b"},
		"/anonymous":  nil,
	} {
		got, err := parseVolume(in)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("parseVolume(%q) = %+v, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{
		"name:/b": "volumes by name", "/a:b": "must be absolute", "/a:/": "not /", "/a:/b:rx": "unknown option",
		"": "want HOST:CONTAINER", "a": "want HOST:CONTAINER", ":/b": "want HOST:CONTAINER", "/a:/b:ro:x": "want HOST:CONTAINER",
	} {
		if _, err := parseVolume(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parseVolume(%q): error %v, want %q", in, err, want)
		}
	}
}

func TestParseHost(t *testing.T) {
	for in, want := range map[string]sandbox.HostEntry{
		"db:10.0.0.1": {Host: "db", IP: "10.0.0.1"}, "db=10.0.0.1": {Host: "db", IP: "10.0.0.1"},
		"v6:::1": {Host: "v6", IP: "::1"}, "v6=[::1]": {Host: "v6", IP: "::1"}, "gw:host-gateway": {Host: "gw", IP: sandbox.HostGateway},
	} {
		if got, err := parseHost(in); err != nil || got != want {
			t.Errorf("parseHost(%q) = %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "db", "db:", ":1.2.3.4", "db:nonsense"} {
		if got, err := parseHost(in); err == nil {
			t.Errorf("parseHost(%q) = %v, want an error", in, got)
		}
	}
}

func TestSplitCopyArg(t *testing.T) {
	for in, want := range map[string][2]string{
		"c:/a": {"c", "/a"}, "c:a": {"c", "a"}, "/a:b": {"", "/a:b"}, "./c:/a": {"", "./c:/a"}, "file": {"", "file"},
		"-": {"", "-"}, "c:": {"c", ""}, "../x:y": {"", "../x:y"},
	} {
		if name, path := splitCopyArg(in); [2]string{name, path} != want {
			t.Errorf("splitCopyArg(%q) = %q, %q", in, name, path)
		}
	}
}

func TestImagesLookLikeDockers(t *testing.T) {
	id := func(s string) digest.Digest { return digest.FromString(s) }
	images := []store.Image{
		{Name: "docker.io/library/old:latest", ID: id("old"), Created: time.Now().Add(-14 * 24 * time.Hour), Size: 805_000_000},
		{Name: "docker.io/library/multi-stage:latest", ID: id("ms"), Created: time.Now().Add(-7500 * time.Millisecond), Size: 7_600_000},
		{Name: id("none").String(), ID: id("none"), Created: time.Now().Add(-3 * time.Minute), Size: 12},
	}
	var out bytes.Buffer
	if err := printImages(t.Context(), &out, nil, &imageLsFlags{}, images); err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"REPOSITORY    TAG       IMAGE ID       CREATED         SIZE",
		"multi-stage   latest    " + id("ms").Encoded()[:12] + "   7 seconds ago   7.6MB",
		"<none>        <none>    " + id("none").Encoded()[:12] + "   3 minutes ago   12B",
		"old           latest    " + id("old").Encoded()[:12] + "   2 weeks ago     805MB",
		"",
	}, "\n")
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestImageFormats(t *testing.T) {
	img := store.Image{Name: "docker.io/a/b:c", ID: digest.FromString("x"), Manifest: ocispec.Descriptor{Digest: digest.FromString("m")}, Created: time.Now()}
	for format, want := range map[string]string{
		"{{.Repository}}:{{.Tag}}":              "a/b:c\n",
		`table {{.Repository}}\t{{upper .Tag}}`: "REPOSITORY   TAG\na/b          C\n",
		"{{.ID}} {{.Digest}}":                   img.ID.Encoded()[:12] + " " + img.Manifest.Digest.String() + "\n",
	} {
		var out bytes.Buffer
		if err := printImages(t.Context(), &out, nil, &imageLsFlags{format: format}, []store.Image{img}); err != nil || out.String() != want {
			t.Errorf("--format %q: %q, %v", format, out.String(), err)
		}
	}
	var out bytes.Buffer
	if err := printImages(t.Context(), &out, nil, &imageLsFlags{format: "{{.Nonsense}}"}, []store.Image{img}); err == nil {
		t.Errorf("an unknown field gave %q", out.String())
	}
}

func TestPlatformList(t *testing.T) {
	for _, in := range [][]string{{"linux/amd64,linux/arm64"}, {"linux/amd64", "linux/arm64"}} {
		if p, err := platformList(in); strings.Join(p, " ") != "linux/amd64 linux/arm64" || err != nil {
			t.Errorf("%v is %v, %v", in, p, err)
		}
	}
	for _, bad := range []string{"linux/", "a,\"b", "linux/amd64,"} {
		if p, err := platformList([]string{bad}); err == nil {
			t.Errorf("%s is accepted as %v", bad, p)
		}
	}
}

func TestStoreRoot(t *testing.T) {
	t.Setenv("SLIPWAY_ROOT", "/from/env")
	a := &app{root: "/from/flag"}
	if dir, err := a.storeRoot(); dir != "/from/flag" || err != nil {
		t.Errorf("%q, %v", dir, err)
	}
	a.root = ""
	if dir, err := a.storeRoot(); dir != "/from/env" || err != nil {
		t.Errorf("%q, %v", dir, err)
	}
	t.Setenv("SLIPWAY_CERTS_DIR", "/a:/b")
	if got := a.certsDirs(); !reflect.DeepEqual(got, []string{"/a", "/b"}) {
		t.Errorf("certs.d directories %v", got)
	}
}
