package docker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/pkg/authconfig"
	registrytypes "github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/view"
)

// credentials are those that came with a request, by the host of the registry that each is for, as references name it.
type credentials map[string]registrytypes.AuthConfig

// newCredentials are those of a header that has the address of a registry for each, in any of the forms that clients have.
func newCredentials(all map[string]registrytypes.AuthConfig) credentials {
	c := credentials{}
	for address, auth := range all {
		c[registryHost(address)] = auth
	}
	return c
}

// dockerHub is Docker Hub as references name it.
const dockerHub = "docker.io"

// registryHost is how references name the registry of an address.
func registryHost(address string) string {
	_, rest, ok := strings.Cut(address, "://")
	if !ok {
		rest = address
	}
	host, _, _ := strings.Cut(rest, "/")
	switch host {
	case "", dockerHub, "index.docker.io", "registry-1.docker.io":
		return dockerHub
	}
	return host
}

// Lookup implements [registry.Credentials]. A mirror is another host, whose these are not.
func (c credentials) Lookup(_ context.Context, host string) (user, secret string, err error) {
	auth := c[registryHost(host)]
	if auth.IdentityToken != "" {
		return "", auth.IdentityToken, nil
	}
	return auth.Username, auth.Password, nil
}

// FetchesTokens implements [registry.Credentials].
func (c credentials) FetchesTokens(_ context.Context, host string) bool {
	return c[registryHost(host)].RegistryToken != ""
}

// Token implements [registry.Credentials].
func (c credentials) Token(_ context.Context, q registry.TokenRequest) (registry.Token, error) {
	return registry.Token{Token: c[registryHost(q.Host)].RegistryToken}, nil
}

// registry is the client of registries for a request about a name: by the credentials of the request, of which there may be none. Those that cannot be
// read are none, as for dockerd.
func (r *request) registry(name reference.Named) *registry.Client {
	return r.s.opt.Registry.As(r.credentials(name))
}

func (r *request) credentials(name reference.Named) registry.Credentials {
	auth, _ := authconfig.Decode(r.Header.Get(registrytypes.AuthHeader))
	return credentials{reference.Domain(name): *auth}
}

// registries are the credentials of a build, which has some for each registry.
func (r *request) registries() registry.Credentials {
	all := map[string]registrytypes.AuthConfig{}
	text := strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(r.Header.Get("X-Registry-Config")), "=")
	if data, err := base64.RawURLEncoding.DecodeString(text); err != nil || json.Unmarshal(data, &all) != nil {
		all = nil
	}
	return newCredentials(all)
}

// login answers POST /auth.
func (s *Server) login(ctx context.Context, r *request) error {
	auth, err := authconfig.DecodeRequestBody(http.MaxBytesReader(r.w, r.Body, maxDocument))
	if err != nil {
		return invalidf("%v", err)
	}
	user, secret := auth.Username, auth.Password
	if auth.IdentityToken != "" {
		user, secret = "", auth.IdentityToken
	}
	token, err := s.opt.Registry.Login(ctx, registryHost(auth.ServerAddress), user, secret)
	if err != nil {
		var refused *registry.Error
		if errors.As(err, &refused) && status(err) == http.StatusNotFound {
			return failure{http.StatusUnauthorized, err.Error()}
		}
		return err
	}
	return r.answer(http.StatusOK, registrytypes.AuthResponse{IdentityToken: token, Status: "Login Succeeded"})
}

// distribution answers GET /distribution/NAME/json: what a registry has under a name.
func (s *Server) distribution(ctx context.Context, r *request) error {
	ref, err := reference.ParseNormalizedNamed(r.name)
	if err != nil {
		return invalidf("%v", err)
	}
	reg := r.registry(ref)
	name := reference.TagNameOnly(ref).String()
	desc, raw, err := reg.Manifest(ctx, name)
	switch {
	case errors.Is(err, errdefs.ErrUnauthenticated):
		return failure{http.StatusUnauthorized, err.Error()}
	case errors.Is(err, errdefs.ErrPermissionDenied):
		return failure{http.StatusForbidden, err.Error()}
	case err != nil:
		return err
	}
	out := registrytypes.DistributionInspect{Descriptor: ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}}
	if out.Platforms, err = registryPlatforms(ctx, reg, name, raw); err != nil {
		return fmt.Errorf("reading what %s is for: %w", view.Familiar(name), err)
	}
	return r.answer(http.StatusOK, out)
}

// registryPlatforms are those that a document of a registry is for; nil for none.
func registryPlatforms(ctx context.Context, reg *registry.Client, name string, raw []byte) ([]ocispec.Platform, error) {
	var doc struct {
		Config    *ocispec.Descriptor
		Manifests []ocispec.Descriptor
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	var all []ocispec.Platform
	for _, m := range doc.Manifests {
		if m.Platform != nil && m.Platform.OS != "unknown" {
			all = append(all, *m.Platform)
		}
	}
	if doc.Config == nil {
		return all, nil
	}
	data, err := reg.Document(ctx, name, *doc.Config, registry.MaxConfigSize)
	if errors.Is(err, errdefs.ErrNotFound) {
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	var p ocispec.Platform
	if json.Unmarshal(data, &p) == nil && p.OS != "" { // what is no image has none
		all = append(all, p)
	}
	return all, nil
}
