package bucket

import (
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/slipway-build/slipway/internal/outbound"
)

// Keys are who asks. Without an ID and a secret they are looked for.
type Keys struct{ ID, Secret, Session string }

// find looks for keys where AWS' tools do: in the environment, in the files of profiles, and at the service of a
// container, of a cluster or of a machine that gives it the keys of its role.
func (k Keys) find(region string) *credentials.Credentials {
	if k.ID != "" && k.Secret != "" {
		return credentials.NewStaticV4(k.ID, k.Secret, k.Session)
	}
	providers := []credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}}
	if off, _ := strconv.ParseBool(os.Getenv("AWS_EC2_METADATA_DISABLED")); !off || hasRole() {
		providers = append(providers, &credentials.IAM{Region: region})
	}
	return credentials.NewChainCredentials(providers)
}

// findKeys gives the keys to sign with. That nobody gives any is found out once: services that are not there were waited for.
func (c *Client) findKeys() (credentials.Value, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys.SignerType.IsAnonymous() {
		return c.keys, nil
	}
	keys, err := c.creds.GetWithContext(c.asked)
	if err == nil {
		c.keys = keys
	}
	return keys, err
}

// hasRole reports whether the environment names a service that gives keys.
func hasRole() bool {
	for _, name := range []string{"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"} {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
}

// keyContext is how services that give keys are asked: one that is not there is not waited for.
func keyContext() *credentials.CredContext {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 2 * time.Second}).DialContext
	t.ResponseHeaderTimeout = 5 * time.Second
	t.DisableKeepAlives = true
	outbound.Tune(t)
	return &credentials.CredContext{Client: &http.Client{Transport: t, CheckRedirect: outbound.Redirect, Timeout: 30 * time.Second}}
}
