package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// layerBytes is how large the layer is that is compressed.
const layerBytes = 170_000_000

// compressRow writes an image with one large new layer to an OCI archive.
func compressRow(kind, program, line string) func(context.Context, *place) (contest, error) {
	return func(ctx context.Context, p *place) (contest, error) {
		goroot, err := goRoot(ctx)
		if err != nil {
			return contest{}, err
		}
		data := p.path("context", "data")
		stat, err := copyTree(goroot, data, layerBytes)
		if err != nil {
			return contest{}, err
		}
		if err := p.write("context", map[string]string{"Dockerfile": "FROM scratch\nCOPY data /data\n"}); err != nil {
			return contest{}, err
		}
		dir, archive := p.path("context"), p.path("archive.tar")
		// A new layer each time: a compressed one is remembered.
		fresh := func(build func(string, ...string) command) func(context.Context, int) error {
			return func(ctx context.Context, _ int) error {
				err := errors.Join(p.write("context", map[string]string{"data/stamp": p.fresh()}), remove(archive))
				if err != nil {
					return err
				}
				return p.do(ctx, build(dir))
			}
		}
		output := "type=oci,dest=" + archive + ",compression=" + kind
		return contest{
			what:  fmt.Sprintf("a layer of %s in the store to an OCI archive, %s", size(stat.Bytes), kind),
			bound: need(commands("tar c | "+line, shell("tar c -C '%s' . | %s > '%s'", data, line, p.path("bound"))), program),
			slipway: task{
				before: fresh(p.build),
				run:    func(int) []command { return []command{p.build(dir, "-o", output)} },
			},
			buildah: p.buildahTask(task{
				before: fresh(p.bud),
				run: func(int) []command {
					return []command{p.buildahCmd("push", "--signature-policy", filepath.Join(p.room.dir, "policy.json"),
						"--disable-compression=false", "--compression-format", kind, "--format", "oci", imageName, "oci-archive:"+archive)}
				},
			}),
		}, nil
	}
}

// remove removes a file that may not be there.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// pullRunRow pulls the large image into an empty store and runs a step in it.
func pullRunRow(ctx context.Context, p *place) (contest, error) {
	into := []string{p.path("unpack0"), p.path("unpack1")}
	script := ""
	for i, l := range p.served.Layers {
		script += fmt.Sprintf("curl -sf '%s' | pigz -dc | tar x -C '%s' & p%d=$!\n", p.blobURL(l), into[i], i)
	}
	bound := task{
		what: "curl | pigz -dc | tar x of both layers at the same time",
		before: func(context.Context, int) error {
			for _, dir := range into {
				if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
					return err
				}
			}
			return nil
		},
		run: func(int) []command { return []command{shell("%swait $p0\nwait $p1", script)} },
	}
	return p.pull("then RUN true", "FROM toolset\nRUN [\"/bin/true\"]\n", need(bound, "curl", "pigz"))
}

// pullBaseRow pulls the large image as the base of a stage that runs nothing.
func pullBaseRow(_ context.Context, p *place) (contest, error) {
	script := ""
	for i, l := range p.served.Layers {
		script += fmt.Sprintf("curl -sf -o '%s%d' '%s' & p%d=$!\n", p.path("blob"), i, p.blobURL(l), i)
	}
	bound := commands("curl of both layers at the same time", shell("%swait $p0\nwait $p1", script))
	return p.pull("base of a stage without RUN", "FROM toolset\nLABEL key=value\n", need(bound, "curl"))
}

func (p *place) blobURL(b blobStat) string {
	return fmt.Sprintf("http://%s/v2/library/toolset/blobs/%s", p.served.Addr, b.Digest)
}

func (p *place) pull(where, dockerfile string, bound task) (contest, error) {
	if err := p.write("context", map[string]string{"Dockerfile": dockerfile}); err != nil {
		return contest{}, err
	}
	dir := p.path("context")
	var packed int64
	for _, l := range p.served.Layers {
		packed += l.Size
	}
	return contest{
		what:    fmt.Sprintf("cold pull of two layers (%s gzip), %s", size(packed), where),
		bound:   bound,
		slipway: task{before: p.emptyStores, run: func(int) []command { return []command{p.build(dir)} }},
		buildah: p.buildahTask(task{before: p.emptyStores, run: func(int) []command { return []command{p.bud(dir)} }}),
	}, nil
}
