package registry_test

import (
	"net/http"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// A manifest is removed with its tag, once; a registry that lets nobody do that is told apart.
func TestDelete(t *testing.T) {
	reg := registrytest.Start(t)
	c := registry.New(registry.Options{DockerConfigDir: t.TempDir()})
	p := reg.PushImage("fleet:result-a", registrytest.Image{})
	repository := reg.Host + "/fleet"
	if err := c.Delete(t.Context(), repository+"@"+p.Desc.Digest.String()); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), repository+":result-a"); err != nil && !errdefs.IsNotFound(err) {
		t.Errorf("its tag: %v", err)
	}
	if _, err := c.Resolve(t.Context(), repository+"@"+p.Desc.Digest.String()); !errdefs.IsNotFound(err) {
		t.Errorf("it is there: %v", err)
	}
	if err := c.Delete(t.Context(), repository+"@"+digest.FromString("other").String()); !errdefs.IsNotFound(err) {
		t.Errorf("what is not there: %v", err)
	}
	if err := c.Delete(t.Context(), repository); !errdefs.IsInvalidArgument(err) {
		t.Errorf("neither tag nor digest: %v", err)
	}
	reg.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method == http.MethodDelete {
			http.Error(w, `{"errors":[{"code":"UNSUPPORTED"}]}`, http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, req)
	})
	if err := c.Delete(t.Context(), repository+"@"+p.Desc.Digest.String()); !errdefs.IsNotImplemented(err) {
		t.Errorf("a registry that removes nothing: %v", err)
	}
}
