package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/hack/conformance"
	"github.com/slipway-build/slipway/hack/conformance/daemon"
)

const (
	sizedBytes = 48 << 20 // of the files of one layer, at most
	sizedMore  = 0.5      // per cent that slipway's may be larger
)

// sizes builds five layers with both builders and compares how large they are when they are compressed.
func (r *recorder) sizes(slipway string) error {
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("asking go where it is: %w", err)
	}
	root := strings.TrimSpace(string(goroot))
	d := <-r.daemons
	defer func() { r.daemons <- d }()
	fmt.Printf("%-22s %-5s %12s %12s %8s\n", "layer", "", "BuildKit", "slipway", "")
	var errs []error
	for _, l := range []struct {
		name string
		from []string
	}{
		{"Go binaries", []string{root + "/bin", root + "/pkg/tool"}},
		{"a system's files", []string{"/etc", "/usr/bin", "/usr/sbin", "/usr/lib"}},
		{"JavaScript, or Go", []string{"/usr/lib/node_modules", root + "/src"}},
		{"documentation", []string{"/usr/share/doc", "/usr/share/man"}},
		{"random", nil},
	} {
		if err := r.sizesOf(d, slipway, l.name, l.from); err != nil {
			errs = append(errs, fmt.Errorf("comparing sizes of %s: %w", l.name, err))
		}
	}
	return errors.Join(errs...)
}

func (r *recorder) sizesOf(d *daemon.Daemon, slipway, name string, from []string) error {
	scratch, err := os.MkdirTemp(r.dir, "sizes-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	dir := &conformance.Dir{Context: filepath.Join(scratch, "context"), Dockerfiles: scratch}
	if err := fill(filepath.Join(dir.Context, "data"), from); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(scratch, "Dockerfile"), []byte("FROM scratch\nCOPY data /data\n"), 0o644); err != nil {
		return err
	}
	var errs []error
	for _, compression := range []string{"gzip", "zstd"} {
		output, theirs, ours := "oci,force-compression=true,compression="+compression, filepath.Join(scratch, "buildkit"), filepath.Join(scratch, "slipway")
		said, failed, err := d.Build(dir, "Dockerfile", nil, output, theirs)
		if err != nil || failed {
			return fmt.Errorf("building with BuildKit: %w: %s", err, said)
		}
		said, err = exec.Command(slipway, "--root", filepath.Join(scratch, "store"), "build", "-q", "-f", filepath.Join(scratch, "Dockerfile"),
			"-o", "type="+output+",dest="+ours, dir.Context).CombinedOutput()
		if err != nil {
			return fmt.Errorf("building with slipway: %w: %s", err, said)
		}
		want, err := layerSize(theirs)
		if err != nil {
			return err
		}
		got, err := layerSize(ours)
		if err != nil {
			return err
		}
		more := 100 * float64(got-want) / float64(want)
		fmt.Printf("%-22s %-5s %12d %12d %+7.2f%%\n", name, compression, want, got, more)
		if more > sizedMore {
			errs = append(errs, fmt.Errorf("%s: %d bytes, %.2f %% more than BuildKit's %d, want %.1f at most", compression, got, more, want, sizedMore))
		}
	}
	return errors.Join(errs...)
}

// fill copies regular files into a new directory, under numbers and their own names, until there are enough; without any
// that they come from, they are random.
func fill(dir string, from []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if from == nil {
		data := make([]byte, sizedBytes/4)
		rand.New(rand.NewSource(1)).Read(data) //nolint:gosec // always the same
		return os.WriteFile(filepath.Join(dir, "random"), data, 0o644)
	}
	left, n := int64(sizedBytes), 0
	for _, root := range from {
		err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				if errors.Is(err, fs.ErrNotExist) { // not on this machine
					err = nil
				}
				return err
			}
			data, err := os.ReadFile(p)
			if err != nil || int64(len(data)) > left {
				return err
			}
			left, n = left-int64(len(data)), n+1
			sub := filepath.Join(dir, strconv.Itoa(n/100))
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(sub, fmt.Sprintf("%05d-%s", n, e.Name())), data, 0o644)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// layerSize is the size of the only layer in an OCI archive.
func layerSize(archive string) (int64, error) {
	f, err := os.Open(archive)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	small := map[string][]byte{}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("reading %s: %w", archive, err)
		}
		if h.Typeflag == tar.TypeReg && h.Size < 1<<20 {
			if small[h.Name], err = io.ReadAll(tr); err != nil {
				return 0, fmt.Errorf("reading %s: %w", archive, err)
			}
		}
	}
	var index ocispec.Index
	if err := json.Unmarshal(small["index.json"], &index); err != nil || len(index.Manifests) != 1 {
		return 0, fmt.Errorf("reading %s: %d manifests, %w", archive, len(index.Manifests), err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(small["blobs/sha256/"+index.Manifests[0].Digest.Encoded()], &m); err != nil || len(m.Layers) != 1 {
		return 0, fmt.Errorf("reading %s: %d layers, %w", archive, len(m.Layers), err)
	}
	return m.Layers[0].Size, nil
}
