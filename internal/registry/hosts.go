package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	hostconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/sirupsen/logrus"

	"github.com/slipway-build/slipway/internal/hostfiles"
	"github.com/slipway-build/slipway/internal/outbound"
)

// hostsOf returns the endpoints of a registry in the order in which they are tried: the
// mirrors of its hosts.toml, then the registry itself.
func (c *Client) hostsOf(host string) ([]docker.RegistryHost, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if hosts, ok := c.hosts[host]; ok {
		return hosts, nil
	}
	var own docker.RegistryHost // set before anybody is asked
	as := asker{
		lookup: func(asked string) (string, string, error) { return c.credentialsFor(host, own, asked) }, tokens: c.opts.Credentials,
	}
	var hosts []docker.RegistryHost
	var err error
	if c.base != nil && !c.insecure[host] {
		hosts, err = c.base.endpointsFor(host, as)
	} else {
		hosts, err = c.configure(host, as)
	}
	if err != nil {
		return nil, err
	}
	if len(hosts) > 0 {
		own = hosts[len(hosts)-1]
	}
	c.hosts[host] = hosts
	return hosts, nil
}

// endpointsFor gives the endpoints of a registry to somebody else.
func (c *Client) endpointsFor(host string, as asker) ([]docker.RegistryHost, error) {
	hosts, err := c.hostsOf(host)
	if err != nil {
		return nil, err
	}
	hosts = slices.Clone(hosts)
	for i := range hosts {
		h := &hosts[i]
		protect(h, h.Client.Transport, h.Authorizer.(*guard).plain, as)
	}
	return hosts, nil
}

// configure reads the settings of a registry, and makes its endpoints. The caller holds the lock.
func (c *Client) configure(host string, as asker, opts ...docker.AuthorizerOpt) ([]docker.RegistryHost, error) {
	var failed decodeErrors
	ctx := log.WithLogger(context.Background(), failed.logger())
	bases := map[*http.Client]*http.Transport{} // as the settings have them
	options := hostconfig.HostOptions{
		HostDir: c.hostDir,
		UpdateClient: func(client *http.Client) error {
			bases[client], _ = client.Transport.(*http.Transport)
			return nil
		},
	}
	if c.insecure[host] || c.opts.Insecure || c.opts.AnyCertificate {
		options.DefaultTLS = &tls.Config{InsecureSkipVerify: true}
	}
	if c.insecure[host] || c.opts.Insecure { // HTTPS first, then HTTP
		options.DefaultScheme = "http"
	}
	hosts, err := hostconfig.ConfigureHosts(ctx, options)(host)
	if err == nil {
		err = failed.err()
	}
	if err != nil {
		return nil, &configError{fmt.Errorf("reading the settings of registry %s: %w", host, err)}
	}
	users := map[*http.Client]int{}
	for _, h := range hosts {
		users[h.Client]++
	}
	for i := range hosts {
		h := &hosts[i]
		base := bases[h.Client]
		// containerd has put something around the transport of a host that may turn out not to speak
		// TLS. One that endpoints have in common is that of the registry itself.
		ambiguous := h.Client.Transport != http.RoundTripper(base) && (users[h.Client] == 1 || h.Host == host)
		plain := new(atomic.Bool)
		var rt http.RoundTripper = c.transport(base, docker.IsLocalhost(h.Host))
		if ambiguous {
			rt = &fallback{next: rt, host: h.Host, plain: plain}
		}
		protect(h, rt, plain, as, opts...)
	}
	return hosts, nil
}

// transport puts ours around one that containerd made.
func (c *Client) transport(base *http.Transport, local bool) *transport {
	base = base.Clone()
	base.MaxIdleConnsPerHost = 8 // layers of one image come in parallel
	if local {
		base.TLSHandshakeTimeout = localHandshake
	}
	if c.tune.dial != nil {
		base.DialContext = c.tune.dial
	}
	outbound.Tune(base)
	patient := base.Clone()
	patient.ResponseHeaderTimeout = commitTimeout
	return &transport{next: c.reach.Guard(base), patient: c.reach.Guard(patient), userAgent: c.opts.UserAgent, tune: c.tune}
}

// localHandshake is how long a registry on loopback may take for a TLS handshake. One that does not speak
// TLS may wait for more.
const localHandshake = 3 * time.Second

// credentialsFor returns the credentials for the host of a request: its own, or, where hosts.toml
// says that it is the registry of that name, those that the user gave for the name. They are not
// sent over a network unencrypted.
func (c *Client) credentialsFor(name string, own docker.RegistryHost, asked string) (user, secret string, err error) {
	user, secret, err = c.creds.lookup(asked)
	if err != nil || secret != "" || asked != own.Host || own.Scheme != "https" && !docker.IsLocalhost(asked) {
		return user, secret, err
	}
	return c.creds.lookup(name)
}

// AllowInsecure lets a registry have any certificate, or none and plain HTTP, unless certs.d says
// otherwise. Those on loopback may anyway.
func (c *Client) AllowInsecure(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.insecure[host] {
		c.insecure[host] = true
		delete(c.hosts, host)
	}
}

// forget makes the next hostsOf read the configuration again and start without tokens.
func (c *Client) forget(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.hosts, host)
}

// known reports whether hostsOf would answer from memory, so that tokens may be old.
func (c *Client) known(host string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.hosts[host]
	return ok
}

// hostDir finds the certs.d directory of a host, in the first root that has one.
func (c *Client) hostDir(host string) (string, error) {
	for _, root := range c.opts.CertsDirs {
		dir, err := hostconfig.HostDirFromRoot(root)(host)
		if err == nil && dir != "" {
			return dir, nil
		}
		if err != nil && !errdefs.IsNotFound(err) && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return "", errdefs.ErrNotFound
}

// commitTimeout is how long a registry may take to answer when it has been sent something: it may
// move a large blob to another place first.
const commitTimeout = 15 * time.Minute

// configError is a mistake in this machine's configuration, not the registry's answer.
type configError struct{ error }

func (e *configError) Unwrap() error { return e.error }

// decodeErrors collects what containerd only logs: a hosts.toml that it cannot read makes it
// go on without the mirrors in it, silently asking another registry than the one configured.
type decodeErrors struct {
	mu   sync.Mutex
	errs []error
}

func (d *decodeErrors) logger() *log.Entry {
	l := logrus.New()
	l.SetOutput(discard{})
	l.AddHook(d)
	return logrus.NewEntry(l)
}

// Levels implements logrus.Hook.
func (d *decodeErrors) Levels() []logrus.Level { return []logrus.Level{logrus.ErrorLevel} }

// Fire implements logrus.Hook.
func (d *decodeErrors) Fire(e *logrus.Entry) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := errors.New(e.Message)
	if cause, ok := e.Data[logrus.ErrorKey].(error); ok {
		err = fmt.Errorf("%s: %w", e.Message, cause)
	}
	d.errs = append(d.errs, err)
	return nil
}

func (d *decodeErrors) err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(d.errs...)
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// credentials looks up names and passwords in docker's config.json and its helpers.
type credentials struct {
	given     Credentials // in place of these; nil: none
	otherwise func(host string) (user, secret string)

	dir  string
	once sync.Once
	file *configfile.ConfigFile
	err  error
}

// lookup returns user and secret for the host of a request; both empty for none. A secret
// without a user is an identity token.
func (c *credentials) lookup(host string) (user, secret string, err error) {
	if c.given != nil {
		return c.given.Lookup(context.Background(), host)
	}
	c.once.Do(func() { c.file, c.err = dockerconfig.Load(c.dir) })
	if c.err != nil {
		return "", "", &configError{fmt.Errorf("reading registry credentials: %w", c.err)}
	}
	if host == "registry-1.docker.io" {
		host = "docker.io" // docker files Docker Hub's under its old name
	}
	done := func() {}
	if c.file.CredentialsStore != "" || c.file.CredentialHelpers[host] != "" {
		done = hostfiles.Use() // a program tells them
	}
	auth, err := c.file.GetAuthConfig(host)
	done()
	if err != nil {
		return "", "", &configError{fmt.Errorf("getting credentials of %s as %s says: %w", host, filepath.Base(c.file.GetFilename()), err)}
	}
	if auth.IdentityToken != "" {
		return "", auth.IdentityToken, nil
	}
	if c.otherwise != nil && auth.Password == "" {
		user, secret = c.otherwise(host)
		return user, secret, nil
	}
	return auth.Username, auth.Password, nil
}
