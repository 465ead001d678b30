package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/config"
	"github.com/slipway-build/slipway/internal/isolation"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// app is what the commands share: streams, global flags, and what they open.
type app struct {
	name           string
	words          []string // the arguments; nil makes all commands as whole as if each were called
	allCommands    bool     // are to be made, or were
	stdin          io.Reader
	stdout, stderr io.Writer

	root      string
	limit     store.Space
	certs     []string
	runtime   string
	workerNet string
	isolation string
	debug     bool
	builder   string // that --builder names

	toldDamaged bool // that the file of builders' names is

	builderCerts string           // a directory as those of certs, of the builder
	registries   registry.Options // what was said of registries besides
	maxRuns      int              // how many steps may run at the same time, as the builder has it; 0 is any number

	configFile string
	files      []config.File
	carried    carried
	settings   *config.Settings // nil without a file

	mode  *isolation.Choice // how steps are run
	reads []string          // absolute paths that builds read while steps run

	openStore    *store.Store
	openRegistry *registry.Client

	atEnd []func() // what is to be done when the command is over
}

// globalFlags adds the flags of all commands.
func (a *app) globalFlags(root *cobra.Command) {
	a.sharedFlags(root.PersistentFlags())
	l := root.Flags()
	l.BoolP("version", "v", false, "Print version information and quit")
	l.Func("config", "Directory of docker's config.json, with the credentials of registries (DOCKER_CONFIG)", func(dir string) error {
		dockerconfig.SetDir(dir) // for all that reads it
		return nil
	})
	l.String("log-level", "", "Accepted for Docker's sake")
	l.Lookup("log-level").Hidden = true
}

// sharedFlags are those of programs by other names, too.
func (a *app) sharedFlags(f *pflag.FlagSet) {
	f.StringVar(&a.root, "root", "", "Directory of the store (SLIPWAY_ROOT)")
	f.StringArrayVar(&a.certs, "certs-dir", nil, "Directory of <host>/hosts.toml with mirrors and certificates (SLIPWAY_CERTS_DIR)")
	f.StringVar(&a.runtime, "runtime", "", "OCI runtime binary that runs containers instead of the built-in one")
	f.StringVar(&a.workerNet, "worker-net", os.Getenv("SLIPWAY_WORKER_NET"), `Network of a RUN or container that has no other one: its own ("bridge"), the host's ("host"), or what can be had ("auto") (SLIPWAY_WORKER_NET)`)
	f.StringVar(&a.isolation, "isolation", os.Getenv("SLIPWAY_ISOLATION"), `How steps and containers are kept apart from the machine: with root's rights ("root"), in a user namespace ("userns"), not at all ("none"), or as well as this user can ("auto") (SLIPWAY_ISOLATION)`)
	f.Var(&spaceFlag{&a.limit}, "store-limit", "Amount of disk space that the store may take, such as 20GB or 50%: unused cache goes before it is passed, then a command fails (SLIPWAY_STORE_LIMIT)")
	f.StringVar(&a.configFile, "config-file", "", "File with settings, instead of "+config.System+" and the user's own")
	f.BoolVarP(&a.debug, "debug", "D", false, "Show more of warnings and errors")
	// No shorthand: `run -h` names a host. A lone -h is help all the same.
	f.Bool("help", false, "Print usage")
	f.Lookup("help").Hidden = true
}

// calls reports whether the arguments may call a command: one of them is its name. Only such a
// command needs its flags. Those of all commands took longer to make than most commands to run.
func (a *app) calls(cmd *cobra.Command) bool {
	return a.words == nil || slices.ContainsFunc(a.words, func(word string) bool { return word == cmd.Name() || cmd.HasAlias(word) })
}

// storeRoot is where the store is: --root, SLIPWAY_ROOT, or the place for this user.
func (a *app) storeRoot() (string, error) {
	daemon := a.name == daemonName
	switch dir := os.Getenv("SLIPWAY_ROOT"); {
	case a.root != "" && daemon: // a store has its directory for itself: in BuildKit's there may be a socket, a configuration, BuildKit's own state
		return filepath.Join(a.root, "slipway"), nil
	case a.root != "":
		return a.root, nil
	case dir != "":
		return dir, nil
	case daemon:
		return filepath.Join(daemonStore(), "slipway"), nil
	}
	if isolation.User() == 0 {
		return a.rootsStore(), nil
	}
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "slipway"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("finding the store: %w: name one with --root", err)
	}
	return filepath.Join(home, ".local/share/slipway"), nil
}

// rootsStore is where root's store is. Where steps run in place, one that is not there yet is put beside their root filesystems: in
// /var it would be in the midst of each step's files.
func (a *app) rootsStore() string {
	const usual = "/var/lib/slipway"
	if _, err := os.Lstat(usual); err == nil || a.mode == nil || a.mode.Mode != isolation.None {
		return usual
	}
	return filepath.Join(sandbox.InPlaceDir, "store")
}

// certsDirs are the directories of hosts.toml files, the first one first.
func (a *app) certsDirs() []string {
	if a.builderCerts != "" {
		return append([]string{a.builderCerts}, a.ownCertsDirs()...)
	}
	return a.ownCertsDirs()
}

// ownCertsDirs are those that are not of a builder.
func (a *app) ownCertsDirs() []string {
	if len(a.certs) > 0 {
		return a.certs
	}
	if list := os.Getenv("SLIPWAY_CERTS_DIR"); list != "" {
		return filepath.SplitList(list)
	}
	return []string{"/etc/slipway/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d"}
}

// Store opens the store, once.
func (a *app) Store() (*store.Store, error) {
	if a.openStore != nil {
		return a.openStore, nil
	}
	s, err := a.newStore()
	if err != nil {
		return nil, err
	}
	a.openStore = s
	return s, nil
}

// newStore opens the store once more, as another process would.
func (a *app) newStore() (*store.Store, error) {
	dir, err := a.storeRoot()
	if err != nil {
		return nil, err
	}
	opts := []store.Option{store.WithLimit(a.limit)}
	if a.mode != nil { // also of who has not entered what others enter
		opts = append(opts, store.WithFlavor(a.flavor()))
		if a.mode.Enters() {
			opts = append(opts, store.WithoutIDs())
		}
	}
	if os.Getenv("SLIPWAY_VERIFY") == "forms" {
		opts = append(opts, store.VerifyForms())
	}
	s, err := store.Open(dir, opts...)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%w: run as root, or name a directory of yours with --root", err)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// close ends the use of what was opened.
func (a *app) close() error {
	for _, f := range a.atEnd {
		f()
	}
	if a.openStore == nil {
		return nil
	}
	return a.openStore.Close()
}
