package build

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/util/urlutil"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/client"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/progress"
	httpsource "github.com/slipway-build/slipway/internal/source/http"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
)

// Names of local sources that the Dockerfile frontend reads, and of the options that it has for them.
const (
	contextName    = "context"
	dockerfileName = "dockerfile"

	optFilename = "filename"
	// optOwnDockerfile makes the frontend read the Dockerfile from the local source and not from the
	// context.
	optOwnDockerfile = "dockerfilekey"
	optNamedContext  = "context:"
)

// inputs are what a request's contexts and its Dockerfile are, as the frontend and the engine take
// them. The rules, and the words of the errors, are those of docker buildx (build/opt.go there).
type inputs struct {
	client  *client.Client           // whose they are; nil: this machine's, which all others are of
	dirs    map[string]string        // directories, by the names of local sources
	attrs   map[string]string        // the frontend's options
	uploads httpsource.UploadedFiles // files, by their names at http://buildkit-session/
	layouts imagesource.LayoutDirs   // by the IDs in attrs
	targets map[string]string        // of other builds of the call, whose results are contexts, by the contexts' names
	file    string                   // where the Dockerfile is, for records
	temp    string                   // directory that goes away with the inputs; "" without one
}

func (in *inputs) close() error {
	if in.temp == "" {
		return nil
	}
	return os.RemoveAll(in.temp)
}

// prepare finds out what the request's context, Dockerfile and named contexts are. It reads the
// request's standard input, and nothing from a network. others are the names of the builds of the same call.
func (r *Request) prepare(ctx context.Context, s *store.Store, others []string) (_ *inputs, err error) {
	if r.Client != nil {
		return &inputs{client: r.Client, file: r.Attrs[optFilename]}, nil
	}
	in := &inputs{
		dirs: map[string]string{}, attrs: map[string]string{}, uploads: httpsource.UploadedFiles{},
		layouts: imagesource.LayoutDirs{}, targets: map[string]string{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, in.close())
		}
	}()
	if r.Context == "-" && r.Dockerfile == "-" {
		return nil, errors.New("invalid argument: can't use stdin for both build context and dockerfile")
	}
	stdin := func() io.Reader { return interruptible(ctx, r.Stdin) }
	fi, statErr := os.Stat(r.Context)
	switch {
	case r.Inputs[contextName] != nil:
		in.inContext(r.Dockerfile, "input")
	case r.Context == "":
		return nil, errors.New(`please specify build context (e.g. "." for the current directory)`)
	case r.Context == "-":
		err = in.stdin(r, stdin(), s)
	case !r.Remote && statErr == nil && fi.IsDir():
		in.dirs[contextName] = r.Context
		in.dockerfile(r.Dockerfile, r.Context)
	case isRemote(r.Context):
		in.remote(r)
	case errors.Is(statErr, os.ErrNotExist):
		err = fmt.Errorf("unable to prepare context: path %q not found", r.Context)
	case statErr != nil:
		err = fmt.Errorf("unable to prepare context: %w", statErr)
	default:
		err = fmt.Errorf("unable to prepare context: %q is not a directory", r.Context)
	}
	switch {
	case err != nil:
	case r.DockerfileText != "":
		in.file = "inline"
		err = in.saveDockerfile(s, []byte(r.DockerfileText))
	case r.Dockerfile == "-":
		err = in.ownDockerfile(s, stdin())
	}
	for name, value := range r.Contexts {
		if err == nil {
			err = in.named(r, name, value, others)
		}
	}
	if err != nil {
		return nil, err
	}
	return in, nil
}

// bring has a run read the inputs.
func (in *inputs) bring(opt *engine.RunOptions, dirs *directories) {
	if c := in.client; c != nil {
		opt.Contexts, opt.Uploads, opt.Layouts = c, c, c
		return
	}
	opt.Contexts, opt.Uploads, opt.Layouts = dirs.open(in), in.uploads, in.layouts
}

// Reads are the paths of this machine that prepare takes the contexts and the Dockerfile from.
func (r *Request) Reads() (paths []string) {
	fi, err := os.Stat(r.Context)
	isDir := err == nil && fi.IsDir()
	if r.Inputs[contextName] == nil && (isDir || !isRemote(r.Context)) {
		paths = append(paths, r.Context)
	}
	if r.DockerfileText == "" && r.Dockerfile != "" && !isHTTP(r.Dockerfile) && (isDir || filepath.IsAbs(r.Dockerfile)) {
		paths = append(paths, r.Dockerfile)
	}
	for _, value := range r.Contexts {
		switch {
		case isRemote(value), strings.HasPrefix(value, "docker-image://"), strings.HasPrefix(value, "target:"), strings.HasPrefix(value, "input:"):
		case strings.HasPrefix(value, "oci-layout://"):
			dir, _, _ := imagesource.SplitLayout(value)
			paths = append(paths, dir)
		default:
			paths = append(paths, value)
		}
	}
	return paths
}

// interruptible reads r, which may be a terminal that nobody types at, until the context ends. A nil
// r is empty.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	if r == nil {
		return strings.NewReader("")
	}
	pr, pw := io.Pipe()
	context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
	go func() {
		_, err := io.Copy(pw, r)
		pw.CloseWithError(err)
	}()
	return pr
}

func isHTTP(c string) bool {
	return strings.HasPrefix(c, "http://") || strings.HasPrefix(c, "https://")
}

// isRemote reports whether a context is a URL, or a git repository in another form.
func isRemote(c string) bool {
	if isHTTP(c) {
		return true
	}
	_, isGit, err := dfgitutil.ParseGitRef(c)
	return err == nil || isGit
}

// dockerfile is that of a context in a directory: path is relative to the working directory, as all
// paths of a command line are.
func (in *inputs) dockerfile(path, dir string) {
	switch {
	case path == "-":
		return
	case isHTTP(path): // fetched later
		in.file = urlutil.RedactCredentials(path)
		return
	case path == "":
		path = filepath.Join(dir, "Dockerfile")
	}
	in.file = path
	in.dirs[dockerfileName] = filepath.Dir(path)
	in.attrs[optFilename] = filepath.Base(path)
}

// remote is a context that the frontend reads from a URL, with the Dockerfile in it unless that is
// somewhere else.
func (in *inputs) remote(r *Request) {
	in.attrs[contextName] = r.Context
	in.inContext(r.Dockerfile, urlutil.RedactCredentials(r.Context))
}

// inContext is a Dockerfile in a context that is no directory.
func (in *inputs) inContext(path, context string) {
	switch {
	case path == "-":
	case isHTTP(path):
		in.file = urlutil.RedactCredentials(path)
	case filepath.IsAbs(path):
		in.dockerfile(path, "")
		in.attrs[optOwnDockerfile] = dockerfileName
	default:
		if path == "" {
			path = "Dockerfile"
		}
		in.attrs[optFilename] = path
		in.file = context + " " + path
	}
}

// ArchiveHeader is how much of a file tells whether it is an archive, in bytes.
const ArchiveHeader = 1024

// stdin is a context from standard input: an archive, or a Dockerfile that needs no context.
func (in *inputs) stdin(r *Request, stdin io.Reader, s *store.Store) error {
	b := bufio.NewReaderSize(stdin, ArchiveHeader)
	head, err := b.Peek(ArchiveHeader)
	switch {
	case err != nil && err != io.EOF:
		return fmt.Errorf("failed to peek context header from STDIN: %w", err)
	case len(head) == 0:
		return errors.New("unable to prepare context: standard input is empty: want a tar archive or a Dockerfile")
	case IsArchive(head):
		in.inContext(r.Dockerfile, "-")
		return in.upload(s, b)
	case r.Dockerfile != "":
		return errors.New("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
	}
	if err := in.ownDockerfile(s, b); err != nil {
		return err
	}
	in.dirs[contextName] = filepath.Join(in.temp, "empty")
	return os.Mkdir(in.dirs[contextName], 0o755)
}

// IsArchive tells an archive by how it begins, compressed or not.
func IsArchive(head []byte) bool {
	return layer.DetectCompression(head) != layer.Uncompressed || len(head) > 262 && string(head[257:262]) == "ustar"
}

// upload keeps the archive, which is unpacked like one from a URL: by the engine, into a layer.
func (in *inputs) upload(s *store.Store, r io.Reader) error {
	if err := in.tempDir(s); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(in.temp, "context"))
	if err != nil {
		return fmt.Errorf("reading context from standard input: %w", err)
	}
	h := digest.Canonical.Digester()
	n, err := io.Copy(io.MultiWriter(f, h.Hash()), r)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("reading context from standard input: %w", err)
	}
	name := h.Digest().Encoded()[:32]
	in.uploads[name] = httpsource.Upload{Path: f.Name(), Digest: h.Digest(), Size: n}
	in.attrs[contextName] = "http://" + httpsource.UploadHost + "/" + name
	return nil
}

// maxDockerfile is how long a Dockerfile may be that comes as a stream, in bytes.
const maxDockerfile = 16 << 20

// ownDockerfile keeps a Dockerfile that comes with no directory of its own.
func (in *inputs) ownDockerfile(s *store.Store, r io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(r, maxDockerfile+1))
	if err != nil {
		return fmt.Errorf("reading Dockerfile from standard input: %w", err)
	}
	if len(data) > maxDockerfile {
		return fmt.Errorf("reading Dockerfile from standard input: it has more than %d bytes, and is no archive", maxDockerfile)
	}
	in.file = "stdin"
	return in.saveDockerfile(s, data)
}

func (in *inputs) saveDockerfile(s *store.Store, data []byte) error {
	if err := in.tempDir(s); err != nil {
		return err
	}
	dir := filepath.Join(in.temp, dockerfileName)
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "Dockerfile"), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("saving the Dockerfile: %w", err)
	}
	in.dirs[dockerfileName] = dir
	in.attrs[optFilename], in.attrs[optOwnDockerfile] = "Dockerfile", dockerfileName
	return nil
}

// maxRemoteDockerfile is buildx's bound for a Dockerfile from a URL, in bytes.
const maxRemoteDockerfile = 512 << 10

// fetchDockerfile fetches a Dockerfile that -f names by a URL, with the engine.
func (b *building) fetchDockerfile(ctx context.Context, opt engine.RunOptions) error {
	url := b.req.Dockerfile
	if !isHTTP(url) || b.in.dirs[dockerfileName] != "" {
		return nil
	}
	name := urlutil.RedactCredentials(url)
	st := llb.HTTP(url, llb.Filename("Dockerfile"), llb.WithCustomNamef("[internal] load %s", name))
	b.run = b.newRun(ctx, opt) // which errors are of, until there is another one
	return readFiles(ctx, b.run, st, func(tree layer.Tree) error {
		f, err := layer.Open(tree, "Dockerfile")
		if err != nil {
			return fmt.Errorf("reading the Dockerfile: %w", err)
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, maxRemoteDockerfile+1))
		if err != nil {
			return fmt.Errorf("reading the Dockerfile: %w", err)
		}
		if len(data) > maxRemoteDockerfile {
			return fmt.Errorf("reading Dockerfile %s: bigger than allowed max size", name)
		}
		return b.in.saveDockerfile(b.opt.Store, data)
	})
}

// Read evaluates LLB with what a request may use, and gives read its files, which are there until that
// returns.
func (b *Builder) Read(ctx context.Context, st llb.State, use Request, sink progress.Sink, read func(layer.Tree) error) error {
	opt := engine.RunOptions{Sink: sink, Platform: platforms.Normalize(platforms.DefaultSpec())}
	if err := use.allow(&opt); err != nil {
		return err
	}
	run := b.engine.NewRun(ctx, opt)
	err := readFiles(ctx, run, st, read)
	return errors.Join(err, run.Close())
}

func readFiles(ctx context.Context, run *engine.Run, st llb.State, read func(layer.Tree) error) error {
	def, err := st.Marshal(ctx)
	if err != nil {
		return fmt.Errorf("preparing what is fetched: %w", err)
	}
	edge, err := graph.Load(def.ToPB())
	if err != nil {
		return fmt.Errorf("preparing what is fetched: %w", err)
	}
	v, err := run.Result(ctx, edge)
	if err != nil {
		return err
	}
	tree, err := run.Tree(ctx, v, store.NeedContent)
	if err != nil {
		return err
	}
	return read(tree)
}

func (in *inputs) tempDir(s *store.Store) (err error) {
	if in.temp == "" {
		in.temp, err = s.TempDir()
	}
	return err
}

// named is a context of --build-context.
func (in *inputs) named(r *Request, name, value string, others []string) error {
	key := optNamedContext + name
	switch {
	case isRemote(value), strings.HasPrefix(value, "docker-image://"):
		in.attrs[key] = value
		return nil
	case strings.HasPrefix(value, "oci-layout://"):
		return in.layout(key, value)
	case strings.HasPrefix(value, "input:") && r.Inputs[strings.TrimPrefix(value, "input:")] != nil:
		in.attrs[key] = value
		return nil
	case strings.HasPrefix(value, "target:"), strings.HasPrefix(value, "input:"):
		return in.target(name, value, others)
	}
	fi, err := os.Stat(value)
	if err != nil {
		return fmt.Errorf("failed to get build context %s: %w", name, err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("failed to get build context path %s=%s: %w", name, value, unix.ENOTDIR)
	}
	source := name
	if name == contextName || name == dockerfileName {
		source = "_" + name // these names are taken
	}
	in.dirs[source] = value
	in.attrs[key] = "local:" + source
	return nil
}

// target is a named context that is the result of another build of the call.
func (in *inputs) target(name, value string, others []string) error {
	target, ok := strings.CutPrefix(value, "target:")
	switch {
	case ok && target != "" && slices.Contains(others, target):
		in.targets[name] = target
		return nil
	case ok && !slices.Contains(others, ""):
		return fmt.Errorf("failed to find target %s for context %s", target, name)
	}
	return fmt.Errorf("build context %s=%s: only docker buildx bake has contexts of this kind: use a stage of the Dockerfile", name, value)
}

// layout is a named context that is an image in a directory: oci-layout://DIR[:TAG][@DIGEST].
func (in *inputs) layout(key, value string) error {
	l, tag, d, err := imagesource.FindLayout(value)
	if err != nil {
		return err
	}
	dir := l.Dir
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	id := "layout-" + digest.FromString(dir).Encoded()[:16]
	in.layouts[id] = imagesource.LayoutDir{Dir: dir}
	in.attrs[key] = "oci-layout://" + id + ":" + tag + "@" + d.String()
	return nil
}
