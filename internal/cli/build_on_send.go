package cli

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/types"
	"github.com/docker/go-units"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/kube"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/secrets"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/source/local"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/transfer"
)

// registryFile is docker's configuration with credentials, among the files of the Job.
const registryFile = "config.json"

func shortID() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // it does not fail
	return hex.EncodeToString(b[:])
}

// readSecrets puts the values of secrets among the files of the Job.
func (r *remote) readSecrets(ctx context.Context) error {
	var all []secrets.Source
	for _, v := range r.opts.secrets {
		s, err := secrets.ParseSource(v)
		if err != nil {
			return fmt.Errorf("--secret %s: %w", v, err)
		}
		all = append(all, s)
	}
	from, err := secrets.NewStore(all)
	if err != nil {
		return err
	}
	for i, s := range all {
		value, err := from.Secret(ctx, s.ID)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("secret-%d", i)
		r.files[name] = value
		r.args = append(r.args, fmt.Sprintf("--secret=id=%s,src=%s/%s", s.ID, kube.Dir, name))
	}
	return nil
}

// readCredentials puts what registries know the user by among the files of the Job: of those that the command names.
func (r *remote) readCredentials() error {
	if r.opts.onRegistrySecret != "" {
		return nil
	}
	refs := append([]string{r.repo.Repository}, r.opts.tags...)
	for _, values := range [][]string{r.opts.cacheFrom, r.opts.cacheTo} {
		entries, _ := parseCacheEntries(values) // they were parsed before
		for _, e := range entries {
			if e.Type == cache.TypeRegistry {
				refs = append(refs, e.Attrs["ref"])
			}
		}
	}
	file := dockerconfig.LoadDefaultConfigFile(io.Discard)
	auths := map[string]types.AuthConfig{}
	for _, ref := range refs {
		named, err := reference.ParseNormalizedNamed(ref)
		if err != nil {
			continue // who needs it says so
		}
		host := reference.Domain(named)
		if host == "docker.io" {
			host = "https://index.docker.io/v1/"
		}
		auth, err := file.GetAuthConfig(host)
		if err != nil {
			return fmt.Errorf("reading the credentials of %s: %w", host, err)
		}
		if auth.Username == "" && auth.IdentityToken == "" && auth.RegistryToken == "" {
			continue
		}
		auths[host] = types.AuthConfig{
			Auth: base64.StdEncoding.EncodeToString([]byte(auth.Username + ":" + auth.Password)), IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken,
		}
	}
	if len(auths) == 0 {
		return nil
	}
	data, err := json.Marshal(map[string]any{"auths": auths})
	r.files[registryFile] = data
	return err
}

// sendContexts keeps the directories that the build reads in the repository, and says in the command line where.
func (r *remote) sendContexts(ctx context.Context, sink progress.Sink) error {
	for _, v := range r.opts.contexts {
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			return fmt.Errorf("invalid context value: %s, expected key=value", v)
		}
		fi, err := os.Stat(value)
		switch {
		case strings.HasPrefix(value, "oci-layout://"):
			return fmt.Errorf("--build-context %s and --on=kubernetes: push the image, and use docker-image://", v)
		case err == nil && fi.IsDir():
			if value, err = r.send(ctx, sink, "context "+name, value, nil, nil); err != nil {
				return err
			}
		case !strings.HasPrefix(value, "docker-image://") || !hasDigest(value):
			r.elsewhere = true
		}
		r.args = append(r.args, "--build-context="+name+"="+value)
	}
	fi, err := os.Stat(r.context)
	if err == nil && fi.IsDir() {
		return r.sendMain(ctx, sink)
	}
	r.elsewhere = true
	switch {
	case r.context == "-":
		return errors.New("a context from standard input and --on=kubernetes: unpack it, and name the directory")
	case r.opts.file != "" && (r.opts.file == "-" || filepath.IsAbs(r.opts.file)):
		if err := r.sendDockerfile(ctx, sink, r.opts.file); err != nil {
			return err
		}
	case r.opts.file != "":
		r.args = append(r.args, "--file="+r.opts.file)
	}
	r.where = []string{"--", r.context}
	return nil
}

// hasDigest reports whether an image is named by its digest.
func hasDigest(image string) bool {
	named, err := reference.ParseNormalizedNamed(strings.TrimPrefix(image, "docker-image://"))
	_, ok := named.(reference.Digested)
	return err == nil && ok
}

// sendMain sends the build context, of which .dockerignore leaves out what it leaves out here.
func (r *remote) sendMain(ctx context.Context, sink progress.Sink) error {
	file := r.opts.file
	if file == "" {
		file = filepath.Join(r.context, "Dockerfile")
	}
	remote := strings.HasPrefix(file, "http://") || strings.HasPrefix(file, "https://")
	inside := ""
	if !remote && file != "-" {
		inside = within(r.context, file)
	}
	switch {
	case remote:
		r.elsewhere = true
		r.args = append(r.args, "--file="+file)
	case inside == "":
		if err := r.sendDockerfile(ctx, sink, file); err != nil {
			return err
		}
	default:
		if r.opts.file != "" {
			r.args = append(r.args, "--file="+filepath.ToSlash(inside))
		}
		r.readDockerfile(file)
	}
	exclude, err := r.ignored(file, inside)
	if err != nil {
		return err
	}
	name, err := r.send(ctx, sink, "context", r.context, nil, exclude)
	if err != nil {
		return err
	}
	r.where = []string{"--", name}
	return nil
}

// within is the path of a file in a directory; "" for one that is elsewhere.
func within(dir, file string) string {
	dir, err1 := filepath.Abs(dir)
	file, err2 := filepath.Abs(file)
	rel, err := filepath.Rel(dir, file)
	if errors.Join(err1, err2, err) != nil || !filepath.IsLocal(rel) {
		return ""
	}
	return rel
}

// ignored are the patterns of what is not sent. The Dockerfile, and the files with patterns, always are: the build reads them there once more.
func (r *remote) ignored(file, inside string) ([]string, error) {
	for _, path := range []string{file + ".dockerignore", filepath.Join(r.context, ".dockerignore")} {
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) || err != nil && path != filepath.Join(r.context, ".dockerignore") {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading .dockerignore: %w", err)
		}
		patterns, err := ignorefile.ReadAll(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		if strings.ContainsAny(inside, `*?[\`) { // it cannot be excepted by a pattern: all is sent
			return nil, nil
		}
		patterns = append(patterns, "!.dockerignore")
		if inside != "" {
			inside = filepath.ToSlash(inside)
			patterns = append(patterns, "!"+inside, "!"+inside+".dockerignore")
		}
		return patterns, nil
	}
	return nil, nil
}

// sendDockerfile sends a Dockerfile that is not in the context.
func (r *remote) sendDockerfile(ctx context.Context, sink progress.Sink, file string) error {
	if file == "-" {
		s, err := r.app.Store()
		if err != nil {
			return err
		}
		tmp, err := s.TempDir()
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		data, err := io.ReadAll(io.LimitReader(r.app.stdin, maxStdinDockerfile+1))
		if err == nil && len(data) > maxStdinDockerfile {
			err = fmt.Errorf("it has more than %d bytes", maxStdinDockerfile)
		}
		if err == nil {
			file, err = writeDockerfile(tmp, data)
		}
		if err != nil {
			return fmt.Errorf("reading Dockerfile from standard input: %w", err)
		}
	}
	base := filepath.Base(file)
	if strings.ContainsAny(base, `*?[\#`) {
		return fmt.Errorf("the Dockerfile %s is not in the context, and has a name that cannot be sent", file)
	}
	if _, err := os.Stat(file); err != nil {
		return fmt.Errorf("reading the Dockerfile: %w", err)
	}
	r.readDockerfile(file)
	name, err := r.send(ctx, sink, "dockerfile", filepath.Dir(file), []string{base, base + ".dockerignore"}, nil)
	if err != nil {
		return err
	}
	r.args = append(r.args, "--file="+name+"#"+base)
	return nil
}

// writeDockerfile writes a Dockerfile into a directory of its own, with times by which the same text is the same wherever it is sent from.
func writeDockerfile(dir string, text []byte) (file string, err error) {
	file, always := filepath.Join(dir, "Dockerfile"), time.Unix(0, 0)
	return file, errors.Join(os.WriteFile(file, text, 0o644), os.Chtimes(file, always, always), os.Chtimes(dir, always, always))
}

// readDockerfile reads what the stages of the build are. That it cannot be read is said where it is needed: in the pod.
func (r *remote) readDockerfile(file string) {
	f, err := os.Open(file)
	if err != nil {
		return
	}
	defer f.Close()
	if data, err := io.ReadAll(io.LimitReader(f, maxStdinDockerfile)); err == nil {
		r.dockerfile = data
	}
}

// maxStdinDockerfile is how long a Dockerfile on standard input may be, in bytes.
const maxStdinDockerfile = 16 << 20

// send keeps one directory in the repository, and gives the name by which the build there reads it.
func (r *remote) send(ctx context.Context, sink progress.Sink, what, dir string, include, exclude []string) (string, error) {
	step := progress.Start(sink, progress.Vertex{Digest: digest.FromString("kubernetes " + what), Name: "[kubernetes] send " + what})
	sent, err := r.sendTree(ctx, what, dir, include, exclude)
	if err == nil {
		fmt.Fprintf(step.Stderr(), "%d files, %s were new to %s\n", sent.Files, units.HumanSize(float64(sent.Bytes)), sent.Repository)
	}
	step.Done(err)
	return sent.String(), err
}

func (r *remote) sendTree(ctx context.Context, what, dir string, include, exclude []string) (sent cache.SentContext, err error) {
	s, err := r.app.Store()
	if err != nil {
		return sent, err
	}
	d := local.NewDir(dir, "")
	tree, err := d.Tree(ctx, include, exclude)
	if err != nil {
		return sent, err
	}
	project := what
	if len(r.opts.tags) > 0 {
		project += "\x00" + strings.SplitN(r.opts.tags[0], "@", 2)[0]
	}
	return cache.SendContext(ctx, s, r.app.registry(), r.repo, project, tree)
}

// imageName is what the image is called in the registry: the pod says which of the names it has pushed, but none that was not asked for.
func (r *remote) imageName() (string, error) {
	if r.image != "" {
		return r.image, nil
	}
	names, _ := r.meta["image.name"].(string)
	name, _, _ := strings.Cut(names, ",")
	if !slices.ContainsFunc(r.pushed, func(asked string) bool { return sameName(asked, name) }) {
		return "", fmt.Errorf("the pod says that it has pushed %q, for which nobody has asked", name)
	}
	return name, nil
}

// bringHome has the image in the store, under the names that it was to get, and in Docker or containerd where one runs here.
func (r *remote) bringHome(ctx context.Context, mode string, d digest.Digest) error {
	from, err := r.imageName()
	if err != nil {
		return err
	}
	named, err := reference.ParseNormalizedNamed(from)
	if err != nil {
		return fmt.Errorf("bringing the image home: %w", err)
	}
	s, err := r.app.Store()
	if err != nil {
		return err
	}
	if r.repo.Insecure && reference.Domain(named) == hostOfRepository(r.repo.Repository) {
		r.app.registry().AllowInsecure(reference.Domain(named))
	}
	w := transfer.Wanted{Name: named.Name() + "@" + d.String(), Mode: imagesource.ResolvePull}
	for _, tag := range r.opts.tags {
		name, err := store.NormalizeName(tag)
		if err != nil {
			return err
		}
		w.As = append(w.As, name)
	}
	show := newTransferDisplay(r.app.stderr, mode == "quiet" || mode == "none" || mode == "rawjson")
	if _, err := transfer.Pull(ctx, s, imagesource.New(s, r.app.registry()), w, show); err != nil {
		return fmt.Errorf("bringing the image home: %w", err)
	}
	loader, err := r.app.newLoader(ctx)
	if err != nil || loader == nil {
		return err
	}
	saved, err := transfer.Saved(ctx, s, w.As, nil)
	if err == nil {
		err = export.Save(ctx, s, saved, loader)
	}
	return loader.finish(err)
}

// sameName reports whether two references are the same one, with what they leave out.
func sameName(a, b string) bool {
	an, err1 := store.NormalizeName(a)
	bn, err2 := store.NormalizeName(b)
	return err1 == nil && err2 == nil && an == bn
}

func hostOfRepository(repository string) string {
	named, err := reference.ParseNormalizedNamed(repository)
	if err != nil {
		return ""
	}
	return reference.Domain(named)
}
