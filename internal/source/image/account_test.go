package imagesource

import (
	"context"
	"net/http"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// known are credentials of somebody.
type known struct{ user string }

func (k known) Lookup(context.Context, string) (user, secret string, err error) {
	if k.user == "" {
		return "", "", nil
	}
	return k.user, "secret of " + k.user, nil
}
func (known) FetchesTokens(context.Context, string) bool { return false }
func (known) Token(context.Context, registry.TokenRequest) (t registry.Token, err error) {
	return t, errdefs.ErrNotImplemented
}

// private lets a registry give images to one user alone.
func private(user string) registrytest.Middleware {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if u, secret, _ := r.BasicAuth(); u != user || secret != "secret of "+user {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	}
}

// An image is given to those whom the registry gives it, whoever had it before.
func TestAccounts(t *testing.T) {
	r := registrytest.Start(t)
	ref := r.Host + "/private:v1"
	pushed := r.PushImage("private:v1", simple("a"))
	r.Use(private("one"))
	s, store := newSource(t)
	one := s.As("one", known{"one"})
	img := mustResolve(t, one, ref, amd64, ResolveDefault)
	if err := one.Pull(t.Context(), img, nil); err != nil {
		t.Fatal(err)
	}
	pinned := r.Host + "/private@" + img.Digest.String()
	store.locals[ref] = pushed.Desc.Digest // as another client called its own
	for name, who := range map[string]*Source{"another": s.As("two", known{"two"}), "nobody": s.As("nobody", known{})} {
		for _, ref := range []string{ref, pinned} {
			for _, mode := range []ResolveMode{ResolveDefault, ResolvePull} {
				if img, err := who.Resolve(t.Context(), ref, amd64, mode); !errdefs.IsUnauthorized(err) {
					t.Errorf("%s gets %s, %s: %v, %v", name, ref, mode, img, err)
				}
			}
		}
	}
	again := s.As("one", known{"one"})
	r.Requests()
	mustResolve(t, again, ref, amd64, ResolveDefault)
	mustResolve(t, again, pinned, amd64, ResolveDefault) // as a frontend names what it has resolved
	if asked := r.Requests(); !slices.Equal(slices.Compact(asked), []string{"HEAD /v2/private/manifests/v1"}) {
		t.Errorf("asked is %q", asked)
	}
	if s.Account() != "" || one.Account() != again.Account() || one.Account() == "" {
		t.Errorf("the accounts are %q, %q, %q", s.Account(), one.Account(), again.Account())
	}
	r.Use(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusNotFound) })
	mustResolve(t, s, ref, amd64, ResolveDefault) // whose the store is has all of it
}
