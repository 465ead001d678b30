package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
	csvvalue "github.com/tonistiigi/go-csvvalue"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/cache"
)

// cacheFlags are where results come from and go to besides the store.
type cacheFlags struct {
	cacheFrom, cacheTo []string
}

func (c *cacheFlags) add(f *pflag.FlagSet) {
	f.StringArrayVar(&c.cacheFrom, "cache-from", nil, `External cache sources (e.g., "user/app:cache", "type=local,src=path/to/dir")`)
	f.StringArrayVar(&c.cacheTo, "cache-to", nil, `Cache export destinations (e.g., "user/app:cache", "type=local,dest=path/to/dir")`)
}

// request adds the caches to a request.
func (c *cacheFlags) request(req *build.Request) error {
	var err error
	if req.CacheFrom, err = parseCacheEntries(c.cacheFrom); err != nil {
		return fmt.Errorf("--cache-from: %w", err)
	}
	if req.CacheTo, err = parseCacheEntries(c.cacheTo); err != nil {
		return fmt.Errorf("--cache-to: %w", err)
	}
	if _, err := cache.ParseFroms(req.CacheFrom); err != nil {
		return fmt.Errorf("--cache-from: %w", err)
	}
	if _, err := cache.ParseTos(req.CacheTo); err != nil {
		return fmt.Errorf("--cache-to: %w", err)
	}
	return nil
}

// parseCacheEntries reads values by buildx's rules: "type=TYPE,KEY=VALUE,...", or one or more
// references of images, which are of the type registry. Empty values are passed over.
func parseCacheEntries(values []string) ([]cache.Entry, error) {
	var all []cache.Entry
	for _, value := range values {
		if value == "" {
			continue
		}
		fields, err := csvvalue.Fields(value, nil)
		if err != nil {
			return nil, err
		}
		if !strings.Contains(value, "=") {
			for _, ref := range fields {
				all = append(all, cache.Entry{Type: cache.TypeRegistry, Attrs: map[string]string{"ref": ref}})
			}
			continue
		}
		e, err := parseCacheEntry(value, fields)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

func parseCacheEntry(value string, fields []string) (cache.Entry, error) {
	e := cache.Entry{Attrs: map[string]string{}}
	for _, field := range fields {
		key, val, ok := strings.Cut(field, "=")
		if !ok {
			return e, fmt.Errorf("invalid value %s", field)
		}
		if key = strings.ToLower(key); key == "type" {
			e.Type = val
		} else {
			e.Attrs[key] = val
		}
	}
	if e.Type == "" {
		return e, fmt.Errorf("type required form> %q", cache.Redact(value))
	}
	return e, nil
}
