package cache

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// tree is a directory as a context.
func tree(dir string) layer.Tree {
	return layer.OpenDir(dir, layer.DirOptions{Owner: &layer.Owner{}, NoXattrs: true})
}

// TestContextIsIncremental: what comes out of a repository is what was sent, with permissions, and what it has is not sent again.
func TestContextIsIncremental(t *testing.T) {
	reg, s, dir := registrytest.Start(t), openStore(t), t.TempDir()
	client := registry.New(registry.Options{})
	to := Packed{Repository: reg.Host + "/team/cache"}
	write(t, dir, "a/one", "first")
	write(t, dir, "two", strings.Repeat("x", 100_000))
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "link")))
	must(t, os.Chmod(filepath.Join(dir, "a/one"), 0o755|os.ModeSetuid))
	sent, err := SendContext(t.Context(), s, client, to, "app", tree(dir))
	must(t, err)
	if sent.Bytes != 100_005 || sent.Files != 5 {
		t.Errorf("%+v", sent)
	}
	again, err := SendContext(t.Context(), s, client, to, "app", tree(dir))
	must(t, err)
	if again.Bytes != 0 || again.Digest != sent.Digest {
		t.Errorf("again %+v", again)
	}
	// It is called the same wherever it is sent from, and to.
	elsewhere, err := SendContext(t.Context(), openStore(t), client, Packed{Repository: reg.Host + "/other/cache"}, "other", tree(dir))
	must(t, err)
	if elsewhere.Digest != sent.Digest {
		t.Errorf("elsewhere %+v", elsewhere)
	}
	write(t, dir, "three", "more")
	more, err := SendContext(t.Context(), openStore(t), client, to, "app", tree(dir))
	must(t, err)
	if more.Bytes != 4 {
		t.Errorf("with one more file %+v", more)
	}
	// The first one is there as it was, by its name.
	from, err := ParsePacked(sent.String())
	must(t, err)
	out := t.TempDir()
	if _, _, err := FetchContext(t.Context(), openStore(t), client, from, out); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	must(t, unix.Lstat(filepath.Join(out, "a/one"), &st))
	data, _ := os.ReadFile(filepath.Join(out, "a/one"))
	link, _ := os.Readlink(filepath.Join(out, "link"))
	if string(data) != "first" || st.Mode&0o7777 != 0o4755 || link != "/etc/passwd" {
		t.Errorf("%q, mode %o, link %q", data, st.Mode, link)
	}
	if _, err := os.Lstat(filepath.Join(out, "three")); err == nil {
		t.Error("it has a file that came later")
	}
}

// TestContextThatCannotBeSent: nothing of a context is left out in silence.
func TestContextThatCannotBeSent(t *testing.T) {
	reg, s, dir := registrytest.Start(t), openStore(t), t.TempDir()
	client := registry.New(registry.Options{})
	write(t, dir, "no\xff", "x")
	_, err := SendContext(t.Context(), s, client, Packed{Repository: reg.Host + "/x"}, "", tree(dir))
	if err == nil || !strings.Contains(err.Error(), "is no UTF-8") {
		t.Errorf("error %v", err)
	}
	must(t, os.Remove(filepath.Join(dir, "no\xff")))
	write(t, dir, "file", "one")
	_, err = SendContext(t.Context(), s, client, Packed{Repository: reg.Host + "/x"}, "", changing{tree(dir), func() { write(t, dir, "file", "two") }})
	if err == nil || !strings.Contains(err.Error(), "file changed while it was read") {
		t.Errorf("error %v", err)
	}
}

// changing is a tree in which something happens after it was listed.
type changing struct {
	layer.Tree
	then func()
}

func (c changing) Lstat(name string) (*layer.Entry, error) {
	if name == "file" { // only when it is packed: a walk lists directories
		c.then()
	}
	return c.Tree.Lstat(name)
}

// TestHostileContexts: what a repository says of a context writes nothing outside of its directory, and is believed with its digest alone.
func TestHostileContexts(t *testing.T) {
	reg, s := registrytest.Start(t), openStore(t)
	client := registry.New(registry.Options{})
	to := Packed{Repository: reg.Host + "/team/cache"}
	at := to.open(s, client)
	for name, lines := range map[string]string{
		"above":   `{"slipway.mount":1,"packs":[]}` + "\n" + `{"path":".","mode":16877}` + "\n" + `{"path":"../x","mode":33188}`,
		"link":    `{"slipway.mount":1,"packs":[]}` + "\n" + `{"path":".","mode":16877}` + "\n" + `{"path":"l","mode":41471,"link":"/tmp"}` + "\n" + `{"path":"l/x","mode":33188}`,
		"device":  `{"slipway.mount":1,"packs":[]}` + "\n" + `{"path":".","mode":16877}` + "\n" + `{"path":"d","mode":24996}`,
		"nowhere": `{"slipway.mount":1,"packs":[]}` + "\n" + `{"path":".","mode":16877}` + "\n" + `{"path":"f","mode":33188,"size":1,"digest":"sha256:` + strings.Repeat("a", 64) + `"}`,
	} {
		from, err := enter(t.Context(), at, to, lines)
		must(t, err)
		out := filepath.Join(t.TempDir(), "in")
		must(t, os.Mkdir(out, 0o755))
		if _, _, err := FetchContext(t.Context(), s, client, from, out); err == nil || !strings.Contains(err.Error(), ErrMount.Error()) {
			t.Errorf("%s: error %v", name, err)
		}
		if all, _ := os.ReadDir(filepath.Dir(out)); len(all) != 1 {
			t.Errorf("%s: there is %v", name, all)
		}
	}
	for _, name := range []string{"x", "packed://x", "packed://x@sha256:1", "packed://../x@sha256:" + strings.Repeat("a", 64), "packed://x@md5:" + strings.Repeat("a", 32)} {
		if p, err := ParsePacked(name); err == nil {
			t.Errorf("%q is %+v", name, p)
		}
	}
}

// enter puts a context with a list into a repository.
func enter(ctx context.Context, at namedRepository, to Packed, lines string) (Packed, error) {
	config := describe(mediaMountList, []byte(lines))
	if err := at.put(ctx, config, bytesOpener([]byte(lines))); err != nil {
		return to, err
	}
	empty := ocispec.DescriptorEmptyJSON
	if err := at.put(ctx, empty, bytesOpener(empty.Data)); err != nil {
		return to, err
	}
	raw, err := json.Marshal(ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactMount, Config: config, Layers: []ocispec.Descriptor{empty}})
	if err != nil {
		return to, err
	}
	desc := describe(ocispec.MediaTypeImageManifest, raw)
	to.Digest = desc.Digest
	return to, at.enter(ctx, "context-x", desc, raw)
}
