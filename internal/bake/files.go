package bake

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	composecli "github.com/compose-spec/compose-go/v2/cli"
	"github.com/docker/buildx/bake"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/progress"
)

// Source is a definition that was found.
type Source struct {
	Files []bake.File
	input *bake.Input // what a remote definition came with; nil for a local one
	// environment has the values of variables that secrets name, where these are not those of this process.
	environment map[string]string
}

// EnvFiles are the files that BUILDX_BAKE_FILE names, if any.
func EnvFiles() ([]string, error) {
	list, ok := os.LookupEnv("BUILDX_BAKE_FILE")
	if !ok {
		return nil, nil
	}
	sep := os.Getenv("BUILDX_BAKE_PATH_SEPARATOR")
	if sep == "" {
		sep = string(os.PathListSeparator)
	}
	var files []string
	for _, f := range strings.Split(list, sep) {
		if f = strings.TrimSpace(f); f == "" {
			continue
		}
		if f != "-" {
			if _, err := os.Stat(f); err != nil {
				return nil, err
			}
		}
		files = append(files, f)
	}
	return files, nil
}

// defaultFiles are the names of definitions in the order in which they are read.
func defaultFiles() []string {
	return append(append([]string(nil), composecli.DefaultFileNames...),
		"docker-bake.json", "docker-bake.hcl", "docker-bake.override.json", "docker-bake.override.hcl")
}

// Read reads the files of a definition. Remote ones are read by remote, which may be nil for others.
func (o *Options) Read(ctx context.Context, remote Remote, stdin io.Reader, to progress.Sink) (*Source, error) {
	var local, others, all []string
	for _, f := range o.Files {
		name, isLocal := strings.CutPrefix(f, "cwd://")
		if isLocal {
			local = append(local, name)
		} else {
			others = append(others, f)
		}
		all = append(all, name)
	}
	src := &Source{}
	if o.URL != "" {
		var err error
		if src, err = readRemote(ctx, remote, o.URL, others); err != nil {
			return nil, err
		}
	} else {
		local = all
	}
	if len(local) > 0 || o.URL == "" {
		files, err := readLocal(local, o.FilesFromEnv, stdin, to)
		if err != nil {
			return nil, err
		}
		src.Files = append(src.Files, files...)
	}
	if len(src.Files) == 0 {
		return nil, errors.New("couldn't find a bake definition")
	}
	return src, nil
}

// readLocal reads files of this machine, the default ones for no names.
func readLocal(names []string, fromEnv bool, stdin io.Reader, to progress.Sink) (files []bake.File, err error) {
	title := "[internal] load local bake definitions"
	if fromEnv {
		title += " from BUILDX_BAKE_FILE env"
	}
	step := progress.Start(to, progress.Vertex{Digest: digest.FromString(title), Name: title})
	files, err = bake.ReadLocalFiles(names, stdin, stepLog{step})
	step.Done(nil) // what is wrong is said once, at the end
	return files, err
}

// stepLog is a step as what buildx tells of reading.
type stepLog struct{ step *progress.Step }

func (l stepLog) Wrap(_ string, fn func() error) error { return fn() }
func (l stepLog) Log(stream int, text []byte)          {}
func (l stepLog) SetStatus(st *client.VertexStatus) {
	l.step.Status(st.ID, st.Current, st.Total, st.Completed != nil)
}

// Names are the names of the targets and groups of local files, the default ones for none, as far as they can be read.
func Names(files []string) []string {
	src, err := bake.ReadLocalFiles(files, strings.NewReader(""), nil)
	if err != nil {
		return nil
	}
	names, _ := bake.ListTargets(src) // a file that cannot be read has none
	return names
}
