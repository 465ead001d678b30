package gitsource

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipway-build/slipway/internal/outbound"
)

// access is how a remote is spoken to.
type access struct {
	remote     string                     // without a password
	header     string                     // the Authorization header of an http remote; "": none
	scope      func(remote string) string // the beginning of the addresses that the header is sent to
	knownHosts string                     // file
}

// authorize finds out how the request's remote is spoken to. A name and password in the URL go into the
// header: arguments of git's, its configuration and its messages can be read by others. Secrets for the
// host go before the others.
func (r *Request) authorize(ctx context.Context, env Env) (*access, error) {
	a := &access{remote: r.plain()}
	u, err := url.Parse(r.Remote)
	if err != nil || u.Host == "" {
		return a, nil //nolint:nilerr // user@host:path is no URL, and has no header
	}
	if isHTTP(u) && u.User != nil {
		password, _ := u.User.Password()
		a.header = "Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password))
		a.scope = siblings
		return a, nil
	}
	if env.Secret == nil {
		return a, nil
	}
	for _, c := range r.credentials(u.Host) {
		value, err := env.Secret(ctx, c.id)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		a.header, a.scope = string(value), tokenScope
		if c.token {
			a.header = "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+a.header))
		}
		return a, nil
	}
	return a, nil
}

// credential is a secret that the remote may be shown.
type credential struct {
	id    string
	token bool
}

// credentials are those that a request names for a host, the first that is there counts.
func (r *Request) credentials(host string) []credential {
	all := []credential{
		{r.AuthHeaderSecret + "." + host, false}, {r.AuthTokenSecret + "." + host, true},
		{r.AuthHeaderSecret, false}, {r.AuthTokenSecret, true},
	}
	return slices.DeleteFunc(all, func(c credential) bool { return c.id == "" || strings.HasPrefix(c.id, ".") })
}

// Secrets are the IDs of the secrets that the remote may be shown, and Agents those of the SSH agents.
func (r *Request) Secrets() []string {
	u, err := url.Parse(r.Remote)
	if err != nil {
		return nil
	}
	var ids []string
	for _, c := range r.credentials(u.Host) {
		ids = append(ids, c.id)
	}
	return ids
}

// Agents are the IDs of the SSH agents that may be asked to sign for the remote.
func (r *Request) Agents() []string {
	if r.SSHAgent == "" {
		return nil
	}
	return []string{r.SSHAgent}
}

func isHTTP(u *url.URL) bool { return u.Scheme == "http" || u.Scheme == "https" }

// plain is the remote without a password, and without a name where that is not part of the address.
func (r *Request) plain() string {
	u, err := url.Parse(r.Remote)
	if err != nil || u.Host == "" || u.User == nil {
		return r.Remote
	}
	if isHTTP(u) {
		u.User = nil
	} else {
		u.User = url.User(u.User.Username())
	}
	return u.String()
}

// tokenScope is what a token is sent to: the remote alone, but for github.com, where one token is
// for all that submodules name too.
func tokenScope(remote string) string {
	for _, prefix := range []string{"https://github.com/", "https://www.github.com/"} {
		if strings.HasPrefix(remote, prefix) {
			return prefix
		}
	}
	return remote
}

// siblings is what a name and password in a URL are sent to: the remote and those beside it, which its
// submodules may name in relation to it.
func siblings(remote string) string {
	u, err := url.Parse(remote)
	if err != nil {
		return remote
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: path.Dir(path.Clean("/" + u.Path))}).String()
}

// followTimeout is how long the question may take where a remote is now.
const followTimeout = time.Minute

// follow finds out where a remote is that is spoken to with a secret. Git itself would follow a redirect
// and go on there with the secret, whoever that is. Who has the remote at another origin does not get it.
// What goes wrong here git will tell.
func (a *access) follow(ctx context.Context) {
	const refs = "/info/refs"
	if a.header == "" || !strings.HasPrefix(a.remote, "http") {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	base := strings.TrimSuffix(a.remote, "/")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+refs+"?service=git-upload-pack", nil)
	if err != nil {
		return
	}
	req.Header.Set("Authorization", a.header)
	req.Header.Set("User-Agent", "git/slipway") // some servers speak to nobody else
	client := outbound.NewClient(nil)
	defer client.CloseIdleConnections()
	first := *req.URL
	resp, err := client.Do(req)
	if err != nil {
		return
	}
	resp.Body.Close()
	final := *resp.Request.URL
	if final.Path == first.Path && outbound.Origin(&final) == outbound.Origin(&first) || !strings.HasSuffix(final.Path, refs) {
		return
	}
	if outbound.Origin(&final) != outbound.Origin(&first) {
		a.header = ""
	}
	final.Path, final.RawPath, final.RawQuery, final.User = strings.TrimSuffix(final.Path, refs), "", "", nil
	a.remote = final.String()
}

// protocolsKey is the key of other protocols that git may use, in a context.
type protocolsKey struct{}

// environment is what git runs with besides what gitutil gives it. In the environment it is for git's
// children too, and nobody else can read it.
func environment(ctx context.Context, a *access) []string {
	config := [][2]string{
		// A repository's files never become programs that git runs.
		{"core.hooksPath", os.DevNull}, {"core.fsmonitor", "false"},
		// Nothing is to work in the repository when slipway has given it up.
		{"gc.autoDetach", "false"}, {"maintenance.autoDetach", "false"},
	}
	if a.header != "" {
		scope := "http." + a.scope(a.remote)
		config = append(config, [2]string{scope + ".extraheader", "Authorization: " + a.header}, [2]string{scope + ".followRedirects", "false"})
	}
	protocols, ok := ctx.Value(protocolsKey{}).(string)
	if !ok {
		protocols = "http:https:ssh:git"
	}
	env := []string{
		"GIT_ALLOW_PROTOCOL=" + protocols, "GIT_SSH_COMMAND=" + a.ssh(),
		fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(config)),
	}
	for i, c := range config {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, c[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, c[1]))
	}
	return env
}

// ssh is the ssh that git uses: without the user's configuration, keys and list of hosts, which a build was
// not given, and without questions.
func (a *access) ssh() string {
	ssh := "ssh -F " + os.DevNull + " -o IdentityFile=none -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=15"
	if a.knownHosts != "" {
		return ssh + " -o UserKnownHostsFile=" + a.knownHosts
	}
	return ssh + " -o UserKnownHostsFile=" + os.DevNull + " -o StrictHostKeyChecking=no"
}
