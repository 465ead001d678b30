package cli

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/spf13/pflag"
)

// executorFlags are the flags of kaniko's executor as they were given. Their names, short forms and defaults are those of kaniko 1.24 and of
// osscontainertools/kaniko 1.26.
type executorFlags struct {
	dockerfile, context, subPath, bucket         string
	destinations, buildArgs, labels              []string
	annotations, secrets, targets, helpers       []string
	platform, tarPath, layoutPath, format        string
	digestFile, nameFile, nameTagFile            string
	cacheRepo, compression                       string
	level                                        int
	cache, noCache, noPush, noPushCache          bool
	reproducible, immutable, dryrun, materialize bool
	verbosity, logFormat                         string
	git                                          gitFlag
	registries                                   kanikoRegistries

	tellFlags // slipway's own
}

func (o *executorFlags) add(f *pflag.FlagSet) {
	f.StringVarP(&o.dockerfile, "dockerfile", "f", "Dockerfile", "Path to the Dockerfile, here or in the context, or its URL")
	f.StringVarP(&o.context, "context", "c", "/workspace/", "Build context: a directory, dir://DIR, tar://FILE, tar://stdin, git://HOST/PATH[#REF[#COMMIT]] or https://URL of an archive")
	f.StringVar(&o.subPath, "context-sub-path", "", "Sub path within the given context")
	f.StringVarP(&o.bucket, "bucket", "b", "", "Not supported: see --context")
	f.Lookup("bucket").Hidden = true
	f.Var(&o.git, "git", `How a context in a git repository is fetched (format: "branch=NAME", "recurse-submodules=true")`)
	f.StringArrayVarP(&o.destinations, "destination", "d", nil, "Name to push the image as")
	f.StringArrayVar(&o.buildArgs, "build-arg", nil, `Set build-time variables (format: "KEY=VALUE", or "KEY" to take it from the environment)`)
	f.StringArrayVar(&o.labels, "label", nil, "Set metadata for an image")
	f.StringArrayVar(&o.annotations, "annotation", nil, `Add annotation to the image's manifest (format: "KEY=VALUE")`)
	f.StringArrayVar(&o.secrets, "secret", nil, `Secret to expose to the build (format: "id=mysecret[,src=/local/secret|env=VARIABLE]")`)
	f.StringArrayVar(&o.targets, "target", nil, "Set the target build stage to build, by name or number; of several the first one")
	f.StringVar(&o.platform, "custom-platform", "", "Set target platform for build")
	f.StringVar(&o.platform, "customPlatform", "", "Kaniko's old word for --custom-platform")
	f.BoolVar(&o.noPush, "no-push", false, "Do not push the image to the registry (KANIKO_NO_PUSH)")
	f.StringVar(&o.tarPath, "tar-path", "", "Path to save the image in as a tar file that docker load takes")
	f.StringVar(&o.tarPath, "tarPath", "", "Kaniko's old word for --tar-path")
	f.StringVar(&o.layoutPath, "oci-layout-path", "", "Directory to save the image in as an OCI image layout")
	f.StringVar(&o.digestFile, "digest-file", "", "File, or https:// URL, that gets the digest of the image")
	f.StringVar(&o.nameFile, "image-name-with-digest-file", "", "File that gets the names of the image, each with its digest")
	f.StringVar(&o.nameTagFile, "image-name-tag-with-digest-file", "", "File that gets the names of the image, each with its tag and its digest")
	f.BoolVar(&o.cache, "cache", false, "Use a cache in a registry")
	f.StringVar(&o.cacheRepo, "cache-repo", "", "Repository of the cache, or oci:DIR; otherwise that of the first destination, below cache")
	f.BoolVar(&o.noPushCache, "no-push-cache", false, "Do not write the cache")
	f.StringVar(&o.compression, "compression", "", "Compression of layers (gzip, zstd)")
	f.IntVar(&o.level, "compression-level", -1, "Level of the compression")
	f.StringVar(&o.format, "image-format", "", "Media types of the image (oci, docker)")
	f.BoolVar(&o.reproducible, "reproducible", false, "Set all times of the image to 1970, so that it is reproducible")
	f.BoolVar(&o.immutable, "push-ignore-immutable-tag-errors", false, "A tag that its registry lets nobody change is no error")
	f.BoolVar(&o.dryrun, "dryrun", false, "Not supported: slipway build --call=outline")
	f.BoolVar(&o.materialize, "materialize", false, "Not supported: the container stays what it is")
	f.StringArrayVar(&o.helpers, "credential-helpers", nil, "Where credentials come from besides config.json: gitlab; an empty value is nowhere")
	f.StringVarP(&o.verbosity, "verbosity", "v", "info", "Log level (trace, debug, info, warn, error, fatal, panic)")
	f.StringVar(&o.logFormat, "log-format", "color", "Log format (text, color, json)")
	for _, name := range []string{"customPlatform", "tarPath", "dryrun", "materialize"} {
		f.Lookup(name).Hidden = true
	}
	o.registries.add(f)
	o.tellFlags.add(f)
	for name, accepted := range kanikoAccepted() {
		accepted.add(f, name)
	}
}

// acceptedFlag is a flag of kaniko's that has no effect.
type acceptedFlag struct {
	usual   string // "": text, true or false: a switch, a number, a time
	matters bool   // what the build gives may be something else than kaniko's
	reason  string
}

// kanikoAccepted are those flags.
func kanikoAccepted() map[string]acceptedFlag {
	return map[string]acceptedFlag{
		"snapshot-mode":                   {"full", false, "what a step changed is told by the filesystem, and always all of it"},
		"snapshotMode":                    {"", false, "what a step changed is told by the filesystem, and always all of it"},
		"use-new-run":                     {"false", false, "what a step changed is told by the filesystem"},
		"single-snapshot":                 {"false", true, "each step is a layer: copy what is wanted into a last stage, FROM scratch and COPY --from"},
		"ignore-path":                     {"list", true, "what is mounted is never in a layer, and what a step makes always is: remove it in the step, or mount something there (RUN --mount=type=tmpfs)"},
		"ignore-var-run":                  {"true", false, "what is mounted is never in a layer"},
		"whitelist-var-run":               {"true", false, "what is mounted is never in a layer"},
		"skip-unused-stages":              {"false", false, "a stage that nothing needs is never built"},
		"cache-ttl":                       {"336h0m0s", true, "results in the cache do not expire: change a build argument that the step reads, or leave --cache out"},
		"cache-dir":                       {"/cache", false, "base images are kept in the store (SLIPWAY_ROOT)"},
		"cache-copy-layers":               {"false", false, "the cache has the results of all steps"},
		"cache-run-layers":                {"true", true, "the cache has the results of all steps: leave --cache out"},
		"compressed-caching":              {"true", false, "layers are compressed while they are read, which takes no memory to speak of"},
		"cleanup":                         {"false", false, "the container stays what it is"},
		"pre-cleanup":                     {"false", false, "the container stays what it is"},
		"preserve-context":                {"false", false, "the context stays what it is"},
		"force":                           {"false", false, "--isolation says how steps run"},
		"force-build-metadata":            {"false", false, "metadata is always in the history"},
		"kaniko-dir":                      {"/kaniko", false, "nothing is kept there: see --root"},
		"push-retry":                      {"0", false, "what may pass is always tried again"},
		"image-download-retry":            {"0", false, "what may pass is always tried again"},
		"image-fs-extract-retry":          {"0", false, "what may pass is always tried again"},
		"skip-push-permission-check":      {"false", false, "nothing is asked before there is something to push"},
		"log-timestamp":                   {"false", false, "each line has the time since its step began"},
		"azure-container-registry-config": {"", true, "credentials come from config.json and its helpers"},
	}
}

// kanikoTTL is kaniko's default of --cache-ttl.
const kanikoTTL = 14 * 24 * time.Hour

// add adds the flag.
func (k acceptedFlag) add(f *pflag.FlagSet, name string) {
	const usage = "Accepted for kaniko's sake"
	_, err := strconv.Atoi(k.usual)
	switch {
	case k.usual == "true", k.usual == "false":
		f.Bool(name, k.usual == "true", usage)
	case k.usual == "list":
		f.StringArray(name, nil, usage)
	case err == nil:
		f.Int(name, 0, usage)
	case name == "cache-ttl":
		f.Duration(name, kanikoTTL, usage)
	default:
		f.String(name, k.usual, usage)
	}
	f.Lookup(name).Hidden = true
}

// complete takes what the environment says, and checks what belongs together, in kaniko's words.
func (o *executorFlags) complete(getenv func(string) (string, bool)) error {
	if v, ok := getenv("KANIKO_NO_PUSH"); ok && v != "" {
		on, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("invalid value %q (true/false) for KANIKO_NO_PUSH environment variable", v)
		}
		o.noPush = on
	}
	if err := o.registries.complete(getenv); err != nil {
		return err
	}
	switch {
	case !o.noPush && len(o.destinations) == 0:
		return errors.New("you must provide --destination, or use --no-push")
	case o.cache && !o.noPushCache && o.cacheRepo == "" && o.noPush:
		return errors.New("cache flags invalid: if using cache with --no-push, specify cache repo with --cache-repo")
	case len(o.destinations) == 0 && o.nameFile != "":
		return errors.New("you must provide --destination if setting --image-name-with-digest-file")
	case len(o.destinations) == 0 && o.nameTagFile != "":
		return errors.New("you must provide --destination if setting --image-name-tag-with-digest-file")
	case o.compression != "" && o.compression != "gzip" && o.compression != "zstd":
		return fmt.Errorf(`--compression %s: must be either "gzip" or "zstd"`, o.compression)
	case o.format != "" && o.format != "oci" && o.format != "docker":
		return fmt.Errorf(`--image-format %s: must be either "oci" or "docker"`, o.format)
	case o.materialize:
		return errors.New("--materialize: the image's files are never those of the container: slipway build -o DIR writes them to a directory")
	case o.dryrun:
		return errors.New("--dryrun: it is not there: slipway build --call=outline tells what a Dockerfile takes")
	case emptyKey(o.labels) != "":
		return fmt.Errorf("--label: invalid key-value pair %q: empty key", emptyKey(o.labels))
	}
	for _, a := range o.annotations { // kaniko's have no types
		if k, _, ok := strings.Cut(a, "="); !ok || k == "" {
			return fmt.Errorf("--annotation: invalid argument value. expect key=value, got %s", a)
		}
	}
	for _, d := range o.destinations {
		if _, err := destination(d); err != nil {
			return err
		}
	}
	return nil
}

// destination reads a name to push to, of which the tag may be missing.
func destination(name string) (reference.NamedTagged, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, fmt.Errorf("getting tag for destination %q: %w", name, err)
	}
	if _, ok := ref.(reference.Digested); ok {
		return nil, fmt.Errorf("getting tag for destination %q: an image cannot be pushed to a digest", name)
	}
	return reference.TagNameOnly(ref).(reference.NamedTagged), nil
}

// target is the stage to build.
func (o *executorFlags) target() string {
	if len(o.targets) == 0 {
		return ""
	}
	return o.targets[0]
}

// cacheTag is the tag of what is built in a repository of caches. Kaniko's has a tag for each step; here one is for all, and builds of other images
// have others: they may share a repository.
func (o *executorFlags) cacheTag() string {
	what := []string{o.dockerfile, o.subPath, o.target(), o.platform}
	for _, d := range o.destinations {
		if ref, err := destination(d); err == nil {
			what = append(what, ref.Name())
		}
	}
	return fmt.Sprintf("slipway-%x", sha256.Sum256([]byte(strings.Join(what, "\x00"))))[:len("slipway-")+16]
}
