package cli

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// TestFlagsAsKaniko: each flag of kaniko's executor is there, with its short form and its default, and docs/ci.md says what becomes of it.
func TestFlagsAsKaniko(t *testing.T) {
	list, err := os.ReadFile("testdata/kaniko-flags.txt")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/ci.md")
	if err != nil {
		t.Fatal(err)
	}
	cmd := newExecutor(&app{name: executorName})
	for line := range strings.Lines(string(list)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		all := strings.Fields(line)
		flag := cmd.Flag(all[0])
		if flag == nil || orDash(flag.Shorthand) != all[1] || orDash(flag.DefValue) != all[2] {
			t.Errorf("--%s is %+v, want it as kaniko has it (%s, %s)", all[0], flag, all[1], all[2])
		}
		if !strings.Contains(string(page), "`--"+all[0]+"`") {
			t.Errorf("docs/ci.md does not say what becomes of --%s", all[0])
		}
	}
}

// executorOf reads a command line of kaniko's.
func executorOf(t *testing.T, args ...string) *executorFlags {
	t.Helper()
	var o executorFlags
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	o.add(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return &o
}

func environment(all map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := all[name]
		return v, ok
	}
}

func TestExecutorComplete(t *testing.T) {
	for args, want := range map[string]string{
		"":                                          "you must provide --destination, or use --no-push",
		"--no-push --cache":                         "cache flags invalid: if using cache with --no-push, specify cache repo with --cache-repo",
		"--no-push --cache --no-push-cache":         "",
		"--no-push --compression xz":                `--compression xz: must be either "gzip" or "zstd"`,
		"--no-push --materialize":                   "--materialize: ",
		"--no-push --dryrun":                        "--dryrun: ",
		"--no-push --annotation a":                  "--annotation: invalid argument value. expect key=value, got a",
		"--no-push --registry-client-cert a=b":      "--registry-client-cert a=b: want REGISTRY=FILE,KEYFILE",
		"--no-push --registry-map a":                "--registry-map: invalid argument value. expect key=value, got a",
		"--no-push --image-name-with-digest-file f": "you must provide --destination if setting --image-name-with-digest-file",
		"-d Upper":                                  `getting tag for destination "Upper": `,
		"-d a@sha256:" + strings.Repeat("0", 64):    "an image cannot be pushed to a digest",
		"-d a --image-format wim":                   `--image-format wim: must be`,
	} {
		err := executorOf(t, strings.Fields(args)...).complete(environment(nil))
		if got := fmt.Sprint(errors.Join(err)); want == "" && err != nil || !strings.Contains(got, want) {
			t.Errorf("%q: got %v, want %q", args, err, want)
		}
	}
	o := executorOf(t)
	if err := o.complete(environment(map[string]string{"KANIKO_NO_PUSH": "1", "KANIKO_REGISTRY_MIRROR": "m.test/x", "KANIKO_REGISTRY_MAP": "a.test=b.test;c.test=d.test"})); err != nil || !o.noPush {
		t.Errorf("got %v, %v", o.noPush, err)
	}
	if want := []string{"a.test=b.test", "c.test=d.test", "docker.io=m.test/x"}; !slices.Equal(o.registries.maps, want) {
		t.Errorf("got %q, want %q", o.registries.maps, want)
	}
	if err := executorOf(t).complete(environment(map[string]string{"KANIKO_NO_PUSH": "perhaps"})); err == nil {
		t.Error("a variable that is no boolean was taken")
	}
}

func TestExecutorRegistries(t *testing.T) {
	yes := true
	for _, c := range []struct {
		args string
		want map[string]daemonRegistry
	}{
		{"", map[string]daemonRegistry{}},
		{"--registry-mirror m.test/x/ --registry-map a.test=http://b.test:5000;index.docker.io=n.test", map[string]daemonRegistry{
			"a.test": {Mirrors: []string{"b.test:5000"}}, "b.test:5000": {HTTP: &yes, Insecure: true}, "docker.io": {Mirrors: []string{"n.test", "m.test/x"}},
		}},
		{"--registry-mirror m.test --skip-default-registry-fallback --insecure-pull", map[string]daemonRegistry{
			"docker.io": {Mirrors: []string{"m.test"}, pushOnly: true, HTTP: &yes, Insecure: true}, "m.test": {HTTP: &yes, Insecure: true},
		}},
		{"--insecure", map[string]daemonRegistry{"to.test": {HTTP: &yes, Insecure: true}}},
		{"--insecure-registry a.test --skip-tls-verify-registry b.test", map[string]daemonRegistry{"a.test": {HTTP: &yes, Insecure: true}, "b.test": {Insecure: true}}},
		{"--skip-tls-verify", map[string]daemonRegistry{}},
		{"--skip-tls-verify-pull --registry-mirror m.test", map[string]daemonRegistry{"docker.io": {Mirrors: []string{"m.test"}, Insecure: true}}},
		{"--registry-certificate a.test=ca.pem --registry-client-cert a.test=c.pem,k.pem", map[string]daemonRegistry{
			"a.test": {CA: []string{"ca.pem"}, KeyPairs: []daemonKeyPair{{Key: "k.pem", Cert: "c.pem"}}},
		}},
	} {
		o := executorOf(t, append(strings.Fields(c.args), "-d", "to.test/app")...)
		if err := o.complete(environment(nil)); err != nil {
			t.Fatal(err)
		}
		if got := o.registries.tables(o.pushHosts()); !maps.EqualFunc(got, c.want, func(a, b daemonRegistry) bool { return reflect.DeepEqual(a, b) }) {
			t.Errorf("%q: got %+v, want %+v", c.args, got, c.want)
		}
	}
	o := executorOf(t, "--skip-tls-verify")
	if got := o.registries.options(); !got.AnyCertificate || got.Insecure {
		t.Errorf("got %+v", got)
	}
	files, err := registryFiles(executorMirrored(t))
	if want := "capabilities = [\"push\"]\n\n[host."; err != nil || !strings.Contains(string(files["docker.io/hosts.toml"]), want) {
		t.Errorf("got %q, %v, want %q in it", files, err, want)
	}
}

func executorMirrored(t *testing.T) map[string]daemonRegistry {
	o := executorOf(t, "--no-push", "--registry-mirror", "m.test", "--skip-default-registry-fallback")
	if err := o.complete(environment(nil)); err != nil {
		t.Fatal(err)
	}
	return o.registries.tables(nil)
}

func TestExecutorSource(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, file := range []string{"Here", "ctx/Dockerfile", "ctx/sub/Dockerfile", "ctx.tar"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	commit := strings.Repeat("0a", 20)
	for _, c := range []struct {
		args, context, dockerfile, sub, err string
	}{
		{"--context ctx", "ctx", "ctx/Dockerfile", "", ""},
		{"--context dir://ctx --context-sub-path sub", "ctx/sub", "ctx/sub/Dockerfile", "", ""},
		{"--context ctx -f Here", "ctx", "Here", "", ""},
		{"--context ctx -f https://a.test/Dockerfile", "ctx", "https://a.test/Dockerfile", "", ""},
		{"--context ctx -f nosuch", "", "", "", "please provide a valid path to a Dockerfile within the build context with --dockerfile"},
		{"--context tar://ctx.tar", "-", "Dockerfile", "", ""},
		{"--context tar://ctx.tar --context-sub-path /sub/", "-", "sub/Dockerfile", "sub", ""},
		{"--context tar://stdin -f Here", "-", filepath.Join(dir, "Here"), "", ""},
		{"--context tar://nosuch.tar", "", "", "", "error resolving source context: open nosuch.tar: "},
		{"--context https://a.test/ctx.tar.gz --context-sub-path ../..", "https://a.test/ctx.tar.gz", "Dockerfile", "", ""},
		{"--context git://a.test/x/y.git", "https://a.test/x/y.git?submodules=false", "Dockerfile", "", ""},
		{"--context git://a.test/x/y#refs/heads/b --context-sub-path s --git recurse-submodules=true", "https://a.test/x/y.git?ref=refs%2Fheads%2Fb&subdir=s&submodules=true", "Dockerfile", "", ""},
		{"--context git://a.test/y.git#refs/heads/b#" + commit, "https://a.test/y.git?ref=" + commit + "&submodules=false", "Dockerfile", "", ""},
		{"--context git://a.test/y.git#refs/heads/b --git branch=c", "https://a.test/y.git?ref=c&submodules=false", "Dockerfile", "", ""},
		{"--context git://a.test/y.git --git insecure-skip-tls=true", "", "", "", "certificates of git repositories are always looked at"},
		{"--context s3://b/k", "", "", "", "`aws s3 cp s3://b/k - | executor --context tar://stdin ...`"},
		{"--bucket b/k", "", "", "", "`gcloud storage cat gs://b/k | executor --context tar://stdin ...`"},
		{"--context ftp://b/k", "", "", "", "unknown build context prefix provided"},
		{"--context=", "", "", "", "please specify a path to the build context"},
	} {
		s, err := executorOf(t, strings.Fields(c.args)...).source(&app{stdin: strings.NewReader("")})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: got %v, want %q", c.args, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.args, err)
			continue
		}
		s.close()
		if s.context != c.context || s.dockerfile != c.dockerfile || s.attrs["contextsubdir"] != c.sub {
			t.Errorf("%q: got %q, %q, %v, want %q, %q, %q", c.args, s.context, s.dockerfile, s.attrs, c.context, c.dockerfile, c.sub)
		}
	}
	t.Setenv("AZURE_STORAGE_ACCESS_KEY", "k")
	if _, err := executorOf(t, "-c", "https://a.blob.core.windows.net/c/x.tar.gz").source(&app{}); err == nil || !strings.Contains(err.Error(), "SAS token") {
		t.Errorf("got %v", err)
	}
}

func TestGitSecrets(t *testing.T) {
	t.Setenv("GIT_USERNAME", "me")
	t.Setenv("GIT_PASSWORD", "hunter2")
	for token, want := range map[string]string{"": "basic bWU6aHVudGVyMg==", "t": "basic dDo="} {
		t.Setenv("GIT_TOKEN", token)
		if s := gitSecrets("a.test"); len(s) != 1 || s[0].ID != "GIT_AUTH_HEADER.a.test" || *s[0].Value != want {
			t.Errorf("%q: got %+v, want %q", token, s, want)
		}
	}
}

// TestExecutorCaches: builds of different images do not share a tag, so that they may share a repository.
func TestExecutorCaches(t *testing.T) {
	refs := map[string]string{}
	for _, args := range []string{"-d r.test/a", "-d r.test/b", "-d r.test/a --target t", "-d r.test/a -f other", "-d r.test/a --context-sub-path s"} {
		from, to := executorOf(t, append(strings.Fields(args), "--cache", "--cache-repo", "r.test/cache")...).caches()
		ref := from[0].Attrs["ref"]
		if !strings.HasPrefix(ref, "r.test/cache:slipway-") || to[0].Attrs["ref"] != ref || to[0].Attrs["mode"] != "max" || refs[ref] != "" {
			t.Errorf("%q: from %v to %v, the same as of %q", args, from, to, refs[ref])
		}
		refs[ref] = args
	}
	one, _ := executorOf(t, "-d", "r.test/a:1", "--cache").caches()
	two, to := executorOf(t, "-d", "r.test/a:2", "--cache", "--no-push-cache").caches()
	if ref := one[0].Attrs["ref"]; ref != two[0].Attrs["ref"] || !strings.HasPrefix(ref, "r.test/a/cache:slipway-") || to != nil {
		t.Errorf("got %v, %v, %v", one, two, to)
	}
	dir, _ := executorOf(t, "--no-push", "--cache", "--cache-repo", "oci:/c").caches()
	own, _ := executorOf(t, "--no-push", "--cache", "--cache-repo", "r.test:5000/c:mine").caches()
	if dir[0].Attrs["src"] != "/c" || own[0].Attrs["ref"] != "r.test:5000/c:mine" {
		t.Errorf("got %v, %v", dir, own)
	}
	if from, to := executorOf(t, "--no-push", "--cache", "--no-push-cache").caches(); from != nil || to != nil {
		t.Errorf("without a place: %v, %v", from, to)
	}
	if from, to := executorOf(t, "-d", "a").caches(); from != nil || to != nil {
		t.Errorf("without --cache: %v, %v", from, to)
	}
}

func TestImmutableTag(t *testing.T) {
	if isImmutableTag(nil) || isImmutableTag(errors.New("denied")) || !isImmutableTag(errors.New("tag 'x' cannot be overwritten because the repository is immutable.")) {
		t.Error("not told apart")
	}
}
