package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
)

// images are those that the suites name, by the names that they have in a registry.
func images() (map[string]v1.Image, error) {
	base, err := baseimage.Busybox()
	if err != nil {
		return nil, err
	}
	file, err := base.ConfigFile()
	if err != nil {
		return nil, err
	}
	busybox, err := changed(base, file.Config, busyboxFiles, "proc", "sys")
	if err != nil {
		return nil, fmt.Errorf("making busybox: %w", err)
	}
	alpine, err := changed(base, file.Config, alpineFiles)
	if err != nil {
		return nil, fmt.Errorf("making alpine: %w", err)
	}
	scanner, err := changed(base, v1.Config{Env: file.Config.Env, Entrypoint: []string{"/bin/scan"}}, scannerFiles)
	if err != nil {
		return nil, fmt.Errorf("making a scanner: %w", err)
	}
	foreign, err := foreign(busybox, scanner)
	if err != nil {
		return nil, fmt.Errorf("making an image with a layer from elsewhere: %w", err)
	}
	none, err := mutate.Config(empty.Image, v1.Config{Env: file.Config.Env})
	if err != nil {
		return nil, err
	}
	return map[string]v1.Image{
		"library/busybox:latest":                busybox,
		"library/busybox:stable-musl":           busybox,
		"library/busybox_amd64:latest":          busybox,
		"library/alpine:latest":                 alpine,
		"amd64/debian:bullseye-20230109-slim":   alpine,
		"cpuguy83/buildkit-foreign:latest":      foreign,
		"docker/buildkit-syft-scanner:stable-1": scanner,
		"tonistiigi/hellofs:latest":             scanner,
		"tonistiigi/test:nolayers":              none,
	}, nil
}

// added is a file of an image, or with no mode a link.
type added struct {
	name, text string
	mode       int64
}

// What Debian's busybox has not.
const (
	addgroup = `#!/bin/sh
# addgroup -g ID NAME
echo "$3:x:$2:" >>/etc/group
`
	adduser = `#!/bin/sh
# adduser -D [-u ID] [-G GROUP] NAME
id=1000 group=
while getopts Du:G: opt; do
	case $opt in
	u) id=$OPTARG ;;
	G) group=$OPTARG ;;
	esac
done
shift $((OPTIND - 1))
while grep -q "^[^:]*:x:$id:" /etc/passwd; do id=$((id + 1)); done
[ "$group" ] || { group=$1 && echo "$1:x:$id:" >>/etc/group; }
gid=$(sed -n "s/^$group:x:\\([0-9]*\\):.*/\\1/p" /etc/group)
echo "$1:x:$id:$gid:Linux User,,,:/home/$1:/bin/sh" >>/etc/passwd
mkdir -p "/home/$1" && chown "$id:$gid" "/home/$1"
`
)

const groups = "root:x:0:\ndaemon:x:1:\nbin:x:2:\nwheel:x:10:root\nwww-data:x:33:\nusers:x:100:\nnobody:x:65534:\n"

// What the suites know the images by. Packages cannot be had.
var (
	busyboxFiles = []added{
		{"etc/group", groups, 0o644},
		{"bin/ttysize", "#!/bin/sh\nset -- $(stty size)\necho $2 $1\n", 0o755},
		{"bin/addgroup", addgroup, 0o755},
		{"bin/adduser", adduser, 0o755},
		{"usr/bin/env", "../../bin/env", 0}, // scripts begin with it
	}
	alpineFiles = append([]added{
		{"etc/alpine-release", "3.18.12\n", 0o644},
		{"etc/os-release", "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.18.12\n", 0o644},
		{"sbin/apk", "#!/bin/sh\necho 'apk: this is a stand-in, which has no packages' >&2\nexit 1\n", 0o755},
	}, busyboxFiles...)
	scannerFiles = []added{
		{"bin/scan", `#!/bin/sh
echo '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","predicate":{"name":"stand-in"}}' >$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json
`, 0o755},
	}
)

// changed is busybox' image with other files, in one layer as well.
func changed(busybox v1.Image, config v1.Config, files []added, without ...string) (v1.Image, error) {
	layers, err := busybox.Layers()
	if err != nil {
		return nil, err
	}
	file, err := busybox.ConfigFile()
	if err != nil {
		return nil, err
	}
	skip := map[string]bool{}
	for _, name := range without {
		skip[name] = true
	}
	for _, f := range files {
		skip[f.name] = true
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, l := range layers {
		if err := copyEntries(tw, l, skip); err != nil {
			return nil, err
		}
	}
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.text)), ModTime: file.Created.Time}
		if f.mode == 0 {
			h.Typeflag, h.Linkname, h.Size, h.Mode = tar.TypeSymlink, f.text, 0, 0o777
		}
		if err := tw.WriteHeader(h); err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeSymlink {
			continue
		}
		if _, err := io.WriteString(tw, f.text); err != nil {
			return nil, err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	return assembled(file, config, mutate.Addendum{Layer: layer})
}

// copyEntries copies what a layer has, but for some names.
func copyEntries(tw *tar.Writer, l v1.Layer, skip map[string]bool) error {
	r, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer r.Close()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if skip[path.Clean(h.Name)] {
			continue
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return err
		}
	}
}

// assembled is an image of layers, with the date and the platform of another one.
func assembled(like *v1.ConfigFile, config v1.Config, layers ...mutate.Addendum) (v1.Image, error) {
	for i := range layers {
		layers[i].History = v1.History{Created: like.Created, CreatedBy: "ADD a.tar.gz / # buildkit"}
	}
	img, err := mutate.Append(empty.Image, layers...)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Architecture, file.OS, file.Created, file.Config = like.Architecture, like.OS, like.Created, config
	return mutate.ConfigFile(img, file)
}

// foreign is an image with a layer that is to be had elsewhere first, and one that is not. Both are not compressed.
func foreign(one, two v1.Image) (v1.Image, error) {
	config, err := one.ConfigFile()
	if err != nil {
		return nil, err
	}
	var layers []mutate.Addendum
	for _, img := range []v1.Image{one, two} {
		all, err := img.Layers()
		if err != nil {
			return nil, err
		}
		r, err := all[0].Uncompressed()
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			return nil, err
		}
		layers = append(layers, mutate.Addendum{Layer: static.NewLayer(data, types.DockerUncompressedLayer)})
	}
	layers[0].MediaType, layers[0].URLs = "application/vnd.docker.image.rootfs.foreign.diff.tar", []string{"http://127.0.0.1:1/layer"}
	return assembled(config, config.Config, layers...)
}
