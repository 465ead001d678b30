package imagesource

import "github.com/slipway-build/slipway/internal/registry"

// Registry is the client that images are fetched with, for others who speak to the same registries.
func (s *Source) Registry() *registry.Client { return s.reg }
