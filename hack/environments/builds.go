package environments

import (
	"crypto/ed25519"
	"crypto/rand"
	"embed"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/ssh"

	"archive/tar"
)

//go:embed all:testdata/dockerfiles
var dockerfiles embed.FS

// epoch is the SOURCE_DATE_EPOCH of all builds.
const epoch = 1700000000

// buildersSecret is in the environment of slipway. Steps ask for it to know what to look for.
const buildersSecret = "the-word-that-only-the-builder-has"

// Dockerfiles are the names of those of the table, sorted. What begins with "large-" needs more than busybox, and the network.
func Dockerfiles() (names []string, err error) {
	entries, err := dockerfiles.ReadDir("testdata/dockerfiles")
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// Prepare writes Dockerfiles with their contexts into the workspace, and the script by which they are built. Some are in the
// repository elsewhere; tool is the program of that name.
func (p *Place) Prepare(names []string, repo, tool string) error {
	err := fs.WalkDir(dockerfiles, "testdata/dockerfiles", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(p.Workspace, strings.TrimPrefix(name, "testdata/dockerfiles"))
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		data, err := dockerfiles.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(to, data, 0o644)
	})
	key, kerr := sshKey()
	out := filepath.Join(p.Workspace, "out")
	err = errors.Join(err, kerr, os.Mkdir(out, 0o777), os.Chmod(out, 0o777))
	for name, data := range map[string][]byte{"mounts/.key": key, "daemons/.mark": []byte(p.mark()), "build.sh": []byte(p.script(names))} {
		err = errors.Join(err, os.WriteFile(filepath.Join(p.Workspace, name), data, 0o644))
	}
	for _, name := range names {
		if of, rerr := dockerfiles.ReadFile("testdata/dockerfiles/" + name + "/context"); rerr == nil {
			err = errors.Join(err, os.CopyFS(filepath.Join(p.Workspace, name), os.DirFS(filepath.Join(repo, strings.TrimSpace(string(of))))))
		}
		err = errors.Join(err, copyFile(tool, filepath.Join(p.Workspace, name, "tool"), 0o755))
	}
	return errors.Join(err, p.Give(p.Workspace)) // as whoever cloned a context owns it
}

// owner are the IDs on the machine of whoever runs commands.
func (p *Place) owner() (uid, gid int) {
	if p.User != nil {
		return p.User.UID, p.User.UID
	}
	s, err := p.spec("none", nil)
	if err != nil {
		return 0, 0
	}
	uid, gid = int(s.Process.User.UID), int(s.Process.User.GID)
	if p.UserNamespace {
		uid, gid = uid+shift, gid+shift
	}
	return uid, gid
}

// mark is in the command lines of daemons.
func (p *Place) mark() string { return "left-in-" + strings.ReplaceAll(p.dir, "/", "-") }

func sshKey() ([]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}

// script builds the Dockerfiles that it is given, and leaves of each the image, what was printed, the exit code, the times and what still runs.
func (p *Place) script(names []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "export BUILDERS_SECRET=%s SOURCE_DATE_EPOCH=%d\n", buildersSecret, epoch)
	fmt.Fprintf(&b, "slipway info > %s/out/info.log 2>&1\n", p.InWorkspace)
	for _, name := range names {
		flags, _ := os.ReadFile(filepath.Join(p.Workspace, name, "flags"))
		out := p.InWorkspace + "/out/" + name
		fmt.Fprintf(&b, "cd %s/%s\nread began rest < /proc/uptime\n", p.InWorkspace, name)
		fmt.Fprintf(&b, "slipway build --progress=plain --build-arg=http_proxy=%s -o type=oci,dest=%s.tar %s . > %s.log 2>&1\n",
			p.Proxy, out, strings.Join(strings.Fields(string(flags)), " "), out)
		fmt.Fprintf(&b, "echo $? > %s.code\nread ended rest < /proc/uptime\necho $began $ended > %s.times\n", out, out)
		// A process that has ended has no command line.
		fmt.Fprintf(&b, "cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\\000' ' ' | grep -o '[d]aemon %s [a-z]*' > %s.left\n", p.mark(), out)
	}
	return b.String()
}

// Command is the command by which [Place.Run] builds what was prepared.
func (p *Place) Command() []string { return []string{p.Shell, p.InWorkspace + "/build.sh"} }

// Mode is how "slipway info" said that steps are run.
func (p *Place) Mode() string {
	data, _ := os.ReadFile(filepath.Join(p.Workspace, "out", "info.log"))
	for line := range strings.Lines(string(data)) {
		if mode, ok := strings.CutPrefix(line, "Isolation: "); ok {
			mode, _, _ = strings.Cut(strings.TrimSpace(mode), ": ") // then comes why
			return mode
		}
	}
	return ""
}

// Outcome is what became of a Dockerfile.
type Outcome struct {
	Built  bool
	Log    string        // what was printed
	Digest string        // of the manifest
	Image  string        // an OCI archive
	Took   time.Duration // to a hundredth of a second
	Left   string        // command lines of processes that outlived the build
}

// Outcome reads what the script left of a Dockerfile.
func (p *Place) Outcome(name string) (o Outcome, err error) {
	read := func(suffix string) string {
		data, rerr := os.ReadFile(filepath.Join(p.Workspace, "out", name+suffix))
		err = errors.Join(err, rerr)
		return strings.TrimSpace(string(data))
	}
	code := read(".code")
	o.Log, o.Left, o.Built = read(".log"), read(".left"), code == "0"
	var began, ended float64
	if _, serr := fmt.Sscan(read(".times"), &began, &ended); serr == nil {
		o.Took = time.Duration((ended - began) * float64(time.Second))
	}
	if _, aerr := strconv.Atoi(code); aerr != nil || !o.Built {
		return o, errors.Join(err, aerr)
	}
	o.Image = filepath.Join(p.Workspace, "out", name+".tar")
	o.Digest, err = manifestDigest(o.Image)
	return o, err
}

// manifestDigest is the digest of the one image of an OCI archive.
func manifestDigest(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if err != nil {
			return "", fmt.Errorf("reading %s: %w", file, err)
		}
		if h.Name != ocispec.ImageIndexFile {
			continue
		}
		var index ocispec.Index
		if err := json.NewDecoder(tr).Decode(&index); err != nil {
			return "", err
		}
		if len(index.Manifests) != 1 {
			return "", fmt.Errorf("reading %s: %d images", file, len(index.Manifests))
		}
		return index.Manifests[0].Digest.String(), nil
	}
}
