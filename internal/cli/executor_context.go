package cli

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/slipway-build/slipway/internal/secrets"
)

// executorSource is where a context and its Dockerfile come from, as a build takes them.
type executorSource struct {
	context, dockerfile string
	stdin               io.Reader // of the context "-", when it is not the process's own
	attrs               map[string]string
	secrets             []secrets.Source
	file                *os.File
}

func (s *executorSource) close() {
	if s.file != nil {
		s.file.Close() // it was only read
	}
}

// gitFlag is --git, of which each value says one thing.
type gitFlag struct {
	branch                 string
	submodules, skipVerify bool
}

// Set implements pflag.Value.
func (g *gitFlag) Set(v string) (err error) {
	key, value, ok := strings.Cut(v, "=")
	if !ok {
		return fmt.Errorf("invalid git flag, must be in the key=value format: %s", v)
	}
	on := func() bool {
		var b bool
		b, err = strconv.ParseBool(value)
		return b
	}
	switch key {
	case "branch":
		g.branch = value
	case "recurse-submodules":
		g.submodules = on()
	case "insecure-skip-tls":
		g.skipVerify = on()
	case "single-branch":
		on() // no more than what is needed is ever fetched
	case "depth":
		_, err = strconv.Atoi(value)
	}
	return err
}

// Type implements pflag.Value.
func (*gitFlag) Type() string { return "gitoptions" }

// String implements pflag.Value.
func (g *gitFlag) String() string {
	if *g == (gitFlag{}) {
		return ""
	}
	return fmt.Sprintf("branch=%s,recurse-submodules=%t,insecure-skip-tls=%t", g.branch, g.submodules, g.skipVerify)
}

// azureHost is where Azure has blobs, which kaniko asks for with a key.
var azureHost = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^https://[^/]+\.blob\.core\.(windows\.net|chinacloudapi\.cn|cloudapi\.de|usgovcloudapi\.net)/`)
})

// source finds the context and the Dockerfile.
func (o *executorFlags) source(a *app) (*executorSource, error) {
	where := o.context
	if o.bucket != "" {
		if where = o.bucket; !strings.Contains(where, "://") {
			where = "gs://" + where
		}
	}
	scheme, rest, ok := strings.Cut(where, "://")
	switch {
	case where == "":
		return nil, errors.New("please specify a path to the build context with the --context flag")
	case !ok:
		return o.directory(where)
	}
	switch scheme {
	case "dir":
		return o.directory(rest)
	case "tar":
		return o.archive(a, rest)
	case "git":
		return o.repository(rest)
	case "https", "http":
		if azureHost().MatchString(where) && os.Getenv("AZURE_STORAGE_ACCESS_KEY") != "" {
			return nil, fmt.Errorf("error resolving source context: %s: nothing is asked for with a storage key: give a URL with a SAS token, and take AZURE_STORAGE_ACCESS_KEY away", where)
		}
		return o.remote(&executorSource{context: where})
	case "s3", "gs":
		return nil, fmt.Errorf("error resolving source context: %s: contexts in buckets are not fetched: give a presigned https:// URL, or fetch it before and pass it on, as in `%s | executor --context tar://stdin ...`", where, fetchCommand(scheme, where))
	}
	return nil, errors.New("error resolving source context: unknown build context prefix provided, please use one of the following: dir://, tar://, git://, https://")
}

func fetchCommand(scheme, where string) string {
	if scheme == "s3" {
		return "aws s3 cp " + where + " -"
	}
	return "gcloud storage cat " + where
}

// directory is a context in a directory.
func (o *executorFlags) directory(dir string) (*executorSource, error) {
	s := &executorSource{context: filepath.Join(dir, o.subPath)}
	if dir == "" {
		s.context = filepath.Join(".", o.subPath)
	}
	switch {
	case isURL(o.dockerfile), exists(o.dockerfile):
		s.dockerfile = o.dockerfile
	default:
		s.dockerfile = filepath.Join(s.context, o.dockerfile)
	}
	if !isURL(s.dockerfile) && !exists(s.dockerfile) {
		return nil, fmt.Errorf("error resolving dockerfile path: please provide a valid path to a Dockerfile within the build context with --dockerfile: there is neither %s nor %s", o.dockerfile, s.dockerfile)
	}
	return s, nil
}

// archive is a context in a tar file, compressed or not.
func (o *executorFlags) archive(a *app, file string) (*executorSource, error) {
	s := &executorSource{context: "-"}
	if file == "stdin" {
		if isTerminal(a.stdin) {
			return nil, errors.New("error resolving source context: no data found.. don't forget to add the '--interactive, -i' flag")
		}
		return o.remote(s)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("error resolving source context: %w", err)
	}
	s.stdin, s.file = f, f
	return o.remote(s)
}

// remote is a context that the Dockerfile is in, unless it is here.
func (o *executorFlags) remote(s *executorSource) (*executorSource, error) {
	if sub := strings.Trim(path.Clean("/"+o.subPath), "/"); sub != "" {
		s.attrs = map[string]string{"contextsubdir": sub}
	}
	return s, o.remoteDockerfile(s, s.attrs["contextsubdir"])
}

func (o *executorFlags) remoteDockerfile(s *executorSource, dir string) (err error) {
	switch {
	case isURL(o.dockerfile):
		s.dockerfile = o.dockerfile
	case exists(o.dockerfile):
		s.dockerfile, err = filepath.Abs(o.dockerfile)
	default:
		s.dockerfile = strings.TrimPrefix(path.Join(dir, o.dockerfile), "/")
	}
	return err
}

var commitHash = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`) })

// repository is a context in a git repository, HOST/PATH[#REF[#COMMIT]].
func (o *executorFlags) repository(rest string) (*executorSource, error) {
	if o.git.skipVerify {
		return nil, errors.New("--git insecure-skip-tls=true: certificates of git repositories are always looked at: add the CA to those of the system")
	}
	parts := strings.Split(rest, "#")
	method := "https"
	if os.Getenv("GIT_PULL_METHOD") == "http" {
		method = "http"
	}
	u, err := url.Parse(method + "://" + parts[0])
	if err != nil {
		return nil, errors.New("error resolving source context: git:// is not followed by HOST/PATH") // the URL may have a token
	}
	if !strings.HasSuffix(u.Path, ".git") {
		u.Path = strings.TrimSuffix(u.Path, "/") + ".git"
	}
	q := url.Values{"submodules": {strconv.FormatBool(o.git.submodules)}}
	ref := o.git.branch
	switch {
	case len(parts) > 2 && parts[2] != "":
		ref = parts[2]
	case len(parts) > 1 && (ref == "" || commitHash().MatchString(parts[1])):
		ref = parts[1]
	}
	if ref != "" {
		q.Set("ref", ref)
	}
	if sub := strings.Trim(path.Clean("/"+o.subPath), "/"); sub != "" {
		q.Set("subdir", sub)
	}
	u.RawQuery = q.Encode()
	s := &executorSource{context: u.String(), secrets: gitSecrets(u.Host)}
	return s, o.remoteDockerfile(s, "")
}

// gitSecrets are the credentials for a repository that kaniko takes from the environment, for its host alone.
func gitSecrets(host string) []secrets.Source {
	user, password := os.Getenv("GIT_USERNAME"), os.Getenv("GIT_PASSWORD")
	if token := os.Getenv("GIT_TOKEN"); token != "" {
		user, password = token, ""
	}
	if user == "" && password == "" {
		return nil
	}
	header := "basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	return []secrets.Source{{ID: "GIT_AUTH_HEADER." + host, Value: &header}}
}

func isURL(path string) bool {
	return strings.HasPrefix(path, "http://") || strings.HasPrefix(path, "https://")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
