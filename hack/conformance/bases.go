package conformance

import (
	"archive/tar"
	"bytes"
	"io"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
)

// baseTime is the date of the base images; busybox's own is the same.
var baseTime = time.Date(2024, time.January, 1, 0, 0, 0, 0, time.UTC)

// Bases are the images that cases build on.
type Bases map[string]v1.Image

// NewBases makes them:
//
//	busybox   of package baseimage
//	full      busybox with every field of the configuration set, and a tree with everything in it
//	onbuild   busybox with triggers
//	bare      the tree alone; no shell
//	nothing   no layers at all
//	old       busybox without a history
//	arm       the bare image for linux/arm64
func NewBases() (Bases, error) {
	busybox, err := baseimage.Busybox()
	if err != nil {
		return nil, err
	}
	tree, err := treeLayer()
	if err != nil {
		return nil, err
	}
	none := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	b := Bases{"busybox": busybox}
	for _, kind := range []struct {
		name   string
		from   v1.Image
		tree   bool
		change func(*v1.ConfigFile)
	}{
		{"full", busybox, true, fullConfig},
		{"onbuild", busybox, false, func(c *v1.ConfigFile) {
			c.Config.OnBuild = []string{"COPY a.txt /triggered/", "RUN echo $0 > /triggered/ran", "ENV TRIGGERED=yes"}
		}},
		{"bare", none, true, func(c *v1.ConfigFile) {}},
		{"nothing", none, false, func(c *v1.ConfigFile) { c.Config.Env = []string{"NOTHING=1"} }},
		{"old", busybox, false, func(c *v1.ConfigFile) { c.History = nil }},
		{"arm", none, true, func(c *v1.ConfigFile) { c.Architecture, c.Variant = "arm64", "v8" }},
	} {
		img := kind.from
		if kind.tree {
			if img, err = mutate.Append(img, mutate.Addendum{Layer: tree, MediaType: types.OCILayer, History: v1.History{
				CreatedBy: "a tree", Comment: "with everything", Author: "nobody", Created: v1.Time{Time: baseTime},
			}}); err != nil {
				return nil, err
			}
		}
		c, err := img.ConfigFile()
		if err != nil {
			return nil, err
		}
		c = c.DeepCopy()
		c.OS, c.Created = "linux", v1.Time{Time: baseTime}
		if c.Architecture == "" {
			c.Architecture = "amd64"
		}
		kind.change(c)
		if b[kind.name], err = mutate.ConfigFile(img, c); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func fullConfig(c *v1.ConfigFile) {
	c.Author = "author"
	c.Config.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin:/sbin", "BASE=one", "TWO=2"}
	c.Config.Entrypoint = []string{"/bin/entry", "--base"}
	c.Config.Cmd = []string{"base", "command"}
	c.Config.Labels = map[string]string{"base": "label", "z": "last"}
	c.Config.Volumes = map[string]struct{}{"/base/volume": {}}
	c.Config.ExposedPorts = map[string]struct{}{"80/tcp": {}}
	c.Config.User = "www-data"
	c.Config.WorkingDir = "/tree/work"
	c.Config.StopSignal = "SIGINT"
	c.Config.Shell = []string{"/bin/sh", "-ec"}
	c.Config.Healthcheck = &v1.HealthConfig{Test: []string{"CMD", "check"}, Interval: time.Minute, Retries: 2}
}

// treeLayer has of everything something, below /tree.
func treeLayer() (v1.Layer, error) {
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for _, h := range []tar.Header{
		{Name: "etc/", Mode: 0o755},
		{Name: "etc/passwd", Linkname: "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\nuser:x:1000:1001::/home/user:/bin/sh\nodd:x:77:88::/:/bin/sh\n"},
		{Name: "etc/group", Linkname: "root:x:0:\nwww-data:x:33:\nusers:x:1001:user\nstaff:x:50:user,odd\n"},
		{Name: "tree/", Mode: 0o755},
		{Name: "tree/work/", Mode: 0o750, Uid: 33, Gid: 33},
		{Name: "tree/setgid/", Mode: 0o2775, Gid: 50},
		{Name: "tree/sticky/", Mode: 0o1777},
		{Name: "tree/dir/", Mode: 0o711, Uid: 5, Gid: 6},
		{Name: "tree/dir/file", Linkname: "file\n"},
		{Name: "tree/dir/sub/", Mode: 0o700},
		{Name: "tree/dir/sub/deep", Linkname: "deep\n"},
		{Name: "tree/file", Linkname: "a file\n"},
		{Name: "tree/setuid", Linkname: "set-user-ID\n", Mode: 0o4755},
		{Name: "tree/attr", Linkname: "attr\n"},
		{Name: "tree/hard1", Linkname: "hard\n"},
		{Name: "tree/hard2", Linkname: "tree/hard1", Typeflag: tar.TypeLink},
		{Name: "tree/dir/hard3", Linkname: "tree/hard1", Typeflag: tar.TypeLink},
		{Name: "tree/todir", Linkname: "dir", Typeflag: tar.TypeSymlink},
		{Name: "tree/toabs", Linkname: "/tree/dir", Typeflag: tar.TypeSymlink},
		{Name: "tree/tofile", Linkname: "file", Typeflag: tar.TypeSymlink},
		{Name: "tree/dangling", Linkname: "nowhere/at/all", Typeflag: tar.TypeSymlink},
		{Name: "tree/loop", Linkname: "loop", Typeflag: tar.TypeSymlink},
		{Name: "tree/up", Linkname: "../../../../tree/dir", Typeflag: tar.TypeSymlink},
		{Name: "tree/fifo", Typeflag: tar.TypeFifo},
		{Name: "tree/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
		{Name: "tree/empty/", Mode: 0o755},
	} {
		content := ""
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if h.Name[len(h.Name)-1] == '/' {
				h.Typeflag = tar.TypeDir
			} else {
				content, h.Linkname = h.Linkname, ""
			}
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		h.ModTime, h.Size, h.Format = baseTime, int64(len(content)), tar.FormatPAX
		if err := tw.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(tw, content); err != nil {
			return nil, err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer))
}

// Push pushes the images below library/ of the registry at host, where they stand in for
// docker.io's; multi is an index of bare and arm.
func (b Bases) Push(host string) error {
	var index v1.ImageIndex = mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for image, p := range map[string]v1.Platform{"bare": {OS: "linux", Architecture: "amd64"}, "arm": {OS: "linux", Architecture: "arm64", Variant: "v8"}} {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: b[image], Descriptor: v1.Descriptor{Platform: &p}})
	}
	for image, img := range b {
		ref, err := name.ParseReference(host + "/library/" + image)
		if err != nil {
			return err
		}
		if err := remote.Write(ref, img); err != nil {
			return err
		}
	}
	ref, err := name.ParseReference(host + "/library/multi")
	if err != nil {
		return err
	}
	return remote.WriteIndex(ref, index)
}

// PushBases makes the images, pushes them to a registry, and returns the layers of all.
func PushBases(host string) (layers map[string]bool, err error) {
	b, err := NewBases()
	if err != nil {
		return nil, err
	}
	if layers, err = b.diffIDs(); err != nil {
		return nil, err
	}
	return layers, b.Push(host)
}

// diffIDs are the layers of all the images.
func (b Bases) diffIDs() (map[string]bool, error) {
	all := map[string]bool{}
	for _, img := range b {
		c, err := img.ConfigFile()
		if err != nil {
			return nil, err
		}
		for _, id := range c.RootFS.DiffIDs {
			all[id.String()] = true
		}
	}
	return all, nil
}
